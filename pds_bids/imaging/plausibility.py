"""Whether a series is what its name says: the signal of its volumes against what physics leaves of it."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.dwi import GradientTable
from pds_bids.imaging.series import Series, volume_blocks

__all__ = ["Plausibility", "judge_bold", "judge_weighting", "volume_levels"]

# Below this b-value (s/mm2) perfusion and noise decide how much signal is lost, not tissue.
JUDGED_FROM = 500.0
# The slowest mean diffusivity of a living brain is twice this (mm2/s), that of a fixed one about this.
SLOWEST = 0.3e-3
# Mean of the noise, in units of the b0s, that strong weighting cannot fall below in a bad scan.
NOISE_FLOOR = 0.6
# BOLD, breathing and drift change the mean of the brain by a few percent, a jerk of the head by a fifth.
STEADY = (0.6, 1.5)
N_TOLD = 5


@dataclass(frozen=True)
class Plausibility:
    """What the signal of the volumes says of a series.

    Parameters
    ----------
    weighted_to_b0 : float or None
        DWI: median, over the volumes that are judged, of their mean in the brain relative to the b0s; None
        where none is judged, as for BOLD.
    doubts : tuple of str
        One sentence per finding; empty for a series that is what it should be.
    """

    weighted_to_b0: float | None = None
    doubts: tuple[str, ...] = ()


def volume_levels(series: Series, mask: np.ndarray) -> np.ndarray:
    """Return the mean of every volume in a mask.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``; it is streamed.
    mask : ndarray
        ``(X, Y, Z)`` bool.

    Returns
    -------
    ndarray
        ``(N,)`` float64.

    Raises
    ------
    GeometryError
        If the mask does not fit or is empty.
    """
    if mask.shape != series.shape[:3] or not mask.any():
        raise GeometryError(f"mask {mask.shape} of {int(mask.sum())} voxels, series {series.shape}")
    levels = np.empty(series.shape[3])
    for index, block in volume_blocks(series):
        levels[index] = block[mask].mean(0, dtype=np.float64)
    return levels


def judge_weighting(levels: np.ndarray, table: GradientTable, *, name: str = "dwi") -> Plausibility:
    """Check that volumes lose signal as their b-values demand.

    Parameters
    ----------
    levels : ndarray
        ``(N,)`` from `volume_levels`.
    table : GradientTable
        Of the series.
    name : str
        What messages call the series.

    Returns
    -------
    Plausibility
        With a doubt where a few volumes are too bright.

    Raises
    ------
    DataError
        If most of the volumes from b = 500 s/mm2 on are brighter than diffusion leaves any brain: the image
        is not diffusion-weighted, or its table belongs to something else.

    Examples
    --------
    >>> from pds_bids.imaging.dwi import check_gradients
    >>> table = check_gradients(3, [0, 1000, 1000], np.eye(3)[[2, 0, 1]])
    >>> judge_weighting(np.array([100.0, 45, 47]), table).weighted_to_b0
    0.46
    """
    judged = [k for shell in table.shells if shell.bval >= JUDGED_FROM for k in shell.volumes]
    b0 = float(np.median(levels[list(table.b0_volumes)]))
    if not judged or b0 <= 0:
        return Plausibility()
    volumes = np.sort(judged)
    kept, limit = levels[volumes] / b0, _most_signal(table.bvals[volumes])
    bright, typical = volumes[kept > limit], float(np.median(kept))
    if 2 * bright.size > volumes.size:
        raise DataError(
            f"{name}: {bright.size} of {volumes.size} volumes with b >= {JUDGED_FROM:g} s/mm2 keep more "
            f"signal than diffusion leaves a brain (median {100 * typical:.0f}% of the b0s, possible at most "
            f"{100 * float(np.median(limit)):.0f}%); it is not diffusion-weighted, or its b-values belong to "
            "another series or order: compare the image with its table"
        )
    doubts = []
    if bright.size:
        doubts.append(
            f"{name}: by the table weighted, but as bright as without weighting: volumes {_some(bright)}, "
            "counted from 0; compare the image with its b-values"
        )
    return Plausibility(round(typical, 4), tuple(doubts))


def judge_bold(levels: np.ndarray, dummies: list[int], *, name: str = "bold") -> Plausibility:
    """Check that the volumes of a BOLD series are about equally bright.

    Parameters
    ----------
    levels : ndarray
        ``(N,)`` from `volume_levels`.
    dummies : list of int
        Non-steady-state volumes, which do not count.
    name : str
        What messages call the series.

    Returns
    -------
    Plausibility
        With a doubt where the brightness of the brain jumps as it does from b-value to b-value, or from echo
        to echo.

    Examples
    --------
    >>> judge_bold(np.array([150.0, 100, 101, 99]), [0]).doubts
    ()
    """
    steady = np.setdiff1d(np.arange(levels.size), dummies)
    typical = float(np.median(levels[steady])) if steady.size else 0.0
    if typical <= 0:
        return Plausibility()
    relative = levels[steady] / typical
    jumps = steady[(relative < STEADY[0]) | (relative > STEADY[1])]
    if not jumps.size:
        return Plausibility()
    doubt = (
        f"{name}: the brain is {relative.min():.2f} to {relative.max():.2f} times as bright as usual in "
        f"volumes {_some(jumps)}, counted from 0, which no BOLD signal is; b-values or echoes in one series?"
    )
    return Plausibility(doubts=(doubt,))


def _most_signal(bvals: np.ndarray) -> np.ndarray:
    """Return the largest share of the signal that diffusion can leave the mean of a brain."""
    return np.maximum(np.exp(-SLOWEST * bvals), NOISE_FLOOR)


def _some(volumes: np.ndarray) -> str:
    more = f" and {volumes.size - N_TOLD} more" if volumes.size > N_TOLD else ""
    return ", ".join(map(str, volumes[:N_TOLD].tolist())) + more
