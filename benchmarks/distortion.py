"""Print what distortion correction does to a person with both kinds of fieldmap, before and after.

For every participant of a BIDS dataset that has BOLD with a gradient-echo fieldmap and two diffusion series
with opposite phase encoding: likeness with the T1w image (normalised mutual information, distance of edges
and of brain outlines) after rigid registration, of BOLD and b0 with each other, and of the two directions.

    python benchmarks/distortion.py DATASET [--figures FOLDER]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pds_bids.bids.collect import choose_series
from pds_bids.bids.fieldmaps import Fieldmap, FieldmapKind, find_fieldmap
from pds_bids.bids.series import Series
from pds_bids.imaging.bold import reference_volume
from pds_bids.imaging.distortion import PhaseEncoding, phase_encoding
from pds_bids.imaging.fieldmaps import FieldImage, field_from_phases
from pds_bids.imaging.gate import nmi
from pds_bids.imaging.grid import Grid, apply_affine, resample
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.masks import dice, eroded, rough_brain_mask, rough_t1w_brain
from pds_bids.imaging.motion import estimate_motion, realigned_mean
from pds_bids.imaging.pepolar import Blip, BlipField, field_from_blips
from pds_bids.imaging.registration import register_rigid
from pds_bids.imaging.undistort import bring_field, compare_signs, displacement_mm, undistorted
from pds_bids.interfaces.images import load, stored_affine
from pds_bids.modalities import Modality

FINE_MM = 1.5
# Edges are the voxels with the steepest slopes of the brain and its rim.
EDGE_SHARE = 0.85
# Fields are compared this far inside a brain.
CORE_MM = 6.0


@dataclass(frozen=True, eq=False)
class Picture:
    """An image without bias field, its lattice and its brain."""

    data: np.ndarray
    grid: Grid
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Scan:
    """A distorted image, its readout, the inside of its brain, and both fields on its lattice."""

    data: np.ndarray
    grid: Grid
    encoding: PhaseEncoding
    core: np.ndarray
    phases_hz: np.ndarray
    pair_hz: np.ndarray


@dataclass(frozen=True, eq=False)
class Person:
    """Mean BOLD and first b0, the b0 of the opposite direction, and what the two directions say together."""

    bold: Scan
    b0: Scan
    opposite_b0: np.ndarray
    blips: BlipField
    brain: np.ndarray


def picture(data: np.ndarray, grid: Grid) -> Picture:
    """Mask and even out an echo-planar image."""
    mask = rough_brain_mask(data, grid)
    return Picture(data / n4_bias(data, grid, mask), grid, mask)


def series_of(folder: Path, modality: Modality, root: Path) -> list[Series]:
    """Return every usable series of a modality."""
    datatype, suffix = ("func", "bold") if modality is Modality.BOLD else ("dwi", "dwi")
    found = [
        choose_series(modality, [f], root).series for f in sorted(folder.glob(f"{datatype}/*_{suffix}.nii*"))
    ]
    return [series for series in found if series]


def t1w_picture(folder: Path) -> Picture:
    """Return the T1w image with a brain mask made of its intensities alone."""
    path = min(folder.glob("anat/*_T1w.nii*"))
    data, grid = load(path)
    data = np.asarray(data, np.float32)
    mask, _, _ = rough_t1w_brain(data, grid)
    return Picture(data / n4_bias(data, grid, mask), grid, mask)


def edges(data: np.ndarray, mask: np.ndarray, mm: float) -> np.ndarray:
    """Return the voxels with the steepest slopes in and around a brain."""
    slope = ndimage.gaussian_gradient_magnitude(data.astype(float), 2.0 / mm)
    near = ndimage.binary_dilation(mask, iterations=round(3 / mm))
    return near & (slope > np.quantile(slope[near], EDGE_SHARE))


def distance_mm(one: np.ndarray, other: np.ndarray, mm: float) -> float:
    """Return the mean distance from each of two sets of voxels to the other."""
    far = [ndimage.distance_transform_edt(~b, sampling=mm)[a].mean() for a, b in ((one, other), (other, one))]
    return float(np.mean(far))


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the outermost voxels of a mask."""
    return mask & ~ndimage.binary_erosion(mask)


