"""How images, point maps and tables pass between nodes.

Between nodes every image is an uncompressed NIfTI in RAS+ order, so that it can be memory-mapped, and every
point map an ``.npz``. Only `SaveDerivatives` restores the storage order of the acquired scan.
"""

from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.distortion import Distortion
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, to_ras

__all__ = [
    "load",
    "load_distortion",
    "load_map",
    "open_series",
    "save",
    "save_distortion",
    "save_map",
    "stored_affine",
]

# A qform cannot hold the shear of a tilted gantry, and both are stored in float32.
LARGEST_FORM_DISTANCE_MM = 5.0


def load(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Load an image in RAS+ order.

    Parameters
    ----------
    path : str or Path
        NIfTI file.

    Returns
    -------
    data : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, N)``; float32 unless the file holds integers without scaling. Memory
        mapped where the file is uncompressed, so treat it as read-only.
    grid : Grid
        Grid of the first three axes.

    Raises
    ------
    DataError
        If the file cannot be read to its end.
    """
    image = _open(path)
    try:
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); copy or download it again") from error
    if data.dtype.kind == "f" and data.dtype != np.float32:
        data = data.astype(np.float32)
    moved, vox2ras, _ = to_ras(data, image.affine)
    return moved, Grid(moved.shape[:3], vox2ras)


def open_series(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Open a series written by `save`, memory-mapped: ``(X, Y, Z, N)`` and its ``vox2ras``."""
    image = nib.load(path, mmap=True)
    return image.dataobj.get_unscaled(), image.affine


def save(name: str, data: np.ndarray, vox2ras: np.ndarray) -> str:
    """Write an RAS+ array to `name` in the working directory and return its absolute path.

    Booleans become uint8 and floats float32.
    """
    kind = data.dtype.kind
    data = data.astype(np.uint8) if kind == "b" else data
    data = data.astype(np.float32, copy=False) if kind == "f" else data
    image = nib.Nifti1Image(data, vox2ras)
    image.header.set_sform(vox2ras, 1)
    image.header.set_qform(vox2ras, 1)
    image.header.set_xyzt_units("mm", "sec")
    path = Path.cwd() / name
    image.to_filename(path)
    return str(path)


def save_map(name: str, points: PointMap) -> str:
    """Write a point map to `name` (``.npz``) in the working directory and return its absolute path."""
    path = Path.cwd() / name
    np.savez(path, points=points.points, vox2ras=points.grid.vox2ras)
    return str(path)


def load_map(path: str | Path) -> PointMap:
    """Read a point map written by `save_map`."""
    with np.load(path, allow_pickle=False) as stored:
        points = stored["points"]
        return PointMap(Grid(points.shape[:3], stored["vox2ras"]), points)


def save_distortion(name: str, distortion: Distortion) -> str:
    """Write a distortion to `name` (``.npz``) in the working directory and return its absolute path."""
    path = Path.cwd() / name
    np.savez(
        path,
        hz=distortion.hz,
        vox2ras=distortion.grid.vox2ras,
        axes=distortion.axes,
        readout_s=distortion.readout_s,
    )
    return str(path)


def load_distortion(path: str | Path | None) -> Distortion | None:
    """Read a distortion written by `save_distortion`; None when no path is given."""
    if not path:
        return None
    with np.load(path, allow_pickle=False) as stored:
        grid = Grid(stored["hz"].shape, stored["vox2ras"])
        return Distortion(stored["hz"], grid, stored["axes"], stored["readout_s"])


def stored_affine(path: str | Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the ``vox2ras`` and the shape of an image as it is stored, before any reorientation."""
    image = _open(path)
    return image.affine, tuple(image.shape)


def _open(path: str | Path) -> nib.Nifti1Image:
    file = Path(path)
    if not file.exists() or file.stat().st_size == 0:
        raise DataError(
            f"{file}: the content is not here (empty file or broken link); run `datalad get` on it"
        )
    try:
        image = nib.load(file)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise DataError(f"{file}: not a readable NIfTI image ({error}); convert it again") from error
    _check_affines(image, file)
    return image


def _check_affines(image: nib.Nifti1Image, file: Path) -> None:
    """Refuse a header that says two things about where the head is."""
    (sform, has_sform), (qform, has_qform) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not (has_sform and has_qform):
        return
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]]), -1).reshape(-1, 3)
    distance_mm = np.linalg.norm(apply_affine(sform, corners) - apply_affine(qform, corners), axis=1).max()
    if distance_mm > LARGEST_FORM_DISTANCE_MM:
        raise GeometryError(
            f"{file.name}: sform and qform disagree by {distance_mm:.0f} mm (at most "
            f"{LARGEST_FORM_DISTANCE_MM:g} expected), so left and right may be exchanged; convert it again, "
            "or copy the one that is right over the other"
        )
