"""The steps that registrations to the template share: starts, affine, deformable, gate."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import QualityError
from pds_bids.imaging import greedy
from pds_bids.imaging.gate import Gate
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.search import (
    SMALLEST_COVERAGE,
    Sample,
    climb,
    cube_rotations,
    rank_starts,
    rotation_angle_deg,
    small_rotations,
)

__all__ = [
    "NEAR_MM",
    "SHIFTS_MM",
    "Effort",
    "Registration",
    "RegistrationFailure",
    "centre_ras",
    "deform",
    "deform_or_affine",
    "find_pose",
    "in_view",
    "inside_view",
    "refine_affine",
]

_LOG = logging.getLogger("pds_bids.imaging")

# Nobody lies in the scanner like this: the header is wrong, and left and right cannot be trusted.
LARGEST_TILT_DEG = 60.0
# Search: rotations of 20 and 40 degrees either way, and shifts where the field of view cuts the brain. Of 168
# climbs from there, on five real images turned by up to 30 degrees, 167 ended in the right pose.
TILT_STEP_DEG, N_TILTS = 20.0, 2
SHIFTS_MM = [(0.0, y, z) for y in (0.0, -10.0, 10.0) for z in (0.0, -12.0, 12.0)]
# Turns of a cube that are climbed from: what a wrong header does.
N_TURNED = 3
# A pose turned by more than this from the best is another answer; a head does not have two.
RIVAL_DEG, RIVAL_MARGIN = 40.0, 0.02
# The refined affine may not correlate worse than the pose it started from, but for this.
AFFINE_LOSS = 0.05
# Poses and affines look at the template's brain and this much around it: the rim tells where the brain ends.
NEAR_MM = 12.0
# Signed, so for like contrasts only: the template is painted in that of the image. greedy's NMI shrank two of
# three real brains.
AFFINE_METRIC = "NCC 3x3x3"


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


class RegistrationFailure(QualityError):
    """A registration that nobody should use; the pose it ended in can still be looked at.

    ``template2native_affine`` is ``(4, 4)``, RAS+ mm, or None where no pose was found at all.
    """

    template2native_affine: np.ndarray | None = None

    @classmethod
    def at(cls, message: str, template2native_affine: np.ndarray) -> Self:
        """Return the error with its pose; the message alone is its argument, so that it can be pickled."""
        error = cls(message)
        error.template2native_affine = template2native_affine
        return error


@dataclass(frozen=True)
class Effort:
    """How hard to try: iterations from coarse to fine, smoothing, longest step, starts, threads."""

    affine: str = "60x30x0"
    deformable: str = "60x40x8"
    smoothing_vox: tuple[float, float] = (2.5, 1.25)
    step_vox: str = "1.0"
    n_starts: int = 4
    nthreads: int = 1

    @classmethod
    def of(cls, sloppy: bool, nthreads: int) -> "Effort":
        """Return the full effort, or a coarse and fast one."""
        if sloppy:
            return cls("40x0x0", "30x15x0", n_starts=3, nthreads=nthreads)
        return cls(nthreads=nthreads)


def find_pose(
    sample: Sample, centres: tuple[np.ndarray, np.ndarray], effort: Effort, name: str
) -> np.ndarray:
    """Search for the pose and size of the head.

    Parameters
    ----------
    sample : Sample
        Scores poses.
    centres : tuple of ndarray
        Of the fixed and of the moving brain, RAS+ mm.
    effort : Effort
        How hard to try.
    name : str
        Image, for messages.

    Returns
    -------
    ndarray
        ``(4, 4)`` fixed2moving: rotation, shift and one scale.

    Raises
    ------
    RegistrationFailure
        If too little of a brain is in the field of view, if the head fits best on its side or upside down, or
        if it fits two ways equally well.
    """
    score = sample.correlation
    starts = rank_starts(
        score, small_rotations(TILT_STEP_DEG, N_TILTS), SHIFTS_MM, *centres, effort.n_starts
    ) + rank_starts(score, cube_rotations(), SHIFTS_MM, *centres, N_TURNED)
    found = sorted((climb(score, start, centres[0]) for start in starts), key=lambda pair: -pair[1])
    _LOG.debug("%s: correlations of the poses %s", name, np.round([value for _, value in found], 3))
    best, value = found[0]
    if value <= 0:
        raise RegistrationFailure(
            f"{name} image: nothing like a brain of which {100 * SMALLEST_COVERAGE:.0f}% lie in the field of "
            "view; a slab of a brain cannot be placed"
        )
    if (tilt := rotation_angle_deg(best)) > LARGEST_TILT_DEG:
        raise RegistrationFailure.at(
            f"{name} image: the head fits the template best when turned by {tilt:.0f} degrees (at most "
            f"{LARGEST_TILT_DEG:.0f}); the orientation in its header is wrong, much of the brain lies "
            "outside of the field of view, or this is no brain",
            best,
        )
    for other, rival in found[1:]:
        turn = rotation_angle_deg(np.linalg.inv(best) @ other)
        if turn > RIVAL_DEG and rival > value - RIVAL_MARGIN:
            raise RegistrationFailure.at(
                f"{name} image: fits the template almost as well (correlation {rival:.3f}, {value:.3f}) when "
                f"turned by {turn:.0f} degrees; this is no brain, or too little of one",
                best,
            )
    return best


def refine_affine(
    fixed: GreedyImage,
    moving: GreedyImage,
    sample: Sample,
    fixed2moving: np.ndarray,
    dof: int,
    effort: Effort,
) -> np.ndarray:
    """Refine a pose or an affine, unless what comes out correlates worse than what went in.

    Parameters
    ----------
    fixed, moving : GreedyImage
        Template and native image.
    sample : Sample
        Scores poses.
    fixed2moving : ndarray
        ``(4, 4)`` to start from.
    dof : int
        Degrees of freedom: 7 or 12.
    effort : Effort
        How hard to try.

    Returns
    -------
    ndarray
        ``(4, 4)`` fixed2moving.
    """
    refined = greedy.affine(
        inside_view(fixed, moving.grid, fixed2moving),
        moving,
        fixed2moving,
        dof=dof,
        metric=AFFINE_METRIC,
        schedule=effort.affine,
        nthreads=effort.nthreads,
    )
    is_sound = np.isfinite(refined).all() and np.linalg.det(refined[:3, :3]) > 0
    if is_sound and sample.correlation(refined) > sample.correlation(fixed2moving) - AFFINE_LOSS:
        return refined
    _LOG.warning("affine refinement leaves the pose that was found: kept as it was")
    return fixed2moving


def deform(
    fixed: GreedyImage, moving: GreedyImage, affine: np.ndarray, effort: Effort
) -> tuple[PointMap, PointMap]:
    """Bend an affine.

    Returns
    -------
    fixed2moving, fixed2fixed : PointMap
        As `greedy.deformable`.
    """
    # Cut like the moving image: a whole template would pull the edge of a cropped brain out of view.
    cut = np.where(in_view(fixed.grid, moving.grid, affine), fixed.data, 0)
    warp, unwarp = greedy.deformable(
        inside_view(GreedyImage(cut, fixed.grid, fixed.mask), moving.grid, affine),
        moving,
        affine,
        metric="NCC 2x2x2",
        schedule=effort.deformable,
        smoothing_vox=effort.smoothing_vox,
        nthreads=effort.nthreads,
        step_vox=effort.step_vox,
    )
    return warp, unwarp


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
    RegistrationFailure
        If neither does.
    """
    warp, unwarp = deform(fixed, moving, affine, effort)
    back = PointMap.from_affine(native_grid, np.linalg.inv(affine))
    straight = PointMap.from_affine(fixed.grid, affine)
    reasons = []
    for stage, there, inverse in (("deformable", warp, back.then(unwarp)), ("affine", straight, back)):
        gate = judged(there, stage)
        if gate.passed:
            return Registration(there, inverse, affine, gate)
        _LOG.warning("%s to template, %s: %s", name, stage, gate.reason)
        reasons.append(f"{stage}: {gate.reason}")
    raise RegistrationFailure.at(
        f"{name} image: registration to the template fails the quality gate ({'. '.join(reasons)}); "
        "look at the image and its orientation",
        affine,
    )


def inside_view(fixed: GreedyImage, moving_grid: Grid, fixed2moving: np.ndarray) -> GreedyImage:
    """Limit the metric to what both images can see, within the mask of `fixed`."""
    seen = in_view(fixed.grid, moving_grid, fixed2moving)
    return GreedyImage(fixed.data, fixed.grid, seen if fixed.mask is None else seen & fixed.mask)


def in_view(fixed_grid: Grid, moving_grid: Grid, fixed2moving: np.ndarray) -> np.ndarray:
    """Return which points of one grid lie in the field of view of another, ``(X, Y, Z)`` bool."""
    points = apply_affine(fixed2moving, fixed_grid.points())
    return resample(np.ones(moving_grid.shape, np.float32), moving_grid.vox2ras, points, order=0) > 0


def centre_ras(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the centre of mass of a mask in RAS+ mm."""
    return apply_affine(grid.vox2ras, np.asarray(ndimage.center_of_mass(mask)))
