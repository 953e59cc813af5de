"""A whole training: statistics, method, updates, calibration, model bundle."""

import json
import logging
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pds_bids import __version__
from pds_bids.bids.write import write_json
from pds_bids.exceptions import UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bundle import load_bundle, save_bundle
from pds_bids.inference.prepare import DEFAULT_WINDOW, Window
from pds_bids.methods import METHODS, Method, UNetMethod
from pds_bids.modalities import ANATOMY, Direction
from pds_bids.models.unet import UNetConfig
from pds_bids.options import ModelSize
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID
from pds_bids.training.data import (
    Augmentation,
    Example,
    ExampleStream,
    PairSource,
    UpdateStream,
    collate,
    make_example,
)
from pds_bids.training.logs import forget_rows, tensorboard
from pds_bids.training.metrics import calibrate
from pds_bids.training.module import CHECKPOINT, Machine, fit
from pds_bids.training.people import People
from pds_bids.training.schedule import TrainConfig
from pds_bids.training.statistics import Statistics, gather_statistics, give_aids, source_ranges
from pds_bids.training.timing import updates_within
from pds_bids.training.updates import Updater, named_seed

__all__ = ["Plan", "build_method", "export", "load_statistics", "train", "validation_batches"]

LOGGER = logging.getLogger("pds_bids.training")
BANK_SIZE = 12
# People whose sources say what is familiar.
N_MEASURED = 64
LIMITS = [
    "Units of the in-brain mean: absolute scale is not predicted.",
    "Inherits what misregistration and distortion do to the source.",
    "What the training people do not show (tumours, strokes, resections) will be painted over.",
    "For research; not for diagnosis.",
]
PEOPLE_INSIDE = (
    "baselines.safetensors holds 8-bit images, at 3 mm, of up to 12 people of the training split, to compare "
    "with simple predictors. Take the file out before you share the bundle if they did not agree to that."
)


@dataclass(frozen=True)
class Plan:
    """What to train, besides on whom.

    Parameters
    ----------
    method : str
        Out of `METHODS`.
    size : ModelSize
        Of its networks.
    config : TrainConfig
        Schedule; its learning rate is ignored where `learning_rate` is None.
    learning_rate : float, optional
        Peak; that of the method by default.
    minutes : float, optional
        Fixes the number of updates, from the time that a few of them take; ``config.n_updates`` is then the
        largest number.
    weights_from : Path, optional
        Bundle of the same method to start from.
    perceptual_weights : Path, optional
        Feature network, see `give_aids`.
    is_download_allowed : bool
        Whether VGG16 may be fetched.
    must_resume : bool
        Whether it is an error that there is nothing to go on with.
    has_tensorboard : bool
        Whether to log for TensorBoard, too.
    architecture : dict, optional
        Sizes of the networks in place of `size`.
    n_encoder_updates : int
        See `give_aids`.
    """

    method: str = "unet"
    size: ModelSize = ModelSize.REDUCED
    config: TrainConfig = field(default_factory=TrainConfig)
    learning_rate: float | None = None
    minutes: float | None = None
    weights_from: Path | None = None
    perceptual_weights: Path | None = None
    is_download_allowed: bool = False
    must_resume: bool = False
    has_tensorboard: bool = False
    architecture: dict[str, Any] | None = None
    n_encoder_updates: int = 400


