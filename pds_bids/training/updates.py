"""One update of a method: players in turn, gradients summed over passes and processes, averaged weights."""

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_bids.exceptions import DataError, UsageError
from pds_bids.methods import Batch, Method
from pds_bids.options import Precision
from pds_bids.seeds import derive_seed
from pds_bids.training.data import Example, to_device
from pds_bids.training.processes import average_changes, sum_gradients, sum_over_processes
from pds_bids.training.schedule import TrainConfig, learning_rate_factor, stage_ends

__all__ = ["Passes", "Updater"]

#: Number of a pass within its update, and its examples: those of this process.
Passes = Sequence[tuple[int, Example]]
AUTOCAST = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class Updater:
    """A method, its averaged copy and its optimisers.

    Players take turns on the same batch. A stage starts from the averaged weights of the one before it.
    Nothing depends on a global random state: the losses of a pass draw from a generator of its own.

    Parameters
    ----------
    method : Method
        Trained in place.
    config : TrainConfig
        Schedule.
    device_type : str
        ``cpu`` or ``cuda``: where updates will be made; the method may be moved there later.

    Attributes
    ----------
    update_count : int
        Updates done; times ``config.batch_size`` it is the index of the next example.
    average : Method
        Exponential moving average of the weights.
    stage : str
        The one that the next update belongs to.
    """

    def __init__(self, method: Method, config: TrainConfig, device_type: str = "cpu") -> None:
        self.device_type = device_type
        self.config = config
        self.method = method.train()
        self.average = copy.deepcopy(method)
        self.update_count = 0
        self.ends = stage_ends(method.stage_shares, config.n_updates)
        self._enter(method.stages[0])

    @property
    def device(self) -> torch.device:
        """Where the method is."""
        return next(self.method.parameters()).device

    @property
    def is_finished(self) -> bool:
        """Whether no update is left."""
        return self.update_count >= self.config.n_updates

    def update(self, passes: Passes) -> dict[str, float]:
        """Let every player of the present stage do one optimiser step.

        Parameters
        ----------
        passes : sequence of (int, Example)
            The passes of this process; those of all processes together are ``config.n_passes``.

        Returns
        -------
        dict of str to float
            Losses averaged over all passes, learning rate, and norms of gradients before clipping.

        Raises
        ------
        DataError
            If a loss is not finite; the weights of that player are left as they were.
        """
        self._advance()
        batches = [(to_device(examples, self.device), self._generator(i)) for i, examples in passes]
        before = [buffer.clone() for buffer in self._running()]
        record: dict[str, float] = {}
        for player, optimizer in self.optimizers.items():
            record |= self._turn(player, optimizer, batches)
        average_changes(self._running(), before)
        self.update_count += 1
        self._follow()
        return record

    def _turn(
        self,
        player: str,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[tuple[Batch, torch.Generator]],
    ) -> dict[str, float]:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        scaler = self.scalers[player]
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for batch, generator in batches:
            with self._autocast():
                losses = self.method.losses(batch, player, generator)
            # What one player's loss says about the weights of another is not accumulated there.
            total = torch.stack([loss.float() for loss in losses.values()]).sum() / self.config.n_passes
            scaler.scale(total).backward(inputs=parameters)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().float() / self.config.n_passes
        values = sum_over_processes(torch.stack(list(sums.values()))).tolist()
        if not math.isfinite(sum(values)):
            raise DataError(
                f"loss {sum(values)} of {player} at update {self.update_count}: lower the learning rate or "
                "check the data"
            )
        sum_gradients(parameters)
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient)
        scaler.step(optimizer)
        scaler.update()
        suffix = "" if len(self.optimizers) == 1 else f"_{player}"
        record = dict(zip(sums, values, strict=True)) | {f"gradient_norm{suffix}": float(norm)}
        return record | {f"learning_rate{suffix}": optimizer.param_groups[0]["lr"]}

    def _generator(self, number: int) -> torch.Generator:
        seed = derive_seed(self.config.seed, "losses", self.update_count, number)
        return torch.Generator().manual_seed(seed)

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = AUTOCAST.get(self.config.precision)
        return torch.autocast(self.device.type, kind or torch.bfloat16, enabled=kind is not None)

    def _running(self) -> list[Tensor]:
        """Buffers that passes change: power iterations and running scales."""
        return [buffer for buffer in self.method.buffers() if buffer.is_floating_point()]

    def _advance(self) -> None:
        """Enter the next stage if it is due, and set the learning rate."""
        index = self.method.stages.index(self.stage)
        while index + 1 < len(self.ends) and self.update_count >= self.ends[index]:
            index += 1
            self.method.load_state_dict(self.average.state_dict())
            self._enter(self.method.stages[index])
        first = self._first(index)
        length = self.ends[index] - first
        # A short stage must not end before its warm-up does.
        n_warmup = min(self.config.n_warmup, max(length // 5, 1))
        factor = learning_rate_factor(self.update_count - first, n_warmup, length)
        for player, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * self.config.learning_rate * self.method.rate_factors.get(player, 1.0)

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
        is_scaled = self.config.precision is Precision.FP16
        self.scalers = {
            # From torch's 2**16 down, the first updates of a squared loss would be lost.
            player: torch.amp.GradScaler(self.device_type, init_scale=2.0**8, enabled=is_scaled)
            for player in self.optimizers
        }

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; faster at first, so that it forgets the random start."""
        done = self.update_count - self._first(self.method.stages.index(self.stage))
        decay = min(self.config.ema_decay, (1 + done) / (10 + done))
        for mine, theirs in zip(self.average.parameters(), self.method.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        # Power iterations and running scales belong to the weights; a calibration is made for the average.
        for (name, kept), buffer in zip(self.average.named_buffers(), self.method.buffers(), strict=True):
            if name != "calibration":
                kept.copy_(buffer)

    def save(self, path: Path) -> None:
        """Write a checkpoint beside its final name, then rename it."""
        state = {
            "update_count": self.update_count,
            "config": _plain(self.config),
            "method": self.method.state_dict(),
            "average": self.average.state_dict(),
            "stage": self.stage,
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()},
            "scalers": {player: scaler.state_dict() for player, scaler in self.scalers.items()},
        }
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)

    def resume(self, path: Path) -> None:
        """Load a checkpoint; only tensors and plain values are ever unpickled.

        Raises
        ------
        UsageError
            If it was made with other settings.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        mine, theirs = _plain(self.config), state["config"]
        differing = sorted(name for name in mine if mine[name] != theirs.get(name))
        if differing:
            changes = ", ".join(f"{name} {theirs.get(name)} -> {mine[name]}" for name in differing)
            raise UsageError(
                f"{path}: made with other settings ({changes}); repeat them to go on, or name another output "
                "folder, with --weights-from to start from what was learned"
            )
        self.method.load_state_dict(state["method"])
        self.average.load_state_dict(state["average"])
        self.update_count = state["update_count"]
        self._enter(state["stage"])
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
            self.scalers[player].load_state_dict(state["scalers"][player])


@contextmanager
def named_seed(seed: int) -> Iterator[None]:
    """Draw from the global generator of the CPU as if seeded; its state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the weights as values that a safe unpickler knows."""
    values = {
        name: value for name, value in asdict(config).items() if name not in ("validate_every", "save_every")
    }
    return values | {"precision": str(config.precision)}
