"""Voxel grids and resampling.

Every array inside the package is RAS+: the first axis runs to the Right, the second to the Anterior, the
third to the Superior, as far as an axis permutation and flips can bring it there (oblique grids stay
oblique). Affines are 4 x 4 float64 in mm. A point map ``a2b`` takes coordinates of a point in space *a* and
returns the coordinates of the same anatomical point in space *b*; to resample image *b* onto the grid of *a*
one needs ``a2b``.
"""

from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
from scipy import ndimage

from pds_bids.exceptions import GeometryError

__all__ = ["Grid", "PointMap", "apply_affine", "from_ras", "resample", "to_ras"]

# Affines that differ by less than this (mm) are the same grid: NIfTI stores them in float32.
AFFINE_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxels in space.

    Parameters
    ----------
    shape : tuple of int
        ``(X, Y, Z)``.
    vox2ras : ndarray
        ``(4, 4)`` float64, voxel indices to RAS+ mm.

    Raises
    ------
    GeometryError
        If the shape is not three positive numbers or the affine is singular or not finite.

    Examples
    --------
    >>> grid = Grid((2, 2, 2), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> grid.zooms
    (3.0, 3.0, 3.0)
    >>> grid.points()[1, 0, 0]
    array([3., 0., 0.])
    """

    shape: tuple[int, int, int]
    vox2ras: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "vox2ras", np.asarray(self.vox2ras, dtype=np.float64))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"grid shape {self.shape}: expected three positive numbers")
        if self.vox2ras.shape != (4, 4) or not np.isfinite(self.vox2ras).all():
            raise GeometryError(f"vox2ras of shape {self.vox2ras.shape}: expected (4, 4) and finite")
        if abs(np.linalg.det(self.vox2ras[:3, :3])) < 1e-9:
            raise GeometryError(
                "vox2ras is singular: a voxel has no volume; check the header's sform and qform"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        near = np.allclose(self.vox2ras, other.vox2ras, atol=AFFINE_TOLERANCE_MM)
        return self.shape == other.shape and near

    __hash__ = None  # type: ignore[assignment]

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel sizes in mm along the three axes."""
        x, y, z = np.sqrt((self.vox2ras[:3, :3] ** 2).sum(0))
        return float(x), float(y), float(z)

    @cached_property
    def ras2vox(self) -> np.ndarray:
        """Inverse of ``vox2ras``."""
        return np.linalg.inv(self.vox2ras)

    def points(self) -> np.ndarray:
        """Return the RAS+ mm coordinates of all voxel centres, ``(X, Y, Z, 3)`` float64."""
        return apply_affine(self.vox2ras, np.moveaxis(np.indices(self.shape, dtype=np.float64), 0, -1))

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Grid":
        """Return the sub-grid of `shape` voxels whose first voxel is `start`."""
        vox2ras = self.vox2ras.copy()
        vox2ras[:3, 3] = apply_affine(self.vox2ras, np.asarray(start, float))
        return Grid(shape, vox2ras)


@dataclass(frozen=True, eq=False)
class PointMap:
    """A dense point map: for every voxel centre of a grid in space *a*, the point in space *b*.

    Parameters
    ----------
    grid : Grid
        Grid in space *a*.
    points : ndarray
        ``(X, Y, Z, 3)`` float32, RAS+ mm in space *b*.
    """

    grid: Grid
    points: np.ndarray

    def __post_init__(self) -> None:
        if self.points.shape != (*self.grid.shape, 3):
            raise GeometryError(f"points {self.points.shape} do not fit grid {self.grid.shape}")

    @classmethod
    def from_affine(cls, grid: Grid, a2b: np.ndarray) -> "PointMap":
        """Return the dense form of a 4 x 4 point map."""
        return cls(grid, apply_affine(a2b, grid.points()).astype(np.float32))

    def then(self, b2c: "np.ndarray | PointMap") -> "PointMap":
        """Compose with a map from *b* to *c*: a 4 x 4 matrix, or a dense map (interpolated linearly).

        Outside the grid of a dense `b2c` its displacement is continued from the border.
        """
        if isinstance(b2c, PointMap):
            shift = b2c.points - b2c.grid.points()
            index = np.moveaxis(apply_affine(b2c.grid.ras2vox, self.points), -1, 0)
            moved = [ndimage.map_coordinates(shift[..., k], index, order=1, mode="nearest") for k in range(3)]
            return PointMap(self.grid, (self.points + np.stack(moved, -1)).astype(np.float32))
        return PointMap(self.grid, apply_affine(b2c, self.points).astype(np.float32))

    def jacobian(self) -> np.ndarray:
        """Return the Jacobian determinant, ``(X, Y, Z)`` float64: 1 keeps volume, negative folds."""
        gradient = np.stack(
            [np.stack(np.gradient(self.points[..., k].astype(float)), -1) for k in range(3)], -2
        )
        return np.linalg.det(gradient) / np.linalg.det(self.grid.vox2ras[:3, :3])


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4 x 4 `affine` to ``(..., 3)`` points.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 2
    >>> apply_affine(shift, np.zeros(3))
    array([2., 0., 0.])
    """
    # One tall matrix: numpy would take the last two axes of an image for matrices of their own. A contiguous
    # one: with a transposed view it takes four times as long.
    moved = points.reshape(-1, 3) @ np.ascontiguousarray(affine[:3, :3].T)
    moved += affine[:3, 3]
    return moved.reshape(points.shape)


def to_ras(data: np.ndarray, vox2ras: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Permute and flip the first three axes to the closest RAS+ orientation.

    Parameters
    ----------
    data : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)``.

    Returns
    -------
    data : ndarray
        A view of the input where possible.
    vox2ras : ndarray
        Affine of the reoriented array.
    orientation : ndarray
        What `from_ras` needs to undo it.
    """
    orientation = nib.io_orientation(vox2ras)
    moved = nib.orientations.apply_orientation(data, orientation)
    return moved, vox2ras @ nib.orientations.inv_ornt_aff(orientation, data.shape[:3]), orientation


def from_ras(data: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Undo the axis permutation and flips of `to_ras`."""
    start = nib.orientations.axcodes2ornt("RAS")
    return nib.orientations.apply_orientation(data, nib.orientations.ornt_transform(start, orientation))


def resample(
    data: np.ndarray,
    vox2ras: np.ndarray,
    points: np.ndarray,
    *,
    order: int = 3,
    fill: float = 0.0,
) -> np.ndarray:
    """Interpolate a volume at arbitrary points; the only interpolation of images in the package.

    Parameters
    ----------
    data : ndarray
        ``(X, Y, Z)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of `data`.
    points : ndarray
        ``(..., 3)`` RAS+ mm in the space of `data`.
    order : int
        Spline order; 0 for labels.
    fill : float
        Value outside the field of view.

    Returns
    -------
    ndarray
        ``points.shape[:-1]``, float32 (the dtype of `data` for order 0). Cubic results are clipped to the
        range of the data, so that a positive image does not ring below zero.
    """
    index = np.moveaxis(apply_affine(np.linalg.inv(vox2ras), points), -1, 0)
    if order == 0:
        return ndimage.map_coordinates(data, index, order=0, mode="constant", cval=fill)
    values = data.astype(np.float32, copy=False)
    # "grid-constant" would fade the outermost half voxel; "nearest" with an explicit field of view does not.
    sampled = ndimage.map_coordinates(values, index, order=order, mode="nearest", output=np.float32)
    limit = np.asarray(data.shape, float).reshape(3, *[1] * (index.ndim - 1)) - 0.5
    inside = np.all((index >= -0.5) & (index <= limit), axis=0)
    if order > 1:
        np.clip(sampled, values.min(), values.max(), out=sampled)
    return np.where(inside, sampled, np.float32(fill))
