"""Show whether real people's own tissue lands on the template's, straight from the echo-planar image too.

For every person with a T1w image: tissue classes by a Gaussian mixture on that image, in native space, with
no template; the T1w image registered to the template; every mean BOLD and b0 registered to the template on
its own, and rigidly to the T1w image. Scored: overlap of grey and of white matter with the template's, by the
T1w path and by the direct one (which has never seen the classes), and the median distance of the two paths.

    python benchmarks/registration_tissue.py DATASET... --out DIR [--scans FORREST,XA30]
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from registration_cases import Scan, find_scans, read_scan
from sklearn.mixture import GaussianMixture

from pds_bids.exceptions import PDSError
from pds_bids.imaging.grid import PointMap, apply_affine, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import dice, eroded, rough_brain_mask
from pds_bids.imaging.registration import (
    Registration,
    mask_in_native,
    register_epi_to_template,
    register_rigid,
    register_t1w_to_template,
    two_path_disagreement,
)
from pds_bids.imaging.tissues import Template
from pds_bids.modalities import Contrast
from pds_bids.template import RES02_GRID, get_template, load_template

__all__ = ["main"]


def classes(t1w: np.ndarray, scan: Scan, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Part a T1w image into fluid, grey and white matter; the two latter come back, ``(X, Y, Z)`` bool."""
    flat = t1w / n4_bias(t1w, scan.grid, mask)
    values = flat[mask]
    low, high = np.percentile(values, (0.5, 99.5))
    kept = values[(values > low) & (values < high)]
    some = np.random.default_rng(0).choice(kept, min(50_000, len(kept)), replace=False)
    start = np.percentile(some, (8, 40, 80))[:, None]
    mixture = GaussianMixture(3, means_init=start, random_state=0).fit(some[:, None])
    order = np.argsort(mixture.means_[:, 0])
    rank = np.empty(3, int)
    rank[order] = np.arange(3)
    label = np.full(t1w.shape, -1)
    label[mask] = rank[mixture.predict(np.clip(values, low, high)[:, None])]
    return {"gm": label == 1, "wm": label == 2}


def overlap(tissue: dict[str, np.ndarray], scan: Scan, there: np.ndarray, template: Template) -> list[float]:
    """Warp native classes to the template by ``(X, Y, Z, 3)`` native points, and compare."""
    inside = eroded(template.mask, template.grid, 2.0)
    return [
        dice(
            (resample(one.astype(np.float32), scan.grid.vox2ras, there, order=1) > 0.5) & inside,
            (getattr(template, name) > 0.5) & inside,
        )
        for name, one in tissue.items()
    ]


def person(t1w: Scan, scans: list[Scan], template: Template) -> list[dict]:
    """Register all images of one person and score them."""
    found = register_t1w_to_template(t1w.image, t1w.grid, template)
    brain = mask_in_native(found, template)
    tissue = classes(t1w.image, t1w, brain)
    rows = [_row(t1w, found, overlap(tissue, t1w, found.template2native.points, template), float("nan"))]
    flat_t1w = t1w.image / n4_bias(t1w.image, t1w.grid, brain)
    for scan in scans:
        mask = rough_brain_mask(scan.image, scan.grid)
        flat = scan.image / n4_bias(scan.image, scan.grid, mask)
        direct = register_epi_to_template(flat, mask, scan.grid, template, Contrast(scan.kind))
        epi2t1w, _ = register_rigid(flat, scan.grid, mask, flat_t1w, t1w.grid, brain)
        there = apply_affine(epi2t1w, direct.template2native.points.astype(float))
        bridge = PointMap(
            template.grid,
            apply_affine(np.linalg.inv(epi2t1w), found.template2native.points.astype(float)).astype(
                np.float32
            ),
        )
        apart_mm, _ = two_path_disagreement(direct.template2native, bridge, template.mask)
        rows.append(_row(scan, direct, overlap(tissue, t1w, there, template), apart_mm))
    return rows


def _row(scan: Scan, found: Registration, overlaps: list[float], apart_mm: float) -> dict:
    """Lay one result out."""
    return {
        "scan": scan.name, "GM Dice": overlaps[0], "WM Dice": overlaps[1], "two paths, mm": apart_mm,
        "correlation": found.gate.correlation, "NMI": found.gate.nmi,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--scans", default="", help="comma list of parts of names (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    files = get_template(Path(os.environ.get("XDG_CACHE_HOME", args.out)) / "pds-bids-template")
    template = load_template(files, RES02_GRID)
    by_person: dict[str, list[tuple[str, str, Path]]] = {}
    for name, kind, path in find_scans(args.datasets):
        if any(part in name for part in args.scans.split(",")):
            by_person.setdefault(name.split("_")[0], []).append((name, kind, path))
    printed = False
    for found in by_person.values():
        scans = [read_scan(*one, args.out / "means") for one in found]
        t1w = [scan for scan in scans if scan.kind == "T1w"]
        if not t1w:
            continue
        try:
            rows = person(t1w[0], [scan for scan in scans if scan.kind != "T1w"], template)
        except PDSError as error:
            print(f"{t1w[0].name}: {error}", file=sys.stderr)
            continue
        if not printed:
            print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
            printed = True
        for row in rows:
            cells = [f"{value:.3f}" if isinstance(value, float) else value for value in row.values()]
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
