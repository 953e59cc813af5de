"""Where a shell lies against the b0s: by edges inside the brain, checked by mutual information."""

import logging
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.cross_contrast import Refined, refine_across
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.mutual_information import MutualInformation, Schedule
from pds_bids.imaging.rigid import grid_centre

__all__ = ["OffsetSource", "ShellOffset", "distance_mm", "offset_of_shell"]

_LOGGER = logging.getLogger("pds_bids.imaging")

ROUGH = Schedule((8.0, 4.0), (4.0, 2.0), 15_000, 60)
ACROSS = Schedule((0.0,), (1.5,), 60_000, 60)
# Mutual information was 0.2 to 0.9 mm from edges on simulated heads, 1.0, 1.6, 1.8 and 3.2 mm on real ones.
DISAGREE_MM = 2.5
# Two descents along edges end within 0.1 mm of each other where there is one place where edges agree.
AMBIGUOUS_MM = 0.5


class OffsetSource(StrEnum):
    """What the images were compared by."""

    MUTUAL_INFORMATION = "mutual information"
    EDGES = "edges"


@dataclass(frozen=True, eq=False)
class ShellOffset:
    """Position of the volumes of a shell, aligned to each other, against the b0s.

    Parameters
    ----------
    b02shell : ndarray
        ``(4, 4)`` rigid point map that is used.
    by_mutual_information_mm, by_edges_mm : float
        How far each way moves the head (largest displacement at 50 mm from the centre); `nan` where there was
        no brain to look for edges in.
    disagreement_mm : float
        Distance between the two, at 50 mm from the centre.
    ambiguity_mm : float
        Distance between the poses to which edges lead from two starts; `nan` if from one of them they fail.
    used : OffsetSource
        Which one is used.
    warning : str
        What a reader should know; empty if the two agree.
    """

    b02shell: np.ndarray
    by_mutual_information_mm: float
    by_edges_mm: float
    disagreement_mm: float
    ambiguity_mm: float
    used: OffsetSource
    warning: str


def offset_of_shell(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, start: np.ndarray, seed: int
) -> ShellOffset:
    """Find the point map from the b0s to a shell: by edges, checked by mutual information.

    Mutual information of whole heads has a bias of 0.2 to 3 mm, but finds its way from afar. Edges inside
    the brain are followed from where it ends, and from `start`; the pose in which they agree best counts.

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
        pose, ambiguity_mm = _refined(b0, mean, grid, inner, [check, start])
    except DataError as error:
        # No brain to look into (an object, a slab), or a blurred one.
        warning = f"offset of shell to b0 by mutual information alone, expect 0.5 mm: {error}"
        _LOGGER.warning("%s", warning)
        used = OffsetSource.MUTUAL_INFORMATION
        return ShellOffset(check, check_mm, np.nan, np.nan, np.nan, used, warning)
    apart_mm, warnings = distance_mm(pose, check, grid), []
    if apart_mm > DISAGREE_MM:
        warnings.append(
            f"edges inside the brain, which are used, are {apart_mm:.2f} mm (limit {DISAGREE_MM:g}) from "
            "mutual information of whole heads"
        )
    if ambiguity_mm > AMBIGUOUS_MM:
        warnings.append(
            f"edges inside the brain agree in two places {ambiguity_mm:.2f} mm apart (limit "
            f"{AMBIGUOUS_MM:g}), of which the better is used"
        )
    warning = ""
    if warnings:
        warning = f"offset of shell to b0: {'; '.join(warnings)}; look at b0 and shell one over the other"
        _LOGGER.warning("%s", warning)
    fine_mm = distance_mm(pose, np.eye(4), grid)
    return ShellOffset(pose, check_mm, fine_mm, apart_mm, ambiguity_mm, OffsetSource.EDGES, warning)


def distance_mm(one: np.ndarray, other: np.ndarray, grid: Grid) -> float:
    """Return how far apart two poses put points 50 mm from the centre, at most."""
    points = grid_centre(grid) + np.concatenate([50 * np.eye(3), -50 * np.eye(3)])
    return float(np.linalg.norm(apply_affine(one, points) - apply_affine(other, points), axis=1).max())


def _refined(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, starts: list[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Return the pose in which edges agree best, from two starts, and how far the other is from it.

    Fail only where it fails from both.
    """
    found: list[Refined] = []
    for start in starts:
        try:
            found.append(refine_across(b0, mean, grid, inner, start))
        except DataError as error:
            failed = error
    if not found:
        raise failed
    best, worst = max(found, key=lambda one: one.similarity), min(found, key=lambda one: one.similarity)
    return best.pose, distance_mm(best.pose, worst.pose, grid) if len(found) > 1 else np.nan
