"""Rigid motion as matrices and as six parameters."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, apply_affine

__all__ = ["POSE_DECIMALS", "HeadMotion", "grid_centre", "matrices_to_parameters", "parameters_to_matrices"]

# Estimates are rounded to this many decimals (mm, and entries of rotations): sums in another order differ by
# 1e-14, which would flip the last bit of a voxel here and there from one run to the next.
POSE_DECIMALS = 9


@dataclass(frozen=True, eq=False)
class HeadMotion:
    """Rigid motion of a series.

    Parameters
    ----------
    ref2volume : ndarray
        ``(N, 4, 4)`` float64. Point maps, RAS+ mm: where a point of the reference lies in each volume,
        which is what resampling a volume onto the reference grid needs.
    centre_ras : ndarray
        ``(3,)`` centre of rotation of the six parameters, in the reference, mm.
    """

    ref2volume: np.ndarray
    centre_ras: np.ndarray

    @property
    def parameters(self) -> np.ndarray:
        """``(N, 6)``: trans_x, trans_y, trans_z (mm), rot_x, rot_y, rot_z (radians)."""
        return matrices_to_parameters(self.ref2volume, self.centre_ras)


def grid_centre(grid: Grid) -> np.ndarray:
    """Return the centre of the field of view, ``(3,)`` RAS+ mm.

    Examples
    --------
    >>> grid_centre(Grid((3, 3, 3), np.diag([2.0, 2.0, 2.0, 1.0])))
    array([2., 2., 2.])
    """
    return apply_affine(grid.vox2ras, (np.asarray(grid.shape) - 1) / 2)


def parameters_to_matrices(parameters: np.ndarray, centre_ras: np.ndarray) -> np.ndarray:
    """Turn six parameters into point maps ``p -> R (p - c) + c + t``, with ``R = Rx(a) Ry(b) Rz(c)``.

    Parameters
    ----------
    parameters : ndarray
        ``(N, 6)``: translations *t* along R, A, S in mm, then rotations about R, A, S in radians,
        counter-clockwise seen from the tip of the axis.
    centre_ras : ndarray
        ``(3,)`` centre *c*, mm.

    Returns
    -------
    ndarray
        ``(N, 4, 4)`` float64.

    Examples
    --------
    ``rot_z = +pi/2`` turns the nose (Anterior) to the Left.

    >>> quarter = parameters_to_matrices(np.array([[0, 0, 0, 0, 0, np.pi / 2]]), np.zeros(3))[0]
    >>> np.round(quarter @ [0, 10, 0, 1]) + 0.0
    array([-10.,   0.,   0.,   1.])
    """
    parameters, centre_ras = np.atleast_2d(parameters).astype(float), np.asarray(centre_ras, float)
    matrices = np.tile(np.eye(4), (len(parameters), 1, 1))
    matrices[:, :3, :3] = Rotation.from_euler("XYZ", parameters[:, 3:]).as_matrix()
    matrices[:, :3, 3] = centre_ras - matrices[:, :3, :3] @ centre_ras + parameters[:, :3]
    return matrices


def matrices_to_parameters(ref2volume: np.ndarray, centre_ras: np.ndarray) -> np.ndarray:
    """Turn rigid point maps into six parameters; the inverse of `parameters_to_matrices`.

    Parameters
    ----------
    ref2volume : ndarray
        ``(N, 4, 4)``.
    centre_ras : ndarray
        ``(3,)`` mm.

    Returns
    -------
    ndarray
        ``(N, 6)`` float64, mm and radians. The first three are how far the centre moves.
    """
    ref2volume, centre_ras = np.asarray(ref2volume, float), np.asarray(centre_ras, float)
    shift = ref2volume[:, :3, :3] @ centre_ras + ref2volume[:, :3, 3] - centre_ras
    return np.concatenate([shift, Rotation.from_matrix(ref2volume[:, :3, :3]).as_euler("XYZ")], axis=1)
