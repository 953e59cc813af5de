"""Rigid head motion of a diffusion series, by mutual information.

Weighted volumes are aligned to the mean of their shell, whose contrast is theirs, and each shell mean once to
the mean b0: the difficult registration between contrasts is then done on images with little noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.dwi import GradientTable
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.realign import realigned_mean
from pds_bids.imaging.rigid import POSE_DECIMALS, HeadMotion, grid_centre
from pds_bids.imaging.series import Series, volume_blocks

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["estimate_dwi_motion"]

# RAS+ to ITK's LPS+ and back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

# A rotation counts as the arc at this radius when steps are measured.
ARM_MM = 25.0


@dataclass(frozen=True)
class _Schedule:
    """Voxel sizes and smoothing (mm) from coarse to fine, voxels sampled in the head, steps per level.

    No voxel size is finer than the image's own.
    """

    zooms_mm: tuple[float, ...]
    sigma_mm: tuple[float, ...]
    n_samples: int
    n_steps: int


ROUGH = _Schedule((8.0, 4.0), (4.0, 2.0), 15_000, 60)
FINE = _Schedule((0.0,), (1.5,), 25_000, 60)
ACROSS = _Schedule((8.0, 4.0, 0.0), (4.0, 2.0, 1.5), 60_000, 100)


def estimate_dwi_motion(
    series: Series,
    vox2ras: np.ndarray,
    table: GradientTable,
    *,
    is_sloppy: bool = False,
    seed: int = 1,
) -> HeadMotion:
    """Estimate the rigid motion of each volume, in the position of the first b0.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    table : GradientTable
        b0s and shells of the series.
    is_sloppy : bool
        Stop at half resolution, for a quick look.
    seed : int
        For the voxels that the metric samples. Same seed, same result: each registration runs on one thread.

    Returns
    -------
    HeadMotion

    Raises
    ------
    GeometryError
        If the table is not of the length of the series.
    """
    import SimpleITK as sitk

    # The registration has its own setting, but its metric and filters follow the global one, and sums over
    # threads differ in their last bits.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        return _estimate(series, vox2ras, table, is_sloppy=is_sloppy, seed=seed)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _estimate(
    series: Series, vox2ras: np.ndarray, table: GradientTable, *, is_sloppy: bool, seed: int
) -> HeadMotion:
    if series.shape[3] != len(table.bvals):
        raise GeometryError(
            f"{series.shape[3]} volumes != {len(table.bvals)} b-values: give the table of the series"
        )
    schedules = (ROUGH,) if is_sloppy else (ROUGH, FINE)
    poses = np.tile(np.eye(4), (series.shape[3], 1, 1))
    b0s = np.asarray(table.b0_volumes)
    b0_mean = _align_group(series, vox2ras, table.b0_volumes, poses, schedules, seed, b0s[:1].tolist())
    b02shell = np.eye(4)
    for shell in table.shells:
        for k in shell.volumes:
            poses[k] = poses[b0s[np.argmin(np.abs(b0s - k))]]
        mean = _align_group(series, vox2ras, shell.volumes, poses, schedules, seed)
        b02shell = _Aligner(b0_mean, vox2ras, seed).align(mean, b02shell, ACROSS)
        poses[list(shell.volumes)] = poses[list(shell.volumes)] @ b02shell
    return HeadMotion(np.round(poses, POSE_DECIMALS), grid_centre(Grid(b0_mean.shape, vox2ras)))


def _align_group(
    series: Series,
    vox2ras: np.ndarray,
    volumes: Sequence[int],
    poses: np.ndarray,
    schedules: Sequence[_Schedule],
    seed: int,
    first_target: Sequence[int] | None = None,
) -> np.ndarray:
    """Align volumes of one contrast to their mean, write their `poses`, and return the mean.

    The target of the first schedule is the mean of `first_target`, or of all; after that the realigned mean.
    """
    target = realigned_mean(series, vox2ras, poses, first_target or volumes, order=1)
    if len(volumes) == 1:
        return target
    for schedule in schedules:
        aligner = _Aligner(target, vox2ras, seed)
        for index, block in volume_blocks(series, volumes):
            for position, k in enumerate(index.tolist()):
                poses[k] = aligner.align(block[..., position], poses[k], schedule)
        target = realigned_mean(series, vox2ras, poses, volumes, order=3)
    return target


class _Aligner:
    """Rigid registration of volumes to one fixed volume by Mattes mutual information."""

    def __init__(self, fixed: np.ndarray, vox2ras: np.ndarray, seed: int) -> None:
        self._vox2ras = np.asarray(vox2ras, float)
        self._seed = seed
        self._zoom = float(np.cbrt(np.abs(np.linalg.det(self._vox2ras[:3, :3]))))
        self._fixed = self._image(fixed)
        # Away from the head there is only noise, which costs time and pulls towards zero motion.
        head = ndimage.gaussian_filter(fixed, 1.5) > 0.15 * np.percentile(fixed, 98)
        head = ndimage.binary_dilation(head, iterations=2)
        self._n_head = int(head.sum())
        self._mask = self._image(head.astype(np.uint8))
        centre_ras = vox2ras[:3, :3] @ ndimage.center_of_mass(head) + vox2ras[:3, 3]
        self._centre_lps = (FLIP[:3, :3] @ centre_ras).tolist()

    def align(self, moving: np.ndarray, start: np.ndarray, schedule: _Schedule) -> np.ndarray:
        """Return the ``(4, 4)`` point map from the fixed to the moving volume, found from `start`."""
        import SimpleITK as sitk

        transform = self._transform(start)
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(self._mask)
        method.SetMetricSamplingStrategy(method.RANDOM)
        shrink = [max(1, round(zoom / self._zoom)) for zoom in schedule.zooms_mm]
        # The share counts voxels of the thinned grid, in the head and outside alike.
        share = [min(1.0, schedule.n_samples * k**3 / self._n_head) for k in shrink]
        method.SetMetricSamplingPercentagePerLevel(share, self._seed)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=1.0,
            minStep=1e-3,
            numberOfIterations=schedule.n_steps,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-8,
        )
        # ITK's scales from physical shift left a near-ellipsoid turned by 1 degree (0.85 mm; these 0.07 mm).
        method.SetOptimizerScales([ARM_MM**2] * 3 + [1.0] * 3)
        method.SetShrinkFactorsPerLevel(shrink)
        method.SetSmoothingSigmasPerLevel(schedule.sigma_mm)
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInitialTransform(transform, inPlace=True)
        # Sums over threads depend on their number.
        method.SetNumberOfThreads(1)
        method.Execute(self._fixed, self._image(moving))
        return self._matrix(transform)

    def _image(self, data: np.ndarray) -> sitk.Image:
        """Return the ITK image of an array in RAS+ space."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
        columns = (FLIP @ self._vox2ras)[:3]
        zooms = np.linalg.norm(columns[:, :3], axis=0)
        left, _, right = np.linalg.svd(columns[:, :3] / zooms)
        image.SetSpacing(zooms.tolist())
        image.SetOrigin(columns[:, 3].tolist())
        image.SetDirection((left @ right).ravel().tolist())
        return image

    def _transform(self, start: np.ndarray) -> sitk.Euler3DTransform:
        """Return the ITK transform of a point map in RAS+."""
        import SimpleITK as sitk

        lps = FLIP @ start @ FLIP
        centre = np.asarray(self._centre_lps)
        transform = sitk.Euler3DTransform()
        transform.SetCenter(self._centre_lps)
        transform.SetMatrix(lps[:3, :3].ravel().tolist(), 1e-6)
        transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
        return transform

    def _matrix(self, transform: sitk.Euler3DTransform) -> np.ndarray:
        """Return the RAS+ point map of an ITK transform, exactly rigid."""
        turn = Rotation.from_matrix(np.reshape(transform.GetMatrix(), (3, 3))).as_matrix()
        centre = np.asarray(self._centre_lps)
        lps = np.eye(4)
        lps[:3, :3] = turn
        lps[:3, 3] = np.asarray(transform.GetTranslation()) + centre - turn @ centre
        return FLIP @ lps @ FLIP
