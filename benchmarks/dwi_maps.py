"""Compare FA and MD with the maps that the scanner computed of the same series.

For every ``*_FA.nii.gz`` under ``derivatives/scanner`` of a BIDS dataset that has a diffusion series of the
same name, the series goes through the steps of the app. White matter is where a tissue map of the template
exceeds 0.7 after registration of the b0 to the template, so that no diffusion map defines it.

    python benchmarks/dwi_maps.py DATASET [--figures FOLDER]

The scanner neither corrects for head motion and eddy currents nor weights its fit; the rows undo one
difference after the other:

- ``unweighted, as acquired``: its own way, as a check of units, gradients and orientation;
- ``as acquired``: this package's fit of the same volumes;
- ``aligned, at weighted volumes``: motion and eddy currents undone, maps in the mean position and shape of
  the weighted volumes, where the scanner's maps lie;
- ``rigidly aligned, at weighted volumes``: the same without eddy currents;
- ``aligned, at b0``: the maps that the app writes, in the position of the first b0;
- ``rigidly aligned, at b0``: the same without eddy currents;
- ``aligned, at b0; theirs moved``: the maps that the app writes against the scanner's, moved there by linear
  interpolation with the mean displacement of the weighted volumes.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids.imaging.distortion import Distortion, phase_encoding_axis, with_eddy_currents
from pds_bids.imaging.dwi import GradientTable, check_gradients, fsl_to_ras_bvecs, rotate_bvecs
from pds_bids.imaging.dwi_maps import tensor_maps
from pds_bids.imaging.eddy import split_affines
from pds_bids.imaging.grid import Grid, apply_affine, resample, to_ras
from pds_bids.imaging.intensity import brain_mean, n4_bias
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.motion import estimate_dwi_motion, segment_means
from pds_bids.imaging.registration import register_epi_to_template
from pds_bids.modalities import Contrast
from pds_bids.template import MODEL_GRID, get_template, load_template

WHITE_MATTER = 0.7
# Siemens: FA in thousandths, ADC in 1e-6 mm2/s.
FA_UNIT = 1e-3
MD_UNIT_MM2_S = 1e-6


@dataclass(frozen=True)
class Row:
    """Agreement of one way of processing with the scanner's maps, in white matter."""

    series: str
    way: str
    n_voxels: int
    fa: tuple[float, float, float, float]
    md: tuple[float, float, float, float]
    residual: float


@dataclass(frozen=True)
class Scan:
    """A series in RAS+, its directions along the scanner's axes, and the scanner's maps."""

    name: str
    data: np.ndarray
    grid: Grid
    table: GradientTable
    fa: np.ndarray
    md: np.ndarray
    phase_axis: int | None


def read_scans(dataset: Path) -> list[Scan]:
    """Read all series that have maps of the scanner."""
    scans = []
    for fa_path in sorted((dataset / "derivatives" / "scanner").glob("sub-*/**/dwi/*_FA.nii.gz")):
        folder = dataset / fa_path.parent.relative_to(dataset / "derivatives" / "scanner")
        dwi = folder / fa_path.name.replace("_FA.", "_dwi.")
        if not dwi.exists():
            continue
        image = nib.load(dwi)
        data, vox2ras, _ = to_ras(np.asarray(image.dataobj, np.float32), image.affine)
        stem = str(dwi).removesuffix(".nii.gz")
        table = check_gradients(data.shape[3], np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec"))
        table = replace(table, bvecs=fsl_to_ras_bvecs(table.bvecs, image.affine))
        maps = [
            to_ras(np.asarray(other.dataobj, np.float32), other.affine)[0]
            for other in (
                nib.load(fa_path),
                nib.load(fa_path.with_name(fa_path.name.replace("_FA.", "_ADC."))),
            )
        ]
        grid = Grid(data.shape[:3], vox2ras)
        axis = phase_encoding_axis(json.loads(Path(f"{stem}.json").read_text()), image.affine)
        scans.append(Scan(dwi.name, data, grid, table, maps[0] * FA_UNIT, maps[1] * MD_UNIT_MM2_S, axis))
    return scans


def unweighted(signals: np.ndarray, table: GradientTable) -> tuple[np.ndarray, np.ndarray]:
    """Fit by ordinary least squares of the logarithms, and return FA and MD."""
    b, (x, y, z) = table.bvals[:, None], table.bvecs.T
    products = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)
    design = np.hstack([-b * products * 1e-3, np.ones((len(b), 1))])
    found = np.linalg.lstsq(design, np.log(np.maximum(signals, 1)).T, rcond=None)[0][:6] * 1e-3
    xx, yy, zz, xy, xz, yz = found
    tensor = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).reshape(-1, 3, 3)
    values = np.linalg.eigvalsh(tensor).clip(0)
    md = values.mean(1)
    spread = ((values - md[:, None]) ** 2).sum(1)
    return np.sqrt(1.5 * spread / np.maximum((values**2).sum(1), 1e-30)), md


def agreement(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float, float]:
    """Return Pearson's r, the slope of ours on theirs, the median of ours, and the median difference."""
    r = float(np.corrcoef(ours, theirs)[0, 1])
    slope = float(np.polyfit(theirs, ours, 1)[0])
    return r, slope, float(np.median(ours)), float(np.median(ours - theirs))


