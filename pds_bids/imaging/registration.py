"""Registration of echo-planar and T1-weighted images to the template and to each other, gated.

Every affine starts from several poses, every result is measured by `pds_bids.imaging.gate`, and what fails is
replaced by something simpler or refused: a wrong registration is worse than none.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from pds_bids.imaging import greedy
from pds_bids.imaging.gate import Gate, GateLimits, judge, nmi
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.intensity import to_units
from pds_bids.imaging.masks import (
    check_image,
    closed,
    dilated,
    largest_piece,
    part_t1w_brain,
    rough_t1w_brain,
)
from pds_bids.imaging.search import Sample, rank_starts, small_rotations
from pds_bids.imaging.stages import (
    NEAR_MM,
    SHIFTS_MM,
    Effort,
    Registration,
    RegistrationFailure,
    centre_ras,
    deform_or_affine,
    find_pose,
    in_view,
    refine_affine,
)
from pds_bids.imaging.tissues import Template, paint_epi
from pds_bids.modalities import Contrast

__all__ = [
    "Registration",
    "RegistrationFailure",
    "agreed_mask",
    "from_itk_displacement",
    "judge_epi",
    "mask_in_native",
    "register_epi_to_template",
    "register_rigid",
    "register_t1w_to_template",
    "to_itk_displacement",
    "two_path_disagreement",
]

EPI_LIMITS = GateLimits()
# Few iterations leave folds unmatched, and simulated BOLD has little contrast: 0.16 and 0.21 where right.
SLOPPY_LIMITS = GateLimits(correlation=0.1, affine_correlation=0.1)
# Maps of other pipelines go through the T1w image and do not bend to the echo-planar image itself.
PRECOMPUTED_LIMITS = GateLimits(correlation=0.1)
T1W_LIMITS = GateLimits()
# Across contrasts the fine structure may be inverted: its sign says nothing.
RIGID_LIMITS = GateLimits(correlation=-1.0)

# Share of the template's brain below which an image counts as cropped.
WHOLE_VIEW = 0.95
# A T1w image that shows less is not worth its risk: at poles of heads cut by a quarter, points slid by 7 mm
# along the surface of the brain while every figure of the gate was good. The affine shrinks a cut head into
# view, so that of 19% that are cut off 10% seem to be missing.
T1W_VIEW = 0.9
# An image's own mask may exceed the registered template's by this: distortion and the mask's own error.
AGREED_MARGIN_MM = 2.5
# Fields of view of one session may be tilted against each other by twice this (36 degrees seen).
RIGID_STEP_DEG, RIGID_STEPS = 20.0, 2
# The edge of the brain lies this near to that of the template, by a pose and by an affine.
POSE_ERROR_MM, AFFINE_ERROR_MM = 8.0, 5.0
# A brain parted from its head and placed by its affine is as alike to the template as this, blurred by 8 mm.
# Right ones of real people, turned, shaded, cropped and stripped, have 0.965 to 0.984. With voxels of 2.7 mm
# and no dark bone below the cerebellum neck was taken for brain: 0.90 to 0.955, and all else passed.
T1W_CORRELATION = 0.96
# Finer T1w voxels are thinned out for registration only, less for bending than for search and masks.
T1W_SPACING_MM, T1W_BEND_SPACING_MM = 2.0, 1.5
# What lies within this between two folds belongs to the brain; fluid and dura around it do not.
SULCUS_MM = 6.0
# The sharper image bears finer bends, in smoother and, at the end, shorter steps: long ones jitter.
T1W_SCHEDULE, T1W_SMOOTHING_VOX, T1W_STEP_VOX = "60x60x12", (3.0, 1.0), "1.0x0.5x0.5"


def register_epi_to_template(
    mean: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    template: Template,
    contrast: Contrast,
    *,
    sloppy: bool = False,
    nthreads: int = 1,
) -> Registration:
    """Register an echo-planar image to the template painted in its contrast.

    Parameters
    ----------
    mean : ndarray
        ``(X, Y, Z)``; mean BOLD, b = 0 or mean DWI, N4-corrected.
    mask : ndarray
        ``(X, Y, Z)`` bool; brain.
    grid : Grid
        Their lattice.
    template : Template
        On the grid on which to register; 3 mm suffice for EPI.
    contrast : Contrast
        Which image it is.
    sloppy : bool
        Fewer iterations, for tests.
    nthreads : int
        Threads.

    Returns
    -------
    Registration

    Raises
    ------
    DataError
        If the image is empty, constant, not finite, or does not fit its grid.
    QualityError
        If neither the deformable nor the affine registration passes the gate, or the head seems to lie on its
        side or upside down.
    """
    check_image(mean, grid, f"{contrast} image")
    effort = Effort.of(sloppy, nthreads)
    units, _ = to_units(mean, mask)
    painted, _ = to_units(paint_epi(template, contrast), template.mask)
    near = dilated(template.mask, template.grid, NEAR_MM)
    moving = GreedyImage(units, grid)
    sample = Sample.draw(painted, template.grid, template.mask, near, units, grid)
    centres = centre_ras(template.mask, template.grid), centre_ras(mask, grid)
    pose = find_pose(sample, centres, effort, str(contrast))
    fixed = GreedyImage(painted, template.grid, near)
    affines = [refine_affine(fixed, moving, sample, pose, 12, effort)]
    seen = in_view(template.grid, grid, pose)
    if seen[template.mask].mean() < WHOLE_VIEW:
        # A whole template pulls the cut surface of a brain out of view; one that is cut where the pose says
        # errs as the pose does. Which of the two errs less differs from image to image: the fit decides.
        cut = GreedyImage(np.where(seen, painted, 0), template.grid, near)
        affines.append(refine_affine(cut, moving, sample, pose, 7, effort))

    def judged(template2native: PointMap, stage: str) -> Gate:
        limits = SLOPPY_LIMITS if sloppy else EPI_LIMITS
        return judge_epi(units, mask, grid, template, contrast, template2native, stage, limits)

    found, failures = [], []
    for affine in affines:
        try:
            found.append(deform_or_affine(fixed, moving, affine, judged, grid, effort, str(contrast)))
        except RegistrationFailure as failure:
            failures.append(failure)
    if not found:
        raise failures[0]
    return max(found, key=lambda one: (one.gate.stage == "deformable", one.gate.correlation))


def judge_epi(
    units: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    template: Template,
    contrast: Contrast,
    template2native: PointMap,
    stage: str,
    limits: GateLimits = EPI_LIMITS,
) -> Gate:
    """Judge where an echo-planar image, ``(X, Y, Z)`` in units and zero outside its mask, was put."""
    painted, _ = to_units(paint_epi(template, contrast), template.mask)
    return judge(painted, template.mask, units, mask, grid, template2native, stage, limits)


def register_t1w_to_template(
    t1w: np.ndarray,
    grid: Grid,
    template: Template,
    *,
    sloppy: bool = False,
    nthreads: int = 1,
) -> Registration:
    """Register a T1-weighted whole head to the template's brain.

    Parameters
    ----------
    t1w : ndarray
        ``(X, Y, Z)``; as acquired, with or without the skull.
    grid : Grid
        Its lattice.
    template : Template
        On the grid on which to register.
    sloppy : bool
        Fewer iterations, for tests.
    nthreads : int
        Threads.

    Returns
    -------
    Registration
        `mask_in_native` of it is the brain mask.

    Raises
    ------
    DataError
        If the image is empty, constant, not finite, or does not fit its grid.
    QualityError
        If what was taken for the brain is unlike the template's, less than nine tenths of it are in view, or
        neither the deformable nor the affine registration passes the gate.
    """
    check_image(t1w, grid, "T1w image")
    effort = Effort.of(sloppy, nthreads)
    thin, thin_grid = _thinned(t1w, grid, T1W_SPACING_MM)
    rough, below, flat = rough_t1w_brain(thin, thin_grid)
    brain_t1w, _ = to_units(template.t1w * template.mask, template.mask)
    cut, _ = to_units(flat, rough)
    wide = dilated(template.mask, template.grid, NEAR_MM)
    sample = Sample.draw(brain_t1w, template.grid, template.mask, wide, cut, thin_grid)
    centres = centre_ras(template.mask, template.grid), centre_ras(rough, thin_grid)
    pose = find_pose(sample, centres, effort, "T1w")
    fixed = GreedyImage(brain_t1w, template.grid, dilated(template.mask, template.grid, 6.0))
    affine = pose
    # What is left of skull and scalp draws the edge outward, by other amounts in other light: the brain is
    # parted again with every better prior, and sizes along the axes are not read from the first one.
    for dof, error_mm, below_scalp in ((7, POSE_ERROR_MM, below), (12, AFFINE_ERROR_MM, None)):
        prior = _placed(template, affine, thin_grid)
        units, _ = part_t1w_brain(thin, thin_grid, prior, error_mm, below_scalp)
        sample = Sample.draw(brain_t1w, template.grid, template.mask, wide, units, thin_grid)
        affine = refine_affine(fixed, GreedyImage(units, thin_grid), sample, affine, dof, effort)
    if (seen := in_view(template.grid, grid, affine)[template.mask].mean()) < T1W_VIEW:
        raise RegistrationFailure.at(
            f"T1w image: {int(100 * seen)}% of the brain are in its field of view (at least "
            f"{100 * T1W_VIEW:.0f}%); a head that is cut so far cannot be placed to a few millimetres at its "
            "poles, though it may look right",
            affine,
        )
    if (value := sample.correlation(affine)) < T1W_CORRELATION:
        raise RegistrationFailure.at(
            "T1w image: what was taken for the brain is not like that of the template (correlation "
            f"{value:.3f}, at least {T1W_CORRELATION:.2f}); muscle, fat or dura cannot be told from it, or "
            "much of it is outside of the field of view",
            affine,
        )
    prior = _placed(template, affine, thin_grid)
    units, tissue = part_t1w_brain(thin, thin_grid, prior, AFFINE_ERROR_MM)
    matter = template.gm + template.wm > 0.5

    def judged(template2native: PointMap, stage: str) -> Gate:
        return judge(brain_t1w, matter, units, tissue, thin_grid, template2native, stage, T1W_LIMITS)

    # Bent as acquired: evening out brightens the rim, and local correlation does not mind the shading.
    sharp, sharp_grid = _thinned(t1w, grid, T1W_BEND_SPACING_MM)
    inner = closed(tissue, thin_grid, SULCUS_MM).astype(np.float32)
    sharp = sharp * resample(inner, thin_grid.vox2ras, sharp_grid.points(), order=1)
    fixed = GreedyImage(brain_t1w, template.grid, template.mask)
    effort = replace(effort, smoothing_vox=T1W_SMOOTHING_VOX, step_vox=T1W_STEP_VOX)
    if not sloppy:
        effort = replace(effort, deformable=T1W_SCHEDULE)
    return deform_or_affine(fixed, GreedyImage(sharp, sharp_grid), affine, judged, grid, effort, "T1w")


def register_rigid(
    fixed: np.ndarray,
    fixed_grid: Grid,
    fixed_mask: np.ndarray,
    moving: np.ndarray,
    moving_grid: Grid,
    moving_mask: np.ndarray,
    *,
    nthreads: int = 1,
) -> tuple[np.ndarray, Gate]:
    """Register two images of one head, of any contrasts, by a rotation and a shift.

    Parameters
    ----------
    fixed, moving : ndarray
        ``(X, Y, Z)``; N4-corrected.
    fixed_grid, moving_grid : Grid
        Their lattices.
    fixed_mask, moving_mask : ndarray
        Their brains.
    nthreads : int
        Threads.

    Returns
    -------
    fixed2moving : ndarray
        ``(4, 4)`` point map, RAS+ mm.
    gate : Gate
        The caller decides what to do if it did not pass.

    Raises
    ------
    DataError
        If an image is empty, constant, not finite, or does not fit its grid.
    """
    check_image(fixed, fixed_grid, "fixed image")
    check_image(moving, moving_grid, "moving image")
    still, _ = to_units(fixed, fixed_mask)
    shifted, _ = to_units(moving, moving_mask)
    region = dilated(fixed_mask, fixed_grid, 8.0)
    sample = Sample.draw(still, fixed_grid, fixed_mask, region, shifted, moving_grid)

    def score(fixed2moving: np.ndarray) -> float:
        seen, inside = sample.look(fixed2moving)
        return nmi(sample.values[inside], seen[inside]) if inside[sample.brain].mean() > 0.5 else 0.0

    centres = centre_ras(fixed_mask, fixed_grid), centre_ras(moving_mask, moving_grid)
    starts = [
        np.eye(4),
        *rank_starts(score, small_rotations(RIGID_STEP_DEG, RIGID_STEPS), SHIFTS_MM, *centres, 2),
    ]
    images = GreedyImage(still, fixed_grid, region), GreedyImage(shifted, moving_grid)
    candidates = [
        greedy.affine(*images, start, dof=6, metric="NMI", schedule="60x30x10", nthreads=nthreads)
        for start in starts
    ]
    fixed2moving = max(candidates, key=score)
    gate = judge(
        still,
        fixed_mask,
        shifted,
        moving_mask,
        moving_grid,
        PointMap.from_affine(fixed_grid, fixed2moving),
        "rigid",
        RIGID_LIMITS,
    )
    return fixed2moving, gate


def mask_in_native(registration: Registration, template: Template) -> np.ndarray:
    """Return the template's brain mask on the native grid, ``(X, Y, Z)`` bool."""
    brain = template.mask.astype(np.float32)
    return resample(brain, template.grid.vox2ras, registration.native2template.points, order=1) > 0.5


