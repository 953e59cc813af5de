"""Make the weights that ship with pds-bids, from label maps to the installed bundle, in one command.

Trains (or resumes), calibrates on held-out simulated people, scores the model and every baseline on other
held-out simulated people, writes the figures into the model card, and puts the bundle into the package:

    python benchmarks/train_default.py --labels LABELS --cache CACHE
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pds_bids.evaluation.baselines import fit_baselines
from pds_bids.evaluation.fidelity import compare
from pds_bids.inference.bundle import CARD, Bundle, load_bundle
from pds_bids.inference.synthesize import synthesize
from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.training.data import PairSource
from pds_bids.training.module import Machine
from pds_bids.training.phantoms import load_phantoms
from pds_bids.training.run import Plan, train
from pds_bids.training.schedule import TrainConfig

SEED = 1
UPDATES = 2100
DATA_NOTE = (
    "SynthSeg training label maps (20 people, Apache-2.0), simulated contrasts only; no acquired image"
)
LIMITS = [
    "Trained on simulated images of 15 label maps; no acquired image was used.",
    "Units of the in-brain mean: absolute scale is not predicted, and the target is one canonical protocol.",
    "Inherits what misregistration and distortion do to the source.",
    "Pathology that the label maps do not hold (tumours, strokes, resections) will be painted over.",
    "The standard deviation is calibrated on simulated people and is optimistic for acquired ones.",
    "For research; not for diagnosis.",
]


def score_held_out(bundle: Bundle, pairs: PairSource, n_pairs: int) -> dict[str, Any]:
    """Average `compare` over held-out pairs; median over pairs of every figure, per direction."""
    figures: dict[str, Any] = {"n_pairs": n_pairs, "statistic": "median over pairs"}
    for direction in Direction:
        template = np.moveaxis(pairs.pair(0).template, 0, -1)
        sources = MODALITIES[direction.source].contrasts
        baselines = fit_baselines(bundle.bank, template, direction)
        collected: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for index in range(n_pairs):
            pair = pairs.pair(index)
            source = {c: pair.source[CONTRASTS.index(c)] for c in sources}
            truth = {c: pair.target[CONTRASTS.index(c)] for c in MODALITIES[direction.target].contrasts}
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


def install(source: Path, package_data: Path) -> None:
    """Copy the bundle into the package and list its checksums."""
    target = package_data / "models" / "unet"
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    checksums = json.loads((target / CARD).read_text())["sha256"]
    lines = ["# SHA-256 of the model bundles that ship with the package.", "[unet]"]
    lines += [f'"{name}" = "{value}"' for name, value in checksums.items()]
    (package_data / "models.toml").write_text("\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="SynthSeg label maps")
    parser.add_argument("--cache", type=Path, required=True, help="folder for aligned anatomies")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for checkpoints")
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--n-test", type=int, default=12, help="held-out pairs to score")
    parser.add_argument("--package-data", type=Path, default=Path("pds_bids/data"))
    arguments = parser.parse_args(argv)
    bundle_dir = arguments.runs / "default-bundle"
    torch.set_num_threads(1)
    people = load_phantoms(arguments.labels, arguments.cache, SEED, note=DATA_NOTE)
    plan = Plan("unet", config=TrainConfig(arguments.updates, seed=SEED))
    train(people, plan, arguments.runs / "default", bundle_dir, machine=Machine(n_workers=1))
    bundle = load_bundle(bundle_dir)
    figures = score_held_out(bundle, people.test, arguments.n_test)
    command = "python benchmarks/train_default.py --labels LABELS --cache CACHE"
    command += f" --updates {arguments.updates}"
    training = bundle.card["training"] | {"command": command}
    card = bundle.card | {
        "training": training,
        "limits": LIMITS,
        "evaluation": {"held_out_phantoms": figures},
    }
    (bundle_dir / CARD).write_text(json.dumps(card, indent=2) + "\n")
    print_table(figures)
    install(bundle_dir, arguments.package_data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
