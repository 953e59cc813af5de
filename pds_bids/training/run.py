"""Command that trains a method on simulated people: ``python -m pds_bids.training.run --help``."""

import argparse
import json
import logging
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pds_bids import __version__
from pds_bids.exceptions import PDSError
from pds_bids.inference.bank import Bank
from pds_bids.inference.bundle import save_bundle
from pds_bids.inference.prepare import DEFAULT_WINDOW, Window
from pds_bids.methods import UNetMethod
from pds_bids.modalities import CONTRASTS, Contrast, Direction
from pds_bids.models.unet import UNetConfig
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID, RES02_GRID, Template, get_template, load_template
from pds_bids.training.data import (
    Augmentation,
    ContrastPairs,
    Example,
    ExampleStream,
    PairSource,
    Split,
    collate,
    make_example,
    split_subjects,
)
from pds_bids.training.prior import local_regression
from pds_bids.training.trainer import TrainConfig, Trainer, calibrate, loader

__all__ = ["People", "Statistics", "export", "gather_statistics", "load_people", "main", "validation_batches"]

LOGGER = logging.getLogger("pds_bids.training")
# Counts voxels that hardly anybody's mask holds towards the in-brain mean of 1.
ATLAS_PRIOR = 1.0
# Index of the first pair of the atlas and the bank, far beyond those that training uses.
ATLAS_FIRST = 1_000_000_000


@dataclass(frozen=True)
class People:
    """Simulated people by split, and the template that they are aligned with.

    Parameters
    ----------
    split : Split
        Names of the anatomies.
    train, validation, test : PairSource
        Streams that share no anatomy and no seed.
    template : Template
        On the model grid.
    """

    split: Split
    train: PairSource
    validation: PairSource
    test: PairSource
    template: Template


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is fixed from training people before training starts.

    Parameters
    ----------
    atlas : ndarray
        ``(3, X, Y, Z)`` float32 mean target, averaged with its mirror image about the middle of the window.
    data_range : dict of Contrast to float
        99.9th percentile of the target in the brain; its other end is zero.
    bank : Bank
        For the baselines.
    prior : ndarray
        ``(2 P, D/2, H/2, W/2)``, see `local_regression`.
    """

    atlas: np.ndarray
    data_range: dict[Contrast, float]
    bank: Bank
    prior: np.ndarray

    def save(self, path: Path) -> None:
        """Write an uncompressed NumPy archive."""
        ranges = np.array([self.data_range[contrast] for contrast in CONTRASTS])
        arrays = {
            "full_atlas": self.atlas,
            "prior": self.prior,
            "data_range": ranges,
        } | self.bank.to_tensors()
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        ranges = dict(zip(CONTRASTS, arrays["data_range"].tolist(), strict=True))
        return cls(arrays["full_atlas"], ranges, Bank.from_tensors(arrays), arrays["prior"])


def load_people(labels: Path | None, cache: Path, seed: int) -> People:
    """Build the anatomies (cached) and split them.

    Parameters
    ----------
    labels : Path, optional
        Folder of label maps; without it one person is varied from the template alone, in all splits, so
        that held-out figures say little.
    cache : Path
        Folder for aligned anatomies and the template.
    seed : int
        Master seed of the split and of all pairs.

    Returns
    -------
    People
        Streams that can make any number of pairs.
    """
    template = load_template(files := get_template(cache), MODEL_GRID)
    heads = build_anatomies(labels, cache / "anatomies", load_template(files, RES02_GRID))
    anatomies = {anatomy.name: anatomy for anatomy in heads}
    if len(anatomies) < 6:
        names = tuple(sorted(anatomies))
        split = Split(names, names, names)
        LOGGER.warning("%d anatomies are too few to hold any out; scores will be optimistic", len(names))
    else:
        split = split_subjects(list(anatomies), seed)
    train, validation, test = (
        ContrastPairs(
            PairStream([anatomies[name] for name in names], derive_seed(seed, part), template=template)
        )
        for part, names in asdict(split).items()
    )
    return People(split, train, validation, test, template)


def gather_statistics(
    pairs: PairSource, mask: np.ndarray, window: Window, n_atlas: int, n_bank: int
) -> Statistics:
    """Average pairs into an atlas and keep the first few as a bank.

    Parameters
    ----------
    pairs : PairSource
        Training people.
    mask : ndarray
        ``(X, Y, Z)`` bool, the template's brain.
    window : Window
        Its middle is the mirror plane.
    n_atlas, n_bank : int
        Numbers of pairs.

    Returns
    -------
    Statistics
        See there.
    """
    total = np.zeros((len(CONTRASTS), *mask.shape))
    count = np.zeros(mask.shape)
    sources, targets, tops, kept = [], [], [], []
    for index in range(n_atlas):
        pair = pairs.pair(ATLAS_FIRST + index)
        total += pair.target * pair.mask
        count += pair.mask
        tops.append(np.percentile(pair.target[:, pair.mask], 99.9, axis=1))
        images = (pair.source, pair.target, pair.mask)
        # Half precision keeps 150 people in 400 MB.
        source, target, inside = (window.crop(image) for image in images)
        kept.append((source.astype(np.float16), target.astype(np.float16), inside))
        if index < n_bank:
            sources.append(pair.source)
            targets.append(pair.target)
    total, count = (_add_mirror(window, image) for image in (total, count))
    atlas = ((total + ATLAS_PRIOR) / (count + ATLAS_PRIOR)).astype(np.float32)
    data_range = {c: float(value) for c, value in zip(CONTRASTS, np.mean(tops, 0).round(3), strict=True)}
    bank = Bank.from_images(mask, np.stack(sources), np.stack(targets), atlas)
    prior = local_regression(kept, window.crop(atlas))
    return Statistics(atlas, data_range, bank, prior)


def _add_mirror(window: Window, image: np.ndarray) -> np.ndarray:
    """Add the left-right mirror image about the middle of the window."""
    result = image.copy()
    result[(..., *window.slices)] += np.flip(window.crop(image), -3)
    return result


def validation_batches(pairs: PairSource, window: Window, n_pairs: int) -> list[Example]:
    """Return both directions of the first `n_pairs` held-out pairs."""
    people = [pairs.pair(index) for index in range(n_pairs)]
    return [
        collate([make_example(person, window, direction) for direction in Direction]) for person in people
    ]


def export(
    trainer: Trainer,
    statistics: Statistics,
    validation: list[Example],
    folder: Path,
    training: dict[str, Any],
) -> None:
    """Calibrate the averaged weights on held-out people and write the bundle."""
    n_pairs = trainer.step * trainer.config.batch_size
    coverage = calibrate(trainer.average, validation, trainer.device)
    card = {
        "name": f"{trainer.method.name}-phantom-3mm",
        "version": __version__,
        "training": {
            **training,
            "n_updates": trainer.step,
            "n_pairs": n_pairs,
        },
        "uncertainty": {"method": " ".join((trainer.method.__doc__ or "").split("\n\n")[1].split())}
        | coverage,
    }
    save_bundle(
        folder,
        trainer.average,
        card,
        grid=MODEL_GRID,
        window=DEFAULT_WINDOW,
        data_range=statistics.data_range,
        bank=statistics.bank,
    )


def describe(arguments: argparse.Namespace, split: Split) -> dict[str, Any]:
    """Return what the model card says about the training."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "data": arguments.data_note,
        "generator": "pds_bids.phantom.stream.PairStream",
        "split": asdict(split),
        "seed": arguments.seed,
        "commit": git.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
    }


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    config = TrainConfig()
    parser = argparse.ArgumentParser(prog="python -m pds_bids.training.run", description=__doc__)
    add = parser.add_argument
    parser.add_argument(
        "output", type=Path, help="folder for checkpoints and logs; resumed when it holds any"
    )
    add("--bundle", type=Path, required=True, help="folder to write the model bundle to")
    add("--labels", type=Path, help="folder of label maps (SynthSeg); default: template only")
    parser.add_argument("--data-note", default="", help="label maps and their licence, for the card")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for aligned anatomies and the template"
    )
    add("--seed", type=int, default=1)
    add("--steps", type=int, default=config.n_steps)
    add("--batch-size", type=int, default=config.batch_size)
    add("--learning-rate", type=float, help="peak; default: what suits the method")
    add("--n-atlas", type=int, default=150, help="pairs averaged into the atlas")
    add("--n-bank", type=int, default=12, help="pairs kept for the baselines")
    add("--n-validation", type=int, default=4, help="held-out pairs")
    add("--device", default="cpu")
    add("--threads", type=int, default=1, help="threads of this process")
    add("--in-process", action="store_true", help="make pairs in this process")
    parser.add_argument(
        "--export-only", action="store_true", help="write the bundle from the checkpoint as it is"
    )
    return parser.parse_args(argv)


