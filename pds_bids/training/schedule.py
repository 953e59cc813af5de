"""What decides the outcome of a training besides data, method and seed; how rates and stages follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pds_bids.exceptions import UsageError
from pds_bids.options import Precision

__all__ = ["TrainConfig", "learning_rate_factor", "stage_ends"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training besides data, method and seed.

    Parameters
    ----------
    n_updates : int
        Updates of all stages together; the learning rate falls to zero at the last one of each stage.
    batch_size : int
        Examples per update, over all processes.
    pass_size : int
        Examples that go through the network at once; an update adds the gradients of as many passes as it
        takes, here or in other processes.
    learning_rate : float
        Peak, reached after `n_warmup` updates.
    n_warmup : int
        Updates of linear warm-up; at most a fifth of a stage.
    weight_decay : float
        Of AdamW.
    ema_decay : float
        Of the averaged weights, which are the ones that are used.
    max_gradient : float
        Norm at which gradients are clipped.
    precision : Precision
        Of the passes; weights, gradients and optimisers are float32.
    validate_every, save_every : int
        Updates between validations and between checkpoints.
    seed : int
        Of what the losses draw at random, one child per update and pass.

    Raises
    ------
    UsageError
        If a number is not positive or the batch is not a multiple of the pass.
    """

    n_updates: int = 4000
    batch_size: int = 2
    pass_size: int = 2
    learning_rate: float = 1.5e-3
    n_warmup: int = 100
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    max_gradient: float = 1.0
    precision: Precision = Precision.FP32
    validate_every: int = 300
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_updates", "batch_size", "pass_size", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"training: {name} is {getattr(self, name)}; expected 1 or more")
        if self.batch_size % self.pass_size:
            raise UsageError(
                f"training: a batch of {self.batch_size} is not a multiple of {self.pass_size} examples per "
                "pass; change --batch-size or --pass-size"
            )

    @property
    def n_passes(self) -> int:
        """Passes per update, over all processes."""
        return self.batch_size // self.pass_size


def learning_rate_factor(update: int, n_warmup: int, n_updates: int) -> float:
    """Linear warm-up, then half a cosine to zero.

    Examples
    --------
    >>> [round(learning_rate_factor(update, 2, 10), 2) for update in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if update < n_warmup:
        return (update + 1) / n_warmup
    progress = min((update - n_warmup) / max(n_updates - n_warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def stage_ends(shares: Sequence[float], n_updates: int) -> list[int]:
    """Return the update at which each stage is over.

    Examples
    --------
    >>> stage_ends((0.4, 0.6), 10)
    [4, 10]
    """
    return [round(n_updates * sum(shares[: i + 1])) for i in range(len(shares))]
