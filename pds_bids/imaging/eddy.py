"""Eddy currents: the field of a diffusion gradient shears, scales and shifts a volume along phase encoding.

To first order the field is linear in space and fixed to the scanner, so that what it does to a volume is an
affine map of one row: every point is displaced along phase encoding by a constant and three slopes, and the
signal is thinned out by the determinant of that map. The field is made by the gradient: over the volumes of a
shell all four coefficients are linear in the gradient vector, and an opposite gradient has the opposite
field. Contrast that depends on direction is the same for both, so that it does not pass for a field.

References
----------
Rohde et al. 2004, 10.1002/mrm.10677; Andersson and Sotiropoulos 2016, 10.1016/j.neuroimage.2015.10.019.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pds_bids.exceptions import GeometryError

__all__ = [
    "FEWEST_FOR_EDDY",
    "EddyCurrents",
    "along_phase_encoding",
    "constants_of_gradients",
    "slopes_of_gradients",
    "split_affines",
]

# A constant and three slopes over the gradient need more volumes than that to leave a residual to judge by.
FEWEST_FOR_EDDY = 6
# Probability of so good a fit without eddy currents, above which there are none.
LARGEST_P = 1e-3
# Directions of less spread than this along an axis do not tell the field of a gradient along it.
SMALLEST_SPREAD = 0.1


@dataclass(frozen=True, eq=False)
class EddyCurrents:
    """Displacement of every volume by eddy currents.

    Parameters
    ----------
    axis : int
        Axis of phase encoding of the RAS+ array: 0, 1 or 2.
    coefficients : ndarray
        ``(N, 4)`` float64: displacement at the centre of the field of view, mm, towards larger indices of
        `axis`, and its change in mm per mm along R, A and S. The field stays with the scanner when the head
        moves.
    vox2ras : ndarray
        ``(4, 4)`` of a volume, mm.
    centre_ras : ndarray
        ``(3,)`` centre of the field of view, mm.

    Raises
    ------
    GeometryError
        If there are not four coefficients per volume.
    """

    axis: int
    coefficients: np.ndarray
    vox2ras: np.ndarray
    centre_ras: np.ndarray

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 2 or self.coefficients.shape[1] != 4:
            raise GeometryError(
                f"eddy currents: coefficients {self.coefficients.shape}, expected (number of volumes, 4)"
            )

    @property
    def direction_ras(self) -> np.ndarray:
        """``(3,)`` unit vector along which volumes are displaced."""
        column = np.asarray(self.vox2ras, float)[:3, self.axis]
        return np.asarray(column / np.linalg.norm(column))

    @property
    def affines(self) -> np.ndarray:
        """``(N, 4, 4)`` RAS+ mm: where a point of the scanner is seen in each volume."""
        return along_phase_encoding(self.coefficients, self.direction_ras, self.centre_ras)

    def displacement_mm(self, points: np.ndarray) -> np.ndarray:
        """Return how far points of the scanner, ``(P, 3)`` mm, are displaced in each volume, ``(N, P)`` mm.

        Examples
        --------
        0.5 mm to the front everywhere, and 1 mm more for each 100 mm to the right.

        >>> eddy = EddyCurrents(1, np.array([[0.5, 0.01, 0, 0]]), np.eye(4), np.zeros(3))
        >>> eddy.displacement_mm(np.array([[100.0, 0, 0]]))
        array([[1.5]])
        """
        return self.coefficients[:, :1] + self.coefficients[:, 1:] @ (points - self.centre_ras).T


def along_phase_encoding(
    coefficients: np.ndarray, direction_ras: np.ndarray, centre_ras: np.ndarray
) -> np.ndarray:
    """Return the ``(N, 4, 4)`` affine maps of `EddyCurrents`.

    Parameters
    ----------
    coefficients : ndarray
        ``(N, 4)``.
    direction_ras, centre_ras : ndarray
        ``(3,)``.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> scaled = along_phase_encoding(np.array([[2.0, 0, 0.1, 0]]), np.array([0.0, 1, 0]), np.zeros(3))[0]
    >>> scaled @ [0, 10, 0, 1]
    array([ 0., 13.,  0.,  1.])
    """
    coefficients = np.asarray(coefficients, float)
    affines = np.tile(np.eye(4), (len(coefficients), 1, 1))
    affines[:, :3, :3] += direction_ras[:, None] * coefficients[:, None, 1:]
    affines[:, :3, 3] = direction_ras * (coefficients[:, :1] - coefficients[:, 1:] @ centre_ras[:, None])
    return affines


def split_affines(
    affines: np.ndarray, direction_ras: np.ndarray, centre_ras: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split point maps into a rigid motion and, after it, a shear and scale along phase encoding.

    Parameters
    ----------
    affines : ndarray
        ``(N, 4, 4)`` RAS+ mm, nearly of that form. What is not is dropped; the centre is mapped as before.
    direction_ras, centre_ras : ndarray
        ``(3,)``, as in `EddyCurrents`.

    Returns
    -------
    rigid : ndarray
        ``(N, 4, 4)``.
    slopes : ndarray
        ``(N, 3)`` mm per mm along R, A and S. The constant is part of the rigid motion.
    """
    linear = np.asarray(affines, float)[:, :3, :3]
    across = np.linalg.svd(direction_ras[None])[2][1:]
    # Rows across phase encoding are those of the rotation.
    left, _, right = np.linalg.svd(across @ linear, full_matrices=False)
    rows = left @ right
    last = np.cross(rows[:, 0], rows[:, 1])
    turn = np.einsum("ij,nik->njk", across, rows)
    turn += np.linalg.det(np.vstack([across, direction_ras])) * direction_ras[:, None] * last[:, None]
    slopes = np.einsum("i,nij,nkj->nk", direction_ras, linear, turn) - direction_ras
    rigid = np.tile(np.eye(4), (len(linear), 1, 1))
    rigid[:, :3, :3] = turn
    seen = linear @ centre_ras + np.asarray(affines)[:, :3, 3]
    undone = np.linalg.inv(along_phase_encoding(np.insert(slopes, 0, 0, axis=1), direction_ras, centre_ras))
    rigid[:, :3, 3] = np.einsum("nij,nj->ni", undone[:, :3, :3], seen) + undone[:, :3, 3] - turn @ centre_ras
    return rigid, slopes