def agreed_mask(mask: np.ndarray, grid: Grid, template_mask: np.ndarray) -> np.ndarray:
    """Take from an image's own mask what lies well outside of the template's brain: eyes, nose, scalp.

    Parameters
    ----------
    mask : ndarray
        ``(X, Y, Z)`` bool; by intensity and shape.
    grid : Grid
        Their lattice.
    template_mask : ndarray
        ``(X, Y, Z)`` bool; from `mask_in_native`.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool; one piece, nowhere larger than `mask`.
    """
    return largest_piece(mask & dilated(template_mask, grid, AGREED_MARGIN_MM + max(grid.zooms) / 2))


def two_path_disagreement(a: PointMap, b: PointMap, mask: np.ndarray) -> tuple[float, float]:
    """Return median and 95th percentile of the distance between two maps of one grid, in mm, in a mask.

    Examples
    --------
    >>> grid = Grid((2, 2, 2), np.eye(4))
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 3
    >>> here, there = PointMap.from_affine(grid, np.eye(4)), PointMap.from_affine(grid, shift)
    >>> two_path_disagreement(here, there, np.ones((2, 2, 2), bool))
    (3.0, 3.0)
    """
    distance_mm = np.linalg.norm(a.points[mask].astype(float) - b.points[mask], axis=-1)
    median, high = np.percentile(distance_mm, (50, 95)) if distance_mm.size else (np.nan, np.nan)
    return float(median), float(high)


