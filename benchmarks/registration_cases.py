"""Images for the registration benchmarks: means of acquired series, and what may be wrong with an image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.imaging.bold import check_series, detect_non_steady_state, reference_volume
from pds_bids.imaging.dwi import check_gradients, fsl_to_ras_bvecs
from pds_bids.imaging.grid import Grid, apply_affine, resample, to_ras
from pds_bids.imaging.masks import head_mask, rough_brain_mask, rough_t1w_brain
from pds_bids.imaging.motion import estimate_dwi_motion, estimate_motion, realigned_mean
from pds_bids.imaging.rigid import grid_centre
from pds_bids.interfaces.images import load, stored_affine

__all__ = ["LESIONS", "POSES", "REFUSED", "Scan", "Variant", "find_scans", "read_scan", "refused_images"]

TURN_DEG = 30.0


@dataclass(frozen=True, eq=False)
class Scan:
    """One image to register: ``kind`` is ``bold``, ``b0`` or ``T1w``; ``(X, Y, Z)`` float32, RAS+."""

    name: str
    kind: str
    image: np.ndarray
    grid: Grid


@dataclass(frozen=True, eq=False)
class Variant:
    """A changed scan, and where a point of the original lies in it: ``(4, 4)``, RAS+ mm."""

    scan: Scan
    original2variant: np.ndarray


def find_scans(datasets: list[Path]) -> list[tuple[str, str, Path]]:
    """Return name, kind and path of every BOLD and DWI series and T1w image, in name order."""
    found = []
    for root in datasets:
        for pattern, kind in (
            ("func/*_bold.nii*", "bold"),
            ("dwi/*_dwi.nii*", "b0"),
            ("anat/*_T1w.nii*", "T1w"),
        ):
            for folder in ("sub-*", "sub-*/ses-*"):
                found += [
                    (path.name.split(".")[0].removeprefix("sub-"), kind, path)
                    for path in root.glob(f"{folder}/{pattern}")
                ]
    return sorted(found)


def read_scan(name: str, kind: str, path: Path, cache: Path) -> Scan:
    """Return the T1w image, or the mean of the realigned volumes as the app makes it, kept in `cache`."""
    kept = cache / f"{name}.npz"
    if not kept.exists():
        data, grid = load(path)
        image = np.asarray(data, np.float32) if kind == "T1w" else _mean(kind, path, data, grid)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, image=image, vox2ras=grid.vox2ras)
    with np.load(kept) as stored:
        return Scan(name, kind, stored["image"], Grid(stored["image"].shape, stored["vox2ras"]))


def _mean(kind: str, path: Path, data: np.ndarray, grid: Grid) -> np.ndarray:
    check_series(data, name=path.name)
    if kind == "bold":
        n_dummy = detect_non_steady_state(data)
        reference = reference_volume(data, n_dummy, grid.vox2ras)
        motion = estimate_motion(data, grid.vox2ras, reference)
        return realigned_mean(data, grid.vox2ras, motion.ref2volume, range(n_dummy, data.shape[3]))
    stem = path.name.split(".")[0]
    bvals, bvecs = (np.loadtxt(path.with_name(f"{stem}.{end}")) for end in ("bval", "bvec"))
    vox2ras, shape = stored_affine(path)
    table = check_gradients(shape[3], bvals, bvecs, name=path.name)
    table = check_gradients(shape[3], table.bvals, fsl_to_ras_bvecs(table.bvecs, vox2ras))
    motion = estimate_dwi_motion(data, grid.vox2ras, table)
    return realigned_mean(data, grid.vox2ras, motion.ref2volume, table.b0_volumes)


def _turned(scan: Scan, axis: str, angle_deg: float) -> Variant:
    """Turn the head in the scanner: the header changes, the voxels do not."""
    turn = _rotation(axis, angle_deg, grid_centre(scan.grid))
    return Variant(
        Scan(scan.name, scan.kind, scan.image, Grid(scan.grid.shape, turn @ scan.grid.vox2ras)), turn
    )


def _resampled(scan: Scan, axis: str, angle_deg: float) -> Variant:
    """Turn the head within an unchanged field of view, with what interpolation and its borders do."""
    turn = _rotation(axis, angle_deg, grid_centre(scan.grid))
    points = apply_affine(np.linalg.inv(turn), scan.grid.points())
    image = resample(scan.image, scan.grid.vox2ras, points, order=1)
    return Variant(Scan(scan.name, scan.kind, image, scan.grid), turn)


def _rotation(axis: str, angle_deg: float, centre: np.ndarray) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, angle_deg, degrees=True).as_matrix()
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    return turn


def _same_place(scan: Scan, image: np.ndarray, grid: Grid | None = None) -> Variant:
    return Variant(Scan(scan.name, scan.kind, image.astype(np.float32), grid or scan.grid), np.eye(4))


def _stored_otherwise(scan: Scan) -> Variant:
    """Store the axes in another order and direction; `to_ras` is what every image goes through."""
    start = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt("PSL"))
    stored = nib.orientations.apply_orientation(scan.image, turn)
    vox2ras = scan.grid.vox2ras @ nib.orientations.inv_ornt_aff(turn, scan.grid.shape)
    image, vox2ras, _ = to_ras(stored, vox2ras)
    return _same_place(scan, np.ascontiguousarray(image), Grid(image.shape, vox2ras))


def _slices(scan: Scan, low: float, high: float) -> Variant:
    """Keep the slices between two shares of the head's height."""
    rows = np.flatnonzero(head_mask(scan.image, scan.grid).any((0, 1)))
    first, last = (round(rows[0] + share * (rows[-1] - rows[0])) for share in (low, high))
    nx, ny, _ = scan.grid.shape
    first = 0 if low <= 0 else first
    last = scan.grid.shape[2] - 1 if high >= 1 else last
    return _same_place(
        scan, scan.image[:, :, first : last + 1], scan.grid.crop((0, 0, first), (nx, ny, last + 1 - first))
    )


