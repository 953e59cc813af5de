"""The registration engine: picsl-greedy behind arrays and RAS+ point maps.

Its own random search over starts is not used: `affine` refines the start it is given, so that a run can be
repeated. A start is put into the header of the moving image, since the Python build takes matrices from files
only and the file system may be read-only; what greedy then finds is composed with it.
"""

import ctypes
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import picsl_greedy
import SimpleITK as sitk
from scipy import ndimage

from pds_bids.imaging.grid import Grid, PointMap

__all__ = ["GreedyImage", "affine", "deformable", "inverse_displacement", "to_sitk"]

_LOG = logging.getLogger("pds_bids.imaging")

# RAS+ to the LPS+ of ITK and back.
FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxels around the mask of the fixed image in which a displacement may die out.
BOX_MARGIN_VOX = 4
# Inverse of a displacement: how well the two cancel, and when to give up, in a fold.
INVERSE_ERROR_VOX, INVERSE_ITERATIONS = 0.01, 30


@dataclass(frozen=True, eq=False)
class GreedyImage:
    """An image, its grid, and where it counts.

    Parameters
    ----------
    data : ndarray
        ``(X, Y, Z)``.
    grid : Grid
        Lattice without shear.
    mask : ndarray, optional
        ``(X, Y, Z)`` bool; of a fixed image, where the metric is summed.
    """

    data: np.ndarray
    grid: Grid
    mask: np.ndarray | None = None


def to_sitk(data: np.ndarray, grid: Grid) -> sitk.Image:
    """Return a float32 SimpleITK image of `data`, ``(X, Y, Z)``, with the geometry of `grid` in LPS+."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
    vox2lps = FLIP_XY @ grid.vox2ras
    image.SetSpacing(grid.zooms)
    image.SetOrigin(vox2lps[:3, 3].tolist())
    image.SetDirection((vox2lps[:3, :3] / np.asarray(grid.zooms)).ravel().tolist())
    return image


def affine(
    fixed: GreedyImage,
    moving: GreedyImage,
    start: np.ndarray,
    *,
    dof: int,
    metric: str,
    schedule: str,
    nthreads: int,
) -> np.ndarray:
    """Refine one affine start.

    Parameters
    ----------
    fixed, moving : GreedyImage
        Images.
    start : ndarray
        ``(4, 4)`` fixed2moving, RAS+ mm.
    dof : int
        6, 7 or 12.
    metric : str
        ``NMI`` or ``NCC 2x2x2``.
    schedule : str
        Iterations from coarse to fine, for example ``100x50x0`` (factors 4, 2, 1). The first must not be 0:
        greedy 1.4 then ends the process.
    nthreads : int
        Threads.

    Returns
    -------
    ndarray
        ``(4, 4)`` fixed2moving, RAS+ mm.
    """
    command = f"-d 3 -a -dof {dof} -i fixed moving -ia-identity -o result -m {metric} -n {schedule}"
    return start @ np.asarray(_run(command, fixed, moving, start, ("result",), nthreads)["result"], float)


def deformable(
    fixed: GreedyImage,
    moving: GreedyImage,
    fixed2moving: np.ndarray,
    *,
    metric: str,
    schedule: str,
    smoothing_vox: tuple[float, float],
    nthreads: int,
    step_vox: str = "1.0",
) -> tuple[PointMap, PointMap]:
    """Refine an affine by a smooth displacement field.

    Parameters
    ----------
    fixed, moving : GreedyImage
        Images.
    fixed2moving : ndarray
        ``(4, 4)`` affine start, RAS+ mm.
    metric : str
        ``NCC 2x2x2``: signed, both images must have the same contrast.
    schedule : str
        Iterations from coarse to fine.
    smoothing_vox : tuple of float
        Standard deviations of the smoothing of each step and of the whole field.
    nthreads : int
        Threads.
    step_vox : str
        Longest step of an iteration, in voxels of its level; one for all, or ``1.0x0.5x0.5``.

    Returns
    -------
    fixed2moving : PointMap
        On the fixed grid, points in moving space, affine included.
    fixed2fixed : PointMap
        On the fixed grid, the inverse of the non-linear part: ``x`` with ``x + u(x)`` equal to the voxel
        centre. ``PointMap.from_affine(moving_grid, inv(fixed2moving)).then(it)`` is the whole inverse.
    """
    step, whole = smoothing_vox
    box = _box(fixed)
    command = f"-d 3 -i fixed moving -o warp -m {metric} -n {schedule} -e {step_vox} -s {step}vox {whole}vox"
    result = _run(command, fixed, moving, fixed2moving, ("warp",), nthreads)
    shift = _displacement_ras(result["warp"])
    here = fixed.grid.points()
    # Beyond the box the displacement is continued from its border.
    around = [(part.start, size - part.stop) for part, size in zip(box, fixed.grid.shape, strict=True)]
    warped, unwarped = (
        here + np.pad(field, [*around, (0, 0)], mode="edge")
        for field in (shift, inverse_displacement(shift, fixed.grid))
    )
    return (
        PointMap(fixed.grid, warped.astype(np.float32)).then(fixed2moving),
        PointMap(fixed.grid, unwarped.astype(np.float32)),
    )


def inverse_displacement(displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Invert a smooth displacement by fixed-point iteration; greedy's own takes as long as its registration.

    Parameters
    ----------
    displacement : ndarray
        ``(X, Y, Z, 3)`` RAS+ mm; a point ``x`` of the lattice is taken to ``x + displacement``.
    grid : Grid
        Only its orientation and voxel sizes count.

    Returns
    -------
    ndarray
        ``(X, Y, Z, 3)`` float64, RAS+ mm: ``v`` with ``v(x) = -displacement(x + v(x))``. Where no such point
        exists (a fold), what the last iteration reached.

    References
    ----------
    Chen et al. 2008, A simple fixed-point approach to invert a deformation field, Med Phys,
    10.1118/1.2816107.

    Examples
    --------
    >>> shift = np.full((4, 4, 4, 3), 0.25)
    >>> bool(np.allclose(inverse_displacement(shift, Grid((4, 4, 4), np.eye(4))), -0.25))
    True
    """
    field = np.moveaxis(displacement @ grid.ras2vox[:3, :3].T, -1, 0).astype(np.float32)
    start = np.indices(field.shape[1:], dtype=np.float32).reshape(3, -1)
    back = -field.reshape(3, -1)
    active = np.arange(back.shape[1])
    for k in range(INVERSE_ITERATIONS):
        place = start[:, active] + back[:, active]
        moved = [ndimage.map_coordinates(part, place, order=1, mode="nearest") for part in field]
        change = -np.stack(moved) - back[:, active]
        # Half steps converge where full ones overshoot.
        back[:, active] += change if k < INVERSE_ITERATIONS // 3 else 0.5 * change
        active = active[np.abs(change).max(0) > INVERSE_ERROR_VOX]
        if not active.size:
            break
    return np.moveaxis(back.reshape(field.shape), 0, -1).astype(float) @ grid.vox2ras[:3, :3].T