def to_itk_displacement(a2b: PointMap) -> np.ndarray:
    """Return a dense map as the displacement field of ITK and ANTs.

    Returns
    -------
    ndarray
        ``(X, Y, Z, 1, 3)`` float32, LPS+ mm, for a NIfTI with intent ``vector`` and ``a2b.grid.vox2ras``.
        A point 1 mm farther to the right in *b* is ``(-1, 0, 0)``.
    """
    shift = (a2b.points - a2b.grid.points()) * (-1, -1, 1)
    return shift[..., None, :].astype(np.float32)


def from_itk_displacement(displacement: np.ndarray, grid: Grid) -> PointMap:
    """Undo `to_itk_displacement`."""
    shift = displacement.reshape(*grid.shape, 3) * (-1, -1, 1)
    return PointMap(grid, (grid.points() + shift).astype(np.float32))


def _thinned(image: np.ndarray, grid: Grid, spacing_mm: float) -> tuple[np.ndarray, Grid]:
    """Resample onto an upright lattice that covers the image, unless its voxels are that large already."""
    if min(grid.zooms) > 0.75 * spacing_mm:
        return image.astype(np.float32), grid
    corners = apply_affine(
        grid.vox2ras, np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
    )
    low, high = corners.min(0), corners.max(0)
    vox2ras = np.diag([spacing_mm] * 3 + [1.0])
    vox2ras[:3, 3] = low
    x, y, z = np.ceil((high - low) / spacing_mm).astype(int) + 1
    upright = Grid((int(x), int(y), int(z)), vox2ras)
    sigma_vox = (
        np.sqrt(np.clip(spacing_mm**2 - np.square(grid.zooms), 0, None)) / 2.355 / np.asarray(grid.zooms)
    )
    smooth = ndimage.gaussian_filter(image.astype(np.float32), sigma_vox)
    return resample(smooth, grid.vox2ras, upright.points(), order=1), upright


def _placed(template: Template, template2native: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the brain mask of the template on a native grid, by an affine."""
    points = apply_affine(np.linalg.inv(template2native), grid.points())
    return resample(template.mask.astype(np.float32), template.grid.vox2ras, points, order=1) > 0.5
