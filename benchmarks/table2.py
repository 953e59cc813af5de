"""Train every method of Table II and PDS without each of its parts, alike; compare on people held out.

    python benchmarks/table2.py OUT --labels LABELS --cache CACHE --reduced        # CPU: 6 mm, small networks
    python benchmarks/table2.py OUT --labels LABELS --cache CACHE --device cuda --size paper --minutes 240

Every row gets the same examples in the same order, its own learning rate, and either the same time on the
processor (``--minutes``) or the same number of updates (``--updates``). A row that is done is kept: a second
call goes on, and ``--methods`` adds rows. A row whose model is in OUT is not trained again, only scored.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table2_people import N_TRAIN, SEED, in_units, table_people, table_window
from table2_report import METRICS, write_report
from table2_rows import ROWS, Row, architecture_of

from pds_bids.evaluation.baselines import fit_baselines
from pds_bids.evaluation.metrics import mae, psnr, ssim
from pds_bids.inference.bundle import load_bundle, save_bundle
from pds_bids.inference.card import CARD
from pds_bids.inference.prepare import Window, scale_to_mean
from pds_bids.methods import METHODS, Condition, Method, SampleResult
from pds_bids.modalities import CONTRASTS, MODALITIES, TARGETS, Direction
from pds_bids.options import ModelSize
from pds_bids.seeds import derive_seed
from pds_bids.training.data import (
    Augmentation,
    Example,
    ExampleStream,
    UpdateStream,
    collate,
    make_example,
)
from pds_bids.training.metrics import calibrate, coverage
from pds_bids.training.people import People
from pds_bids.training.run import Plan, build_method
from pds_bids.training.schedule import TrainConfig
from pds_bids.training.statistics import Statistics, gather_statistics, give_aids
from pds_bids.training.timing import SHARE, updates_within
from pds_bids.training.updates import Updater

LOGGER = logging.getLogger("pds_bids.benchmarks")
N_BANK = 24

Images = dict[str, list[np.ndarray]]


class Setting:
    """What all rows share.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.is_reduced: bool = arguments.reduced
        self.device: str = arguments.device
        self.size = ModelSize(arguments.size)
        self.minutes: float | None = arguments.minutes
        self.updates: int | None = arguments.updates
        self.window: Window = table_window(is_reduced=self.is_reduced)
        self.people: People = table_people(
            arguments.labels,
            arguments.cache,
            is_reduced=self.is_reduced,
            n_train=arguments.n_train,
            n_validation=arguments.n_validation,
            n_test=arguments.n_test,
        )
        self.statistics = self._statistics(self.out / "statistics.npz")

    def _statistics(self, path: Path) -> Statistics:
        if not path.exists():
            people = self.people
            gather_statistics(
                people.train, people.template.mask, self.window, people.atlas_indices, N_BANK
            ).save(path)
        return Statistics.load(path)

    @property
    def clock(self) -> Any:
        """Time of this process on the CPU, which other programs do not change; wall time with a GPU."""
        return time.process_time if self.device == "cpu" else time.monotonic


def train_row(row: Row, seed: int, setting: Setting) -> tuple[Method, dict[str, Any]]:
    """Return the averaged weights after training, and what it took."""
    config = TrainConfig(learning_rate=METHODS[row.method].learning_rate, seed=seed)
    plan = Plan(row.method, size=setting.size, config=config)
    if setting.is_reduced or row.changes:
        plan = Plan(
            row.method, config=config, architecture=architecture_of(row, is_reduced=setting.is_reduced)
        )
    method = build_method(plan, setting.window, setting.statistics).to(setting.device)
    aids = give_aids(method, setting.people, setting.window, setting.out, seed=SEED)
    examples = ExampleStream(
        setting.people.train,
        setting.window,
        Augmentation(p_drop_template=row.p_drop_template),
        derive_seed(seed, "examples"),
    )
    n_updates = setting.updates
    if n_updates is None:
        seconds = 60 * (setting.minutes or 0) / SHARE
        n_updates = updates_within(seconds, method, config, examples, setting.device, setting.clock)
    config = TrainConfig(n_updates=n_updates, learning_rate=config.learning_rate, seed=seed)
    updater = Updater(method, config, setting.device)
    updates = UpdateStream(examples, config.batch_size, config.pass_size, stop=n_updates)
    start = setting.clock()
    for batch in updates:
        updater.update(batch)
    record = {
        "method": row.method,
        "seed": seed,
        "n_updates": n_updates,
        "n_examples": n_updates * config.batch_size,
        "training_s": round(setting.clock() - start, 1),
        "clock": "CPU" if setting.device == "cpu" else "wall",
        "n_parameters": sum(p.numel() for n, p in method.named_parameters() if "discriminator" not in n),
        "sampler": method.sampler,
        "steps": method.steps,
        "aids": aids,
        "architecture": method.architecture,
    }
    return updater.average.eval(), record


