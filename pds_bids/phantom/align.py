"""Registration of a painted head to the template: affine, then deformable."""

import io
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.imaging.grid import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["register_to_template"]

_RAS2LPS = np.diag([-1.0, -1.0, 1.0])


def register_to_template(
    template: np.ndarray, grid: Grid, moving: np.ndarray, moving_vox2ras: np.ndarray, deformable: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Register a T1-like brain to a T1-weighted template of the brain.

    Parameters
    ----------
    template : ndarray
        ``(X, Y, Z)`` on `grid`, brain only.
    grid : Grid
        Grid of the template.
    moving : ndarray
        Image with the same contrast.
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
    """
    from picsl_greedy import Greedy3D  # loads ITK

    box = tuple(slice(max(0, i.min() - 8), i.max() + 9) for i in np.nonzero(moving > 0))
    cropped = moving_vox2ras.copy()
    cropped[:3, 3] += moving_vox2ras[:3, :3] @ [s.start for s in box]
    greedy, log = Greedy3D(), io.StringIO()
    images = {
        "fixed": _as_itk(template, grid.vox2ras),
        "moving": _as_itk(moving[box], cropped),
    }
    greedy.execute(
        "-V 0 -threads 1 -i fixed moving -a -dof 12 -ia-image-centers "
        "-m NMI -search 50 12 12 -n 60x20x0 -o affine",
        out=log,
        err=log,
        affine=None,
        **images,
    )
    affine = np.asarray(greedy["affine"], float)
    if not deformable:
        return affine, np.zeros((*grid.shape, 3), np.float32)
    greedy.execute(
        "-V 0 -threads 1 -i fixed moving -it affine -m NCC 2x2x2 -n 40x25x8 -s 2vox 1vox -o warp",
        out=log,
        err=log,
        warp=None,
    )
    return affine, _displacement(greedy["warp"])


def _as_itk(data: np.ndarray, vox2ras: np.ndarray) -> "sitk.Image":
    """Return a SimpleITK image (LPS+) of an array (RAS+)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T.astype(np.float32)))
    zooms = np.sqrt((vox2ras[:3, :3] ** 2).sum(0))
    image.SetSpacing([float(z) for z in zooms])
    image.SetOrigin([float(o) for o in _RAS2LPS @ vox2ras[:3, 3]])
    image.SetDirection((_RAS2LPS @ (vox2ras[:3, :3] / zooms)).ravel().tolist())
    return image


def _displacement(warp: "sitk.Image") -> np.ndarray:
    """Return an ITK displacement field (LPS+) as ``(X, Y, Z, 3)`` RAS+ mm."""
    import SimpleITK as sitk

    field = sitk.GetArrayFromImage(warp).transpose(2, 1, 0, 3)
    return (field * np.diag(_RAS2LPS)).astype(np.float32)
