"""Make the weights that ship with pds-bids, from label maps to the installed bundle, in one command.

Trains (or resumes), calibrates on held-out simulated people, scores the model and every baseline on other
held-out simulated people, writes the figures into the model card, and puts the bundle into the package:

    python benchmarks/train_default.py --labels LABELS --cache CACHE [--bundle small]

Without ``--labels`` one head, that of the template, is varied. ``--start-from`` begins with the network of
another bundle, which may know fewer contrasts. ``--score-only`` repeats the figures of the installed bundle.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors_torch
from table2_coverage import left_out

from pds_bids import __version__
from pds_bids.evaluation.baselines import fit_baselines
from pds_bids.evaluation.fidelity import score
from pds_bids.exceptions import WeightsError
from pds_bids.inference.bundle import CARD, Bundle, load_bundle, save_bundle
from pds_bids.inference.card import BASELINES, SHIPPED, WEIGHTS
from pds_bids.inference.prepare import DEFAULT_WINDOW, scale_to_mean
from pds_bids.inference.synthesize import synthesize
from pds_bids.methods import UNetMethod
from pds_bids.modalities import ANATOMY, CONTRASTS, MAP_UNITS, Contrast, Direction
from pds_bids.models.unet import POLYNOMIAL_PAIRS, TEMPLATE_CHANNELS, UNetConfig
from pds_bids.options import Precision
from pds_bids.template import MODEL_GRID
from pds_bids.training.data import ContrastPair, PairSource
from pds_bids.training.metrics import LEVELS, ONE_STD
from pds_bids.training.module import Machine
from pds_bids.training.people import People
from pds_bids.training.phantoms import load_phantoms
from pds_bids.training.run import Plan, build_method, load_statistics, train
from pds_bids.training.schedule import TrainConfig

SEED = 1
UPDATES = 2000
SIZES = {
    "default": UNetConfig((16, 48, 96), n_voxel=32),
    "small": UNetConfig((8, 24, 48), n_voxel=16, has_template_free_passes=False),
}
METRICS = ("psnr_brain", "ssim_brain", "psnr_gain", "ssim_gain", "psnr_whole", "mae_brain")
# Every so many voxels of a person decide how deviations are scaled.
VOXEL_STEP = 5
# Absolute errors over deviations: contrast -> head -> people -> voxels.
Ratios = dict[Contrast, dict[str, list[np.ndarray]]]
DATA_NOTE = (
    "SynthSeg training label maps (20 people, Apache-2.0), simulated contrasts only; no acquired image"
)
LIMITS = [
    "Trained on simulated images of 15 label maps; no acquired image was used.",
    "Units of the in-brain mean: absolute scale is not predicted, and the target is one canonical protocol.",
    "Inherits what misregistration and distortion do to the source.",
    "FA and MD from BOLD are those of the anatomy: what fibres a person has is not in a mean BOLD image.",
    "Pathology that the label maps do not hold (tumours, strokes, resections) will be painted over.",
    "The standard deviation is calibrated on simulated people and is optimistic for acquired ones.",
    "For research; not for diagnosis.",
]


class CachedPairs:
    """Pairs that are made once and kept in files; several bundles are trained on the same people.

    Parameters
    ----------
    pairs : PairSource
        Where they come from.
    folder : Path
        Receives one file per pair, half precision, about 3 MB.
    """

    def __init__(self, pairs: PairSource, folder: Path) -> None:
        self.pairs = pairs
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.template = pairs.pair(0).template

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`."""
        path = self.folder / f"{index}.npz"
        if not path.exists():
            made = self.pairs.pair(index)
            where = made.mask
            # Two bundles may be trained at once.
            partial = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(
                partial,
                mask=np.packbits(where),
                source=made.source[:, where].astype(np.float16),
                target=made.target[:, where].astype(np.float16),
                name=made.name,
                has_source=[str(c) for c in made.has_source],
            )
            partial.replace(path)
        with np.load(path) as stored:
            shape = self.template.shape[1:]
            mask = np.unpackbits(stored["mask"], count=int(np.prod(shape))).astype(bool).reshape(shape)
            images = []
            for name in ("source", "target"):
                images.append(np.zeros((len(CONTRASTS), *shape), np.float32))
                images[-1][:, mask] = stored[name]
            has_source = frozenset(Contrast(str(c)) for c in stored["has_source"])
            return ContrastPair(*images, mask, self.template, str(stored["name"]), has_source)


