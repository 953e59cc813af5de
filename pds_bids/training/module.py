"""The training as Lightning sees it: one module, and what happens between updates."""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from pds_bids.training.data import Example, UpdateStream, loader
from pds_bids.training.logs import TableLogger
from pds_bids.training.metrics import mean_square_errors
from pds_bids.training.pictures import save_pictures
from pds_bids.training.processes import copy_from_first
from pds_bids.training.updates import Passes, Updater

__all__ = ["CHECKPOINT", "Machine", "TrainingModule", "fit", "processes_from_environment"]

CHECKPOINT = "checkpoint.pt"


class TrainingModule(lightning.LightningModule):
    """A method under training, with optimisation by hand: players take turns within an update.

    Parameters
    ----------
    updater : Updater
        Holds the method, the averaged copy and the optimisers.
    """

    def __init__(self, updater: Updater) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.updater = updater
        # Registered, so that Lightning moves them to the device.
        self.method, self.average = updater.method, updater.average
        self._start = time.monotonic()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers of the present stage."""
        return list(self.updater.optimizers.values())

    def on_fit_start(self) -> None:
        """Start all processes from the same weights."""
        copy_from_first(self.method)
        copy_from_first(self.average)

    def training_step(self, batch: Passes, batch_idx: int) -> None:
        """Do one update and log it."""
        del batch_idx
        record = self.updater.update(batch)
        record["seconds"] = round(time.monotonic() - self._start, 1)
        for logger in self.loggers:
            if isinstance(logger, TableLogger) and len(self.method.stages) > 1:
                logger.table = f"losses-{self.updater.stage}"
            logger.log_metrics(record, step=self.updater.update_count)
        first = next(name for name in record)
        self.log(first, record[first], prog_bar=True, logger=False)


class Checkpoints(Callback):
    """Save every so many updates, and at the end; the first process only.

    Parameters
    ----------
    folder : Path
        Receives ``checkpoint.pt``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        """Save when it is due."""
        updater = module.updater
        if updater.update_count % updater.config.save_every == 0 or updater.is_finished:
            self._save(trainer, updater)

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Save when somebody interrupts, between two updates."""
        if isinstance(exception, KeyboardInterrupt) and not trainer.strategy.launcher:
            self._save(trainer, module.updater)

    def _save(self, trainer: lightning.Trainer, updater: Updater) -> None:
        if trainer.is_global_zero:
            updater.save(self.folder / CHECKPOINT)


class Validation(Callback):
    """Errors and pictures of held-out people at the start, every so many updates, and at the end.

    Parameters
    ----------
    examples : sequence of Example
        Batches of held-out people.
    folder : Path
        Receives ``figures/``.
    """

    def __init__(self, examples: Sequence[Example], folder: Path) -> None:
        self.examples = examples
        self.folder = folder

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Look at where it starts from."""
        if not module.updater.update_count:
            self._validate(trainer, module.updater)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        """Look when it is due."""
        updater = module.updater
        if updater.update_count % updater.config.validate_every == 0 or updater.is_finished:
            self._validate(trainer, updater)

    def _validate(self, trainer: lightning.Trainer, updater: Updater) -> None:
        if not trainer.is_global_zero or not self.examples:
            return
        squares = mean_square_errors(updater.average, self.examples, updater.device)
        scores = {f"validation/{name}": round(value**0.5, 5) for name, value in squares.items()}
        paths = save_pictures(
            updater.average, self.examples[0], self.folder / "figures", updater.update_count
        )
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=updater.update_count)
            if isinstance(logger, TensorBoardLogger):
                for path in paths:
                    _show(logger.experiment, path, updater.update_count)


def _show(writer: Any, path: Path, update: int) -> None:
    from matplotlib import image  # late: seconds

    name = path.stem.split("_", 1)[1]
    writer.add_image(name, image.imread(path)[..., :3], update, dataformats="HWC")


class SummingStrategy(DDPStrategy):
    """Processes of DDP whose gradients `Updater` adds up itself.

    torch's wrapper allows one backward pass per forward pass and every parameter in each of them, which
    players that take turns do not do.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


class Machine:
    """Where a training runs.

    Parameters
    ----------
    accelerator : str
        ``cpu`` or ``gpu``.
    n_devices, n_nodes : int
        Processes per machine, and machines. As torchrun or SLURM started them, see
        `processes_from_environment`.
    n_workers : int
        Processes per training process that make examples ahead of time.
    """

    def __init__(
        self, accelerator: str = "cpu", n_devices: int = 1, n_nodes: int = 1, n_workers: int = 0
    ) -> None:
        self.accelerator = accelerator
        self.n_devices = n_devices
        self.n_nodes = n_nodes
        self.n_workers = n_workers

    @property
    def device_type(self) -> str:
        """As torch calls it."""
        return "cuda" if self.accelerator == "gpu" else "cpu"

    @property
    def n_processes(self) -> int:
        """Processes that train together."""
        return self.n_devices * self.n_nodes

    def trainer(self, folder: Path, **options: Any) -> lightning.Trainer:
        """Return a Lightning trainer; `options` are those of `lightning.Trainer`."""
        is_alone = self.n_processes == 1
        backend = "nccl" if self.accelerator == "gpu" else "gloo"
        strategy = "auto" if is_alone else SummingStrategy(process_group_backend=backend)
        # Its own checkpoints on requeueing hold what ours do not, and the other way round.
        slurm: list[Any] | None = (
            [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() and not is_alone else None
        )
        return lightning.Trainer(
            accelerator=self.accelerator,
            devices=self.n_devices,
            num_nodes=self.n_nodes,
            strategy=strategy,
            plugins=slurm,
            max_epochs=1,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            **options,
        )


def processes_from_environment() -> tuple[int, int] | None:
    """Return processes per machine and machines as torchrun or ``srun`` says; None without them."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        return local, int(env["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect() and int(env.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(env.get("SLURM_NNODES", "1"))
        return int(env["SLURM_NTASKS"]) // nodes, nodes
    return None


def _quieten() -> None:
    """Leave out what Lightning says about itself, and warnings that do not fit this training."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*LeafSpec.*", ".*IterableDataset.* has `__len__`.*", ".*does not have many workers.*"):
        warnings.filterwarnings("ignore", text)


def fit(
    updater: Updater,
    updates: UpdateStream,
    validation: Sequence[Example],
    folder: Path,
    machine: Machine,
    *,
    loggers: Sequence[Any] = (),
    has_progress_bar: bool = False,
) -> None:
    """Train until ``updater.config.n_updates``.

    Parameters
    ----------
    updater : Updater
        Fresh or resumed.
    updates : UpdateStream
        Of this process, from ``updater.update_count`` on.
    validation : sequence of Example
        Batches of held-out people, both directions.
    folder : Path
        Receives checkpoint, tables and figures.
    machine : Machine
        Where to train.
    loggers : sequence of Logger
        Besides the tables.
    has_progress_bar : bool
        Whether somebody watches.
    """
    if updater.is_finished:
        return
    _quieten()
    trainer = machine.trainer(
        folder,
        logger=[TableLogger(folder), *loggers],
        callbacks=[Validation(validation, folder), Checkpoints(folder)],
        enable_progress_bar=has_progress_bar,
    )
    trainer.fit(TrainingModule(updater), loader(updates, machine.n_workers))
    if trainer.interrupted:
        raise KeyboardInterrupt