def white_matter(scan: Scan, mask: np.ndarray, cache: Path) -> np.ndarray:
    """Return the template's white matter probability on the grid of the b0."""
    grid = scan.grid
    b0 = scan.data[..., list(scan.table.b0_volumes)].mean(-1)
    flat = b0 / n4_bias(b0, grid, mask)
    template = load_template(get_template(cache), MODEL_GRID)
    found = register_epi_to_template(
        flat / brain_mean(flat, mask), mask, grid, template, Contrast.B0, nthreads=1
    )
    return resample(template.wm, MODEL_GRID.vox2ras, found.native2template.points, order=1)


@dataclass(frozen=True)
class Way:
    """How volumes are resampled for our maps, and where both sides are looked up.

    `here2b0` takes points of our maps to the b0; `here2theirs` takes them to the scanner's maps.
    """

    poses: np.ndarray
    distortion: Distortion | None
    here2b0: np.ndarray
    here2theirs: np.ndarray


def ways_to_process(scan: Scan) -> dict[str, Way]:
    """Return what is compared."""
    still, here = np.tile(np.eye(4), (scan.data.shape[3], 1, 1)), np.eye(4)
    ways = {name: Way(still, None, here, here) for name in ("unweighted, as acquired", "as acquired")}
    for prefix, axis in (("rigidly aligned", None), ("aligned", scan.phase_axis)):
        found = estimate_dwi_motion(scan.data, scan.grid.vox2ras, scan.table, phase_axis=axis)
        for note in found.eddy_notes:
            print(f"  {note}")
        mean = found.ref2seen[list(scan.table.weighted_volumes)].mean(0)
        eddy = None if found.eddy is None else with_eddy_currents(None, found.eddy.affines)
        back = np.linalg.inv(mean)
        ways[f"{prefix}, at weighted volumes"] = Way(found.ref2volume @ back, eddy, back, here)
        ways[f"{prefix}, at b0"] = Way(found.ref2volume, eddy, here, here)
        ways[f"{prefix}, at b0; theirs moved"] = Way(found.ref2volume, eddy, here, mean)
    return ways


def compare(scan: Scan, cache: Path) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Process a series in all ways; also return FA maps for a figure."""
    grid, n_volumes = scan.grid, scan.data.shape[3]
    mask = rough_brain_mask(scan.data[..., list(scan.table.b0_volumes)].mean(-1), grid)
    white = white_matter(scan, mask, cache)
    rows, figures = [], {"scanner": np.where(mask, scan.fa, 0)}
    for way, how in ways_to_process(scan).items():
        points = apply_affine(how.here2b0, grid.points())
        there = apply_affine(how.here2theirs, grid.points())
        scanner_fa, scanner_md = (resample(x, grid.vox2ras, there, order=1) for x in (scan.fa, scan.md))
        tissue = resample(white, grid.vox2ras, points, order=1)
        brain = resample(mask.astype(np.float32), grid.vox2ras, points, order=1) > 0.5
        brain &= scanner_md > 0
        each = [[k] for k in range(n_volumes)]
        signals = segment_means(
            scan.data, grid.vox2ras, how.poses, each, grid.points()[brain], distortion=how.distortion
        ).T
        turned = split_affines(how.poses, np.array([0.0, 1, 0]), np.zeros(3))[0]
        rotated = replace(scan.table, bvecs=rotate_bvecs(scan.table.bvecs, turned))
        maps = tensor_maps(signals, rotated)
        fa, md = unweighted(signals, rotated) if way.startswith("unweighted") else (maps.fa, maps.md)
        inside = tissue[brain] > WHITE_MATTER
        rows.append(
            Row(
                scan.name,
                way,
                int(inside.sum()),
                agreement(fa[inside], scanner_fa[brain][inside]),
                agreement(md[inside] * 1e3, scanner_md[brain][inside] * 1e3),
                float(np.median(maps.residual[inside])),
            )
        )
        figures[way] = np.zeros(grid.shape)
        figures[way][brain] = fa
    return rows, figures


def draw(figures: dict[str, np.ndarray], path: Path) -> None:
    """Draw the maps side by side, three planes each."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, len(figures), figsize=(3 * len(figures), 9))
    for column, (name, values) in zip(axes.T, figures.items(), strict=True):
        middle = [n // 2 for n in values.shape]
        for axis, plane in enumerate(column):
            plane.imshow(np.take(values, middle[axis], axis).T, origin="lower", cmap="gray", vmin=0, vmax=0.9)
            plane.axis("off")
        column[0].set_title(name, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="BIDS dataset with derivatives/scanner")
    parser.add_argument("--figures", type=Path, help="folder for pictures of the FA maps")
    options = parser.parse_args(argv)
    scans = read_scans(options.dataset)
    if not scans:
        print("no diffusion series with maps of the scanner", file=sys.stderr)
        return 1
    heads = "".join(f"{head:>9s}" for head in ("r", "slope", "median", "differ"))
    print(f"{'white matter':42s}{'voxels':>8s}  FA{heads[2:]}  MD (1e-3 mm2/s){heads}  misfit")
    for scan in scans:
        print(scan.name)
        with tempfile.TemporaryDirectory() as cache:
            rows, figures = compare(scan, Path(cache))
        for row in rows:
            cells = ["".join(f"{value:9.4f}" for value in values) for values in (row.fa, row.md)]
            print(f"  {row.way:40s}{row.n_voxels:8d}{cells[0]}{'':17s}{cells[1]}  {row.residual:.3f}")
        if options.figures:
            options.figures.mkdir(parents=True, exist_ok=True)
            draw(figures, options.figures / f"{scan.name.removesuffix('.nii.gz')}_FA.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