def compare(epi: Picture, fixed: Picture) -> dict[str, float]:
    """Register an image rigidly to another and measure how alike they are."""
    epi2fixed, _ = register_rigid(epi.data, epi.grid, epi.mask, fixed.data, fixed.grid, fixed.mask)
    factor = [max(1, round(zoom / FINE_MM)) for zoom in epi.grid.zooms]
    shape = tuple(n * f for n, f in zip(epi.grid.shape, factor, strict=True))
    fine = Grid((shape[0], shape[1], shape[2]), epi.grid.vox2ras @ np.diag([*(1 / f for f in factor), 1.0]))
    points = fine.points()
    there = apply_affine(epi2fixed, points)
    own = resample(epi.data, epi.grid.vox2ras, points, order=3)
    own_mask = resample(epi.mask.astype(np.float32), epi.grid.vox2ras, points, order=1) > 0.5
    seen = resample(fixed.data, fixed.grid.vox2ras, there, order=1)
    mask = resample(fixed.mask.astype(np.float32), fixed.grid.vox2ras, there, order=1) > 0.5
    in_view = resample(np.ones(fixed.grid.shape, np.float32), fixed.grid.vox2ras, there, order=0) > 0
    in_view &= resample(np.ones(epi.grid.shape, np.float32), epi.grid.vox2ras, points, order=0) > 0
    inner = eroded(in_view, fine, 4.0)
    mm = float(np.mean(fine.zooms))
    return {
        "NMI": nmi(own[mask & in_view], seen[mask & in_view]),
        "edge distance (mm)": distance_mm(edges(own, mask, mm) & inner, edges(seen, mask, mm) & inner, mm),
        "outline distance (mm)": distance_mm(outline(own_mask) & inner, outline(mask) & inner, mm),
        "mask Dice": dice(own_mask & in_view, mask & in_view),
    }


def encoding_of(fieldmap: Fieldmap) -> PhaseEncoding:
    """Return the readout of the series."""
    return phase_encoding(fieldmap.series.metadata, stored_affine(fieldmap.series.path)[0])


def gradient_echo(fieldmap: Fieldmap) -> FieldImage:
    """Make the field of a gradient-echo fieldmap."""
    magnitude, grid = load(fieldmap.magnitude)
    phases = [np.asarray(load(path)[0]) for path in fieldmap.phases]
    return field_from_phases(
        phases, np.asarray(magnitude, np.float32), grid, fieldmap.echo_times_s, fieldmap.units or None
    )


def bold_mean(series: Series) -> tuple[np.ndarray, Grid]:
    """Return the mean of the realigned series."""
    data, grid = load(series.path)
    data = np.asarray(data, np.float32)
    motion = estimate_motion(data, grid.vox2ras, reference_volume(data, 0, grid.vox2ras))
    return realigned_mean(data, grid.vox2ras, motion.ref2volume), grid


def first_b0(series: Series) -> tuple[np.ndarray, Grid]:
    """Return the first volume without diffusion weighting."""
    data, grid = load(series.path)
    bvals = np.loadtxt(series.bval, ndmin=1)
    return np.asarray(data[..., int(np.argmin(bvals))], np.float32), grid


def fields_agree(one: np.ndarray, other: np.ndarray, mask: np.ndarray, grid: Grid) -> str:
    """Compare two fields as they are, and apart from what a shim of second order changes."""
    x, y, z = (grid.points()[mask] / 60.0).T
    terms = np.stack([x**0, x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y], 1)
    a, b = one[mask], other[mask]
    shim = terms @ np.linalg.lstsq(terms, b - a)[0]
    plain = np.corrcoef(a, b)[0, 1], np.median(np.abs(b - a - np.median(b - a)))
    fitted = np.corrcoef(a + shim, b)[0, 1], np.median(np.abs(b - a - shim))
    return (
        f"r = {plain[0]:.3f}, median |difference| {plain[1]:.1f} Hz; apart from a second-order shim "
        f"r = {fitted[0]:.3f}, {fitted[1]:.1f} Hz"
    )


