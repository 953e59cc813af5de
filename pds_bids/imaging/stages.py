"""The steps that registrations to the template share: starts, affine, deformable, gate."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import QualityError
from pds_bids.imaging import greedy
from pds_bids.imaging.gate import Gate
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.search import Sample, cube_rotations, rank_starts, rotation_angle_deg, small_rotations

__all__ = [
    "NCC",
    "SHIFTS_MM",
    "TILT_STEP_DEG",
    "Effort",
    "Registration",
    "centre_ras",
    "deform_or_affine",
    "find_affine",
    "inside_view",
]

_LOG = logging.getLogger("pds_bids.imaging")

# Nobody lies in the scanner like this: the header is wrong, and left and right cannot be trusted.
LARGEST_TILT_DEG = 50.0
# Search: rotations of 15 degrees either way, and shifts where the field of view cuts the brain.
TILT_STEP_DEG = 15.0
SHIFTS_MM = [(0.0, y, z) for y in (0.0, -10.0, 10.0) for z in (0.0, -12.0, 12.0)]
# A head that seems to lie on its side is looked into if it correlates almost as well as an upright one.
TILT_MARGIN = 0.1
# Signed, so for like contrasts only.
NCC = "NCC 3x3x3"


@dataclass(frozen=True, eq=False)
class Registration:
    """A registration to the template, both ways.

    Parameters
    ----------
    template2native : PointMap
        On the template grid, points in native RAS+ mm: resamples native images onto the template.
    native2template : PointMap
        On the native grid, points in template RAS+ mm: resamples the template onto the native image.
    template2native_affine : ndarray
        ``(4, 4)`` affine part of `template2native`.
    gate : Gate
        Figures of what was accepted; ``gate.stage`` says whether it is deformable.
    """

    template2native: PointMap
    native2template: PointMap
    template2native_affine: np.ndarray
    gate: Gate


@dataclass(frozen=True)
class Effort:
    """How hard to try: iterations from coarse to fine, smoothing, starts, threads."""

    affine: str = "60x30x0"
    refine: str = "30x10"
    deformable: str = "60x40x15"
    smoothing_vox: tuple[float, float] = (2.0, 1.0)
    n_starts: int = 3
    nthreads: int = 1

    @classmethod
    def of(cls, sloppy: bool, nthreads: int) -> "Effort":
        """Return the full effort, or a coarse and fast one."""
        if sloppy:
            return cls("40x0x0", "20x0", "30x15x0", n_starts=2, nthreads=nthreads)
        return cls(nthreads=nthreads)


def find_affine(
    fixed: GreedyImage,
    moving: GreedyImage,
    sample: Sample,
    centres: tuple[np.ndarray, np.ndarray],
    effort: Effort,
    steps: tuple[tuple[int, str], ...],
    name: str,
) -> np.ndarray:
    """Search for starts, refine the best ones, and keep what correlates best.

    Parameters
    ----------
    fixed, moving : GreedyImage
        Template and native brain.
    sample : Sample
        Scores poses.
    centres : tuple of ndarray
        Of the fixed and of the moving brain, RAS+ mm.
    effort : Effort
        How hard to try.
    steps : tuple of (int, str)
        Degrees of freedom and metric, one after the other.
    name : str
        Image, for messages.

    Returns
    -------
    ndarray
        ``(4, 4)`` fixed2moving.

    Raises
    ------
    QualityError
        If the head fits best on its side or upside down.
    """
    starts = rank_starts(
        sample.correlation, small_rotations(TILT_STEP_DEG), SHIFTS_MM, *centres, effort.n_starts
    )
    tilted = rank_starts(sample.correlation, cube_rotations(), SHIFTS_MM, *centres, 1)
    if sample.correlation(tilted[0]) > sample.correlation(starts[0]) - TILT_MARGIN:
        starts += tilted
    candidates = []
    for matrix in starts:
        for dof, metric in steps:
            matrix = greedy.affine(
                fixed,
                moving,
                matrix,
                dof=dof,
                metric=metric,
                schedule=effort.affine,
                nthreads=effort.nthreads,
            )
        candidates.append(matrix)
    scores = [sample.correlation(matrix) for matrix in candidates]
    _LOG.debug("%s: correlations of the starts %s", name, np.round(scores, 3))
    best = candidates[int(np.argmax(scores))]
    tilt = rotation_angle_deg(best)
    if tilt > LARGEST_TILT_DEG or np.linalg.det(best[:3, :3]) <= 0:
        raise QualityError(
            f"{name} image: the head fits the template best when turned by {tilt:.0f} degrees (at most "
            f"{LARGEST_TILT_DEG:.0f}); the orientation in its header is wrong, or this is no brain"
        )
    return best


def deform_or_affine(
    fixed: GreedyImage,
    moving: GreedyImage,
    affine: np.ndarray,
    judged: Callable[[PointMap, str], Gate],
    native_grid: Grid,
    effort: Effort,
    name: str,
) -> Registration:
    """Try deformable, then affine; return the first that passes the gate.

    Raises
    ------
    QualityError
        If neither does.
    """
    warp, unwarp = greedy.deformable(
        inside_view(fixed, moving.grid, affine),
        moving,
        affine,
        metric="NCC 2x2x2",
        schedule=effort.deformable,
        smoothing_vox=effort.smoothing_vox,
        nthreads=effort.nthreads,
    )
    back = PointMap.from_affine(native_grid, np.linalg.inv(affine))
    straight = PointMap.from_affine(fixed.grid, affine)
    reasons = []
    for stage, there, inverse in (("deformable", warp, back.then(unwarp)), ("affine", straight, back)):
        gate = judged(there, stage)
        if gate.passed:
            return Registration(there, inverse, affine, gate)
        _LOG.warning("%s to template, %s: %s", name, stage, gate.reason)
        reasons.append(f"{stage}: {gate.reason}")
    raise QualityError(
        f"{name} image: registration to the template fails the quality gate ({'. '.join(reasons)}); "
        "look at the image and its orientation"
    )


def inside_view(fixed: GreedyImage, moving_grid: Grid, fixed2moving: np.ndarray) -> GreedyImage:
    """Limit the metric to what both images can see, within the mask of `fixed`."""
    points = apply_affine(fixed2moving, fixed.grid.points())
    seen = resample(np.ones(moving_grid.shape, np.float32), moving_grid.vox2ras, points, order=0) > 0
    return GreedyImage(fixed.data, fixed.grid, seen if fixed.mask is None else seen & fixed.mask)


def centre_ras(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the centre of mass of a mask in RAS+ mm."""
    return apply_affine(grid.vox2ras, np.asarray(ndimage.center_of_mass(mask)))