def start_from(method: Any, folder: Path) -> None:
    """Give a new U-Net what another one of the same width, with fewer contrasts, has learned.

    Layers are copied channel by channel; what belongs to new contrasts stays as it was initialised (input and
    output: zero). The mean person and the local regression of the new training are kept.

    Raises
    ------
    WeightsError
        If the network is of another size.
    """
    names = [Contrast(name) for name in json.loads((folder / CARD).read_text())["channels"]]
    rows, n = [CONTRASTS.index(name) for name in names], len(CONTRASTS)
    pairs = [
        POLYNOMIAL_PAIRS.index((CONTRASTS.index(target), CONTRASTS.index(source)))
        for direction in Direction
        for target in direction.targets
        for source in direction.sources
        if target in names and source in names
    ]
    inputs = [*rows, *(n + row for row in rows), *range(2 * n, 2 * n + TEMPLATE_CHANNELS + 1)]
    first, last = 8 * n, 8 * n + 2 * len(POLYNOMIAL_PAIRS)
    outputs = [8 * row + k for row in rows for k in range(8)]
    outputs += [first + pair for pair in pairs] + [first + len(POLYNOMIAL_PAIRS) + pair for pair in pairs]
    outputs += [last + row for row in rows]
    n_ways = len(Direction)
    places = {
        "network.stem.weight": (1, [8 * i + k for i in inputs for k in range(8)]),
        "network.embed.0.weight": (1, [*range(n_ways), *(n_ways + row for row in rows), n_ways + n]),
        "network.head.weight": (0, outputs),
        "network.head.bias": (0, outputs),
    }
    state = method.state_dict()
    for name, values in safetensors_torch.load_file(folder / WEIGHTS).items():
        if name.rsplit(".")[-1] in ("atlas", "prior", "calibration"):
            continue
        if name in places:
            axis, index = places[name]
            # What a new source says is nothing at first, and a new target starts from its mean.
            fresh = torch.zeros_like(state[name]) if axis else state[name]
            state[name] = fresh.index_copy(axis, torch.tensor(index), values.float())
        elif values.shape != state[name].shape:
            raise WeightsError(f"{folder}: {name} is {tuple(values.shape)}, not {tuple(state[name].shape)}")
        else:
            state[name] = values.float()
    method.load_state_dict(state)


def starting_bundle(people: People, plan: Plan, runs: Path, folder: Path, older: Path) -> Path:
    """Write a bundle to start from: statistics of this training, network of an older one."""
    runs.mkdir(parents=True, exist_ok=True)
    statistics = load_statistics(people, DEFAULT_WINDOW, runs / "statistics.npz")
    if not (folder / CARD).exists():
        method = build_method(plan, DEFAULT_WINDOW, statistics)
        start_from(method, older)
        save_bundle(
            folder,
            method,
            {"name": "start", "version": __version__},
            grid=MODEL_GRID,
            window=DEFAULT_WINDOW,
            data_range=statistics.data_range,
        )
    return folder


def score_held_out(
    bundle: Bundle, pairs: PairSource, n_pairs: int, *, has_t1w: bool = False, has_baselines: bool = True
) -> tuple[dict[str, Any], Ratios]:
    """Score the model, and every baseline, on held-out people; also return its errors over deviations."""
    figures: dict[str, Any] = {"n_pairs": n_pairs, "statistic": "mean; 95% bootstrap interval over people"}
    ratios: Ratios = defaultdict(lambda: defaultdict(list))
    for direction in Direction:
        template = np.moveaxis(pairs.pair(0).template, 0, -1)
        names = [c for c in direction.sources if has_t1w or c != ANATOMY]
        baselines = fit_baselines(bundle.bank, template, direction, tuple(names)) if has_baselines else None
        collected: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for index in range(n_pairs):
            pair = pairs.pair(index)
            source = {c: pair.source[CONTRASTS.index(c)] for c in names}
            volumes = {c: image[..., None] for c, image in source.items()}
            made = synthesize(
                volumes, pair.mask, template, bundle.grid, bundle, direction=direction, seeds=[index]
            )
            collected["model", "source", "share_with_warnings"].append(float(bool(made.warnings)))
            both = pair.mask & bundle.bank.mask
            rows = {"model": {c: image[..., 0] / MAP_UNITS.get(c, 1.0) for c, image in made.mean.items()}}
            if baselines is not None:
                rows |= baselines.predict(source, both)
            for contrast in direction.targets:
                truth = pair.target[CONTRASTS.index(contrast)]
                for row, images in rows.items():
                    if contrast in images:
                        found = held_out_figures(images[contrast], truth, both, contrast, bundle)
                        for metric, value in found.items():
                            collected[row, contrast, metric].append(value)
                std = made.std[contrast][..., 0] / MAP_UNITS.get(contrast, 1.0) / made.std_factor
                ratio = np.abs(rows["model"][contrast] - truth)[both] / np.maximum(std[both], 1e-6)
                ratios[contrast][pair.name].append(ratio[::VOXEL_STEP])
        table: dict[str, Any] = {}
        for (row, contrast, metric), values in collected.items():
            scores = table.setdefault(row, {}).setdefault(contrast, {})
            scores[metric] = round(float(np.mean(values)), 4)
            if row == "model":
                scores[f"{metric}_interval"] = [round(limit, 4) for limit in interval(values)]
        figures[str(direction)] = table
    return figures, ratios


