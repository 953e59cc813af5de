"""Rigid registration between contrasts by Mattes mutual information: wide capture, moderate accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["MutualInformation", "Schedule"]

# RAS+ to ITK's LPS+ and back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

# A rotation counts as the arc at this radius when steps are measured.
ARM_MM = 25.0


@dataclass(frozen=True)
class Schedule:
    """Voxel sizes and smoothing (mm) from coarse to fine, voxels sampled in the head, steps per level.

    No voxel size is finer than the image's own.
    """

    zooms_mm: tuple[float, ...]
    sigma_mm: tuple[float, ...]
    n_samples: int
    n_steps: int


class MutualInformation:
    """Rigid registration of volumes to one fixed volume.

    Parameters
    ----------
    fixed : ndarray
        ``(X, Y, Z)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of both images, mm.
    seed : int
        For the voxels that the metric samples.
    """

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

    def align(self, moving: np.ndarray, start: np.ndarray, schedule: Schedule) -> np.ndarray:
        """Return the ``(4, 4)`` point map from the fixed to the moving volume, found from `start`."""
        import SimpleITK as sitk

        # The registration has its own setting, but its metric and filters follow the global one, and sums
        # over threads differ in their last bits.
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            return self._align(moving, start, schedule)
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)

    def _align(self, moving: np.ndarray, start: np.ndarray, schedule: Schedule) -> np.ndarray:
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
