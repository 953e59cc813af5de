"""Processes that share GPUs take turns, so that two never fill the memory of one card."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["LOCKS_VARIABLE", "take_device", "take_turn"]

LOGGER = logging.getLogger("pds_bids.inference")
LOCKS_VARIABLE = "PDS_BIDS_GPU_LOCKS"
POLL_S = 0.2


@contextmanager
def take_device(device: torch.device) -> Iterator[torch.device]:
    """Give a device of this type that nobody else uses; waits for one.

    Parameters
    ----------
    device : torch.device
        From `choose_device`; a CPU is given back at once.

    Yields
    ------
    torch.device
        The first free GPU among those that this process sees.

    Notes
    -----
    The locks lie in the folder that ``PDS_BIDS_GPU_LOCKS`` names, by default ``pds-bids-gpu`` in the folder
    for temporary files. Containers take turns when they share that folder.
    """
    if device.type != "cuda":
        yield device
        return
    # The card's own name: every process may number what it sees from 0.
    names = [str(torch.cuda.get_device_properties(k).uuid) for k in range(torch.cuda.device_count())]
    with take_turn(names) as index:
        yield torch.device("cuda", index)


@contextmanager
def take_turn(names: Sequence[str]) -> Iterator[int]:
    """Hold a lock on one of several names while the block runs.

    The system releases the lock of a process that dies.

    Parameters
    ----------
    names : sequence of str
        What is shared, the preferred first.

    Yields
    ------
    int
        Index of the name that is held; 0 without a lock where no lock file can be made.
    """
    folder = Path(os.environ.get(LOCKS_VARIABLE) or Path(tempfile.gettempdir()) / "pds-bids-gpu")
    try:
        handles = [_open(folder, name) for name in names]
    except OSError as error:
        LOGGER.warning("no turns are taken on GPUs, as %s cannot be written (%s)", folder, error)
        yield 0
        return
    try:
        is_told = False
        while (index := _first_free(handles)) is None:
            if not is_told:
                LOGGER.info("all GPUs are in use; waiting for one")
                is_told = True
            time.sleep(POLL_S)
        yield index
    finally:
        for handle in handles:
            os.close(handle)


def _open(folder: Path, name: str) -> int:
    """Open a lock file that any user may lock."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    if not path.exists():
        # Another user's umask must not shut us out; who loses the race finds the file there.
        for place, mode in ((folder, 0o1777), (path, 0o666)):
            path.touch(exist_ok=True)
            if place.stat().st_uid == os.geteuid():
                place.chmod(mode)
    # Opened for reading, which is enough for a lock: sticky folders protect files of others from writing.
    return os.open(path, os.O_RDONLY)


def _first_free(handles: Sequence[int]) -> int | None:
    for index, handle in enumerate(handles):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return index
    return None