def recalibrate(bundle: Bundle, ratios: Ratios) -> dict[str, Any]:
    """Scale deviations and intervals on all held-out heads; return coverage with each head left out.

    With a few heads to hold out, how far a head is from the others decides the coverage, not the number of
    people. So the figures say what happens to a head that had no part in the scaling, one after the other.
    """
    uncertainty = {"method": bundle.card["uncertainty"]["method"]}
    covered: dict[str, Any] = {"statistic": "percent of voxels, each head scaled on the people of the others"}
    for contrast, heads in ratios.items():
        joined = np.concatenate([ratio for people in heads.values() for ratio in people])
        factor = float(np.quantile(joined, ONE_STD))
        bundle.method.calibration[CONTRASTS.index(contrast)] *= factor
        uncertainty[f"factor_{contrast}"] = round(factor, 4)
        uncertainty[f"within_2_std_{contrast}"] = round(float((joined < 2 * factor).mean()), 4)
        for level in LEVELS:
            width = float(np.quantile(joined, level / 100)) / factor
            uncertainty[f"interval_{level}_{contrast}"] = round(width, 4)
        covered[contrast] = {level: round(100 * share, 1) for level, share in left_out(heads).items()}
        covered[contrast]["heads"] = len(heads)
    bundle.card["uncertainty"] = uncertainty
    return covered


