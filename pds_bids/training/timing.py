"""How many updates fit into a time."""

import copy
import time
from collections.abc import Callable

from pds_bids.methods import Method
from pds_bids.training.data import ExampleStream, UpdateStream
from pds_bids.training.schedule import TrainConfig, stage_ends
from pds_bids.training.updates import Updater

__all__ = ["updates_within"]

# The rest is for validation, checkpoints and calibration.
SHARE = 0.85
N_TIMED = 2


def updates_within(
    seconds: float,
    method: Method,
    config: TrainConfig,
    examples: ExampleStream,
    device_type: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Return how many updates of all stages take about `seconds`, from a few of each stage.

    Parameters
    ----------
    seconds : float
        For the training, as `clock` counts them.
    method : Method
        Not changed: a copy is trained.
    config : TrainConfig
        Sizes of batch and pass.
    examples : ExampleStream
        Time to make examples counts.
    device_type : str
        Where to train: ``cpu`` or ``cuda``.
    clock : callable
        Tells seconds: wall time by default, `time.process_time` for time of this process on the CPU.

    Returns
    -------
    int
        At least one per stage.
    """
    n_stages = len(method.stages)
    short = TrainConfig(
        n_updates=n_stages * (N_TIMED + 1),
        batch_size=config.batch_size,
        pass_size=config.pass_size,
        precision=config.precision,
    )
    trial = copy.deepcopy(method).to(device_type)
    trial.stage_shares = (1 / n_stages,) * n_stages  # type: ignore[misc]
    updater = Updater(trial, short, device_type)
    updates = UpdateStream(examples, config.batch_size, config.pass_size, stop=short.n_updates)
    spent = []
    for _ in stage_ends(trial.stage_shares, short.n_updates):
        updater.update(updates.update(updater.update_count))
        start = clock()
        for _ in range(N_TIMED):
            updater.update(updates.update(updater.update_count))
        spent.append((clock() - start) / N_TIMED)
    mean = sum(share * each for share, each in zip(method.stage_shares, spent, strict=True))
    return max(n_stages, int(SHARE * seconds / max(mean, 1e-6)))
