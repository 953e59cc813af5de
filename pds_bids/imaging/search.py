"""Search over poses: a fixed list of rotations and shifts, scored and improved on a thinned-out image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid

__all__ = [
    "SMALLEST_COVERAGE",
    "Sample",
    "climb",
    "cube_rotations",
    "pose",
    "rank_starts",
    "rotation_angle_deg",
    "small_rotations",
]

# Distance of the points at which a start is scored. The smoothed image between them needs no voxels finer
# than half of it, and a small image stays in the cache of the processor.
SPACING_MM = 8.0
# Part of the template's brain that must lie in the field of view.
SMALLEST_COVERAGE = 0.6
# Steps of `climb`: degrees, mm, and the logarithm of the size, with which the simplex starts.
CLIMB_DEG, CLIMB_MM, CLIMB_LOG_SIZE = 8.0, 8.0, 0.06


@dataclass(frozen=True, eq=False)
class Sample:
    """Points of the fixed image at which starts are scored, and a smoothed moving image to score them with.

    Parameters
    ----------
    points : ndarray
        ``(3, N)`` RAS+ mm.
    values : ndarray
        ``(N,)`` smoothed fixed image.
    brain : ndarray
        ``(N,)`` bool; which points lie in the fixed brain.
    moving : ndarray
        ``(X, Y, Z)`` smoothed moving image, thinned out.
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
        every = [max(1, int(SPACING_MM / 2 / zoom)) for zoom in moving_grid.zooms]
        thinned = _smoothed(moving, moving_grid)[tuple(slice(None, None, k) for k in every)]
        return cls(
            points=np.ascontiguousarray(fixed_grid.points()[step][chosen].T),
            values=_smoothed(fixed, fixed_grid)[step][chosen],
            brain=brain[step][chosen],
            moving=np.ascontiguousarray(thinned),
            moving_grid=Grid(thinned.shape, moving_grid.vox2ras @ np.diag([*every, 1])),
        )

    def look(self, fixed2moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the moving image at the mapped points, and which of them lie in its field of view."""
        fixed2vox = self.moving_grid.ras2vox @ fixed2moving
        index = fixed2vox[:3, :3] @ self.points + fixed2vox[:3, 3:]
        limit = np.asarray(self.moving_grid.shape, float)[:, None] - 0.5
        inside = np.all((index >= -0.5) & (index <= limit), axis=0)
        return ndimage.map_coordinates(self.moving, index, order=1, mode="nearest"), inside

    def correlation(self, fixed2moving: np.ndarray, smallest_coverage: float = SMALLEST_COVERAGE) -> float:
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


def small_rotations(step_deg: float, n_steps: int = 1) -> list[np.ndarray]:
    """Return the rotations by up to `n_steps` steps either way about the three axes, the identity first.

    Examples
    --------
    >>> len(small_rotations(15.0)), len(small_rotations(20.0, 2))
    (27, 125)
    """
    steps = step_deg * np.arange(-n_steps, n_steps + 1)
    angles = sorted(product(steps, repeat=3), key=lambda abc: np.abs(abc).sum())
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
    """Score every rotation with every shift and return the best starts, best first, one of each rotation."""
    shifts = [moving_centre + np.asarray(shift) for shift in shifts_mm]
    best = []
    for rotation in rotations:
        starts = [pose(rotation, fixed_centre, shift) for shift in shifts]
        scores = [score(start) for start in starts]
        k = int(np.argmax(scores))
        best.append((scores[k], starts[k]))
    order = np.argsort([-value for value, _ in best], kind="stable")
    return [best[i][1] for i in order[:n_best]]


def climb(
    score: Callable[[np.ndarray], float],
    start: np.ndarray,
    fixed_centre: np.ndarray,
    n_evaluations: int = 240,
) -> tuple[np.ndarray, float]:
    """Improve a start by turning, shifting and sizing, without derivatives.

    Parameters
    ----------
    score : callable
        Takes a ``(4, 4)`` fixed2moving; higher is better.
    start : ndarray
        ``(4, 4)`` fixed2moving, RAS+ mm.
    fixed_centre : ndarray
        ``(3,)`` mm, what is turned about.
    n_evaluations : int
        Most calls of `score`.

    Returns
    -------
    fixed2moving : ndarray
        ``(4, 4)``; a rotation times one size after `start`.
    score : float
        What it reaches, at least that of `start`.
    """

    def moved(steps: np.ndarray) -> np.ndarray:
        change = np.eye(4)
        turn = Rotation.from_rotvec(np.radians(CLIMB_DEG * steps[:3])).as_matrix()
        change[:3, :3] = np.exp(CLIMB_LOG_SIZE * steps[6]) * turn
        change[:3, 3] = fixed_centre - change[:3, :3] @ fixed_centre + CLIMB_MM * steps[3:6]
        return start @ change

    found = optimize.minimize(
        lambda steps: -score(moved(steps)),
        np.zeros(7),
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([np.zeros(7), np.eye(7)]),
            "maxfev": n_evaluations,
            "xatol": 0.02,
            "fatol": 1e-4,
            "adaptive": True,
        },
    )
    return moved(found.x), -float(found.fun)


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
