"""What is special to BOLD series: checks, the approach to the steady state, and the reference volume."""

from collections.abc import Iterator

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.series import RasSeries, Series, read_volumes, volume_blocks

__all__ = ["check_series", "checked_blocks", "detect_non_steady_state", "global_signal", "reference_volume"]

# More volumes than this are never called an approach to the steady state (about five T1 at TR = 2 s).
MOST_DUMMIES = 5
# Volumes looked at: what comes later is steady in any case.
LOOKED_AT = 50
# A dummy scan is brighter than the steady signal by both this share and this many robust standard deviations.
LEAST_EXCESS = 0.01
LEAST_DEVIATIONS = 4.0
# Volumes behind the reference: an odd number, so that the median is a measured value.
REFERENCE_SIZE = 15


def check_series(series: Series, *, name: str = "bold", min_volumes: int = 2) -> None:
    """Check that a series can be averaged over time.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``; read once, block by block.
    name : str
        What the messages call it, for example ``sub-01 task-rest bold``.
    min_volumes : int
        Shortest series accepted.

    Raises
    ------
    DataError
        If it is no series or too short, or if a volume is constant (all zero, for one) or has values that
        are not finite.
    """
    for _ in checked_blocks(series, name=name, min_volumes=min_volumes):
        pass


def checked_blocks(
    series: Series, *, name: str = "bold", min_volumes: int = 2
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read a series block by block, as `volume_blocks` does, and check it on the way.

    Parameters are those of `check_series`, and so are the errors: that of a volume is raised after the last
    block.

    Yields
    ------
    index : ndarray
        ``(n,)`` int, the volumes in the block.
    block : ndarray
        ``(X, Y, Z, n)`` float32.
    """
    shape = tuple(series.shape)
    if len(shape) != 4 or shape[3] < min_volumes:
        n_volumes = shape[3] if len(shape) == 4 else 1
        raise DataError(
            f"{name}: {n_volumes} volume(s) in an image of shape {shape}, expected (X, Y, Z, N) with "
            f"N >= {min_volumes}; a single-band reference (sbref) is not a series: check the conversion"
        )
    not_finite: list[int] = []
    constant: list[int] = []
    for index, block in volume_blocks(series):
        flat = block.reshape(-1, index.size)
        finite = np.isfinite(flat).all(0)
        not_finite += index[~finite].tolist()
        constant += index[finite & (flat.max(0) == flat.min(0))].tolist()
        yield index, block
    for bad, what in (
        (not_finite, "values that are not finite (NaN or Inf)"),
        (constant, "one value everywhere"),
    ):
        if bad:
            some = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise DataError(
                f"{name}: volume(s) {some} of {shape[3]} have {what}; re-run the converter or cut them off"
            )


def global_signal(series: Series, n_volumes: int | None = None) -> np.ndarray:
    """Return the mean over the head of the first volumes.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    n_volumes : int, optional
        How many; all when omitted.

    Returns
    -------
    ndarray
        ``(n_volumes,)`` float64, in units of the image.
    """
    n_volumes = min(series.shape[3], n_volumes or series.shape[3])
    last = np.asarray(series[..., n_volumes - 1], dtype=np.float32)
    # The last volume is steady; half its mean separates head from air well enough for an average.
    head = last > 0.5 * last.mean()
    return np.concatenate(
        [block[head].mean(0, dtype=np.float64) for _, block in volume_blocks(series, range(n_volumes))]
    )


def detect_non_steady_state(series: Series) -> int:
    """Count the volumes at the start that are brighter because the magnetisation is not yet steady.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.

    Returns
    -------
    int
        0 to 5, and less than half of a short series.

    Examples
    --------
    >>> scan = np.full((4, 4, 4, 12), 100.0) + np.arange(12) % 2
    >>> scan[..., 0] = 130
    >>> detect_non_steady_state(scan)
    1
    """
    signal = global_signal(series, LOOKED_AT)
    most = min(MOST_DUMMIES, (signal.size - 1) // 2)
    steady, when = signal[most:], np.arange(most, signal.size)
    # The line through the median slope of pairs (Theil-Sen): scanners drift, and a spike must not tilt it.
    earlier, later = np.triu_indices(steady.size, 1)
    slopes = (steady[later] - steady[earlier]) / (when[later] - when[earlier])
    slope = float(np.median(slopes)) if steady.size > 2 else 0.0
    level = np.median(steady - slope * when) + slope * np.arange(most)
    noise = 1.4826 * np.median(np.abs(np.diff(steady))) / np.sqrt(2) if steady.size > 2 else 0.0
    is_bright = signal[:most] > level + np.maximum(LEAST_EXCESS * level, LEAST_DEVIATIONS * noise)
    return int(most if is_bright.all() else np.argmin(is_bright))


def reference_volume(series: Series, n_dummy: int = 0, vox2ras: np.ndarray | None = None) -> np.ndarray:
    """Return the median of roughly aligned volumes from the middle of the series.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    n_dummy : int
        Volumes at the start to leave out.
    vox2ras : ndarray, optional
        ``(4, 4)`` affine of a volume; for a `RasSeries` it is known.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, in the position of the volume in the middle.

    Raises
    ------
    DataError
        If no volume is left, or the volumes show no structure to align.
    """
    from pds_bids.imaging.motion import estimate_motion
    from pds_bids.imaging.realign import realigned_timeseries

    n_volumes = series.shape[3]
    if n_dummy >= n_volumes:
        raise DataError(f"{n_dummy} dummy scans in a series of {n_volumes} volumes: no volume is left")
    if vox2ras is None:
        if not isinstance(series, RasSeries):
            raise TypeError("vox2ras is needed unless the series is a RasSeries")
        vox2ras = series.grid.vox2ras
    kept = np.arange(n_dummy, n_volumes)
    # The volumes nearest to the middle volume in time moved least against it.
    first = max(0, (kept.size - REFERENCE_SIZE) // 2)
    chosen = kept[first : first + REFERENCE_SIZE]
    subset = read_volumes(series, chosen.tolist())
    middle = subset[..., subset.shape[3] // 2]
    if subset.shape[3] < 3:
        return middle.copy()
    motion = estimate_motion(subset, vox2ras, middle)
    points = Grid(middle.shape, vox2ras).points().reshape(-1, 3)
    aligned = realigned_timeseries(subset, vox2ras, motion.ref2volume, points, order=1)
    return np.median(aligned, axis=1).astype(np.float32).reshape(middle.shape)
