"""Coarse search over starting poses: a fixed list of rotations and shifts, scored on a thinned-out image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, apply_affine

__all__ = ["Sample", "cube_rotations", "pose", "rank_starts", "rotation_angle_deg", "small_rotations"]

# Distance of the points at which a start is scored.
SPACING_MM = 8.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Points of the fixed image at which starts are scored, and a smoothed moving image to score them with.

    Parameters
    ----------
    points : ndarray
        ``(N, 3)`` RAS+ mm.
    values : ndarray
        ``(N,)`` smoothed fixed image.
    brain : ndarray
        ``(N,)`` bool; which points lie in the fixed brain.
    moving : ndarray
        ``(X, Y, Z)`` smoothed moving image.
    moving_grid : Grid
        Its lattice.
    """

    points: np.ndarray
    values: np.ndarray
    brain: np.ndarray
    moving: np.ndarray
    moving_grid: Grid

    @classmethod
    def draw(
        cls,
        fixed: np.ndarray,
        fixed_grid: Grid,
        brain: np.ndarray,
        region: np.ndarray,
        moving: np.ndarray,
        moving_grid: Grid,
    ) -> "Sample":
        """Thin both images out; `region` says where in the fixed image to look."""
        step = tuple(slice(None, None, max(1, round(SPACING_MM / zoom))) for zoom in fixed_grid.zooms)
        chosen = region[step]
        return cls(
            points=fixed_grid.points()[step][chosen],
            values=_smoothed(fixed, fixed_grid)[step][chosen],
            brain=brain[step][chosen],
            moving=_smoothed(moving, moving_grid),
            moving_grid=moving_grid,
        )

    def look(self, fixed2moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the moving image at the mapped points, and which of them lie in its field of view."""
        index = apply_affine(self.moving_grid.ras2vox @ fixed2moving, self.points).T
        limit = np.asarray(self.moving_grid.shape, float)[:, None] - 0.5
        inside = np.all((index >= -0.5) & (index <= limit), axis=0)
        return ndimage.map_coordinates(self.moving, index, order=1, mode="nearest"), inside

    def correlation(self, fixed2moving: np.ndarray, smallest_coverage: float = 0.6) -> float:
        """Correlate where both are seen; -1 if too little of the brain is in the field of view."""
        seen, inside = self.look(fixed2moving)
        if inside[self.brain].mean() < smallest_coverage:
            return -1.0
        a, b = self.values[inside], seen[inside]
        a, b = a - a.mean(), b - b.mean()
        scale = np.sqrt((a @ a) * (b @ b))
        return float(a @ b / scale) if scale > 0 else -1.0


def _smoothed(image: np.ndarray, grid: Grid) -> np.ndarray:
    sigma_vox = SPACING_MM / 2.355 / np.asarray(grid.zooms)
    return ndimage.gaussian_filter(image.astype(np.float32), sigma_vox)


def small_rotations(step_deg: float) -> list[np.ndarray]:
    """Return the 27 rotations by -step, 0 or +step about the three axes, the identity first."""
    angles = sorted(product((0.0, -step_deg, step_deg), repeat=3), key=lambda abc: np.abs(abc).sum())
    return [Rotation.from_euler("xyz", abc, degrees=True).as_matrix() for abc in angles]


def cube_rotations() -> list[np.ndarray]:
    """Return the 23 rotations, other than none, that turn a cube onto itself: what a wrong header does."""
    group = Rotation.create_group("O").as_matrix()
    return [matrix for matrix in group if not np.allclose(matrix, np.eye(3))]


def pose(rotation: np.ndarray, fixed_centre: np.ndarray, moving_centre: np.ndarray) -> np.ndarray:
    """Return the 4 x 4 fixed2moving that rotates about the centres and takes one to the other."""
    fixed2moving = np.eye(4)
    fixed2moving[:3, :3] = rotation
    fixed2moving[:3, 3] = moving_centre - rotation @ fixed_centre
    return fixed2moving


def rank_starts(
    score: Callable[[np.ndarray], float],
    rotations: Sequence[np.ndarray],
    shifts_mm: Iterable[tuple[float, float, float]],
    fixed_centre: np.ndarray,
    moving_centre: np.ndarray,
    n_best: int,
) -> list[np.ndarray]:
    """Score every rotation with every shift and return the best starts, best first."""
    starts = [
        pose(rotation, fixed_centre, moving_centre + np.asarray(shift))
        for rotation, shift in product(rotations, list(shifts_mm))
    ]
    scores = np.array([score(start) for start in starts])
    return [starts[i] for i in np.argsort(-scores, kind="stable")[:n_best]]


def rotation_angle_deg(matrix: np.ndarray) -> float:
    """Return the angle of the rotation closest to a 4 x 4 affine.

    Examples
    --------
    >>> rotation_angle_deg(np.diag([-1.0, -1.0, 1.0, 1.0]))
    180.0
    """
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    closest = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return float(np.degrees(np.arccos(np.clip((np.trace(closest) - 1) / 2, -1, 1))))