def train(
    people: People,
    plan: Plan,
    folder: Path,
    bundle: Path,
    *,
    machine: Machine,
    window: Window = DEFAULT_WINDOW,
    has_progress_bar: bool = False,
) -> Path:
    """Train, or go on where an earlier call stopped, and write the bundle.

    Parameters
    ----------
    people : People
        Whom to train on.
    plan : Plan
        What to train.
    folder : Path
        Receives ``checkpoint.pt``, ``splits.json``, ``training.json``, tables, figures.
    bundle : Path
        Folder of the model bundle.
    machine : Machine
        Where to train.
    window : Window
        What the network sees.
    has_progress_bar : bool
        Whether somebody watches.

    Returns
    -------
    Path
        `bundle`.

    Raises
    ------
    UsageError
        If the checkpoint was made with other settings, or there is none and there must be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    if plan.must_resume and not checkpoint.exists():
        raise UsageError(f"--resume: there is no {checkpoint}; leave the option out to start")
    people.split.save(folder / "splits.json")
    start = time.monotonic()
    statistics = load_statistics(people, window, folder / "statistics.npz")
    method = build_method(plan, window, statistics)
    aids = give_aids(
        method,
        people,
        window,
        folder,
        seed=plan.config.seed,
        weights=plan.perceptual_weights,
        is_download_allowed=plan.is_download_allowed,
        n_encoder_updates=plan.n_encoder_updates,
    )
    examples = ExampleStream(people.train, window, Augmentation(), derive_seed(plan.config.seed, "examples"))
    config = replace(plan.config, learning_rate=plan.learning_rate or method.learning_rate)
    if plan.minutes is not None:
        n_updates = _length(plan.minutes, machine, method, config, examples, folder / "length.json")
        config = replace(config, n_updates=n_updates)
    _keep_record(plan, method, people, folder / "training.json", is_resuming=checkpoint.exists())
    updater = _get_updater(method, config, machine, folder)
    updates = UpdateStream(
        examples,
        config.batch_size,
        config.pass_size,
        first=updater.update_count,
        stop=config.n_updates,
        rank=_rank(),
        n_processes=machine.n_processes,
    )
    validation = validation_batches(people.validation, window, people.n_validation)
    loggers = tensorboard(folder) if plan.has_tensorboard else []
    fit(updater, updates, validation, folder, machine, loggers=loggers, has_progress_bar=has_progress_bar)
    if _rank() == 0:
        training = describe(people, config) | aids | {"wall_time_s": round(time.monotonic() - start)}
        # Lightning has brought it back from the GPU.
        updater.average.to(machine.device_type)
        measured = list(people.atlas_indices)[:N_MEASURED]
        export(
            updater,
            statistics,
            validation,
            bundle,
            training,
            window=window,
            grid=people.template.grid,
            ranges=source_ranges(people.train, window, measured),
        )
    return bundle


def build_method(plan: Plan, window: Window, statistics: Statistics) -> Method:
    """Return the method to train: new, or from a bundle, whose mean person it keeps.

    Raises
    ------
    UsageError
        If the bundle holds another method or another window.
    """
    if plan.weights_from is not None:
        bundle = load_bundle(plan.weights_from)
        if bundle.method.name != plan.method or bundle.window != window:
            raise UsageError(
                f"--weights-from {plan.weights_from}: holds {bundle.method.name} for a window of "
                f"{bundle.window.shape}, expected {plan.method} and {window.shape}"
            )
        return bundle.method
    kind: Any = METHODS[plan.method]
    with named_seed(derive_seed(plan.config.seed, "weights")):
        if plan.architecture is not None:
            method: Method = kind.from_architecture(plan.architecture, window.shape)
        elif kind is UNetMethod:
            sizes = {ModelSize.REDUCED: UNetConfig(), ModelSize.PAPER: UNetConfig((64, 128, 256), 2, 128)}
            method = UNetMethod(sizes[plan.size], window.shape)
        else:
            method = kind.of_size(str(plan.size), window.shape)
    statistics.give_to(method, window)
    return method


def load_statistics(people: People, window: Window, path: Path) -> Statistics:
    """Return the statistics in a file, which is written when it is not there."""
    # Kept, so that a resumed training does not depend on anything made anew.
    if not path.exists():
        start = time.monotonic()
        gathered = gather_statistics(
            people.train, people.template.mask, window, people.atlas_indices, BANK_SIZE
        )
        gathered.save(path)
        LOGGER.info("%d pairs averaged in %.0f s", len(people.atlas_indices), time.monotonic() - start)
    return Statistics.load(path)


def _length(
    minutes: float,
    machine: Machine,
    method: Method,
    config: TrainConfig,
    examples: ExampleStream,
    path: Path,
) -> int:
    """Return how many updates fit into a time; kept, as a resumed training needs the same number."""
    if not path.exists():
        if machine.n_processes > 1:
            raise UsageError(
                "--max-minutes with several processes: they would not agree; use --max-updates, or find the "
                f"number with one process first, which leaves it in {path}"
            )
        n = updates_within(minutes * 60, method, config, examples, machine.device_type)
        write_json(path, {"n_updates": min(n, config.n_updates), "minutes": minutes})
    return int(json.loads(path.read_text())["n_updates"])


def _keep_record(plan: Plan, method: Method, people: People, path: Path, *, is_resuming: bool) -> None:
    """Write what a training must have in common with the one that it goes on from."""
    record = {
        "method": plan.method,
        "architecture": method.architecture,
        "weights_from": str(plan.weights_from or ""),
        "fingerprint": people.description.get("fingerprint", ""),
    }
    if is_resuming and path.exists():
        stored = json.loads(path.read_text())
        differing = sorted(name for name in record if stored.get(name) != record[name])
        if differing:
            raise UsageError(
                f"{path.parent} holds a training that differs in {', '.join(differing)}; repeat its settings "
                "to go on, or name another output folder"
            )
    write_json(path, record)


def _get_updater(method: Method, config: TrainConfig, machine: Machine, folder: Path) -> Updater:
    """Return the state of the training: new, or that of the checkpoint; tables forget what came after it."""
    updater = Updater(method, config, machine.device_type)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        updater.resume(checkpoint)
        LOGGER.info("goes on after update %d of %d", updater.update_count, config.n_updates)
    if _rank() == 0:
        for path in (*folder.glob("losses*.csv"), folder / "validation.csv"):
            forget_rows(path, updater.update_count)
    return updater


def validation_batches(pairs: PairSource, window: Window, n_pairs: int) -> list[Example]:
    """Return both directions of the first `n_pairs` held-out pairs; every other person comes without T1w."""
    drops = [(ANATOMY,) if index % 2 else () for index in range(n_pairs)]
    return [
        collate([make_example(pairs.pair(index), window, direction, drop) for direction in Direction])
        for index, drop in enumerate(drops)
    ]


def export(
    updater: Updater,
    statistics: Statistics,
    validation: list[Example],
    folder: Path,
    training: dict[str, Any],
    *,
    window: Window = DEFAULT_WINDOW,
    grid: Grid = MODEL_GRID,
    ranges: dict[str, Any] | None = None,
) -> None:
    """Calibrate the averaged weights on held-out people and write the bundle.

    Parameters
    ----------
    updater : Updater
        Finished.
    statistics : Statistics
        Of the training split.
    validation : list of Example
        Held-out people.
    folder : Path
        Of the bundle.
    training : dict
        For the card.
    window : Window
        What the network sees.
    grid : Grid
        What `window` is a part of.
    ranges : dict, optional
        From `source_ranges`.
    """
    average = updater.average.eval()
    coverage = calibrate(average, validation, next(average.parameters()).device)
    is_phantom = "generator" in training
    card = {
        "name": f"{average.name}-{'phantom' if is_phantom else 'cohort'}-3mm",
        "version": __version__,
        "training": training | {
            "n_updates": updater.update_count,
            "n_examples": updater.update_count * updater.config.batch_size,
        },
        "uncertainty": {"method": _first_words(average)} | coverage,
        "source_ranges": ranges or {},
        "limits": LIMITS if is_phantom else [*LIMITS, PEOPLE_INSIDE],
    }  # fmt: skip
    save_bundle(
        folder,
        average,
        card,
        grid=grid,
        window=window,
        data_range=statistics.data_range,
        bank=statistics.bank,
    )


def _first_words(method: Method) -> str:
    """Return the second paragraph of the class's text, which says what its standard deviation is."""
    paragraphs = (type(method).__doc__ or "").split("\n\n")
    return " ".join(paragraphs[min(1, len(paragraphs) - 1)].split())


def describe(people: People, config: TrainConfig) -> dict[str, Any]:
    """Return what the model card says about the training."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        **people.description,
        "split": {name: len(members) for name, members in asdict(people.split).items()}
        | ({"names": asdict(people.split)} if "generator" in people.description else {}),
        "config": asdict(config) | {"precision": str(config.precision)},
        "seed": config.seed,
        "commit": git.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
    }


def _rank() -> int:
    """Return which process this is, before Lightning has joined them."""
    names = ("RANK", "LOCAL_RANK") if "SLURM_PROCID" not in os.environ else ("RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
