"""How images, point maps and tables pass between nodes.

Between nodes every image is an uncompressed NIfTI in RAS+ order, so that it can be memory-mapped, and every
point map an ``.npz``. Only `SaveDerivatives` restores the storage order of the acquired scan.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.distortion import Distortion
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, to_ras
from pds_bids.imaging.series import RasSeries

__all__ = [
    "load",
    "load_distortion",
    "load_map",
    "open_series",
    "save",
    "save_distortion",
    "save_map",
    "series_writer",
    "stored_affine",
    "stored_series",
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


def stored_series(path: str | Path) -> RasSeries:
    """Open a series of any storage order so that it is read one block after the other, front to back.

    Reading past the end of a damaged file raises `OSError`, `EOFError` or `ValueError`, as nibabel does.
    """
    image = _open(path, keep_file_open=True)
    return RasSeries(image.dataobj, image.affine)


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


@contextmanager
def series_writer(
    name: str, shape: tuple[int, int, int, int], vox2ras: np.ndarray
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an RAS+ series to `name` in the working directory, one volume after the other.

    Parameters
    ----------
    name : str
        File name, ``.nii``.
    shape : tuple of int
        ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)`` mm.

    Yields
    ------
    callable
        Takes one ``(X, Y, Z)`` volume.

    Raises
    ------
    GeometryError
        If a volume is of another shape, or their number is not ``N``.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header.set_sform(vox2ras, 1)
    header.set_qform(vox2ras, 1)
    header.set_xyzt_units("mm", "sec")
    # A single file needs its offset: header, and four bytes that say that there is no extension.
    header["vox_offset"], header["magic"] = 352, b"n+1"
    written = 0
    with (Path.cwd() / name).open("wb") as stream:
        header.write_to(stream)
        stream.write(b"\0" * (352 - stream.tell()))

        def write(volume: np.ndarray) -> None:
            nonlocal written
            if volume.shape != shape[:3]:
                raise GeometryError(f"{name}: volume {written} of shape {volume.shape} in a series {shape}")
            stream.write(volume.astype("<f4", copy=False).tobytes(order="F"))
            written += 1

        yield write
    if written != shape[3]:
        raise GeometryError(f"{name}: {written} volumes were written, expected {shape[3]}")


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
        eddy=np.zeros((0, 4, 4)) if distortion.eddy is None else distortion.eddy,
    )
    return str(path)


def load_distortion(path: str | Path | None) -> Distortion | None:
    """Read a distortion written by `save_distortion`; None when no path is given."""
    if not path:
        return None
    with np.load(path, allow_pickle=False) as stored:
        grid = Grid(stored["hz"].shape, stored["vox2ras"])
        eddy = stored["eddy"]
        return Distortion(
            stored["hz"], grid, stored["axes"], stored["readout_s"], eddy if eddy.size else None
        )


def stored_affine(path: str | Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the ``vox2ras`` and the shape of an image as it is stored, before any reorientation."""
    image = _open(path)
    return image.affine, tuple(image.shape)


def _open(path: str | Path, *, keep_file_open: bool = False) -> nib.Nifti1Image:
    file = Path(path)
    if not file.exists() or file.stat().st_size == 0:
        raise DataError(
            f"{file}: the content is not here (empty file or broken link); run `datalad get` on it"
        )
    try:
        # A compressed file that is opened anew for every block is read from its start every time.
        image = nib.load(file, keep_file_open=keep_file_open)
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
