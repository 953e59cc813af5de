"""Where a shell lies against the b0s: by its image inside the brain, and by continuity in time."""

import logging
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.imaging.continuity import CONTRADICTION_SD, Expected, combined
from pds_bids.imaging.cross_contrast import Refined, refine_across
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.mutual_information import MutualInformation, Schedule
from pds_bids.imaging.rigid import grid_centre

__all__ = ["OffsetSource", "ShellOffset", "distance_mm", "offset_of_shell"]

_LOGGER = logging.getLogger("pds_bids.imaging")

ROUGH = Schedule((8.0, 4.0), (4.0, 2.0), 15_000, 60)
ACROSS = Schedule((0.0,), (1.5,), 60_000, 60)
# Standard deviations of either way, on each axis, on simulated heads.
SD_MUTUAL_MM, SD_EDGES_MM = 0.4, 0.12
# A contradiction below this distance moves no head visibly.
VISIBLE_MM = 0.5


class OffsetSource(StrEnum):
    """What the images were compared by."""

    MUTUAL_INFORMATION = "mutual information"
    EDGES = "edges inside the brain"


@dataclass(frozen=True, eq=False)
class ShellOffset:
    """Position of the volumes of a shell, aligned to each other, against the b0s.

    Parameters
    ----------
    b02shell : ndarray
        ``(4, 4)`` rigid point map that is used: the image's, averaged with that of time unless they contradict
        each other.
    by_image_mm, by_time_mm : float
        How far each way moves the head (largest displacement at 50 mm from the centre); `nan` where the shell
        is too short to know how a head moves.
    disagreement_mm : float
        Distance between image and time, at 50 mm from the centre; `nan` if the latter says nothing.
    used : OffsetSource
        Which image measure is used.
    warning : str
        What a reader should know; empty if there is nothing.
    """

    b02shell: np.ndarray
    by_image_mm: float
    by_time_mm: float
    disagreement_mm: float
    used: OffsetSource
    warning: str


def offset_of_shell(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, expected: Expected, seed: int
) -> ShellOffset:
    """Find the point map from the b0s to a shell.

    Edges inside the brain are aligned from where mutual information of whole heads ends, and from where
    continuity in time expects the shell; the better fit counts. Without a brain mutual information does.

    Parameters
    ----------
    b0, mean : ndarray
        ``(X, Y, Z)`` mean of the b0s and of the shell, each aligned.
    grid : Grid
        Of both.
    inner : ndarray
        ``(X, Y, Z)`` bool from `inner_brain`.
    expected : Expected
        From `expected_offset`.
    seed : int
        For the voxels that mutual information samples.

    Returns
    -------
    ShellOffset
        A warning in it is also logged.
    """
    mutual = MutualInformation(b0, grid.vox2ras, seed)
    rough, warnings = mutual.align(mean, expected.pose, ROUGH), []
    try:
        pose = _refined(b0, mean, grid, inner, [rough, expected.pose])
        found, used = Expected(pose, np.full(6, SD_EDGES_MM)), OffsetSource.EDGES
    except DataError as error:
        # No brain to look into: an object, a slab.
        pose = mutual.align(mean, rough, ACROSS)
        found, used = Expected(pose, np.full(6, SD_MUTUAL_MM)), OffsetSource.MUTUAL_INFORMATION
        warnings.append(f"by mutual information alone, expect 0.5 mm: {error}")
    knows_time = bool(np.isfinite(expected.sd_mm).all())
    b02shell, contradiction = combined(found, expected, grid_centre(grid))
    apart_mm = distance_mm(found.pose, expected.pose, grid) if knows_time else np.nan
    if contradiction > CONTRADICTION_SD and apart_mm > VISIBLE_MM:
        warnings.append(
            f"{used} is {apart_mm:.2f} mm away from where the head was in the volumes before and after; it is "
            "kept, which is right if the head jumped there or eddy currents shift all volumes alike; look at b0 "
            "and shell one over the other"
        )
    warning = "; ".join(f"offset of shell to b0: {one}" for one in warnings)
    if warning:
        _LOGGER.warning("%s", warning)
    return ShellOffset(
        b02shell,
        distance_mm(found.pose, np.eye(4), grid),
        distance_mm(expected.pose, np.eye(4), grid) if knows_time else np.nan,
        apart_mm,
        used,
        warning,
    )


def distance_mm(one: np.ndarray, other: np.ndarray, grid: Grid) -> float:
    """Return how far apart two poses put points 50 mm from the centre, at most."""
    points = grid_centre(grid) + np.concatenate([50 * np.eye(3), -50 * np.eye(3)])
    return float(np.linalg.norm(apply_affine(one, points) - apply_affine(other, points), axis=1).max())


def _refined(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, starts: list[np.ndarray]
) -> np.ndarray:
    """Return the pose in which edges agree best, from several starts; fails only where it fails from all."""
    found: list[Refined] = []
    for start in starts:
        try:
            found.append(refine_across(b0, mean, grid, inner, start))
        except DataError as error:
            failed = error
    if not found:
        raise failed
    return max(found, key=lambda one: one.similarity).pose
