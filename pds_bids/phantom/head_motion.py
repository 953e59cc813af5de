"""Motion of a head in the scanner."""

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = ["draw_motion", "rigid"]

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


def draw_motion(rng: np.random.Generator, n_volumes: int, *, max_mm: float, max_deg: float) -> np.ndarray:
    """Draw slow head motion with a few jumps.

    Returns
    -------
    ndarray
        ``(n_volumes, 6)`` float64: mm, then degrees; never beyond the limits. The first volume is at rest.
    """
    steps = rng.standard_normal((n_volumes, 6)) * np.where(rng.random((n_volumes, 1)) < 0.05, 4.0, 1.0)
    walk = np.cumsum(steps, 0)
    walk -= walk[0]
    limits = np.array([max_mm] * 3 + [max_deg] * 3) * rng.uniform(0.3, 1.0, 6)
    return walk * (limits / np.maximum(np.abs(walk).max(0), 1e-9))