def _slab(scan: Scan, thickness_mm: float = 40.0) -> Variant:
    """Keep an axial slab through the middle of the head's upper part, where the brain is."""
    rows = np.flatnonzero(head_mask(scan.image, scan.grid).any((0, 1)))
    dz = scan.grid.zooms[2]
    middle_mm = max(rows[-1] * dz - 75.0, (rows[0] + rows[-1]) / 2 * dz - 10.0)
    first, count = max(0, round((middle_mm - thickness_mm / 2) / dz)), round(thickness_mm / dz)
    nx, ny, nz = scan.grid.shape
    count = min(count, nz - first)
    return _same_place(
        scan, scan.image[:, :, first : first + count], scan.grid.crop((0, 0, first), (nx, ny, count))
    )


def _ramp(scan: Scan, axis: int) -> Variant:
    """Light it from one side: 1 at one border of the head, 3 at the other."""
    place = np.arange(scan.grid.shape[axis])
    rows = np.flatnonzero(head_mask(scan.image, scan.grid).any(tuple({0, 1, 2} - {axis})))
    ramp = np.interp(place, (rows[0], rows[-1]), (1, 3)).reshape([-1 if k == axis else 1 for k in range(3)])
    return _same_place(scan, scan.image * ramp)


def _spaced(scan: Scan, spacing_mm: float) -> Variant:
    """Resample to cubic voxels of another size, smoothed for larger ones."""
    zooms = np.asarray(scan.grid.zooms)
    shape = tuple(
        int(n) for n in np.maximum(1, np.floor((np.asarray(scan.grid.shape) - 1) * zooms / spacing_mm) + 1)
    )
    vox2ras = scan.grid.vox2ras.copy()
    vox2ras[:3, :3] *= spacing_mm / zooms
    grid = Grid(shape, vox2ras)
    smooth = ndimage.gaussian_filter(
        scan.image, np.sqrt(np.clip(spacing_mm**2 - zooms**2, 0, None)) / 2.355 / zooms
    )
    return _same_place(scan, resample(smooth, scan.grid.vox2ras, grid.points(), order=1), grid)


