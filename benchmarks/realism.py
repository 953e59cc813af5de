"""Compare simulated mean images with real ones, figure by figure.

Two populations: ``native``, means as a scanner gives them (from the cohort generator, with protocols drawn
as widely as the training stream draws them), and ``model``, sources of the training stream on the model grid.
The real images are those of BIDS folders, averaged, masked and registered as the app does; tissues are those
of the template, carried over. Prints one table per population, and with ``--pictures`` draws phantoms beside
the real scans into a local file, which must not be published when the scans are not yours to publish.

    python benchmarks/realism.py --cache CACHE [--labels LABELS] [--pictures FILE] DATASET [DATASET ...]

Figures of each simulated person are kept in ``CACHE/people``, so that a run that was stopped goes on, and
more people cost only those that are new. After a change of the generator use another cache or seed.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from realism_figures import FIGURES, SHAPES, Look, figures, shapes
from realism_phantoms import model_person, model_stream, native_person
from realism_scans import real_looks

from pds_bids.phantom.anatomy import Anatomy, build_anatomies
from pds_bids.template import MODEL_GRID, RES02_GRID, Template, get_template, load_template

KINDS = ("bold", "b0", "dwi")
SEED = 21
# The mask of a series is made from its BOLD or b = 0 mean.
SHAPED = ("bold", "b0")

# (kind, figure) -> values
Values = dict[tuple[str, str], dict[str, float]]


def measure(looks: list[Look]) -> Values:
    """Return all figures of some images by name."""
    values: Values = defaultdict(dict)
    for number, look in enumerate(looks):
        found = figures(look) | (shapes(look) if look.kind in SHAPED else {})
        for figure, value in found.items():
            values[look.kind, figure][f"{look.name}#{number}"] = value
    return values


def figures_of_people(
    make: Callable[[int], list[Look]], cache: Path, name: str, seed: int, count: int, n_processes: int = 1
) -> Values:
    """Return the figures of simulated people, those that `cache` has from there."""
    cache.mkdir(parents=True, exist_ok=True)
    kept = [cache / f"{name}_{seed}_{index}.json" for index in range(count)]
    missing = [index for index in range(count) if not kept[index].exists()]
    Parallel(n_processes)(delayed(_keep_figures)(make, index, kept[index]) for index in missing)
    values: Values = defaultdict(dict)
    for index, path in enumerate(kept):
        for kind, figure, value in json.loads(path.read_text()):
            values[kind, figure][f"phantom {index}"] = value
    return values


def _keep_figures(make: Callable[[int], list[Look]], index: int, path: Path) -> None:
    rows = [[*key, one] for key, found in measure(make(index)).items() for one in found.values()]
    path.write_text(json.dumps(rows))


def print_table(title: str, real: Values, simulated: Values) -> tuple[int, int]:
    """Print every real value beside the 5th to 95th percentile of the phantoms; return inside and all."""
    inside = total = 0
    print(f"\n## {title}\n\n| image | figure | phantoms 5-95% | real | outside |\n|---|---|---|---|---|")
    for kind in KINDS:
        for figure in (*FIGURES, *(SHAPES if kind in SHAPED else ())):
            spread = np.array(list(simulated[kind, figure].values()))
            spread = spread[np.isfinite(spread)]
            low, high = np.percentile(spread, (5, 95)) if len(spread) else (np.nan, np.nan)
            known = {n: v for n, v in real[kind, figure].items() if np.isfinite(v)}
            out = [f"{n.split('_')[0]} {v:.2f}" for n, v in known.items() if not low <= v <= high]
            inside, total = inside + len(known) - len(out), total + len(known)
            values = " ".join(f"{v:.2f}" for v in sorted(known.values()))
            print(f"| {kind} | {figure} | {low:.2f} to {high:.2f} | {values} | {', '.join(out)} |")
    print(f"\n{inside} of {total} real figures lie inside.")
    return inside, total


def draw(path: Path, real: list[Look], simulated: list[Look]) -> None:
    """Draw three slices of each image: a row of real ones above a row of phantoms, for each kind."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    n_columns = max(sum(look.kind == kind for look in real) for kind in KINDS)
    figure, axes = plt.subplots(
        2 * len(KINDS), n_columns, figsize=(4.2 * n_columns, 3.4 * len(KINDS)), facecolor="black"
    )
    for row, (kind, group) in enumerate((kind, group) for kind in KINDS for group in (real, simulated)):
        chosen = [look for look in group if look.kind == kind][:n_columns]
        for axis in axes[row]:
            axis.axis("off")
        for axis, look in zip(axes[row], chosen, strict=False):
            axis.imshow(_sheet(look), cmap="gray", origin="lower", vmin=0, vmax=1)
            axis.set_title(f"{look.name[:22]} {kind}", color="white", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def _sheet(look: Look) -> np.ndarray:
    """Return an axial, a coronal and a sagittal slice through the middle of the mask, scaled to 0 to 1."""
    x, y, z = np.argwhere(look.mask).mean(0).round().astype(int)
    top = np.percentile(look.image[look.mask], 99.5)
    slices = (look.image[:, :, z], look.image[:, y], look.image[x])
    size = max(look.image.shape)
    zooms = np.array(look.grid.zooms)
    sheet = np.zeros((size, 0))
    for plane, (a, b) in zip(slices, ((0, 1), (0, 2), (1, 2)), strict=True):
        step = zooms[[a, b]] / zooms.min()
        shape = np.round(np.array(plane.shape) * step).astype(int)
        i, j = (
            np.minimum((np.arange(n) / s).astype(int), m - 1)
            for n, s, m in zip(shape, step, plane.shape, strict=True)
        )
        tile = plane[np.ix_(i, j)].T / top
        height = max(len(sheet), len(tile))
        sheet = np.pad(sheet, ((0, height - len(sheet)), (0, 0)))
        sheet = np.hstack([sheet, np.pad(tile, ((0, height - len(tile)), (0, 0)))])
    return sheet


def load_heads(labels: Path | None, cache: Path, count: int) -> tuple[list[Anatomy], Template]:
    """Return the first anatomies, and the template on the model grid."""
    files = get_template(cache / "template")
    fine = load_template(files, RES02_GRID)
    only = None if labels is None else range(count)
    return build_anatomies(labels, cache / "anatomies", fine, only=only), load_template(files, MODEL_GRID)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if a real figure lies outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "datasets", type=Path, nargs="+", metavar="DATASET", help="BIDS folders of real scans"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for anatomies and prepared scans")
    parser.add_argument("--labels", type=Path, help="label maps; without them one head, from the template")
    parser.add_argument("--n-heads", type=int, default=10, help="label maps to use")
    parser.add_argument("--people", type=int, default=50, help="simulated people")
    parser.add_argument("--seed", type=int, default=SEED, help="of the simulated people")
    parser.add_argument("--nprocs", type=int, default=1, help="people simulated at the same time")
    parser.add_argument("--only", choices=("native", "model"), help="one population")
    parser.add_argument("--pictures", type=Path, help="file to draw into (PNG)")
    arguments = parser.parse_args(argv)
    heads, template = load_heads(arguments.labels, arguments.cache, arguments.n_heads)
    real = real_looks(arguments.datasets, template, arguments.cache / "real")
    stream = model_stream(heads, template, arguments.seed)
    makers = {
        "native": partial(native_person, heads, template, arguments.seed),
        "model": partial(model_person, stream, template),
    }
    counts = []
    for population, make in makers.items():
        if arguments.only in (None, population):
            people = arguments.cache / "people"
            made = figures_of_people(
                make, people, population, arguments.seed, arguments.people, arguments.nprocs
            )
            counts.append(print_table(population, measure(real[population]), made))
            if arguments.pictures:
                path = arguments.pictures
                n_people = max(sum(look.kind == kind for look in real[population]) for kind in KINDS)
                looks = [look for index in range(n_people) for look in make(index)]
                draw(path.with_stem(f"{path.stem}_{population}"), real[population], looks)
    return int(any(inside < total for inside, total in counts))


if __name__ == "__main__":
    sys.exit(main())
