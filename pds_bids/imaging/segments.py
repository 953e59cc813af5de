"""Cut the time axis (BOLD) and the gradient axis (DWI) into segments that are averaged one by one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import DataError, GeometryError, UsageError
from pds_bids.options import SegmentScheme

__all__ = [
    "Segment",
    "SegmentRow",
    "bold_segments",
    "dwi_segments",
    "segment_rows",
]

# Two directions closer than this (radians, about 0.6 degrees) count as one measured twice.
SAME_DIRECTION = 0.01
# Random starts of the exchange search beside the order of acquisition; more did not lower the energy.
RANDOM_STARTS = 4


@dataclass(frozen=True)
class Segment:
    """One segment of a series.

    Parameters
    ----------
    index : int
        1-based, as in the table and in the fourth dimension of the stacks after the overall mean.
    volumes : tuple of int
        0-based volumes to be averaged, ascending; for DWI the diffusion-weighted ones. Never empty.
    b0_volumes : tuple of int
        b = 0 volumes of this segment; the same for all segments when there are fewer b0s than segments.
    """

    index: int
    volumes: tuple[int, ...]
    b0_volumes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SegmentRow:
    """One line of the segment table; ``None`` is written as ``n/a``.

    Parameters
    ----------
    segment : int
        1-based number.
    volumes : str
        0-based volumes, comma-separated.
    n_volumes : int
        How many they are.
    onset_s, duration_s : float or None
        From the start of the first volume to the end of the last, in seconds from the file's first volume.
        Balanced DWI segments interleave, so that their spans overlap.
    b_values_s_mm2 : str or None
        Different b-values of `volumes`, rounded to 50 s/mm2, comma-separated; None for BOLD.
    n_b0 : int or None
        Number of b0 volumes that belong to the segment; None for BOLD.
    """

    segment: int
    volumes: str
    n_volumes: int
    onset_s: float | None
    duration_s: float | None
    b_values_s_mm2: str | None = None
    n_b0: int | None = None


def bold_segments(
    n_volumes: int,
    n_segments: int,
    censored: Iterable[int] = (),
    *,
    min_volumes: int = 1,
) -> list[Segment]:
    """Cut a BOLD series into contiguous segments, equal up to one volume after censoring.

    Parameters
    ----------
    n_volumes : int
        Length of the series as stored, dummy scans included.
    n_segments : int
        Segments wanted; fewer are made when the series is short.
    censored : iterable of int
        0-based volumes to leave out: dummy scans and motion spikes.
    min_volumes : int
        Smallest segment allowed.

    Returns
    -------
    list of Segment
        At least one, none of them empty.

    Raises
    ------
    DataError
        If no volume is left.
    UsageError
        If `n_segments` or `min_volumes` is below 1.

    Examples
    --------
    >>> [s.volumes for s in bold_segments(8, 3, censored=[0])]
    [(1, 2, 3), (4, 5), (6, 7)]
    """
    kept = np.setdiff1d(np.arange(n_volumes), np.fromiter(censored, dtype=int))
    if kept.size == 0:
        raise DataError(
            f"all {n_volumes} volumes are censored: nothing to average; "
            "raise the spike threshold or check the motion"
        )
    parts = np.array_split(kept, _count(kept.size, n_segments, min_volumes))
    return [Segment(k, tuple(part.tolist())) for k, part in enumerate(parts, 1)]


def dwi_segments(
    bvals: np.ndarray,
    bvecs: np.ndarray,
    n_segments: int,
    scheme: SegmentScheme | str = SegmentScheme.BALANCED,
    *,
    b0_threshold: float = 50.0,
    min_volumes: int = 1,
) -> list[Segment]:
    """Deal the diffusion-weighted volumes to segments.

    Parameters
    ----------
    bvals : ndarray
        ``(N,)`` s/mm2.
    bvecs : ndarray
        ``(N, 3)`` unit vectors in any one frame (a rotation of all of them changes nothing).
    n_segments : int
        Segments wanted; fewer are made when there are fewer weighted volumes.
    scheme : SegmentScheme
        ``balanced``: each segment gets a like spread of directions, by the electrostatic energy of pairs of
        directions and their antipodes, and each shell is shared out evenly.
        ``contiguous``: in order of acquisition.
    b0_threshold : float
        Volumes with ``b <= b0_threshold`` are b0s.
    min_volumes : int
        Smallest segment allowed, in weighted volumes.

    Returns
    -------
    list of Segment
        At least one; weighted volumes are shared out without rest, equal up to one. b0s too when there are at
        least as many as segments, otherwise every segment has all of them.

    Raises
    ------
    DataError
        If there is no weighted volume.
    GeometryError
        If the table's lengths differ.
    UsageError
        If `n_segments` or `min_volumes` is below 1 or the scheme is unknown.

    References
    ----------
    Jones et al. 1999, 10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q (electrostatic energy).
    """
    bvals, bvecs = np.asarray(bvals, float), np.asarray(bvecs, float)
    if bvecs.shape != (bvals.size, 3):
        raise GeometryError(f"bvecs {bvecs.shape} for {bvals.size} b-values: expected ({bvals.size}, 3)")
    if scheme not in list(SegmentScheme):
        raise UsageError(f"DWI segment scheme {scheme!r}: expected one of {[str(s) for s in SegmentScheme]}")
    is_b0 = bvals <= b0_threshold
    weighted, b0s = np.flatnonzero(~is_b0), np.flatnonzero(is_b0)
    if weighted.size == 0:
        raise DataError(f"no volume with b > {b0_threshold:g} among {bvals.size}: nothing to average")
    count = _count(weighted.size, n_segments, min_volumes)
    if scheme == SegmentScheme.CONTIGUOUS:
        label = np.repeat(np.arange(count), [p.size for p in np.array_split(weighted, count)])
        b0_parts = np.array_split(b0s, count)
    else:
        label = _balance(bvals[weighted], bvecs[weighted], count)
        b0_parts = [b0s[k::count] for k in range(count)]
    if b0s.size < count:
        b0_parts = [b0s] * count
    return [
        Segment(k + 1, tuple(weighted[label == k].tolist()), tuple(b0_parts[k].tolist()))
        for k in range(count)
    ]


def segment_rows(
    segments: Sequence[Segment], *, tr_s: float | None = None, bvals: np.ndarray | None = None
) -> list[SegmentRow]:
    """Return the lines of the segment table.

    Parameters
    ----------
    segments : sequence of Segment
        Of one series.
    tr_s : float, optional
        Repetition time; without it there are no onsets.
    bvals : ndarray, optional
        ``(N,)`` s/mm2, for DWI.

    Returns
    -------
    list of SegmentRow

    Examples
    --------
    >>> row = segment_rows(bold_segments(8, 2), tr_s=2.0)[1]
    >>> row.volumes, row.onset_s, row.duration_s
    ('4,5,6,7', 8.0, 8.0)
    """
    rows = []
    for segment in segments:
        first, last = segment.volumes[0], segment.volumes[-1]
        values = None
        if bvals is not None:
            rounded = np.unique(np.round(np.asarray(bvals)[list(segment.volumes)] / 50) * 50)
            values = ",".join(f"{b:g}" for b in rounded)
        rows.append(
            SegmentRow(
                segment=segment.index,
                volumes=",".join(map(str, segment.volumes)),
                n_volumes=len(segment.volumes),
                onset_s=None if tr_s is None else round(first * tr_s, 6),
                duration_s=None if tr_s is None else round((last - first + 1) * tr_s, 6),
                b_values_s_mm2=values,
                n_b0=None if bvals is None else len(segment.b0_volumes),
            )
        )
    return rows


def _count(available: int, n_segments: int, min_volumes: int) -> int:
    """Return how many segments can be made; at least one."""
    if n_segments < 1 or min_volumes < 1:
        raise UsageError(f"n_segments = {n_segments}, min_volumes = {min_volumes}: expected 1 or more")
    return max(1, min(n_segments, available // min_volumes))


def _pair_energy(bvecs: np.ndarray) -> np.ndarray:
    """Return the ``(N, N)`` energy of pairs, zero on the diagonal."""
    cosine = np.clip(bvecs @ bvecs.T, -1, 1)
    near = np.maximum(np.sqrt(2 - 2 * cosine), SAME_DIRECTION)
    far = np.maximum(np.sqrt(2 + 2 * cosine), SAME_DIRECTION)
    energy = 1 / near + 1 / far
    np.fill_diagonal(energy, 0)
    return energy


def _balance(bvals: np.ndarray, bvecs: np.ndarray, count: int) -> np.ndarray:
    """Return the segment of each weighted volume, by exchanges that lower the energy inside segments."""
    energy = _pair_energy(bvecs)
    shell = np.cumsum(np.concatenate([[0], np.diff(np.sort(bvals)) > 100]))[np.argsort(np.argsort(bvals))]
    rng = np.random.default_rng(0)
    best, best_energy = np.zeros(0, dtype=int), np.inf
    for start in range(RANDOM_STARTS + 1):
        tie = np.arange(bvals.size) if start == 0 else rng.permutation(bvals.size)
        # Dealing the shells one after the other keeps each shell and the total equal up to one volume.
        label = np.empty(bvals.size, dtype=int)
        label[np.lexsort((tie, shell))] = np.arange(bvals.size) % count
        label = _exchange(energy, shell, label, count)
        total = float((energy * (label[:, None] == label)).sum())
        if total < best_energy - 1e-9:
            best, best_energy = label, total
    return best


def _exchange(energy: np.ndarray, shell: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """Swap two volumes of one shell between segments while that lowers the energy most."""
    label = label.copy()
    same_shell = shell[:, None] == shell
    # Each swap lowers a bounded energy; the bound only guards against rounding.
    for _ in range(20 * label.size):
        to_segment = energy @ np.eye(count)[label]
        own = to_segment[np.arange(label.size), label]
        to_other = to_segment[:, label]  # [i, j]: volume i to the segment of volume j
        change = to_other + to_other.T - own[:, None] - own - 2 * energy
        change[~same_shell | (label[:, None] == label)] = 0
        i, j = np.unravel_index(np.argmin(change), change.shape)
        if change[i, j] > -1e-9:
            break
        label[[i, j]] = label[[j, i]]
    return label
