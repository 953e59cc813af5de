"""Compare synthetic images with acquired ones of people who have both modalities, and with simple predictors.

Takes output folders of ``pds-bids ... participant --synthesize both``, synthesises every session again with a
bundle, and scores it and every predictor in the brain, on the model grid:

    python benchmarks/real_pairs.py OUT [OUT ...] [--bundle default] [--t1w] [--pictures FOLDER]

``cubic-others`` is fitted to the acquired images of the other people; all other predictors, as the model,
have seen simulated people only. ``*_gain`` scores forgive a smooth field that is fitted to the target.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pds_bids.evaluation.baselines import Baselines, cubic_features, fit_baselines
from pds_bids.evaluation.fidelity import score
from pds_bids.imaging.parcels import parcel_means
from pds_bids.inference.bundle import Bundle, load_bundle
from pds_bids.inference.card import CARD, shipped_bundle
from pds_bids.inference.prepare import scale_to_mean
from pds_bids.inference.synthesize import synthesize
from pds_bids.modalities import ANATOMY, CONTRASTS, MAP_UNITS, TARGETS, Contrast, Direction
from pds_bids.phantom.pair import template_channels
from pds_bids.template import MODEL_GRID, get_template, load_template
from pds_bids.training.cohort import find_visits, read_visit

METRICS = ("psnr_brain", "ssim_brain", "psnr_gain", "ssim_gain", "mae_brain", "parcel_r")
N_BOOTSTRAP = 2000
SLICES = (20, 26, 32, 38, 44)

Images = dict[Contrast, np.ndarray]
# (direction, contrast) -> predictor -> metric -> person -> value
Tables = dict[tuple[str, str], dict[str, dict[str, dict[str, float]]]]


class Person:
    """The acquired images of one session, in units of a network."""

    def __init__(self, label: str, images: np.ndarray, mask: np.ndarray, there: frozenset[Contrast]) -> None:
        self.label = label
        self.mask = mask
        self.images = {contrast: images[CONTRASTS.index(contrast)] for contrast in there}

    def sources(self, direction: Direction, *, with_t1w: bool) -> Images:
        """Return what is read."""
        wanted = [c for c in direction.sources if with_t1w or c != ANATOMY]
        return {contrast: self.images[contrast] for contrast in wanted if contrast in self.images}


def predict(
    person: Person,
    others: list[Person],
    direction: Direction,
    bundle: Bundle,
    baselines: Baselines,
    template: np.ndarray,
) -> tuple[dict[str, Images], tuple[str, ...]]:
    """Return every predictor's images of one person, in units of a network, and the model's warnings."""
    sources = {name: person.images[name] for name in baselines.sources}
    volumes = {name: image[..., None] for name, image in sources.items()}
    made = synthesize(volumes, person.mask, template, MODEL_GRID, bundle, direction=direction, seeds=[1])
    rows = {"model": {c: image[..., 0] / MAP_UNITS.get(c, 1.0) for c, image in made.mean.items()}}
    both = person.mask & bundle.bank.mask
    rows |= baselines.predict({c: np.where(both, image, 0) for c, image in sources.items()}, both)
    rows["cubic-others"] = {}
    for target in baselines.targets:
        atlas = baselines.bank.volume(baselines.bank.atlas[TARGETS.index(target)])
        known = [other for other in others if target in other.images]
        if not known:
            continue
        design = [
            cubic_features(o.images, o.mask & bundle.bank.mask, atlas, baselines.sources) for o in known
        ]
        truth = [o.images[target][o.mask & bundle.bank.mask] for o in known]
        weights = np.linalg.lstsq(np.concatenate(design), np.concatenate(truth), rcond=None)[0]
        image = np.zeros(both.shape)
        image[both] = cubic_features(sources, both, atlas, baselines.sources) @ weights
        rows["cubic-others"][target] = image
    return rows, made.warnings


def figures(
    image: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    contrast: Contrast,
    bundle: Bundle,
    atlas: np.ndarray,
) -> dict[str, float]:
    """Score one image; all but maps are divided by their in-brain mean first."""
    pair = [np.where(mask, volume, 0) for volume in (image, truth)]
    if contrast not in MAP_UNITS:
        pair = [scale_to_mean(volume, mask, str(contrast))[0] for volume in pair]
    scores = score(*pair, mask, data_range=bundle.data_range[contrast], zoom_mm=MODEL_GRID.zooms[0])
    labels = list(range(1, int(atlas.max()) + 1))
    means = parcel_means(np.stack(pair, -1), atlas, mask, labels)
    there = np.isfinite(means).all(0)
    scores["parcel_r"] = float(np.corrcoef(means[:, there])[0, 1])
    return scores


def compare(
    people: list[Person], bundle: Bundle, cache: Path, *, with_t1w: bool, pictures: Path | None
) -> Tables:
    """Score everybody in both directions."""
    template = load_template(get_template(cache), MODEL_GRID)
    channels = np.moveaxis(template_channels(template), 0, -1)
    tables: Tables = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    fitted: dict[tuple[Direction, tuple[Contrast, ...]], Baselines] = {}
    for direction in Direction:
        for person in people:
            names = tuple(person.sources(direction, with_t1w=with_t1w))
            if (direction, names) not in fitted:
                fitted[direction, names] = fit_baselines(bundle.bank, channels, direction, names)
            others = [o for o in people if o is not person and set(names) <= set(o.images)]
            rows, warnings = predict(person, others, direction, bundle, fitted[direction, names], channels)
            print(f"{person.label} {direction}: {'; '.join(warnings) or 'source is familiar'}", flush=True)
            both = person.mask & bundle.bank.mask
            for row, images in rows.items():
                for contrast, image in images.items():
                    if contrast in person.images:
                        found = figures(
                            image, person.images[contrast], both, contrast, bundle, template.atlas
                        )
                        for metric in METRICS:
                            tables[str(direction), str(contrast)][row][metric][person.label] = found[metric]
            if pictures:
                draw(person, rows, direction, both, pictures)
    return tables


def draw(
    person: Person, rows: dict[str, Images], direction: Direction, mask: np.ndarray, folder: Path
) -> None:
    """Draw axial slices: source, acquired target, model, trees, atlas."""
    from matplotlib.figure import Figure  # late: seconds

    folder.mkdir(parents=True, exist_ok=True)
    source = next(iter(person.sources(direction, with_t1w=False)))
    for contrast in (c for c in direction.targets if c in person.images):
        shown: Mapping[str, np.ndarray] = {
            f"source {source}": person.images[source],
            f"acquired {contrast}": person.images[contrast],
            "SYNTHETIC": rows["model"][contrast],
            "trees": rows["trees"][contrast],
            "atlas": rows["atlas"][contrast],
        }
        figure = Figure(figsize=(2 * len(SLICES), 2.3 * len(shown)), layout="constrained")
        axes = figure.subplots(len(shown), len(SLICES))
        top = float(np.percentile(person.images[contrast][mask], 99.5))
        for line, (name, image) in zip(axes, shown.items(), strict=True):
            white = float(np.percentile(image[mask], 99.5)) if name.startswith("source") else top
            for axis, z in zip(line, SLICES, strict=True):
                axis.imshow((image * mask)[:, :, z].T, origin="lower", cmap="gray", vmin=0, vmax=white)
                axis.axis("off")
            line[0].set_title(name, fontsize=9, loc="left")
        label = person.label.replace(" ", "_")
        figure.savefig(folder / f"{label}_{direction}_{contrast}.png", dpi=70)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over people."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (N_BOOTSTRAP, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def print_tables(tables: Tables) -> None:
    """Print all tables, the model first."""
    for (direction, contrast), predictors in tables.items():
        print(f"\n{direction} -> {contrast}")
        header = "".join(f"{metric:>12s}" for metric in METRICS)
        print(f"{'predictor':14s}{'people':>7s}  {header}  95% of psnr")
        for predictor, rows in predictors.items():
            people = {metric: np.array(list(rows[metric].values())) for metric in METRICS}
            cells = "".join(f"{people[metric].mean():12.3f}" for metric in METRICS)
            low, high = interval(people["psnr_brain"])
            print(f"{predictor:14s}{len(people['psnr_brain']):7d}  {cells}  {low:.2f} to {high:.2f}")
        for person in predictors["model"]["psnr_brain"]:
            cells = "  ".join(
                f"{p} {rows['psnr_brain'][person]:.2f}/{rows['ssim_brain'][person]:.3f}"
                for p, rows in predictors.items()
                if person in rows["psnr_brain"]
            )
            print(f"    {person}: {cells}")


def write_into_card(path: Path, tables: Tables, sources: str) -> None:
    """Write PSNR and SSIM in the brain of every person into a model card."""
    card = json.loads(path.read_text())
    acquired = card["evaluation"].setdefault("acquired_people", {})
    acquired["note"] = "benchmarks/real_pairs.py; cubic-others was fitted to the acquired images of the other"
    for (direction, contrast), rows in tables.items():
        acquired.setdefault(sources, {}).setdefault(direction, {})[contrast] = {
            row: {
                f"{metric} {person}": round(value, 3)
                for metric in ("psnr_brain", "ssim_brain")
                for person, value in scores[metric].items()
            }
            for row, scores in rows.items()
        }
    path.write_text(json.dumps(card, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs="+", metavar="OUT", help="output folder of pds-bids")
    parser.add_argument("--bundle", default="default", help="name in the package, or folder")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder for the template")
    parser.add_argument(
        "--t1w", action="store_true", help="read the person's T1w as well, where there is one"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--into-card", action="store_true", help="also write them into the bundle's card")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    people = [
        Person(visit.label, *read_visit(visit)) for out in arguments.outputs for visit in find_visits(out)[0]
    ]
    if not people:
        print("no person has both modalities: nothing to compare", file=sys.stderr)
        return 1
    folder = Path(arguments.bundle)
    folder = folder if folder.is_dir() else shipped_bundle(arguments.bundle)
    bundle = load_bundle(folder)
    tables = compare(people, bundle, arguments.cache, with_t1w=arguments.t1w, pictures=arguments.pictures)
    print_tables(tables)
    if arguments.json:
        arguments.json.write_text(json.dumps({" ".join(key): rows for key, rows in tables.items()}, indent=1))
    if arguments.into_card:
        write_into_card(folder / CARD, tables, "with T1w" if arguments.t1w else "without T1w")
    return 0


if __name__ == "__main__":
    sys.exit(main())
