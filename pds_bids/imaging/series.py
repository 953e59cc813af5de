"""Time series that need not fit into memory: volumes are read in small blocks, in RAS+ and float32."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from types import EllipsisType
from typing import Protocol

import nibabel as nib
import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid

__all__ = ["RasSeries", "Series", "read_volumes", "volume_blocks"]

# A block of volumes in float32 stays below this many bytes (but holds at least one volume).
BLOCK_BYTES = 128 * 2**20
BLOCK_VOLUMES = 16


class Series(Protocol):
    """Anything of shape ``(X, Y, Z, N)`` that gives volumes by ``series[..., k]`` or ``series[..., a:b]``.

    An ndarray, a memory map, the ``dataobj`` of a nibabel image and `RasSeries` qualify.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """``(X, Y, Z, N)``."""
        ...

    def __getitem__(self, key: tuple[EllipsisType, int | slice]) -> np.ndarray:
        """Return one volume, or a block of them."""
        ...


class RasSeries:
    """A series in any storage order, read as RAS+ float32 one block at a time.

    Parameters
    ----------
    dataobj : Series
        Array or nibabel ``dataobj``, ``(X, Y, Z, N)`` in storage order.
    vox2ras : ndarray
        ``(4, 4)`` affine of the stored array, mm.

    Attributes
    ----------
    shape : tuple of int
        ``(X, Y, Z, N)`` after reorientation.
    grid : Grid
        Grid of one volume after reorientation.
    orientation : ndarray
        What `pds_bids.imaging.grid.from_ras` needs to undo it.

    Raises
    ------
    DataError
        If the array does not have four dimensions.

    Examples
    --------
    >>> stored = np.arange(8.0).reshape(2, 2, 1, 2)
    >>> series = RasSeries(stored, np.diag([-3.0, 3.0, 3.0, 1.0]))
    >>> series[..., 0][:, 0, 0], stored[:, 0, 0, 0]
    (array([4., 0.], dtype=float32), array([0., 4.]))
    >>> series.grid.vox2ras[0]
    array([ 3.,  0.,  0., -3.])
    """

    def __init__(self, dataobj: Series, vox2ras: np.ndarray) -> None:
        if len(dataobj.shape) != 4:
            raise DataError(
                f"image of shape {tuple(dataobj.shape)} is not a series: expected (X, Y, Z, N); "
                "check that the whole series was converted"
            )
        self._dataobj = dataobj
        self.orientation = nib.io_orientation(vox2ras)
        stored = tuple(int(n) for n in dataobj.shape[:3])
        shape = [0, 0, 0]
        for axis, (to, _) in enumerate(self.orientation):
            shape[int(to)] = stored[axis]
        self.shape: tuple[int, ...] = (*shape, int(dataobj.shape[3]))
        moved = vox2ras @ nib.orientations.inv_ornt_aff(self.orientation, stored)
        self.grid = Grid((shape[0], shape[1], shape[2]), moved)

    def __getitem__(self, key: tuple[EllipsisType, int | slice]) -> np.ndarray:
        """Return ``series[..., k]`` or ``series[..., a:b]``, float32 RAS+."""
        stored = np.asarray(self._dataobj[key], dtype=np.float32)
        return nib.orientations.apply_orientation(stored, self.orientation)


def block_size(shape: Sequence[int]) -> int:
    """Return how many float32 volumes of ``(X, Y, Z, ...)`` are read at once."""
    volume_bytes = 4 * int(np.prod(shape[:3], dtype=np.int64))
    return int(np.clip(BLOCK_BYTES // volume_bytes, 1, BLOCK_VOLUMES))


def volume_blocks(
    series: Series, volumes: Iterable[int] | None = None, size: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read chosen volumes in their order of acquisition, a block at a time.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    volumes : iterable of int, optional
        Which volumes; all of them when omitted. Duplicates are read once.
    size : int, optional
        Volumes per block; by default as many as fit into 128 MB, 16 at most.

    Yields
    ------
    index : ndarray
        ``(n,)`` int, the volumes in the block, ascending.
    block : ndarray
        ``(X, Y, Z, n)`` float32.
    """
    size = size or block_size(series.shape)
    wanted = np.unique(np.arange(series.shape[3]) if volumes is None else np.fromiter(volumes, dtype=int))
    # Windows of the file, not of the wanted list: a compressed file is then read front to back.
    for window in range(0, series.shape[3], size):
        index = wanted[(wanted >= window) & (wanted < window + size)]
        if index.size:
            first = int(index[0])
            block = np.asarray(series[..., first : int(index[-1]) + 1], dtype=np.float32)
            yield index, block if block.shape[3] == index.size else block[..., index - first]
            _release(series)


def read_volumes(series: Series, volumes: Iterable[int]) -> np.ndarray:
    """Read chosen volumes into one array.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    volumes : iterable of int
        Which volumes; they come back in ascending order.

    Returns
    -------
    ndarray
        ``(X, Y, Z, n)`` float32.
    """
    return np.concatenate([block for _, block in volume_blocks(series, volumes)], axis=3)


def _release(series: Series) -> None:
    """Give back the pages of a memory-mapped series; what is read again comes from the file."""
    mapping = getattr(series, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