def held_out(row: Row, setting: Setting) -> tuple[list[Example], list[Example]]:
    """Return people to calibrate on, and people to test, both directions each."""
    parts = []
    for pairs, n in (
        (setting.people.validation, setting.people.n_validation),
        (setting.people.test, len(setting.people.test)),  # type: ignore[arg-type]
    ):
        examples = []
        for index in range(n):
            batch = collate([make_example(pairs.pair(index), setting.window, way) for way in Direction])
            if row.p_drop_template == 1:
                batch["template"] = torch.zeros_like(batch["template"])
            examples.append(batch)
        parts.append(examples)
    return parts[0], parts[1]


class Kept:
    """A method that keeps what it has made, so that coverage and scores need one sampling.

    Parameters
    ----------
    method : Method
        Calibrated.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.images: Images = {str(contrast): [] for contrast in TARGETS}

    def sample(self, condition: Condition, generators: list[torch.Generator]) -> SampleResult:
        """Sample both directions of one person, with generators of that person."""
        number = len(self.images[str(TARGETS[0])])
        seeds = [derive_seed(SEED, "test", number, way.code) for way in Direction]
        made = self.method.sample(condition, [torch.Generator().manual_seed(seed) for seed in seeds])
        del generators
        for way, image in zip(Direction, made.mean.cpu().numpy(), strict=True):
            for contrast in way.targets:
                self.images[str(contrast)].append(image[CONTRASTS.index(contrast)])
        return made


def score(images: Images, setting: Setting) -> list[dict[str, Any]]:
    """Return one record per person and contrast; all but maps are divided by their in-brain mean."""
    pairs = [setting.people.test.pair(i) for i in range(len(setting.people.test))]  # type: ignore[arg-type]
    masks = [setting.window.crop(pair.mask) for pair in pairs]
    common = np.logical_and.reduce(masks)
    records = []
    for contrast, made in images.items():
        channel = list(map(str, CONTRASTS)).index(contrast)
        data_range = setting.statistics.data_range[CONTRASTS[channel]]
        kind, crop = CONTRASTS[channel], setting.window.crop
        truths = [
            in_units(crop(p.target[channel]), m, kind, p.name) for p, m in zip(pairs, masks, strict=True)
        ]
        scaled = [in_units(i, m, kind, contrast) for i, m in zip(made, masks, strict=True)]
        own = _own_part(scaled, truths, common)
        for number, (pair, mask, image, truth) in enumerate(zip(pairs, masks, scaled, truths, strict=True)):
            rmse = float(np.sqrt(np.mean((image - truth)[mask] ** 2)))
            records.append(
                {
                    "contrast": contrast,
                    "person": number,
                    "head": pair.name,
                    "psnr": psnr(image, truth, data_range=data_range, mask=mask),
                    "ssim": ssim(image, truth, data_range=data_range, mask=mask),
                    "nrmse": rmse,
                    "mae": mae(image, truth, mask=mask),
                    "own_r": own[number],
                }
            )
    return records


def _own_part(images: list[np.ndarray], truths: list[np.ndarray], common: np.ndarray) -> list[float | None]:
    """Correlate, per person, what differs from the means over people; None where nothing does."""
    made, true = (np.stack([image[common] for image in each]) for each in (images, truths))
    made, true = made - made.mean(0), true - true.mean(0)
    if np.abs(made).max() < 1e-6:
        return [None] * len(made)
    return [float(np.corrcoef(one, other)[0, 1]) for one, other in zip(made, true, strict=True)]


def score_trivial(setting: Setting) -> dict[str, list[dict[str, Any]]]:
    """Return records of everything that is not a network."""
    rows: dict[str, Images] = {}
    test = setting.people.test
    for way in Direction:
        template = np.moveaxis(test.pair(0).template, 0, -1)
        fitted = fit_baselines(setting.statistics.bank, template, way)
        for person in range(len(test)):  # type: ignore[arg-type]
            pair = test.pair(person)
            mask = pair.mask & setting.statistics.bank.mask
            source = {
                c: scale_to_mean(pair.source[CONTRASTS.index(c)], pair.mask, pair.name)[0]
                for c in MODALITIES[way.source].sources
            }
            atlas = {
                c: setting.statistics.atlas[CONTRASTS.index(c)] for c in MODALITIES[way.target].contrasts
            }
            for row, made in fitted.predict(source, mask).items():
                for contrast, image in made.items():
                    # Where the bank holds nobody, the mean person stands in.
                    filled = np.where(pair.mask & ~mask, atlas[contrast], image)
                    part = rows.setdefault(row, {}).setdefault(str(contrast), [])
                    part.append(setting.window.crop(filled))
    return {row: score(images, setting) for row, images in rows.items()}


def run_row(name: str, seed: int, setting: Setting) -> dict[str, Any]:
    """Train, calibrate, sample and score one row."""
    row = ROWS[name]
    folder = setting.out / "models" / f"{name}_seed-{seed}"
    if (folder / CARD).exists():
        bundle = load_bundle(folder, setting.device)
        method, record = bundle.method, bundle.card["training"]
    else:
        method, record = train_row(row, seed, setting)
    validation, test = held_out(row, setting)
    calibration = calibrate(method, validation, setting.device)
    start, kept = setting.clock(), Kept(method)
    covered = coverage(kept, test, calibration, setting.device)  # type: ignore[arg-type]
    sampling_s = (setting.clock() - start) / (len(test) * len(Direction))
    save_bundle(
        folder,
        method,
        {"training": record, "uncertainty": calibration},
        grid=setting.people.template.grid,
        window=setting.window,
        data_range=setting.statistics.data_range,
    )
    return record | {
        "row": name,
        "sampling_s": round(sampling_s, 3),
        "calibration": calibration,
        "coverage": covered,
        "scores": score(kept.images, setting),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="receives scores, models and tables")
    parser.add_argument("--labels", type=Path, help="label maps; without them the head of the template")
    parser.add_argument("--cache", type=Path, required=True, help="folder for heads and pairs")
    parser.add_argument("--reduced", action="store_true", help="6 mm, networks of 2 million parameters")
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=float, default=2.5, help="per row, on the CPU; with a GPU, by the clock"
    )
    length.add_argument("--updates", type=int, help="the same number for every row instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--n-train", type=int, default=N_TRAIN, help="people, of 11 heads, if reduced")
    parser.add_argument("--n-test", type=int, default=24, help="people, of 6 heads")
    parser.add_argument(
        "--n-validation", type=int, default=24, help="people to calibrate on, of 3 other heads"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="reduced", choices=[str(size) for size in ModelSize])
    parser.add_argument(
        "--resume", action="store_true", help="keep rows that OUT holds; refuse a full OUT without"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    scores = arguments.out / "scores"
    if scores.exists() and any(scores.iterdir()) and not arguments.resume:
        parser.error(f"{scores} holds rows; give --resume to keep them, or another OUT")
    scores.mkdir(parents=True, exist_ok=True)
    setting = Setting(arguments)
    todo = [(name, seed) for seed in arguments.seeds for name in arguments.methods]
    if not (trivial := scores / "trivial.json").exists():
        rows = [{"row": row, "scores": records} for row, records in score_trivial(setting).items()]
        trivial.write_text(json.dumps(rows))
    for name, seed in todo:
        path = scores / f"{name}_seed-{seed}.json"
        if not path.exists():
            record = run_row(name, seed, setting)
            path.write_text(json.dumps([record]))
            means = {
                m: round(float(np.mean([r[m] for r in record["scores"] if r[m] is not None])), 4)
                for m in METRICS
            }
            LOGGER.info("%s, seed %d: %d updates, %s", name, seed, record["n_updates"], means)
    write_report(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
