"""Processes on the same GPUs take turns; files stand in for cards, the lock cannot tell the difference."""

import subprocess
import sys
import threading
import time

import torch

from pds_bids.inference.turns import LOCKS_VARIABLE, take_device, take_turn

HOLDER = """
import sys, time
from pds_bids.inference.turns import take_turn
with take_turn(["card"]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_three_share_two_cards(tmp_path, monkeypatch):
    monkeypatch.setenv(LOCKS_VARIABLE, str(tmp_path / "locks"))
    holding, most, seen = [], [], []

    def work():
        with take_turn(["a", "b"]) as index:
            assert index not in holding
            holding.append(index)
            most.append(len(holding))
            seen.append(index)
            time.sleep(0.3)
            holding.remove(index)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(most) == 2
    assert set(seen) == {0, 1}
    assert len(seen) == 3


def test_a_killed_holder_holds_no_longer(tmp_path, monkeypatch):
    monkeypatch.setenv(LOCKS_VARIABLE, str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    turns = []

    def wait():
        with take_turn(["card"]):
            turns.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.6)
    assert not turns
    holder.kill()
    holder.wait()
    waiter.join(timeout=5)
    assert len(turns) == 1


def test_no_folder_for_locks_is_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv(LOCKS_VARIABLE, str(tmp_path / "file" / "locks"))
    with take_turn(["card"]) as index:
        assert index == 0
    assert "no turns are taken" in caplog.text


def test_a_cpu_is_nobodys_alone():
    with take_device(torch.device("cpu")) as one, take_device(torch.device("cpu")) as other:
        assert one == other
