"""Fast look-up of anatomies at scattered points."""

import numpy as np
from scipy import ndimage, sparse

from pds_bids.imaging.grid import apply_affine
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.susceptibility import field_gradient
from pds_bids.phantom.tissue import Tissue

__all__ = ["AnatomySampler", "gather"]

_VENTRICLE_BLUR_MM = 4.0


def gather(volume: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Interpolate many channels linearly at scattered voxel positions.

    Parameters
    ----------
    volume : ndarray
        ``(X, Y, Z, C)``, C-contiguous, any real dtype.
    index : ndarray
        ``(N, 3)`` voxel coordinates; those outside are moved to the border.

    Returns
    -------
    ndarray
        ``(N, C)`` float32.

    Examples
    --------
    >>> gather(np.arange(8.0).reshape(2, 2, 2, 1), np.array([[0.5, 0, 0]]))
    array([[2.]], dtype=float32)
    """
    _, ny, nz, n_channels = volume.shape
    rows = volume.reshape(-1, n_channels)
    limit = np.array(volume.shape[:3], np.float32) - 1
    clipped = np.clip(index.astype(np.float32), 0, limit)
    low = np.minimum(clipped.astype(np.int32), np.maximum(limit.astype(np.int32) - 1, 0))
    part = clipped - low
    first = (low[:, 0] * ny + low[:, 1]) * nz + low[:, 2]
    columns = np.empty((len(index), 8), np.int32)
    weights = np.empty((len(index), 8), np.float32)
    # A direction with one voxel has no upper neighbour; its weight is zero there.
    step = np.where(limit >= 1, (ny * nz, nz, 1), 0)
    for k, corner in enumerate(np.ndindex(2, 2, 2)):
        columns[:, k] = first + int(step @ corner)
        x, y, z = (part[:, axis] if upper else 1 - part[:, axis] for axis, upper in enumerate(corner))
        np.multiply(x, y * z, out=weights[:, k])
    starts = np.arange(0, columns.size + 1, 8, dtype=np.int32)
    matrix = sparse.csr_array((weights.ravel(), columns.ravel(), starts), shape=(len(index), len(rows)))
    return matrix @ rows.astype(np.float32, copy=False)


class AnatomySampler:
    """One anatomy, cropped to where a brain can be and laid out for `gather`.

    Parameters
    ----------
    anatomy : Anatomy
        The head.
    low_mm, high_mm : ndarray
        ``(3,)`` corners of the region that is kept.
    """

    def __init__(self, anatomy: Anatomy, low_mm: np.ndarray, high_mm: np.ndarray) -> None:
        grid = anatomy.grid
        start = np.clip(np.floor(apply_affine(grid.ras2vox, low_mm)), 0, None).astype(int)
        stop = np.minimum(np.ceil(apply_affine(grid.ras2vox, high_mm)).astype(int) + 1, grid.shape)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        x, y, z = (int(n) for n in stop - start)
        self.name = anatomy.name
        self.low_mm, self.high_mm = np.asarray(low_mm, np.float32), np.asarray(high_mm, np.float32)
        self.grid = grid.crop((int(start[0]), int(start[1]), int(start[2])), (x, y, z))
        # float32, although it takes four times the memory: converting it in every look-up costs a fifth of a
        # pair.
        self._fractions = np.ascontiguousarray(anatomy.fractions[box], np.float32) / np.float32(255)
        sigma = _VENTRICLE_BLUR_MM / grid.zooms[0]
        ventricle = ndimage.gaussian_filter(anatomy.fraction(Tissue.VENTRICLE), sigma)
        growth = np.stack(np.gradient(ventricle), -1)
        growth /= max(float(np.sqrt((growth**2).sum(-1)).max()), 1e-6)
        self._shifts = np.ascontiguousarray(
            np.concatenate([anatomy.residual_mm, growth], -1)[box].astype(np.float16)
        )
        maps = (
            anatomy.field_hz,
            field_gradient(anatomy.field_hz, grid.zooms[0]),
            anatomy.tract,
            anatomy.nuclei,
            anatomy.brain,
        )
        self._maps = np.ascontiguousarray(np.stack([m[box] for m in maps], -1).astype(np.float32))

    def follow(self, points: np.ndarray, registered: float, growth_mm: float) -> np.ndarray:
        """Move template points to where the head has the same structure.

        Parameters
        ----------
        points : ndarray
            ``(N, 3)`` mm.
        registered : float
            Share of the deformable registration that is applied: 0 affine only, 1 all of it.
        growth_mm : float
            Outward shift of the walls of the ventricles.

        Returns
        -------
        ndarray
            ``(N, 3)`` float32 mm.
        """
        index = np.rint(apply_affine(self.grid.ras2vox, points)).astype(np.int32)
        index = np.clip(index, 0, np.array(self.grid.shape) - 1)
        shifts = self._shifts[index[:, 0], index[:, 1], index[:, 2]]
        moved = points + np.float32(registered) * shifts[:, :3] + np.float32(growth_mm) * shifts[:, 3:]
        return moved.astype(np.float32)

    def at(self, points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return fractions and maps at ``(N, 3)`` points in mm.

        Returns
        -------
        fractions : ndarray
            ``(N, 16)`` float32 in [0, 1].
        maps : dict
            ``field_hz``, ``gradient_hz_mm``, ``tract``, ``nuclei``, ``brain``: ``(N,)`` float32.
        """
        index = apply_affine(self.grid.ras2vox.astype(np.float32), points)
        fractions = gather(self._fractions, index)
        values = gather(self._maps, index).T
        names = ("field_hz", "gradient_hz_mm", "tract", "nuclei", "brain")
        return fractions, dict(zip(names, values, strict=True))
