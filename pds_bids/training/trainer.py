"""One plain training loop: resumable with the same result, averaged weights, a CSV log."""

import copy
import csv
import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pds_bids.exceptions import DataError
from pds_bids.methods import Batch, Method, target_weights
from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.seeds import derive_seed
from pds_bids.training.data import Example, ExampleStream, collate, to_device

__all__ = ["TrainConfig", "Trainer", "calibrate", "learning_rate_factor", "loader", "mean_square_errors"]

LOGGER = logging.getLogger("pds_bids.training")
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training besides data, method and seed.

    Parameters
    ----------
    n_steps : int
        Updates of all stages together; the learning rate falls to zero at the last one of each stage.
    batch_size : int
        Examples per update.
    learning_rate : float
        Peak, reached after `n_warmup` updates.
    n_warmup : int
        Updates of linear warm-up.
    weight_decay : float
        Of AdamW.
    ema_decay : float
        Of the averaged weights, which are the ones that are used.
    max_gradient : float
        Norm at which gradients are clipped.
    validate_every, save_every : int
        Updates between validations and between checkpoints.
    seed : int
        Of what the losses draw at random, one child per update.
    """

    n_steps: int = 4000
    batch_size: int = 2
    learning_rate: float = 1.5e-3
    n_warmup: int = 100
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    max_gradient: float = 1.0
    validate_every: int = 300
    save_every: int = 100
    seed: int = 0


def learning_rate_factor(step: int, n_warmup: int, n_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero.

    Examples
    --------
    >>> [round(learning_rate_factor(step, 2, 10), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = min((step - n_warmup) / max(n_steps - n_warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def stage_ends(shares: Sequence[float], n_steps: int) -> list[int]:
    """Return the update at which each stage is over.

    Examples
    --------
    >>> stage_ends((0.4, 0.6), 10)
    [4, 10]
    """
    return [round(n_steps * sum(shares[: i + 1])) for i in range(len(shares))]


def loader(stream: ExampleStream, batch_size: int, *, in_process: bool) -> Iterable[Example]:
    """Batch a stream, in this process or in one other that works ahead; the batches are the same."""
    if in_process:
        return DataLoader(stream, batch_size=batch_size, collate_fn=collate)
    return DataLoader(stream, batch_size=batch_size, collate_fn=collate, num_workers=1, prefetch_factor=8)


class Trainer:
    """A method, its averaged copy and its optimisers, with a folder to save them in.

    Players take turns on the same batch. A stage starts from the averaged weights of the one before it.

    Parameters
    ----------
    method : Method
        Trained in place.
    config : TrainConfig
        Schedule.
    folder : Path
        Receives ``checkpoint.pt``, ``losses.csv`` (``losses-<stage>.csv`` where there are several) and
        ``validation.csv``; a checkpoint there is resumed.
    device : torch.device or str
        Where to train.

    Attributes
    ----------
    step : int
        Updates done; ``step * batch_size`` is the index of the next example.
    average : Method
        Exponential moving average of the weights.
    stage : str
        The one that the next update belongs to.
    """

    def __init__(
        self, method: Method, config: TrainConfig, folder: Path, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = torch.device(device)
        self.method = method.to(self.device)
        self.average = copy.deepcopy(self.method)
        self.step = 0
        self.ends = stage_ends(method.stage_shares, config.n_steps)
        self._enter(method.stages[0])
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self.resume()

    def save(self) -> None:
        """Write the checkpoint beside its final name, then rename it."""
        state = {
            "step": self.step,
            "method": self.method.state_dict(),
            "average": self.average.state_dict(),
            "stage": self.stage,
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()},
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / CHECKPOINT)

    def resume(self) -> None:
        """Load the checkpoint; only tensors and plain values are ever unpickled."""
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.method.load_state_dict(state["method"])
        self.average.load_state_dict(state["average"])
        self.step = state["step"]
        self._enter(state["stage"])
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        for path in (*self.folder.glob("losses*.csv"), self.folder / "validation.csv"):
            forget_rows(path, self.step)
        LOGGER.info("resumed at step %d", self.step)

    def update(self, examples: Example) -> dict[str, float]:
        """Let every player of the present stage do one optimiser step and return the losses.

        Raises
        ------
        DataError
            If a loss is not finite; the weights of that player are left as they were.
        """
        self._advance()
        batch = to_device(examples, self.device)
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "losses", self.step))
        record: dict[str, float] = {}
        for player, optimizer in self.optimizers.items():
            record |= self._turn(player, optimizer, batch, generator)
        self.step += 1
        self._follow()
        return record

    def _turn(
        self, player: str, optimizer: torch.optim.Optimizer, batch: Batch, generator: torch.Generator
    ) -> dict[str, float]:
        losses = self.method.losses(batch, player, generator)
        total = torch.stack(list(losses.values())).sum()
        value = total.item()
        if not math.isfinite(value):
            raise DataError(
                f"loss {value} of {player} at step {self.step}: lower the learning rate or check the data"
            )
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        # What one player's loss says about the weights of another is not accumulated there.
        total.backward(inputs=parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient)
        optimizer.step()
        suffix = "" if len(self.optimizers) == 1 else f"_{player}"
        record = {name: float(loss.detach()) for name, loss in losses.items()}
        return record | {f"gradient_norm{suffix}": float(norm)}

    def _advance(self) -> None:
        """Enter the next stage if it is due, and set the learning rate."""
        index = self.method.stages.index(self.stage)
        while index + 1 < len(self.ends) and self.step >= self.ends[index]:
            index += 1
            self.method.load_state_dict(self.average.state_dict())
            self._enter(self.method.stages[index])
        first = self._first(index)
        factor = learning_rate_factor(self.step - first, self.config.n_warmup, self.ends[index] - first)
        for player, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                rate = self.config.learning_rate * self.method.rate_factors.get(player, 1.0)
                group["lr"] = factor * rate

    def _first(self, index: int) -> int:
        return self.ends[index - 1] if index else 0

    def _enter(self, stage: str) -> None:
        self.stage = stage
        self.method.set_stage(stage)
        self.optimizers = {
            player: torch.optim.AdamW(
                parameters,
                self.config.learning_rate,
                betas=self.method.betas,
                weight_decay=self.config.weight_decay,
            )
            for player, parameters in self.method.players().items()
        }

    def fit(self, batches: Iterable[Example], validation: Sequence[Example]) -> None:
        """Train until ``config.n_steps``.

        Parameters
        ----------
        batches : iterable of Example
            Must start at example ``step * batch_size``.
        validation : sequence of Example
            Batches of held-out people, one direction each.
        """
        start = time.monotonic()
        if not self.step:
            append_row(self.folder / "validation.csv", {"step": 0, "seconds": 0, **self.validate(validation)})
        iterator = iter(batches)
        while self.step < self.config.n_steps:
            losses = self.update(next(iterator))
            seconds = round(time.monotonic() - start, 1)
            name = "losses.csv" if len(self.method.stages) == 1 else f"losses-{self.stage}.csv"
            append_row(self.folder / name, {"step": self.step, "seconds": seconds, **losses})
            is_last = self.step == self.config.n_steps
            if is_last or self.step % self.config.save_every == 0:
                self.save()
            if is_last or self.step % self.config.validate_every == 0:
                scores = self.validate(validation)
                append_row(self.folder / "validation.csv", {"step": self.step, "seconds": seconds, **scores})
                LOGGER.info("step %d, %.0f s: %s", self.step, seconds, scores)

    def validate(self, validation: Sequence[Example]) -> dict[str, float]:
        """Return the root mean square error of the averaged weights per direction and contrast."""
        squares = mean_square_errors(self.average, validation, self.device)
        return {name: round(math.sqrt(value), 5) for name, value in squares.items()}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; faster at first, so that it forgets the random start."""
        done = self.step - self._first(self.method.stages.index(self.stage))
        decay = min(self.config.ema_decay, (1 + done) / (10 + done))
        for mine, theirs in zip(self.average.parameters(), self.method.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        # Power iterations and running scales belong to the weights; a calibration is made for the average.
        for (name, kept), buffer in zip(self.average.named_buffers(), self.method.buffers(), strict=True):
            if name != "calibration":
                kept.copy_(buffer)


@torch.no_grad()
def mean_square_errors(
    method: Method, batches: Sequence[Example], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the in-brain mean square error per direction and target contrast, averaged over examples."""
    sums: dict[str, list[Tensor]] = {}
    for examples in batches:
        batch = to_device(examples, device)
        generators = [torch.Generator() for _ in batch.direction]
        error = (method.sample(batch, generators).mean - batch.target).square() * batch.mask
        by_contrast = error.sum((2, 3, 4)) / batch.mask.sum((2, 3, 4))
        for row, code in zip(by_contrast, batch.direction, strict=True):
            direction = list(Direction)[int(code)]
            for contrast in MODALITIES[direction.target].contrasts:
                sums.setdefault(f"{direction}_{contrast}", []).append(row[CONTRASTS.index(contrast)])
    return {name: float(torch.stack(values).mean()) for name, values in sums.items()}


@torch.no_grad()
def calibrate(
    method: Method, batches: Sequence[Example], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Scale a method's standard deviations such that 68.27% of held-out voxels lie within one of them.

    Parameters
    ----------
    method : Method
        Its ``calibration`` buffer, one factor per contrast, is changed in place.
    batches : sequence of Example
        Held-out people.
    device : torch.device or str
        Where `method` is.

    Returns
    -------
    dict of str to float
        The factors, and the share of voxels within two standard deviations after scaling (0.954 if Gaussian).
    """
    ratios: dict[int, list[Tensor]] = {}
    for examples in batches:
        batch = to_device(examples, device)
        sample = method.sample(batch, [torch.Generator() for _ in batch.direction])
        inside = batch.mask[:, 0] > 0
        for row, channel in target_weights(batch.direction).nonzero().tolist():
            error = (sample.mean - batch.target)[row, channel][inside[row]].abs()
            ratios.setdefault(channel, []).append(
                error / sample.std[row, channel][inside[row]].clamp_min(1e-6)
            )
    report = {}
    for channel, parts in ratios.items():
        # torch.quantile refuses more than 2**24 values.
        joined = torch.cat(parts).sort().values
        factor = joined[int(0.6827 * (len(joined) - 1))]
        method.calibration[channel] *= factor
        report[f"factor_{CONTRASTS[channel]}"] = round(float(factor), 4)
        report[f"within_2_std_{CONTRASTS[channel]}"] = round(float((joined < 2 * factor).float().mean()), 4)
    return report


def forget_rows(path: Path, last_step: int) -> None:
    """Drop the rows of updates after `last_step`, which a resumed training makes again."""
    if path.exists():
        header, *rows = path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",")[0]) <= last_step]
        path.write_text(header + "".join(kept))


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a line to a CSV file, with a header when the file is new."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
