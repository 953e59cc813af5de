"""Receive field of an array of loops around the head."""

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.phantom.fields import random_field

__all__ = ["coil_field"]

# Half axes of a head, and how far below its top its middle lies.
_HEAD_MM, _HEAD_TOP_MM = (75.0, 95.0, 80.0), 85.0


def coil_field(
    rng: np.random.Generator, grid: Grid, strength: float = 0.4, lowest: float = -0.55
) -> np.ndarray:
    """Draw a receive field: the root of the sum of squares of an array of loops on a helmet.

    A loop of radius a receives from the distance d in proportion to ``(a^2 + d^2)^(-3/2)``, the field that it
    would make on its axis, so that small loops see the surface of a head much better than its middle.
    Scanners undo part of that by a reference scan, or by none.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    grid : Grid
        Grid of the scan. The helmet lies about its middle, and where that is deeper, the middle of a head
        that begins below the top of the grid.
    strength : float
        Exponent of the field: 1 as the array receives it, 0 even.
    lowest : float
        Height of the lowest loops on the helmet: 0 beside the middle of the head, -1 below it.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32 with a geometric mean of 1 within the head.

    References
    ----------
    Roemer et al. 1990, doi:10.1002/mrm.1910160203.
    """
    points = grid.points()
    centre = points.reshape(-1, 3).mean(0)
    centre[2] = min(centre[2], points[..., 2].max() - _HEAD_TOP_MM)
    # People lie more or less far up in the helmet, as their necks are long.
    points = (points - centre - rng.normal(0, [5, 6, 12])).astype(np.float32)
    # Loops over the sphere but below and around the neck, by the golden angle.
    height = np.linspace(0.95, lowest, int(rng.integers(16, 33)))
    turn = np.arange(len(height)) * np.pi * (3 - np.sqrt(5)) + rng.uniform(0, 2 * np.pi)
    around = np.sqrt(1 - height**2)
    loops = np.stack([around * np.cos(turn), around * np.sin(turn), height], 1)
    # Heads lie on the loops at the back.
    loops = loops * (np.array(_HEAD_MM) + rng.uniform(8, 22, 3)) + [0, rng.uniform(0, 10), 0]
    radius2 = np.float32(rng.uniform(20, 50) ** 2)
    power = np.zeros(grid.shape, np.float32)
    for loop in loops.astype(np.float32):
        power += (radius2 + ((points - loop) ** 2).sum(-1)) ** -3
    log = 0.5 * np.log(power) + 0.06 * random_field(rng, grid.shape, grid.zooms, 70.0)[0]
    inside = ((points / np.array(_HEAD_MM)) ** 2).sum(-1) < 1
    return np.exp(strength * (log - log[inside].mean())).astype(np.float32)
