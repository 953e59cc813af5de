"""Train a toy as one of several processes: ``train_toy.py FOLDER METHOD BATCH_SIZE N_UPDATES``."""

import os
import sys
from pathlib import Path

import torch
from toy_people import make_method, stream

from pds_bids.training.data import UpdateStream, collate
from pds_bids.training.module import CHECKPOINT, Machine, fit, processes_from_environment
from pds_bids.training.schedule import TrainConfig
from pds_bids.training.updates import Updater


def main(folder: Path, name: str, batch_size: int, n_updates: int) -> None:
    """Train, or go on."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("RANK", "0"))
    config = TrainConfig(
        n_updates=n_updates, batch_size=batch_size, n_warmup=2, save_every=2, validate_every=1000
    )
    # Processes start from different weights; the first one's count.
    updater = Updater(make_method(name, seed=rank), config)
    if (folder / CHECKPOINT).exists():
        updater.resume(folder / CHECKPOINT)
    machine = Machine("cpu", *(processes_from_environment() or (1, 1)))
    updates = UpdateStream(
        stream(), batch_size, config.pass_size,
        first=updater.update_count, stop=n_updates, rank=rank, n_processes=machine.n_processes,
    )  # fmt: skip
    fit(updater, updates, [collate([stream().example(100)])], folder, machine)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