def _run(
    command: str,
    fixed: GreedyImage,
    moving: GreedyImage,
    start: np.ndarray,
    outputs: tuple[str, ...],
    nthreads: int,
) -> dict[str, np.ndarray | sitk.Image]:
    """Run one greedy command on images in memory, the moving one seen through `start`."""
    seen = Grid(moving.grid.shape, np.linalg.inv(start) @ moving.grid.vox2ras)
    box = _box(fixed)
    first, size = [part.start for part in box], [part.stop - part.start for part in box]
    grid = fixed.grid.crop((first[0], first[1], first[2]), (size[0], size[1], size[2]))
    objects: dict[str, object] = {
        "fixed": to_sitk(fixed.data[box], grid),
        "moving": to_sitk(moving.data, seen),
        **dict.fromkeys(outputs),
    }
    if fixed.mask is not None:
        objects["fixed_mask"] = to_sitk(fixed.mask[box], grid)
        command += " -gm fixed_mask"
    engine = picsl_greedy.Greedy3D()
    log = io.StringIO()
    with _muted():
        engine.execute(f"{command} -V 0 -seed 1 -threads {nthreads}", out=log, err=log, **objects)
    _LOG.debug("greedy %s: %s", command, log.getvalue())
    return {key: engine[key] for key in outputs}


def _box(fixed: GreedyImage) -> tuple[slice, slice, slice]:
    """Return the box of the mask and a margin: half of a template's grid is air, and costs as much."""
    if fixed.mask is None or not fixed.mask.any():
        x, y, z = (slice(0, size) for size in fixed.grid.shape)
        return x, y, z
    filled = [np.flatnonzero(fixed.mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    x, y, z = (
        slice(max(0, int(rows[0]) - BOX_MARGIN_VOX), min(size, int(rows[-1]) + 1 + BOX_MARGIN_VOX))
        for rows, size in zip(filled, fixed.grid.shape, strict=True)
    )
    return x, y, z


@contextmanager
def _muted() -> Iterator[None]:
    """Swallow what compiled code prints: the optimiser's notes about line searches, which mean nothing."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        # The C library buffers: without this the notes come out later.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _displacement_ras(warp: sitk.Image) -> np.ndarray:
    """Return the displacements of an ITK warp as ``(X, Y, Z, 3)`` float64, RAS+ mm."""
    lps = np.moveaxis(sitk.GetArrayFromImage(warp).astype(float), (0, 1, 2), (2, 1, 0))
    return lps * (-1, -1, 1)
