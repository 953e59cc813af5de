"""What a process may use: CPUs and memory of the machine, GPUs by the rules of CUDA's documentation."""

import os
from pathlib import Path

import pytest

from pds_bids.config import RunConfig
from pds_bids.devices import available_cpus, available_memory_mb, visible_gpus

TWO = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111-2222)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb1111-2222)"""
SLICES = """GPU 0: NVIDIA A100 (UUID: GPU-cccc)
  MIG 1g.5gb      Device  0: (UUID: MIG-dddd)
  MIG 1g.5gb      Device  1: (UUID: MIG-eeee)"""


@pytest.mark.parametrize(
    ("output", "code", "count"),
    [(TWO, 0, 2), ("No devices were found", 6, 0), ("GPU access blocked", 9, 0), ("", 0, 0), (TWO, 1, 0)],
)
def test_gpus_are_what_the_driver_lists(driver, output, code, count):
    driver(output, code)
    assert len(visible_gpus()) == count


@pytest.mark.parametrize(
    ("value", "visible"),
    [
        ("", []),
        ("-1", []),
        ("0", ["GPU-aaaa1111-2222"]),
        ("1,0", ["GPU-bbbb1111-2222", "GPU-aaaa1111-2222"]),
        ("GPU-bbbb", ["GPU-bbbb1111-2222"]),
        ("GPU-", []),  # fits two
        ("1,-1,0", ["GPU-bbbb1111-2222"]),
        ("1,7,0", ["GPU-bbbb1111-2222"]),
    ],
)
def test_cuda_visible_devices_is_respected(driver, monkeypatch, value, visible):
    driver(TWO, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == visible


def test_a_slice_of_a_card(driver, monkeypatch):
    driver(SLICES, 0)
    assert len(visible_gpus()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-eeee")
    assert visible_gpus() == ["MIG-eeee"]


def test_cpus_and_memory_are_no_more_than_the_machine_has():
    assert 1 <= available_cpus() <= os.cpu_count()
    total = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    assert 0 < available_memory_mb() <= total + 1
    assert RunConfig(bids_dir="/data", output_dir="/out").mem_mb == available_memory_mb()
