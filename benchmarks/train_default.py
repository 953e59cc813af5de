"""Make the weights that ship with pds-bids, from label maps to the installed bundle, in one command.

Trains (or resumes), calibrates on held-out simulated people, scores the model and every baseline on other
held-out simulated people, writes the figures into the model card, and puts the bundle into the package:

    python benchmarks/train_default.py --labels LABELS --cache CACHE [--bundle small]

Without ``--labels`` one head, that of the template, is varied. ``--start-from`` begins with the network of
another bundle, which may know fewer contrasts. ``--score-only`` repeats the figures of the installed bundle.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors_torch

from pds_bids import __version__
from pds_bids.evaluation.baselines import fit_baselines
from pds_bids.evaluation.fidelity import compare
from pds_bids.exceptions import WeightsError
from pds_bids.inference.bundle import CARD, Bundle, load_bundle, save_bundle
from pds_bids.inference.card import WEIGHTS
from pds_bids.inference.prepare import DEFAULT_WINDOW
from pds_bids.inference.synthesize import synthesize
from pds_bids.methods import UNetMethod
from pds_bids.modalities import ANATOMY, CONTRASTS, MAP_UNITS, Contrast, Direction
from pds_bids.models.unet import POLYNOMIAL_PAIRS, TEMPLATE_CHANNELS, UNetConfig
from pds_bids.options import Precision
from pds_bids.template import MODEL_GRID
from pds_bids.training.data import ContrastPair, PairSource
from pds_bids.training.module import Machine
from pds_bids.training.people import People
from pds_bids.training.phantoms import load_phantoms
from pds_bids.training.run import Plan, build_method, load_statistics, train
from pds_bids.training.schedule import TrainConfig

SEED = 1
UPDATES = 2000
# Channels at 1/2, 1/4 and 1/8 of the resolution.
WIDTHS = {"default": (16, 48, 96), "small": (8, 24, 48)}
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
            partial = path.with_suffix(".partial.npz")
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


def score_held_out(bundle: Bundle, pairs: PairSource, n_pairs: int) -> dict[str, Any]:
    """Average `compare` over held-out pairs; median over pairs of every figure, per direction."""
    figures: dict[str, Any] = {"n_pairs": n_pairs, "statistic": "median over pairs"}
    for direction in Direction:
        template = np.moveaxis(pairs.pair(0).template, 0, -1)
        baselines = fit_baselines(bundle.bank, template, direction)
        collected: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for index in range(n_pairs):
            pair = pairs.pair(index)
            source = {c: pair.source[CONTRASTS.index(c)] for c in direction.sources if c != ANATOMY}
            truth = {c: pair.target[CONTRASTS.index(c)] * MAP_UNITS.get(c, 1.0) for c in direction.targets}
            volumes = {c: image[..., None] for c, image in source.items()}
            made = synthesize(
                volumes, pair.mask, template, bundle.grid, bundle, direction=direction, seeds=[index]
            )
            synthetic = {c: image[..., 0] for c, image in made.mean.items()}
            report = compare(
                synthetic, truth, source, pair.mask, direction, bundle, template=template, baselines=baselines
            )
            for row, by_contrast in report["scores"].items():
                for contrast, scores in by_contrast.items():
                    for metric, value in scores.items():
                        collected[row, contrast, metric].append(value)
        table: dict[str, Any] = {}
        for (row, contrast, metric), values in collected.items():
            scores = table.setdefault(row, {}).setdefault(contrast, {})
            scores[metric] = round(float(np.median(values)), 4)
        figures[str(direction)] = table
    return figures


def print_table(figures: dict[str, Any]) -> None:
    """Print PSNR and SSIM in the brain per row."""
    for direction in Direction:
        for row, by_contrast in figures[direction].items():
            text = "  ".join(
                f"{c}: {s['psnr_brain']:.2f} dB / {s['ssim_brain']:.3f}" for c, s in by_contrast.items()
            )
            print(f"{direction:10s} {row:12s} {text}")


def install(source: Path, package_data: Path, name: str) -> None:
    """Copy the bundle into the package and list its checksums."""
    target = package_data / "models" / name
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
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
    parser.add_argument("--bundle", choices=list(WIDTHS), default="default")
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
        print_table(score_held_out(bundle, people.test, arguments.n_test))
        return 0
    people = replace(people, train=CachedPairs(people.train, arguments.cache / "pairs"))
    runs, bundle_dir = (arguments.runs / f"{arguments.bundle}{end}" for end in ("", "-bundle"))
    widths = WIDTHS[arguments.bundle]
    config = TrainConfig(
        arguments.updates, seed=arguments.seed, precision=arguments.precision, save_every=50, validate_every=250
    )
    architecture = UNetMethod(UNetConfig(widths), DEFAULT_WINDOW.shape).architecture
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
    """Score a trained bundle, complete its card, and install it."""
    bundle = load_bundle(bundle_dir)
    figures = score_held_out(bundle, people.test, arguments.n_test)
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
        "evaluation": {"held_out_phantoms": figures},
    }
    (bundle_dir / CARD).write_text(json.dumps(card, indent=2) + "\n")
    print_table(figures)
    install(bundle_dir, arguments.package_data, arguments.bundle)


if __name__ == "__main__":
    sys.exit(main())
