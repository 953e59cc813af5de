"""A head as a function of space, so that every volume of a series can evaluate it where the head was.

Signals of a head at rest are computed on a lattice finer than the voxels, blurred by the point spread and
turned into a cubic spline. Each volume evaluates the spline once: nothing is interpolated twice, and no pose
is the privileged one. Blur along the axes of the lattice stands for blur along the axes of the scanner; for
rotations of a few degrees the difference is below a percent of its width.
"""

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid
from pds_bids.imaging.rigid import grid_centre

__all__ = ["evaluate", "finer_along", "head_lattice", "spline"]


def head_lattice(grid: Grid, spacing_mm: float = 2.0, margin_mm: float = 8.0) -> Grid:
    """Return the lattice on which to look at a person for a series on `grid`.

    Parameters
    ----------
    grid : Grid
        Grid of the series.
    spacing_mm : float
        Distance of its points.
    margin_mm : float
        How far it reaches beyond the field of view: what moves in must exist.

    Returns
    -------
    Grid
        Along the same axes, about the same centre.

    Examples
    --------
    >>> head_lattice(Grid((10, 10, 10), np.diag([3.0, 3.0, 3.0, 1.0])), margin_mm=5).shape
    (20, 20, 20)
    """
    axes = grid.vox2ras[:3, :3] / grid.zooms
    shape = np.ceil((np.array(grid.shape) * grid.zooms + 2 * margin_mm) / spacing_mm).astype(int)
    vox2ras = np.eye(4)
    vox2ras[:3, :3] = axes * spacing_mm
    vox2ras[:3, 3] = grid_centre(grid) - vox2ras[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), vox2ras)


def finer_along(grid: Grid, axis: int, parts: int, *, edges: bool = False) -> Grid:
    """Cut every voxel into parts along one axis.

    Parameters
    ----------
    grid : Grid
        Grid of the voxels.
    axis : int
        Axis that is cut.
    parts : int
        Number of cells per voxel.
    edges : bool
        Return the borders of the cells, one more than cells; otherwise their centres.

    Returns
    -------
    Grid
    """
    vox2ras = grid.vox2ras.copy()
    first = -0.5 if edges else -0.5 + 0.5 / parts
    vox2ras[:3, 3] += first * grid.vox2ras[:3, axis]
    vox2ras[:3, axis] /= parts
    shape = list(grid.shape)
    shape[axis] = shape[axis] * parts + edges
    return Grid((shape[0], shape[1], shape[2]), vox2ras)


def spline(image: np.ndarray, sd_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the coefficients of the cubic spline through an image after a Gaussian blur.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``.
    sd_voxels : tuple of float
        Standard deviation of the blur along each axis.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32.
    """
    blurred = ndimage.gaussian_filter(image, sd_voxels) if any(sd_voxels) else image
    return ndimage.spline_filter(blurred, order=3, output=np.float32, mode="mirror")


def evaluate(
    values: np.ndarray,
    lattice: Grid,
    grid: Grid,
    rest2volume: np.ndarray,
    *,
    order: int,
    mode: str = "constant",
) -> np.ndarray:
    """Evaluate a head at the voxels of a volume.

    Parameters
    ----------
    values : ndarray
        On the lattice: coefficients of `spline` for order 3, the values themselves for orders 0 and 1.
    lattice, grid : Grid
        Where the values lie; where they are wanted.
    rest2volume : ndarray
        ``(4, 4)``: where a point of the head at rest lies in the volume, RAS+ mm.
    order : int
        0 nearest, 1 linear, 3 cubic.
    mode : str
        Beyond the lattice: ``constant`` is 0, ``nearest`` goes on.

    Returns
    -------
    ndarray
        ``grid.shape``, dtype of `values`.
    """
    index = lattice.ras2vox @ np.linalg.inv(rest2volume) @ grid.vox2ras
    return ndimage.affine_transform(
        values,
        index[:3, :3],
        index[:3, 3],
        output_shape=grid.shape,
        order=order,
        prefilter=False,
        mode=mode,
    )