def row(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    """Return one line of the table."""
    cells = " | ".join(f"{before[key]:.4f} → {after[key]:.4f}" for key in before)
    return f"| {name} | {cells} |"


def fieldmaps_of(folder: Path, root: Path) -> tuple[Series, Series, Fieldmap, Fieldmap] | None:
    """Print what is found for each series; return BOLD, DWI and their fieldmaps if both kinds are there."""
    bolds, dwis = (series_of(folder, modality, root) for modality in (Modality.BOLD, Modality.DWI))
    files = sorted(folder.glob("fmap/*.nii*"))
    found = {}
    for series in (*bolds, *dwis):
        fieldmap, reason = find_fieldmap(series, files, dwis, root)
        found[series.path] = fieldmap
        what = (
            f"{fieldmap.kind} ({fieldmap.how}); {'; '.join(fieldmap.notes)}"
            if fieldmap
            else f"none: {reason}"
        )
        print(f"- {series.path.name}: {what}")
    if not bolds or not dwis:
        return None
    of_bold, of_dwi = found[bolds[0].path], found[dwis[0].path]
    if of_bold is None or of_dwi is None or of_dwi.kind is not FieldmapKind.DWI_PAIR:
        return None
    return bolds[0], dwis[0], of_bold, of_dwi


def measure(bold: Series, dwi: Series, of_bold: Fieldmap, of_dwi: Fieldmap) -> Person:
    """Make both fields, and bring each to both series."""
    mean, grid = bold_mean(bold)
    b0, b0_grid = first_b0(dwi)
    opposite_b0 = first_b0(of_dwi.partner)[0]
    opposite = phase_encoding(of_dwi.epis[0].metadata, stored_affine(of_dwi.epis[0].path)[0])
    bold_pe, dwi_pe = encoding_of(of_bold), encoding_of(of_dwi)
    blips = field_from_blips([Blip(b0, b0_grid, dwi_pe), Blip(opposite_b0, b0_grid, opposite)])
    joined = blips.corrected.mean(0)
    brain = rough_brain_mask(joined, b0_grid)
    pair, phases = FieldImage(blips.hz, joined, brain, b0_grid), gradient_echo(of_bold)
    fields = [bring_field(field, mean, grid, bold_pe)[0] for field in (phases, pair)]
    core = eroded(rough_brain_mask(mean, grid), grid, CORE_MM)
    phases_hz, _ = bring_field(phases, b0, b0_grid, dwi_pe)
    return Person(
        Scan(mean, grid, bold_pe, core, *fields),
        Scan(b0, b0_grid, dwi_pe, eroded(brain, b0_grid, CORE_MM), phases_hz, blips.hz),
        opposite_b0,
        blips,
        brain,
    )


def print_fields(person: Person) -> None:
    """Print how the two fields agree, and how far they move what is seen."""
    for where, scan in (("the diffusion series", person.b0), ("BOLD", person.bold)):
        agreement = fields_agree(scan.phases_hz, scan.pair_hz, scan.core, scan.grid)
        print(f"- fields at {where}, phases against pair: {agreement}")
    for name, hz, scan in (
        ("BOLD, phases", person.bold.phases_hz, person.bold),
        ("diffusion, pair", person.b0.pair_hz, person.b0),
    ):
        far = np.abs(displacement_mm(hz, scan.grid, scan.encoding))[scan.core]
        print(f"- displacement, {name}: median {np.median(far):.1f}, 99% {np.percentile(far, 99):.1f} mm")


def pictures_of(person: Person) -> dict[str, Picture]:
    """Return every image as it was acquired and undone."""
    grid = person.b0.grid
    pictures = {}
    for name, scan in (("BOLD", person.bold), ("b0", person.b0)):
        pictures[name] = picture(scan.data, scan.grid)
        for kind, hz in (("phases", scan.phases_hz), ("pair", scan.pair_hz)):
            pictures[f"{name}, {kind}"] = picture(
                undistorted(scan.data, scan.grid, hz, scan.encoding), scan.grid
            )
    return pictures | {
        "b0 opposite": picture(person.opposite_b0, grid),
        "b0, pair, both directions": picture(person.blips.corrected.mean(0), grid),
        "b0, mean of both": picture((person.b0.data + person.opposite_b0) / 2, grid),
    }


def print_likeness(pictures: dict[str, Picture], t1w: Picture) -> None:
    """Print how like the T1w image, and how like one another, BOLD and b0 are before and after."""
    rows = (
        ("BOLD, phases", "BOLD"),
        ("BOLD, pair", "BOLD"),
        ("b0, phases", "b0"),
        ("b0, pair", "b0"),
        ("b0, pair, both directions", "b0"),
        ("b0, pair, both directions", "b0 opposite"),
    )
    with_t1w = {name: compare(pictures[name], t1w) for name in {name for names in rows for name in names}}
    keys = list(with_t1w["BOLD"])
    print(f"\n| against T1w, before → after | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
    for name, base in rows:
        print(row(f"{name} (before: {base})", with_t1w[base], with_t1w[name]))
    print(f"\n| BOLD against b0, before → after | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
    for name, after, bases in (
        ("phases / both directions", "b0, pair, both directions", ("b0", "b0 opposite", "b0, mean of both")),
        ("phases / pair, first direction", "b0, pair", ("b0",)),
    ):
        undone = compare(pictures["BOLD, phases"], pictures[after])
        for base in bases:
            print(row(f"{name} (before: {base})", compare(pictures["BOLD"], pictures[base]), undone))


def print_directions(person: Person) -> None:
    """Print how like each other the two directions are before and after."""
    print("\n| the two directions | correlation | mean abs. difference / mean |\n|---|---|---|")
    brain = person.brain
    for name, one, two in (
        ("before", person.b0.data, person.opposite_b0),
        ("after", *person.blips.corrected),
    ):
        r = np.corrcoef(one[brain], two[brain])[0, 1]
        far = np.abs(one - two)[brain].mean() / one[brain].mean()
        print(f"| {name} | {r:.4f} | {far:.4f} |")


def print_signs(person: Person, t1w: Picture) -> None:
    """Print how like the T1w image the field, none, and the negated field make an image."""
    print("\n| sign check against T1w, where distorted | as it is | none | turned |\n|---|---|---|---|")
    for name, hz, scan in (
        ("BOLD, phases", person.bold.phases_hz, person.bold),
        ("b0, pair", person.b0.pair_hz, person.b0),
    ):
        signs = compare_signs(hz, scan.data, scan.grid, scan.encoding, t1w.data, t1w.grid, t1w.mask)
        print(f"| {name} | {signs.corrected:.4f} | {signs.uncorrected:.4f} | {signs.negated:.4f} |")


def run(folder: Path, root: Path, figures: Path | None) -> None:
    """Print the tables of one participant."""
    found = fieldmaps_of(folder, root)
    if found is None:
        print("  not both kinds of fieldmap: nothing to compare\n")
        return
    t1w, person = t1w_picture(folder), measure(*found)
    print_fields(person)
    pictures = pictures_of(person)
    print_likeness(pictures, t1w)
    print_directions(person)
    print_signs(person, t1w)
    move_mm = np.round(person.blips.ref2blip[1][:3, 3], 2).tolist()
    print(f"\nhead move between the directions: {move_mm} mm at the origin\n")
    if figures:
        fields = {"BOLD": person.bold.phases_hz, "b0": person.b0.pair_hz}
        draw(figures, folder.name, pictures, t1w, fields)


def draw(
    figures: Path, label: str, pictures: dict[str, Picture], t1w: Picture, fields: dict[str, np.ndarray]
) -> None:
    """Write before and after over the T1w image's outline."""
    from pds_bids.reports.distortion import distortion_figure
    from pds_bids.reports.figures import save_figure

    for base, after in (("BOLD", "BOLD, phases"), ("b0", "b0, pair")):
        image = pictures[after]
        epi2t1w, _ = register_rigid(image.data, image.grid, image.mask, t1w.data, t1w.grid, t1w.mask)
        places = apply_affine(epi2t1w, image.grid.points())
        t1w_here = resample(t1w.data, t1w.grid.vox2ras, places, order=1)
        mask = resample(t1w.mask.astype(np.float32), t1w.grid.vox2ras, places, order=1)
        figure = distortion_figure(
            pictures[base].data, image.data, fields[base], image.grid, image.mask, title=f"{label} {after}",
            t1w=t1w_here, t1w_mask=mask,
        )  # fmt: skip
        save_figure(figure, figures / f"{label}_{base}.png")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path, help="BIDS dataset")
    parser.add_argument("--figures", type=Path, help="folder for pictures")
    arguments = parser.parse_args()
    root = arguments.dataset.absolute()
    for folder in sorted(root.glob("sub-*")):
        print(f"## {folder.name}\n")
        run(folder, root, arguments.figures)


if __name__ == "__main__":
    main()
