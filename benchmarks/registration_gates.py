"""Measure the registration gate on good registrations and on deliberately wrong ones.

Each scan is registered as the app does it; the result is then shifted, turned, put upside down, or given the
bends of another head, and judged anew. "deformed from" is the dangerous kind: the affine is wrong, and the
deformable stage has done what it could to hide it. Prints the ranges of every figure of the gate as a table.

    python benchmarks/registration_gates.py DATASET... --out DIR [--scans FORREST,GALAN]
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from registration_cases import Scan, find_scans, read_scan

from pds_bids.exceptions import PDSError
from pds_bids.imaging.gate import Gate
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import PointMap, apply_affine
from pds_bids.imaging.intensity import n4_bias, to_units
from pds_bids.imaging.masks import dilated, rough_brain_mask
from pds_bids.imaging.registration import judge_epi, register_epi_to_template, two_path_disagreement
from pds_bids.imaging.rigid import parameters_to_matrices
from pds_bids.imaging.stages import Effort, Registration, deform
from pds_bids.imaging.tissues import Template, paint_epi
from pds_bids.modalities import Contrast
from pds_bids.template import RES02_GRID, get_template, load_template

# Shift (mm) and turn (degrees) of the template, about its middle.
WRONG = {
    "shifted 12 mm": [(12, 0, 0), (0, 12, 0), (0, 0, 12)],
    "shifted 20 mm": [(0, 20, 0), (0, 0, -20)],
    "turned 20 deg": [(0, 0, 0, 20, 0, 0), (0, 0, 0, 0, 20, 0), (0, 0, 0, 0, 0, 20)],
    "turned 45 deg": [(0, 0, 0, 45, 0, 0), (0, 0, 0, 0, 45, 0)],
    "upside down": [(0, 0, 0, 180, 0, 0)],
    "back to front": [(0, 0, 0, 0, 0, 180)],
}
DEFORMED = {
    "deformed from 12 mm": [(0, 12, 0), (0, 0, 12)],
    "deformed from 20 deg": [(0, 0, 0, 20, 0, 0), (0, 0, 0, 0, 0, 20)],
    "deformed from 45 deg": [(0, 0, 0, 45, 0, 0)],
    "deformed from upside down": [(0, 0, 0, 180, 0, 0)],
    "deformed from back to front": [(0, 0, 0, 0, 0, 180)],
}
FIGURES = ("mask_dice", "nmi_excess", "jacobian_min", "jacobian_max", "correlation", "distance_mm")


@dataclass(frozen=True)
class Judged:
    """What the gate says of a map, and how far it lies from the right one (median in the brain, mm)."""

    gate: Gate
    distance_mm: float

    def figure(self, name: str) -> float:
        """Return one column of the table."""
        if name == "distance_mm":
            return self.distance_mm
        if name == "nmi_excess":
            return (self.gate.nmi - 1) / (self.gate.nmi_null - 1)
        return float(getattr(self.gate, name))


def moved(template: Template, numbers: tuple[float, ...]) -> np.ndarray:
    """Return the ``(4, 4)`` that turns and shifts the template about the middle of its brain."""
    six = np.array([*numbers, *[0.0] * (6 - len(numbers))], float)
    six[3:] = np.radians(six[3:])
    return parameters_to_matrices(six[None], template.grid.points()[template.mask].mean(0))[0]


def bends(found: Registration) -> np.ndarray:
    """Return what the affine does not say, in template mm."""
    grid = found.template2native.grid
    back = apply_affine(
        np.linalg.inv(found.template2native_affine), found.template2native.points.astype(float)
    )
    return back - grid.points()


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--scans", default="")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    files = get_template(Path(os.environ.get("XDG_CACHE_HOME", args.out)) / "pds-bids-template")
    template = load_template(files, RES02_GRID)
    gates: dict[str, list[Judged]] = defaultdict(list)
    previous = None
    for name, kind, path in find_scans(args.datasets):
        if kind == "T1w" or not any(part in name for part in args.scans.split(",")):
            continue
        try:
            previous = _measure(read_scan(name, kind, path, args.out / "means"), template, previous, gates)
        except PDSError as error:
            print(f"{name}: {error}", file=sys.stderr)
        print(table(gates), flush=True)
    return 0


def _measure(
    scan: Scan, template: Template, previous: np.ndarray | None, gates: dict[str, list[Judged]]
) -> np.ndarray:
    """Judge one scan's registration and everything wrong that can be made of it; return its bends."""
    mask = rough_brain_mask(scan.image, scan.grid)
    flat, _ = to_units(scan.image / n4_bias(scan.image, scan.grid, mask), mask)
    contrast = Contrast(scan.kind)
    found = register_epi_to_template(flat, mask, scan.grid, template, contrast)
    grid = template.grid

    def judged(there: PointMap, stage: str) -> Judged:
        gate = judge_epi(flat, mask, scan.grid, template, contrast, there, stage)
        # What the two-path check would read, were the other path right.
        return Judged(gate, two_path_disagreement(there, found.template2native, template.mask)[0])

    def add(label: str, there: Callable[[], PointMap], stage: str) -> None:
        gates[label].append(judged(there(), stage))

    add("right, deformable", lambda: found.template2native, "deformable")
    add("right, affine", lambda: PointMap.from_affine(grid, found.template2native_affine), "affine")
    for label, moves in WRONG.items():
        for move in moves:
            wrong = PointMap.from_affine(grid, moved(template, move)).then(found.template2native)
            add(label, lambda wrong=wrong: wrong, "deformable")
    if previous is not None:
        other = PointMap(grid, (grid.points() + previous).astype(np.float32)).then(
            found.template2native_affine
        )
        add("bends of another head", lambda: other, "deformable")
    painted, _ = to_units(paint_epi(template, contrast), template.mask)
    region = dilated(template.mask, grid, 12.0)
    for label, moves in DEFORMED.items():
        for move in moves:
            start = found.template2native_affine @ moved(template, move)
            there, _ = deform(
                GreedyImage(painted, grid, region), GreedyImage(flat, scan.grid), start, Effort.of(True, 1)
            )
            add(label, lambda there=there: there, "deformable")
    return bends(found)


def table(gates: dict[str, list[Judged]]) -> str:
    """Lay the ranges out as a table."""
    lines = [
        "| registration | n | passed | " + " | ".join(FIGURES) + " |",
        "|---|---|---|" + "---|" * len(FIGURES),
    ]
    for label, members in gates.items():
        cells = []
        for figure in FIGURES:
            values = [member.figure(figure) for member in members]
            cells.append(f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}")
        passed = sum(member.gate.passed for member in members)
        lines.append(f"| {label} | {len(members)} | {passed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
