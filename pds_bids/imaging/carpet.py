"""The time courses of a brain as a picture: one row per voxel, grouped by tissue.

References
----------
J. D. Power, "A simple but useful way to assess fMRI scan qualities", NeuroImage 154, 150-158, 2017,
doi:10.1016/j.neuroimage.2016.08.009.
"""

from collections.abc import Mapping

import numpy as np

__all__ = ["carpet_rows"]


def carpet_rows(
    timeseries: np.ndarray, tissues: Mapping[str, np.ndarray], *, rows_per_tissue: int = 200
) -> dict[str, np.ndarray]:
    """Pick evenly spaced voxels of every tissue and bring their signals to one scale.

    Parameters
    ----------
    timeseries : ndarray
        ``(V, N)`` realigned signals of brain voxels.
    tissues : mapping of str to ndarray
        ``(V,)`` bool; a tissue without a voxel is left out.
    rows_per_tissue : int
        At most so many rows.

    Returns
    -------
    dict of str to ndarray
        ``(rows, N)`` float32: signals without their linear trend, in standard deviations over time; zero
        for a voxel that does not change.

    Examples
    --------
    >>> ramp = np.arange(4.0)
    >>> blink = np.array([1.0, -1.0, -1.0, 1.0])
    >>> carpet_rows(np.stack([ramp, 5 * blink + ramp]), {"gm": np.array([True, True])})["gm"]
    array([[ 0.,  0.,  0.,  0.],
           [ 1., -1., -1.,  1.]], dtype=float32)
    """
    return {
        name: _standardised(timeseries[_spaced(np.flatnonzero(chosen), rows_per_tissue)])
        for name, chosen in tissues.items()
        if chosen.any()
    }


def _spaced(indices: np.ndarray, count: int) -> np.ndarray:
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]


def _standardised(signals: np.ndarray) -> np.ndarray:
    signals = np.asarray(signals, np.float64)
    time = np.linspace(-1, 1, signals.shape[1])
    centred = signals - signals.mean(1, keepdims=True)
    slope = centred @ time / max(float(time @ time), 1e-12)
    left = centred - slope[:, None] * time
    spread = left.std(1, keepdims=True)
    # Below a millionth of the signal lies the rounding of float32.
    still = spread <= 1e-6 * np.abs(signals).max(1, keepdims=True, initial=0.0)
    return np.where(still, 0.0, left / np.where(still, 1.0, spread)).astype(np.float32)
