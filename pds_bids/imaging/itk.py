"""Transforms that ITK has written, as point maps.

SimpleITK reads and evaluates them, since ITK's own code defines what its files mean: displacement is linear
between the nodes of a field and zero outside of it. nitransforms 25.1 reads fewer types and gives nan
outside; it serves as the second opinion in the tests.
"""

import numpy as np
import SimpleITK as sitk

from pds_bids.exceptions import GeometryError, QualityError
from pds_bids.imaging.greedy import FLIP_XY
from pds_bids.imaging.grid import Grid, PointMap, apply_affine
from pds_bids.imaging.registration import from_itk_displacement

__all__ = ["inverted", "itk_point_map"]

# Iterations of the inversion, and the error (mm) at which they stop.
MOST_ITERATIONS = 60
TOLERANCE_MM = 0.02
# An inversion that is off by more than this somewhere in a hundred voxels belongs to a map that folds.
LARGEST_ERROR_MM = 1.0


def itk_point_map(transform: sitk.Transform, grid: Grid) -> PointMap:
    """Evaluate an ITK transform on a grid.

    Parameters
    ----------
    transform : SimpleITK.Transform
        Three-dimensional. What resamples images of space *b* onto space *a* maps points of *a* to *b*, so a
        file named ``from-b_to-a`` maps *a* to *b*. In a composite the last transform acts on points first.
    grid : Grid
        Grid in space *a*.

    Returns
    -------
    PointMap
        From *a* to *b*, RAS+ mm.

    Raises
    ------
    GeometryError
        If the transform is not three-dimensional.

    Examples
    --------
    ITK counts mm to the Left and Posterior: 5 mm along its first axis is 5 mm to the Left.

    >>> shift = sitk.TranslationTransform(3, (5.0, 0.0, 0.0))
    >>> itk_point_map(shift, Grid((2, 2, 2), np.eye(4))).points[0, 0, 0]
    array([-5.,  0.,  0.], dtype=float32)
    """
    if transform.GetDimension() != 3:
        raise GeometryError(f"transform in {transform.GetDimension()} dimensions, expected 3")
    vox2lps = FLIP_XY @ grid.vox2ras
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        grid.shape,
        vox2lps[:3, 3].tolist(),
        grid.zooms,
        (vox2lps[:3, :3] / np.asarray(grid.zooms)).ravel().tolist(),
    )
    # SimpleITK's arrays run z, y, x.
    return from_itk_displacement(np.transpose(sitk.GetArrayViewFromImage(field), (2, 1, 0, 3)), grid)


def inverted(a2b: PointMap, grid_b: Grid) -> PointMap:
    """Invert a dense point map numerically.

    The best affine is inverted exactly; what is left is close to the identity and inverted by fixed-point
    iteration on the grid of `a2b`.

    Parameters
    ----------
    a2b : PointMap
        On a grid in space *a*.
    grid_b : Grid
        Grid in space *b* on which the inverse is wanted.

    Returns
    -------
    PointMap
        From *b* to *a*. Beyond what `a2b` covers, displacement is continued from its border.

    Raises
    ------
    QualityError
        If the map folds so that it has no inverse.

    References
    ----------
    Chen et al. 2008, 10.1118/1.2816107 (fixed-point inversion).
    """
    here = a2b.grid.points()
    affine = _best_affine(here.reshape(-1, 3), a2b.points.reshape(-1, 3))
    b2a = np.linalg.inv(affine)
    near = PointMap(a2b.grid, apply_affine(b2a, a2b.points).astype(np.float32))
    back = PointMap(a2b.grid, here.astype(np.float32))
    for _ in range(MOST_ITERATIONS):
        error = here - back.then(near).points
        back = PointMap(a2b.grid, (back.points + error).astype(np.float32))
        # A field of 1 mm voxels ends within the outermost voxel of the model grid, where it jumps to zero.
        error_mm = float(np.percentile(np.linalg.norm(error[2:-2, 2:-2, 2:-2], axis=-1), 99))
        if error_mm < TOLERANCE_MM:
            break
    if error_mm > LARGEST_ERROR_MM:
        raise QualityError(
            f"the way to the template has no inverse (off by {error_mm:.1f} mm after {MOST_ITERATIONS} "
            "iterations): the deformation folds; check the registration"
        )
    return PointMap.from_affine(grid_b, b2a).then(back)


def _best_affine(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the ``(4, 4)`` matrix that fits a map best in the mean square."""
    matrix = np.eye(4)
    columns = np.column_stack([here, np.ones(len(here))])[::7]
    matrix[:3] = np.linalg.lstsq(columns, there[::7].astype(float))[0].T
    return matrix
