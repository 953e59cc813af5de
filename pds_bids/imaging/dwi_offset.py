"""Where a shell lies against the b0s: two ways, of which one checks the other."""

import logging
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.cross_contrast import refine_across
from pds_bids.imaging.grid import Grid, apply_affine, resample
from pds_bids.imaging.mutual_information import MutualInformation, Schedule
from pds_bids.imaging.rigid import grid_centre

__all__ = ["OffsetSource", "ShellOffset", "distance_mm", "offset_of_shell"]

_LOGGER = logging.getLogger("pds_bids.imaging")

ROUGH = Schedule((8.0, 4.0), (4.0, 2.0), 15_000, 60)
ACROSS = Schedule((0.0,), (1.5,), 60_000, 60)
# This far apart one of the two went astray: on simulated heads mutual information is within 0.7 mm.
TRUST_MM = 1.5
# Mutual information and regression were at most this far apart where the regression was right.
DISAGREE_MM = 1.0
# Share of the points inside the brain that the regression discards. At most 1% on simulated heads, 3% on a
# real series, 6% and more where intensities were no function of each other and the result was 0.3 mm off.
MOST_DISCARDED = 0.05
N_BINS = 32


class OffsetSource(StrEnum):
    """Where the offset that is used comes from; the head did not move where it is `NONE`."""

    MUTUAL_INFORMATION = "mutual information"
    REGRESSION = "regression"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class ShellOffset:
    """Position of the volumes of a shell, aligned to each other, against the b0s.

    Parameters
    ----------
    b02shell : ndarray
        ``(4, 4)`` rigid point map that is used.
    by_mutual_information_mm, by_regression_mm : float
        How far each way moves the head (largest displacement at 50 mm from the centre); `nan` where the
        regression found no brain to look into.
    disagreement_mm : float
        Distance between the two, at 50 mm from the centre.
    discarded : float
        Share of the points inside the brain that the regression discarded.
    used : OffsetSource
        Which one is used.
    warning : str
        What a reader should know; empty if the two agree.
    """

    b02shell: np.ndarray
    by_mutual_information_mm: float
    by_regression_mm: float
    disagreement_mm: float
    discarded: float
    used: OffsetSource
    warning: str


def offset_of_shell(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, start: np.ndarray, seed: int
) -> ShellOffset:
    """Find the point map from the b0s to a shell: by regression, checked by mutual information.

    Mutual information has a bias of 0.2 to 0.7 mm on heads, but does not fail; the regression has 0.1 mm,
    where its model holds. Where the two contradict each other, the information inside the brain decides
    between them and no offset at all.

    Parameters
    ----------
    b0, mean : ndarray
        ``(X, Y, Z)`` mean of the b0s and of the shell, each aligned.
    grid : Grid
        Of both.
    inner : ndarray
        ``(X, Y, Z)`` bool from `inner_brain`.
    start : ndarray
        ``(4, 4)``.
    seed : int
        For the voxels that mutual information samples.

    Returns
    -------
    ShellOffset
        A warning in it is also logged.
    """
    mutual = MutualInformation(b0, grid.vox2ras, seed)
    check = mutual.align(mean, mutual.align(mean, start, ROUGH), ACROSS)
    check_mm = distance_mm(check, np.eye(4), grid)
    try:
        fine, discarded = refine_across(b0, mean, grid, inner, check)
    except DataError as error:
        # No brain to look into: an object, a slab.
        warning = f"offset of shell to b0 by mutual information alone, expect 0.5 mm: {error}"
        _LOGGER.warning("%s", warning)
        return ShellOffset(check, check_mm, np.nan, np.nan, np.nan, OffsetSource.MUTUAL_INFORMATION, warning)
    fine_mm, far_mm = distance_mm(fine, np.eye(4), grid), distance_mm(fine, check, grid)
    ways = {
        OffsetSource.MUTUAL_INFORMATION: check,
        OffsetSource.REGRESSION: fine,
        OffsetSource.NONE: np.eye(4),
    }
    used, warning = OffsetSource.REGRESSION, ""
    if discarded > MOST_DISCARDED:
        used = OffsetSource.MUTUAL_INFORMATION
        warning = (
            "offset of shell to b0 by mutual information alone, expect 0.5 mm: regression inside the brain "
            f"is {far_mm:.2f} mm away and discards {100 * discarded:.1f}% of the points (limit "
            f"{100 * MOST_DISCARDED:g}%)"
        )
    elif far_mm > TRUST_MM:
        # Whole heads are drawn by rim and scalp: what counts is the brain inside, whoever found it.
        information = _information(b0, mean, grid, inner, list(ways.values()), seed)
        used = max(ways, key=dict(zip(ways, information, strict=True)).__getitem__)
        figures = ", ".join(f"{way} {value:.4f}" for way, value in zip(ways, information, strict=True))
        warning = (
            f"offset of shell to b0: mutual information of whole heads and regression inside the brain are "
            f"{far_mm:.2f} mm apart (limit {TRUST_MM:g}); used: {used}, which fits best inside the brain "
            f"(normalised mutual information: {figures}); look at b0 and shell one over the other"
        )
    elif far_mm > DISAGREE_MM:
        warning = (
            f"offset of shell to b0: mutual information is {far_mm:.2f} mm (limit {DISAGREE_MM:g}) from the "
            "regression inside the brain, which is kept; look at b0 and shell one over the other"
        )
    if warning:
        _LOGGER.warning("%s", warning)
    return ShellOffset(ways[used], check_mm, fine_mm, far_mm, discarded, used, warning)


def distance_mm(one: np.ndarray, other: np.ndarray, grid: Grid) -> float:
    """Return how far apart two poses put points 50 mm from the centre, at most."""
    points = grid_centre(grid) + np.concatenate([50 * np.eye(3), -50 * np.eye(3)])
    return float(np.linalg.norm(apply_affine(one, points) - apply_affine(other, points), axis=1).max())


def _information(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, poses: list[np.ndarray], seed: int
) -> list[float]:
    """Return the normalised mutual information of two averages inside a mask of the first, for every pose.

    Looked at between the voxels: on the lattice itself nothing is interpolated where nothing moves, which
    would favour no offset (Pluim et al. 2000, 10.1006/cviu.1999.0816).
    """
    index = np.argwhere(inner) + np.random.default_rng(seed).uniform(-0.5, 0.5, (int(inner.sum()), 3))
    points = apply_affine(grid.vox2ras, index)
    still = resample(b0, grid.vox2ras, points, order=3)
    found = []
    for pose in poses:
        moved = resample(mean, grid.vox2ras, apply_affine(pose, points), order=3)
        joint = np.histogram2d(still, moved, bins=N_BINS)[0] / len(points)
        entropies = [-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (joint.sum(0), joint.sum(1), joint)]
        found.append((entropies[0] + entropies[1]) / entropies[2])
    return found
