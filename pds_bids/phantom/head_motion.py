"""Motion of a head in the scanner."""

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = ["draw_motion", "rest2volumes", "rigid"]

# Centre of head rotation: near the top of the neck.
_PIVOT_MM = np.array([0.0, -20.0, -40.0])


def rigid(parameters: np.ndarray) -> np.ndarray:
    """Return a rigid map about the neck.

    Parameters
    ----------
    parameters : ndarray
        ``(6,)``: translations in mm, rotations about x, y, z in degrees.

    Returns
    -------
    ndarray
        ``(4, 4)``: a point of the head at rest to where it is now.

    Examples
    --------
    >>> rigid(np.array([1.0, 0, 0, 0, 0, 0]))[:3, 3]
    array([1., 0., 0.])
    """
    rest2moved = np.eye(4)
    rest2moved[:3, :3] = Rotation.from_euler("xyz", parameters[3:], degrees=True).as_matrix()
    rest2moved[:3, 3] = parameters[:3] + _PIVOT_MM - rest2moved[:3, :3] @ _PIVOT_MM
    return rest2moved


def rest2volumes(motion: np.ndarray) -> np.ndarray:
    """Return the maps of a series of poses.

    Parameters
    ----------
    motion : ndarray
        ``(V, 6)`` from `draw_motion`, or ``(V, 4, 4)`` maps, which are returned as they are.

    Returns
    -------
    ndarray
        ``(V, 4, 4)`` float64: a point of the head at rest to where it is in each volume, RAS+ mm.
    """
    motion = np.asarray(motion, float)
    return motion if motion.ndim == 3 else np.stack([rigid(row) for row in motion])


def draw_motion(
    rng: np.random.Generator,
    n_volumes: int,
    *,
    max_mm: float,
    max_deg: float,
    spikes: int = 0,
    spike_mm: float = 5.0,
) -> np.ndarray:
    """Draw slow head motion with a few jumps, and spikes on request.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    n_volumes : int
        Length of the series.
    max_mm, max_deg : float
        Largest excursion of the slow motion along and about each axis.
    spikes : int
        Number of single volumes, never the first, in which the head is somewhere else.
    spike_mm : float
        Length of their translation on top of the slow motion; they turn by half as many degrees.

    Returns
    -------
    ndarray
        ``(n_volumes, 6)`` float64: mm, then degrees; without spikes never beyond the limits. The first
        volume is at rest. The slow motion does not depend on the number of spikes.
    """
    steps = rng.standard_normal((n_volumes, 6)) * np.where(rng.random((n_volumes, 1)) < 0.05, 4.0, 1.0)
    walk = np.cumsum(steps, 0)
    walk -= walk[0]
    limits = np.array([max_mm] * 3 + [max_deg] * 3) * rng.uniform(0.3, 1.0, 6)
    motion = walk * (limits / np.maximum(np.abs(walk).max(0), 1e-9))
    for volume in rng.permutation(np.arange(1, n_volumes))[:spikes]:
        for part, size in ((slice(0, 3), spike_mm), (slice(3, 6), spike_mm / 2)):
            way = rng.standard_normal(3)
            motion[volume, part] += size * way / np.linalg.norm(way)
    return motion
