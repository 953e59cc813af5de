"""Registration of a painted head to the template: pose, affine, then deformable."""

import numpy as np

from pds_bids.imaging import greedy
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.masks import check_image, dilated
from pds_bids.imaging.search import Sample
from pds_bids.imaging.stages import NEAR_MM, Effort, centre_ras, find_pose, refine_affine

__all__ = ["register_to_template"]

# Label maps of whole heads are mostly air and neck: the box of the brain is read, and this much around it.
MARGIN_VOX = 16


def register_to_template(
    template: np.ndarray, grid: Grid, moving: np.ndarray, moving_vox2ras: np.ndarray, deformable: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Register a T1-like brain to a T1-weighted template of the brain.

    Nothing is drawn at random: the same images give the same registration.

    Parameters
    ----------
    template : ndarray
        ``(X, Y, Z)`` on `grid`, brain only.
    grid : Grid
        Grid of the template.
    moving : ndarray
        Image with the same contrast, brain only.
    moving_vox2ras : ndarray
        ``(4, 4)``.
    deformable : bool
        False: `residual_mm` is zero.

    Returns
    -------
    template2native : ndarray
        ``(4, 4)`` point map, RAS+ mm.
    residual_mm : ndarray
        ``(X, Y, Z, 3)`` float32, RAS+: the template's point x lies at
        ``template2native(x + residual_mm(x))``.

    Raises
    ------
    DataError
        If there is no brain in `moving`.
    RegistrationFailure
        If no pose stands out: the image is no brain, or its header turns it by more than anybody is turned.
    """
    whole = Grid(moving.shape, moving_vox2ras)
    check_image(moving, whole, "label map")
    x, y, z = (max(0, int(axis.min()) - MARGIN_VOX) for axis in np.nonzero(moving))
    ends = (int(axis.max()) + MARGIN_VOX + 1 for axis in np.nonzero(moving))
    moving = moving[tuple(slice(start, end) for start, end in zip((x, y, z), ends, strict=True))]
    moving_grid = whole.crop((x, y, z), moving.shape)
    brain = template > 0
    near = dilated(brain, grid, NEAR_MM)
    sample = Sample.draw(template, grid, brain, near, moving, moving_grid)
    effort = Effort()
    centres = centre_ras(brain, grid), centre_ras(moving > 0, moving_grid)
    pose = find_pose(sample, centres, effort, "label map")
    fixed, painted = GreedyImage(template, grid, near), GreedyImage(moving, moving_grid)
    affine = refine_affine(fixed, painted, sample, pose, 12, effort)
    if not deformable:
        return affine, np.zeros((*grid.shape, 3), np.float32)
    warp, _ = greedy.deformable(
        fixed,
        painted,
        affine,
        metric="NCC 2x2x2",
        schedule="40x25x8",
        smoothing_vox=(2.0, 1.0),
        nthreads=1,
    )
    residual_mm = apply_affine(np.linalg.inv(affine), warp.points.astype(float)) - grid.points()
    return affine, residual_mm.astype(np.float32)