def held_out_figures(
    image: np.ndarray, truth: np.ndarray, mask: np.ndarray, contrast: Contrast, bundle: Bundle
) -> dict[str, float]:
    """Score one image in units of a network; all but maps are divided by their in-brain mean first."""
    pair = [np.where(mask, volume, 0) for volume in (image, truth)]
    if contrast not in MAP_UNITS:
        pair = [scale_to_mean(volume, mask, str(contrast))[0] for volume in pair]
    scores = score(*pair, mask, data_range=bundle.data_range[contrast], zoom_mm=bundle.grid.zooms[0])
    return {name: scores[name] for name in METRICS}


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over people."""
    means = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def print_table(figures: dict[str, Any]) -> None:
    """Print PSNR and SSIM in the brain per row."""
    for direction in Direction:
        for row, by_contrast in figures[direction].items():
            scored = {c: s for c, s in by_contrast.items() if "psnr_brain" in s}
            text = "  ".join(
                f"{c}: {s['psnr_brain']:.2f} dB / {s['ssim_brain']:.3f}" for c, s in scored.items()
            )
            print(f"{direction:10s} {row:12s} {text}")
        for c, s in figures[direction]["model"].items():
            if "psnr_brain" in s:
                low, high = s["psnr_brain_interval"]
                print(f"{direction:10s} {c:12s} {low:.2f} to {high:.2f} dB")


def install(source: Path, package_data: Path, name: str) -> None:
    """Copy the bundle into the package and list its checksums."""
    target = package_data / "models" / name
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        # All bundles were trained on the same people: one file of baselines serves all.
        if path.name != BASELINES or name == SHIPPED[0]:
            (target / path.name).write_bytes(path.read_bytes())
    lines = ["# SHA-256 of the model bundles that ship with the package."]
    for folder in sorted((package_data / "models").iterdir()):
        lines.append(f"[{folder.name}]")
        checksums = json.loads((folder / CARD).read_text())["sha256"]
        lines += [f'"{file}" = "{value}"' for file, value in checksums.items()]
    (package_data / "models.toml").write_text("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", choices=list(SIZES), default="default")
    parser.add_argument("--labels", type=Path, help="SynthSeg label maps; without them the template's head")
    parser.add_argument("--cache", type=Path, required=True, help="folder for anatomies and simulated people")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for checkpoints")
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--learning-rate", type=float, help="peak (default: that of the method)")
    parser.add_argument("--precision", type=Precision, choices=list(Precision), default=Precision.BF16)
    parser.add_argument("--start-from", type=Path, metavar="BUNDLE", help="an older bundle")
    parser.add_argument("--seed", type=int, default=SEED, help="of order and dropout; people stay the same")
    parser.add_argument("--n-atlas", type=int, default=100, help="people in the mean")
    parser.add_argument("--n-test", type=int, default=50, help="held-out pairs to score")
    parser.add_argument("--score-only", action="store_true", help="only score the installed bundle")
    parser.add_argument("--package-data", type=Path, default=Path("pds_bids/data"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    people = load_phantoms(
        arguments.labels, arguments.cache, SEED, n_atlas=arguments.n_atlas, n_validation=8, note=DATA_NOTE
    )
    if arguments.score_only:
        bundle = load_bundle(arguments.package_data / "models" / arguments.bundle)
        for has_t1w in (False, True):
            print(f"{'with' if has_t1w else 'without'} T1w")
            print_table(score_held_out(bundle, people.test, arguments.n_test, has_t1w=has_t1w)[0])
        return 0
    people = replace(people, train=CachedPairs(people.train, arguments.cache / "pairs"))
    runs, bundle_dir = (arguments.runs / f"{arguments.bundle}{end}" for end in ("", "-bundle"))
    config = TrainConfig(
        arguments.updates,
        seed=arguments.seed,
        precision=arguments.precision,
        save_every=50,
        validate_every=250,
    )
    architecture = UNetMethod(SIZES[arguments.bundle], DEFAULT_WINDOW.shape).architecture
    plan = Plan("unet", config=config, architecture=architecture, learning_rate=arguments.learning_rate)
    if arguments.start_from:
        start = starting_bundle(
            people, plan, runs, arguments.runs / f"{arguments.bundle}-start", arguments.start_from
        )
        plan = replace(plan, weights_from=start)
    train(people, plan, runs, bundle_dir, machine=Machine())
    finish(bundle_dir, people, arguments)
    return 0


def finish(bundle_dir: Path, people: People, arguments: argparse.Namespace) -> None:
    """Score a trained bundle, scale its deviations, complete its card, and install it."""
    bundle = load_bundle(bundle_dir)
    n = arguments.n_test
    figures, ratios = score_held_out(bundle, people.test, n)
    anatomical, more = score_held_out(bundle, people.test, n, has_t1w=True)
    for pairs, has_t1w in ((people.validation, False), (people.validation, True)):
        _, other = score_held_out(bundle, pairs, n // 2, has_t1w=has_t1w, has_baselines=False)
        merge(ratios, other)
    merge(ratios, more)
    covered = recalibrate(bundle, ratios)
    command = f"python benchmarks/train_default.py --bundle {arguments.bundle} --labels LABELS --cache CACHE"
    command += f" --updates {arguments.updates}"
    training = bundle.card["training"] | {"command": command}
    if arguments.start_from:
        old = json.loads((arguments.start_from / CARD).read_text())
        training["started_from"] = {"name": old["name"], "weights_sha256": old["sha256"][WEIGHTS]}
    card = bundle.card | {
        "name": f"pds-bids-{arguments.bundle}",
        "training": training,
        "limits": LIMITS,
        "evaluation": {
            "held_out_phantoms": figures,
            "held_out_phantoms_with_t1w": anatomical,
            "coverage": covered,
        },
    }
    save_bundle(
        bundle_dir,
        bundle.method,
        card,
        grid=bundle.grid,
        window=bundle.window,
        data_range=bundle.data_range,
        bank=bundle.bank,
    )
    print_table(figures)
    print_table(anatomical)
    print(json.dumps(covered))
    install(bundle_dir, arguments.package_data, arguments.bundle)


def merge(ratios: Ratios, more: Ratios) -> None:
    """Add people to those of the same contrast and head."""
    for contrast, heads in more.items():
        for head, people in heads.items():
            ratios[contrast][head] += people


if __name__ == "__main__":
    sys.exit(main())
