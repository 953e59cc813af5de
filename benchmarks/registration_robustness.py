"""Register real scans as they are and spoilt: is each right, refused, or silently wrong.

Every mean image, b0 and T1w image is registered to the template as the app does it; then again when turned,
cropped, shaded, resampled or halved. A point of the template must land where the unspoilt scan's registration
puts it, the known change undone. Writes a table and one picture per case, with the template's outlines on the
image in template space. The pictures show real people: keep them out of the repository.

    python benchmarks/registration_robustness.py DATASET... --out DIR [--variants asis,ramp-y] [--sloppy]
"""

import argparse
import csv
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from registration_cases import LESIONS, POSES, REFUSED, Scan, Variant, find_scans, read_scan, refused_images

from pds_bids.exceptions import PDSError
from pds_bids.imaging.grid import apply_affine, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import dice, rough_brain_mask
from pds_bids.imaging.registration import (
    Registration,
    mask_in_native,
    register_epi_to_template,
    register_t1w_to_template,
)
from pds_bids.imaging.tissues import Template
from pds_bids.modalities import Contrast
from pds_bids.template import RES02_GRID, get_template, load_template

# A variant is right if its points lie within this of where the unspoilt scan's registration puts them.
LANDMARK_MM = 2.0
LEAST_DICE = 0.93
# MNI mm. Commissures, poles of the lobes, vertex, corners of the ventricles, pons.
LANDMARKS_RAS = {
    "AC": (0, 2, -4),
    "PC": (0, -25, -2),
    "frontal-L": (-20, 66, 4),
    "frontal-R": (20, 66, 4),
    "occipital-L": (-16, -100, 0),
    "occipital-R": (16, -100, 0),
    "temporal-L": (-42, 14, -34),
    "temporal-R": (42, 14, -34),
    "vertex-L": (-14, -26, 76),
    "vertex-R": (14, -26, 76),
    "lateral-L": (-66, -22, 10),
    "lateral-R": (66, -22, 10),
    "horn-front-L": (-14, 30, 4),
    "horn-front-R": (14, 30, 4),
    "horn-back-L": (-28, -54, 8),
    "horn-back-R": (28, -54, 8),
    "pons": (0, -24, -32),
}
COLUMNS = (
    "scan", "variant", "verdict", "stage", "mask_dice", "correlation", "dice_asis",
    "landmarks_median_mm", "landmarks_max_mm", "landmarks_beyond", "brain_median_mm", "brain_p95_mm",
    "nmi", "nmi_null", "jacobian_min", "jacobian_max", "cpu_s", "message",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Outcome:
    """A registration or the reason for its refusal, and what went in."""

    found: Registration | None
    message: str
    cpu_s: float
    image: np.ndarray
    mask: np.ndarray


def register(scan: Scan, template: Template, is_sloppy: bool) -> Outcome:
    """Do what the app does with a mean or a T1w image."""
    start, image, mask = time.process_time(), scan.image, np.zeros(scan.grid.shape, bool)
    try:
        if scan.kind == "T1w":
            found = register_t1w_to_template(image, scan.grid, template, sloppy=is_sloppy)
            mask = mask_in_native(found, template)
        else:
            mask = rough_brain_mask(image, scan.grid)
            image = image / n4_bias(image, scan.grid, mask)
            found = register_epi_to_template(
                image, mask, scan.grid, template, Contrast(scan.kind), sloppy=is_sloppy
            )
        message = ""
    except PDSError as error:
        found, message = None, f"{type(error).__name__}: {error}"
    return Outcome(found, message, time.process_time() - start, image, mask)


def compare(
    asis: Registration, outcome: Outcome, variant: Variant, original: Scan, template: Template
) -> dict:
    """Measure how far a variant's points lie from those of the unspoilt scan, inside its field of view."""
    found = outcome.found
    brain = template.grid.points()[template.mask]
    variant2original = np.linalg.inv(variant.original2variant)
    errors, kept = [], []
    for points in (np.array(list(LANDMARKS_RAS.values()), float), brain):
        there, reference = (_mapped(r, points) for r in (found, asis))
        index = apply_affine(variant.scan.grid.ras2vox, apply_affine(variant.original2variant, reference))
        seen = np.all((index >= 0) & (index <= np.array(variant.scan.grid.shape) - 1), axis=1)
        errors.append(np.linalg.norm(apply_affine(variant2original, there) - reference, axis=1)[seen])
        kept.append(seen)
    points = apply_affine(variant.original2variant, original.grid.points())
    one = mask_in_native(found, template).astype(np.float32)
    inside = resample(np.ones_like(one), variant.scan.grid.vox2ras, points, order=0) > 0
    moved = resample(one, variant.scan.grid.vox2ras, points, order=1) > 0.5
    landmarks, everywhere = errors
    names = np.array(list(LANDMARKS_RAS))[kept[0]]
    return {
        "dice_asis": dice(moved & inside, mask_in_native(asis, template) & inside),
        "landmarks_median_mm": float(np.median(landmarks)) if landmarks.size else np.nan,
        "landmarks_max_mm": float(landmarks.max()) if landmarks.size else np.nan,
        "landmarks_beyond": ",".join(names[landmarks > LANDMARK_MM]),
        "brain_median_mm": float(np.median(everywhere)),
        "brain_p95_mm": float(np.percentile(everywhere, 95)),
    }


def _mapped(found: Registration, points: np.ndarray) -> np.ndarray:
    """Take ``(N, 3)`` template points to the native image."""
    grid = found.template2native.grid
    parts = [
        resample(found.template2native.points[..., k], grid.vox2ras, points, order=1, fill=np.nan)
        for k in range(3)
    ]
    return np.stack(parts, -1).astype(float)


def verdict_of(row: dict, name: str) -> str:
    """Say in one word how a case went."""
    if row["message"]:
        return "refused" if name not in POSES else "REFUSED"
    if name in REFUSED or name == "no-head":
        return "PASSED"
    right = row["landmarks_median_mm"] <= LANDMARK_MM and row["brain_median_mm"] <= LANDMARK_MM
    return "right" if right and row["mask_dice"] >= LEAST_DICE else "WRONG"


def draw(outcome: Outcome, scan: Scan, template: Template, title: str, path: Path) -> None:
    """Draw the image in template space under the template's outlines, or, refused, as it is with its mask."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if outcome.found is None:
        image, outlines = outcome.image, [(outcome.mask, "tab:orange")]
        box = (
            np.argwhere(outcome.mask)
            if outcome.mask.any()
            else np.array([[0, 0, 0], np.array(image.shape) - 1])
        )
    else:
        points = outcome.found.template2native.points
        image = resample(outcome.image, scan.grid.vox2ras, points, order=1)
        outlines = [
            (template.mask, "tab:orange"),
            (template.csf > 0.5, "tab:cyan"),
            (template.wm > 0.5, "yellow"),
        ]
        box = np.argwhere(template.mask)
    low, high = box.min(0), box.max(0)
    positive = image[image > 0]
    top = np.percentile(positive, 99) if positive.size else 1
    figure, axes = plt.subplots(2, 7, figsize=(14, 4.6))
    cuts = [(2, f) for f in (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)]
    cuts += [(0, f) for f in (0.2, 0.35, 0.49, 0.7)] + [(1, f) for f in (0.25, 0.5, 0.75)]
    for ax, (axis, share) in zip(axes.ravel(), cuts, strict=True):
        k = int(low[axis] + share * (high[axis] - low[axis]))
        ax.imshow(np.take(image, k, axis).T, cmap="gray", origin="lower", vmin=0, vmax=top)
        for mask, colour in outlines:
            plane = np.take(mask, k, axis)
            if 0 < plane.sum() < plane.size:
                ax.contour(plane.T.astype(float), [0.5], colors=colour, linewidths=0.6)
        ax.axis("off")
    figure.suptitle(title, fontsize=8, wrap=True)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=70)
    plt.close(figure)


def row_of(
    name: str,
    variant: Variant,
    outcome: Outcome,
    original: Scan,
    asis: Registration | None,
    template: Template,
) -> dict:
    """Compare one case with the unspoilt scan; return its row."""
    row = dict.fromkeys(COLUMNS, np.nan) | {"scan": original.name, "variant": name, "stage": ""}
    row |= {"message": outcome.message, "cpu_s": round(outcome.cpu_s, 1)}
    if outcome.found is not None:
        gate = outcome.found.gate
        row |= {key: getattr(gate, key) for key in COLUMNS if hasattr(gate, key)}
        row |= compare(asis or outcome.found, outcome, variant, original, template)
    row["verdict"] = verdict_of(row, name) if asis is not None or name in ("asis", "no-head") else "unknown"
    return row


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit code 1 if anything was silently wrong or wrongly refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--variants", help="comma list (default: all)")
    parser.add_argument("--scans", default="", help="comma list of parts of names (default: all)")
    parser.add_argument("--sloppy", action="store_true", help="few iterations of the deformable stage")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    files = get_template(Path(os.environ.get("XDG_CACHE_HOME", args.out)) / "pds-bids-template")
    template = load_template(files, RES02_GRID)
    makers = POSES | LESIONS | REFUSED
    wanted = args.variants.split(",") if args.variants else [*makers, "no-head"]
    rows = []
    with (args.out / "cases.tsv").open("a", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        if not stream.tell():
            table.writeheader()

        def keep(
            name: str, variant: Variant, outcome: Outcome, scan: Scan, asis: Registration | None
        ) -> None:
            row = row_of(name, variant, outcome, scan, asis, template)
            rows.append(row)
            table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
            stream.flush()
            title = f"{scan.name} {name}: {row['verdict']} {row['stage']} Dice {row['mask_dice']:.3f} "
            draw(
                outcome,
                variant.scan,
                template,
                title + row["message"][:160],
                args.out / f"{scan.name}_{name}.png",
            )

        for scan_name, kind, path in find_scans(args.datasets):
            if not any(part in scan_name for part in args.scans.split(",")):
                continue
            scan = read_scan(scan_name, kind, path, args.out / "means")
            unspoilt = register(scan, template, args.sloppy)
            for name in wanted:
                if name in makers:
                    variant = makers[name](scan)
                    outcome = unspoilt if name == "asis" else register(variant.scan, template, args.sloppy)
                    keep(name, variant, outcome, scan, unspoilt.found)
        if "no-head" in wanted:
            for scan in refused_images():
                keep("no-head", Variant(scan, np.eye(4)), register(scan, template, args.sloppy), scan, None)
    bad = [row for row in rows if row["verdict"].isupper()]
    print(f"{len(rows)} cases, {len(bad)} wrong or wrongly refused; {args.out / 'cases.tsv'}")
    for row in bad:
        print(f"{row['verdict']}: {row['scan']} {row['variant']}: {row['message']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