def train(arguments: argparse.Namespace) -> Path:
    """Train as the command line says and return the folder of the bundle."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(derive_seed(arguments.seed, "weights") % 2**32)
    arguments.output.mkdir(parents=True, exist_ok=True)
    people = load_people(arguments.labels, arguments.cache, arguments.seed)
    people.split.save(arguments.output / "split.json")
    window = DEFAULT_WINDOW
    start = time.monotonic()
    # Kept, so that a resumed training does not depend on anything made anew.
    stored = arguments.output / "statistics.npz"
    if not stored.exists():
        mask = people.template.mask
        gather_statistics(people.train, mask, window, arguments.n_atlas, arguments.n_bank).save(stored)
        LOGGER.info("%d pairs averaged in %.0f s", arguments.n_atlas, time.monotonic() - start)
    statistics = Statistics.load(stored)
    method = UNetMethod(UNetConfig(), window.shape)
    method.set_statistics(
        torch.from_numpy(window.crop(statistics.atlas))[None], torch.from_numpy(statistics.prior)[None]
    )
    rate = arguments.learning_rate or method.learning_rate
    config = TrainConfig(arguments.steps, arguments.batch_size, rate, seed=arguments.seed)
    trainer = Trainer(method, config, arguments.output, arguments.device)
    validation = validation_batches(people.validation, window, arguments.n_validation)
    training = describe(arguments, people.split)
    record = arguments.output / "training.json"
    if arguments.export_only and record.exists():
        training |= json.loads(record.read_text())
    elif not arguments.export_only:
        first = trainer.step * config.batch_size
        stream = ExampleStream(
            people.train, window, Augmentation(), derive_seed(arguments.seed, "examples"), first
        )
        trainer.fit(loader(stream, config.batch_size, in_process=arguments.in_process), validation)
        training |= {"wall_time_s": round(time.monotonic() - start), "config": asdict(config)}
        record.write_text(json.dumps(training, indent=2) + "\n")
    export(trainer, statistics, validation, arguments.bundle, training)
    return arguments.bundle


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        train(parse_arguments(argv))
    except PDSError as error:
        LOGGER.error("%s", error)  # noqa: TRY400 - the message says it all
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
