"""Where volumes of one shell lie against the b0s, from nothing but the times at which they were acquired.

A head does not know which volume is a b0: its position before, during and after it is continuous. That needs
no contrast at all, and says how well it knows.
"""

from dataclasses import dataclass

import numpy as np

from pds_bids.imaging.gauss_newton import ARC_MM
from pds_bids.imaging.rigid import matrices_to_parameters, parameters_to_matrices

__all__ = ["Expected", "combined", "expected_offset"]

# Two estimates farther apart than this many standard deviations, on any axis, contradict each other.
CONTRADICTION_SD = 3.0
# Fewer steps from volume to volume do not say how much a head moves.
FEWEST_STEPS = 4
# A head that does not move at all is an object, or a series without noise (mm).
LEAST_SD_MM = 0.02


@dataclass(frozen=True, eq=False)
class Expected:
    """A pose with the uncertainty of its six parameters.

    Parameters
    ----------
    pose : ndarray
        ``(4, 4)`` rigid point map.
    sd_mm : ndarray
        ``(6,)`` standard deviations: of the translations, and of the rotations as arcs at 50 mm.
    """

    pose: np.ndarray
    sd_mm: np.ndarray


def expected_offset(poses: np.ndarray, volumes: np.ndarray, b0s: np.ndarray, centre: np.ndarray) -> Expected:
    """Predict the point map from the b0s to a shell by continuity of the motion.

    Motion counts as a random walk, whose steps are seen within the shell. Each b0 is compared with the volumes
    of the shell before and after it, nearer ones counting more (a Brownian bridge); b0s are then averaged by
    their variances. Where eddy currents move volumes, steps along phase encoding are large and so is the
    standard deviation.

    Parameters
    ----------
    poses : ndarray
        ``(N, 4, 4)`` point maps into all volumes: those of b0s from the reference, those of the shell from a
        position that its volumes have in common.
    volumes : ndarray
        ``(n,)`` int, the shell.
    b0s : ndarray
        ``(m,)`` int.
    centre : ndarray
        ``(3,)`` mm, about which rotations turn.

    Returns
    -------
    Expected
        With infinite standard deviations if the shell has less than five volumes.
    """
    volumes = np.sort(volumes)
    step_sd = np.full(6, np.inf)
    if len(volumes) > FEWEST_STEPS:
        steps = np.linalg.inv(poses[volumes[:-1]]) @ poses[volumes[1:]]
        moved = _arcs(steps, centre) / np.sqrt(np.diff(volumes))[:, None]
        step_sd = np.maximum(np.sqrt(np.square(moved).mean(0)), LEAST_SD_MM)
    seen, lags = [], []
    for b0 in b0s:
        after = int(np.searchsorted(volumes, b0))
        near = volumes[max(after - 1, 0) : after + 1]
        lag = np.abs(near - b0)
        share = lag[::-1] / lag.sum()
        seen.append(share @ _arcs(np.linalg.inv(poses[near]) @ poses[b0], centre))
        lags.append(float(lag.prod() / lag.sum()) if len(near) == 2 else float(lag[0]))
    weights = 1 / np.asarray(lags)
    pose = _pose(weights @ np.asarray(seen) / weights.sum(), centre)
    return Expected(pose, step_sd / np.sqrt(weights.sum()))


def combined(found: Expected, expected: Expected, centre: np.ndarray) -> tuple[np.ndarray, float]:
    """Average two estimates by their variances, axis by axis, unless they contradict each other.

    Returns
    -------
    pose : ndarray
        ``(4, 4)``; that of `found` where they contradict each other.
    contradiction : float
        Their largest distance on an axis in standard deviations of the difference.
    """
    one, other = _arcs(np.stack([found.pose, expected.pose]), centre)
    variance, other_variance = np.square(found.sd_mm), np.square(expected.sd_mm)
    contradiction = float(np.abs((one - other) / np.sqrt(variance + other_variance)).max())
    if contradiction > CONTRADICTION_SD:
        return found.pose, contradiction
    share = variance / (variance + other_variance)
    return _pose(one + share * (other - one), centre), contradiction


def _arcs(poses: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the six parameters of poses, ``(n, 6)`` mm: rotations as arcs."""
    return matrices_to_parameters(poses, centre) * np.repeat([1, ARC_MM], 3)


def _pose(arcs: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the pose, ``(4, 4)``, of six parameters in mm."""
    return np.asarray(parameters_to_matrices(arcs / np.repeat([1, ARC_MM], 3), centre)[0])
