"""Combine the echoes of a multi-echo series into one, as the head moves."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.series import Series, volume_blocks

__all__ = ["combined_volumes", "mean_weights", "t2star_weights"]

# Bounds of T2*, seconds: vessels and air below, fluid above; beyond them the fit follows noise.
SHORTEST_T2STAR_S, LONGEST_T2STAR_S = 0.005, 0.5


def t2star_weights(means: np.ndarray, echo_times_s: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights that give the strongest BOLD contrast, and the T2* behind them.

    Parameters
    ----------
    means : ndarray
        ``(X, Y, Z, E)`` mean of each echo in the position of the reference.
    echo_times_s : sequence of float
        ``E`` echo times, seconds, ascending.

    Returns
    -------
    weights : ndarray
        ``(X, Y, Z, E)`` float32, in proportion to ``TE exp(-TE / T2*)``; they add up to 1.
    t2star_s : ndarray
        ``(X, Y, Z)`` float32, seconds, of a log-linear fit weighted by the squared signal, from 5 to 500 ms.

    Raises
    ------
    GeometryError
        If there is not one echo time per echo, or fewer than two.

    References
    ----------
    Posse et al. 1999, 10.1002/(SICI)1522-2594(199907)42:1<87::AID-MRM13>3.0.CO;2-O.

    Examples
    --------
    >>> times = np.array([0.01, 0.03, 0.05])
    >>> _, t2star_s = t2star_weights(900 * np.exp(-times / 0.04)[None, None, None], times)
    >>> round(float(t2star_s[0, 0, 0]), 4)
    0.04
    """
    times = np.asarray(echo_times_s, float)
    if means.shape[-1] != times.size or times.size < 2:
        raise GeometryError(
            f"{means.shape[-1]} echoes and {times.size} echo times: expected two or more of each"
        )
    signal = np.maximum(np.asarray(means, float), 1e-6 * max(float(means.max()), 1e-12))
    trust = signal**2 / (signal**2).sum(-1, keepdims=True)
    mean_time = (trust * times).sum(-1, keepdims=True)
    log_signal = np.log(signal)
    slope = (trust * (times - mean_time) * log_signal).sum(-1) / (trust * (times - mean_time) ** 2).sum(-1)
    t2star_s = 1 / np.clip(-slope, 1 / LONGEST_T2STAR_S, 1 / SHORTEST_T2STAR_S)
    # Relative to the shortest echo, so that the exponential stays away from zero.
    weights = times * np.exp(-(times - times[0]) / t2star_s[..., None])
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32), t2star_s.astype(np.float32)


def mean_weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return equal weights, ``(X, Y, Z, E)`` float32 for means of that `shape`."""
    return np.full(shape, 1 / shape[-1], np.float32)


def combined_volumes(
    echoes: Sequence[Series], vox2ras: np.ndarray, ref2volume: np.ndarray, weights: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the combined volumes one after the other, where they were acquired.

    Weights belong to the head: they are interpolated into the position of each volume, images are not.

    Parameters
    ----------
    echoes : sequence of Series
        ``E`` series ``(X, Y, Z, N)`` of one run, in the order of `weights`.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    ref2volume : ndarray
        ``(N, 4, 4)`` head motion.
    weights : ndarray
        ``(X, Y, Z, E)`` in the position of the reference.

    Yields
    ------
    ndarray
        ``(X, Y, Z)`` float32.

    Raises
    ------
    GeometryError
        If the echoes do not have one shape, or weights or motion do not fit it.
    """
    shapes = {tuple(echo.shape) for echo in echoes}
    shape = next(iter(shapes))
    fits = weights.shape == (*shape[:3], len(echoes)) and np.shape(ref2volume) == (shape[3], 4, 4)
    if len(shapes) > 1 or not fits:
        raise GeometryError(
            f"echoes of shape {sorted(shapes)}, weights {weights.shape}, motion {np.shape(ref2volume)}: "
            "expected one shape, weights on its grid, and one matrix per volume"
        )
    grid = Grid((shape[0], shape[1], shape[2]), vox2ras)
    voxels = np.moveaxis(np.indices(grid.shape, dtype=float), 0, -1).reshape(-1, 3)
    for blocks in zip(*(volume_blocks(echo) for echo in echoes), strict=True):
        for position, k in enumerate(blocks[0][0].tolist()):
            volume2ref = grid.ras2vox @ np.linalg.inv(ref2volume[k]) @ grid.vox2ras
            index = apply_affine(volume2ref, voxels).T
            total = np.zeros(len(voxels), np.float32)
            combined = np.zeros(len(voxels), np.float32)
            for number, (_, block) in enumerate(blocks):
                own = ndimage.map_coordinates(weights[..., number], index, order=1, mode="nearest")
                combined += own * block[..., position].ravel()
                total += own
            yield (combined / total).reshape(grid.shape)