def _half(scan: Scan, side: int) -> Variant:
    """Leave the left (-1) or the right half of the head only."""
    head = head_mask(scan.image, scan.grid)
    middle = ndimage.center_of_mass(head)[0]
    place = np.arange(scan.grid.shape[0])[:, None, None]
    kept = place < middle if side < 0 else place >= middle
    return _same_place(scan, np.where(kept, scan.image, scan.image * 0.02))


def _stripped(scan: Scan) -> Variant:
    mask = (
        rough_t1w_brain(scan.image, scan.grid)[0]
        if scan.kind == "T1w"
        else rough_brain_mask(scan.image, scan.grid)
    )
    return _same_place(scan, np.where(mask, scan.image, 0))


Maker = Callable[[Scan], Variant]

# Must come out right: the same brain, elsewhere or otherwise stored.
POSES: dict[str, Maker] = {
    "asis": lambda scan: _same_place(scan, scan.image),
    "stored-PSL": _stored_otherwise,
    **{
        f"turned-{axis}{angle:+.0f}": partial(_turned, axis=axis, angle_deg=angle)
        for axis in "xyz"
        for angle in (TURN_DEG, -TURN_DEG)
    },
}
# Right, or refused.
LESIONS: dict[str, Maker] = {
    "resampled-x": partial(_resampled, axis="x", angle_deg=-TURN_DEG),
    "resampled-y": partial(_resampled, axis="y", angle_deg=TURN_DEG),
    "resampled-z": partial(_resampled, axis="z", angle_deg=TURN_DEG),
    "crop-top25": partial(_slices, low=0.0, high=0.75),
    "crop-bottom25": partial(_slices, low=0.25, high=1.0),
    "slab40": _slab,
    "ramp-x": partial(_ramp, axis=0),
    "ramp-y": partial(_ramp, axis=1),
    "ramp-z": partial(_ramp, axis=2),
    "stripped": _stripped,
    "coarse-5mm": partial(_spaced, spacing_mm=5.0),
    "fine-0.8mm": partial(_spaced, spacing_mm=0.8),
}
# Must be refused.
REFUSED: dict[str, Maker] = {
    "half-left": partial(_half, side=-1),
    "half-right": partial(_half, side=1),
    "upside-down": partial(_turned, axis="x", angle_deg=180.0),
    "on-its-side": partial(_turned, axis="y", angle_deg=90.0),
    "face-down": partial(_turned, axis="x", angle_deg=90.0),
    "back-to-front": partial(_turned, axis="z", angle_deg=180.0),
}


def refused_images() -> list[Scan]:
    """Return what is no head: a sphere, a bottle, noise, each with the noise of an acquisition."""
    grid = Grid((72, 72, 48), np.array([[3.0, 0, 0, -108], [0, 3, 0, -108], [0, 0, 3, -72], [0, 0, 0, 1]]))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    rng = np.random.default_rng(3)

    def acquired(signal: np.ndarray, sd: float = 0.02) -> np.ndarray:
        shade = np.exp(0.25 * ((x / 75) ** 2 + (y / 95) ** 2 + (z / 80) ** 2).clip(0, 2))
        real, imaginary = sd * rng.normal(size=(2, *grid.shape))
        return (1000 * np.hypot(signal * shade + real, imaginary)).astype(np.float32)

    brainlike = (x / 68) ** 2 + (y / 85) ** 2 + (z / 62) ** 2
    shapes = {
        "sphere": np.linalg.norm([x, y, z], axis=0) < 75,
        "ellipsoid": brainlike < 1,
        "bottle": (np.hypot(x, y) < 60) & (np.abs(z) < 68),
        "bottle-lying": (np.hypot(x, z) < 60) & (np.abs(y) < 95),
        "bottle-bubble": (np.hypot(x, y) < 60)
        & (np.abs(z) < 68)
        & (np.linalg.norm([x, y - 40, z - 50], axis=0) > 20),
    }
    images = {name: acquired(shape.astype(float)) for name, shape in shapes.items()}
    images["noise"] = acquired(np.zeros(grid.shape), 1.0)
    images["smooth-noise"] = acquired(
        (brainlike < 1) * np.exp(ndimage.gaussian_filter(rng.normal(size=grid.shape), 3.0) * 8)
    )
    return [Scan(name, "bold", image, grid) for name, image in images.items()]