def slopes_of_gradients(slopes: np.ndarray, bvecs: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Regress the slopes of a shell on its gradients.

    What all volumes have in common is left out of the result: they are aligned to each other, and have no
    absolute scale or shear.

    Parameters
    ----------
    slopes : ndarray
        ``(n, 3)`` from `split_affines`.
    bvecs : ndarray
        ``(n, 3)`` directions along the axes of the scanner, not rotated with the head.

    Returns
    -------
    by_gradient : ndarray or None
        ``(3, 3)``: ``bvecs @ by_gradient`` are the slopes of the field. None if the gradients explain no more
        than chance (F test, p above 0.001), or do not determine it.
    p_value : float
        Of that test; ``nan`` where it cannot be made.

    Examples
    --------
    >>> vectors = np.vstack([np.eye(3), -np.eye(3), [[0.6, 0.8, 0]]])
    >>> noise = 1e-9 * np.arange(21).reshape(7, 3) ** 2
    >>> by_gradient, _ = slopes_of_gradients(0.01 * vectors + noise, vectors)
    >>> np.round(by_gradient, 4) + 0.0
    array([[0.01, 0.  , 0.  ],
           [0.  , 0.01, 0.  ],
           [0.  , 0.  , 0.01]])
    """
    return _explained(slopes - slopes.mean(0), bvecs - bvecs.mean(0), len(bvecs) - 4)


def constants_of_gradients(along_mm: np.ndarray, bvecs: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Regress translations along phase encoding on the gradients, to tell eddy currents from motion.

    From one volume to the next the head moves little, and the gradient much: changes are regressed.

    Parameters
    ----------
    along_mm : ndarray
        ``(n,)`` translation along phase encoding, in the order of acquisition.
    bvecs : ndarray
        ``(n, 3)`` as in `slopes_of_gradients`.

    Returns
    -------
    by_gradient : ndarray or None
        ``(3, 1)``: ``bvecs @ by_gradient`` is the displacement by the field, mm.
    p_value : float
    """
    return _explained(np.diff(along_mm)[:, None], np.diff(bvecs, axis=0), len(bvecs) - 4)


def _explained(values: np.ndarray, design: np.ndarray, n_free: int) -> tuple[np.ndarray | None, float]:
    """Regress ``(n, m)`` values without a constant, unless that explains no more than chance."""
    if len(values) < FEWEST_FOR_EDDY - 1 or n_free < 1:
        return None, np.nan
    if np.linalg.svd(design, compute_uv=False)[-1] < SMALLEST_SPREAD * np.sqrt(len(design)):
        return None, np.nan
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    fitted = design @ found
    free = n_free * values.shape[1]
    ratio = ((fitted**2).sum() / found.size) / max(((values - fitted) ** 2).sum() / free, 1e-30)
    p_value = float(stats.f.sf(ratio, found.size, free))
    return (found if p_value < LARGEST_P else None), p_value
