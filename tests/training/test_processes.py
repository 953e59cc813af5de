"""Trainings in processes of their own: several at once, and one that is killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_toy.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("name", ["pds"])
def test_two_processes_are_one_with_twice_the_batch(name, tmp_path):
    """Each of two processes does one pass of two people per update; one process does both passes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for folder, prefix in (("two", torchrun), ("one", [sys.executable])):
        command = [*prefix, SCRIPT, tmp_path / folder, name, "4", "6"]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    tables = sorted(path.name for path in (tmp_path / "one").glob("losses*.csv"))
    assert len(tables) == (1 if name == "unet" else 2)
    for table in tables:
        one, two = read(tmp_path / "one" / table), read(tmp_path / "two" / table)
        assert len(one) == len(two) == 6 // len(tables)
        for mine, theirs in zip(one, two, strict=True):
            for key in mine.keys() - {"seconds"}:
                assert float(mine[key]) == pytest.approx(float(theirs[key]), rel=1e-3), (table, key)
    one, two = (weights(tmp_path / folder)["average"] for folder in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-3, rtol=1e-2)


def test_killed_at_any_moment_it_goes_on_to_the_same_weights(tmp_path):
    def command(folder):
        return [sys.executable, SCRIPT, tmp_path / folder, "unet", "2", "12"]

    subprocess.run(command("whole"), env=ENVIRONMENT, check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    table = tmp_path / "killed" / "losses.csv"
    while process.poll() is None and not (table.exists() and len(table.read_text().splitlines()) > 6):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = weights(tmp_path / "killed")["update_count"]
    assert 2 <= before < 12
    subprocess.run(command("killed"), env=ENVIRONMENT, check=True, capture_output=True)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole["update_count"] == killed["update_count"] == 12
    for part in ("method", "average"):
        assert all(torch.equal(value, killed[part][key]) for key, value in whole[part].items())
