"""Bias field and unit of an image: N4, then division by the in-brain mean."""

import numpy as np
import SimpleITK as sitk

from pds_bids.exceptions import DataError
from pds_bids.imaging.greedy import to_sitk
from pds_bids.imaging.grid import Grid

__all__ = ["brain_mean", "from_units", "n4_bias", "to_units"]

# N4 sees voxels of about this size: the field is smooth, and the time goes with the number of voxels.
N4_VOXEL_MM = 6.0


def n4_bias(
    image: np.ndarray,
    grid: Grid,
    mask: np.ndarray,
    *,
    n_levels: int = 4,
    n_iterations: int = 50,
    nthreads: int = 1,
) -> np.ndarray:
    """Estimate the bias field of an image by N4.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``, not negative where `mask` is set.
    grid : Grid
        Its lattice.
    mask : ndarray
        ``(X, Y, Z)`` bool; where the field is fitted.
    n_levels, n_iterations : int
        Resolution levels of the field and iterations on each.
    nthreads : int
        Threads.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, positive everywhere, geometric mean 1 in the mask. ``image / bias`` is the
        corrected image: where the field is 1.2 the image was 20% too bright.

    Raises
    ------
    DataError
        If nothing positive lies in the mask.

    References
    ----------
    doi:10.1109/TMI.2010.2046908
    """
    inside = mask & (image > 0) & np.isfinite(image)
    if inside.sum() < 100:
        raise DataError(f"N4: {int(inside.sum())} positive voxels in the mask, expected at least 100")
    # A unit near 1 keeps the histogram sharpening away from the limits of float32.
    scaled = np.where(inside, image / np.median(image[inside]), 0)
    full = to_sitk(scaled, grid)
    factor = [max(1, round(N4_VOXEL_MM / zoom)) for zoom in grid.zooms]
    small_mask = sitk.Cast(sitk.Shrink(to_sitk(inside, grid), factor) > 0.5, sitk.sitkUInt8)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetNumberOfThreads(nthreads)
    corrector.SetMaximumNumberOfIterations([n_iterations] * n_levels)
    # Filters inside N4 take the number of the process, and their sums depend on it in the last digits.
    of_process = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(nthreads)
    try:
        corrector.Execute(sitk.Shrink(full, factor), small_mask)
        log_bias = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(full)).T.astype(float)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(of_process)
    return np.exp(log_bias - log_bias[inside].mean()).astype(np.float32)


def brain_mean(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean of `image` in `mask`, the unit of every image that a network sees.

    Raises
    ------
    DataError
        If the mask is empty or the mean is not a positive number.

    Examples
    --------
    >>> brain_mean(np.array([0.0, 2.0, 4.0]), np.array([False, True, True]))
    3.0
    """
    mean = float(np.mean(image[mask], dtype=np.float64)) if mask.any() else float("nan")
    if not (np.isfinite(mean) and mean > 0):
        raise DataError(
            f"mean intensity in the brain mask ({int(mask.sum())} voxels) is {mean}, expected above 0"
        )
    return mean


def to_units(image: np.ndarray, mask: np.ndarray, bias: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Correct, mask and scale an image so that its mean in the brain is 1.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    bias : ndarray, optional
        From `n4_bias`.

    Returns
    -------
    image : ndarray
        ``(X, Y, Z)`` float32, zero outside the mask.
    scale : float
        What `from_units` needs to undo it.
    """
    corrected = image if bias is None else image / bias
    scale = brain_mean(corrected, mask)
    return np.where(mask, corrected / scale, 0).astype(np.float32), scale


def from_units(image: np.ndarray, scale: float, bias: np.ndarray | None = None) -> np.ndarray:
    """Undo `to_units` inside the mask: back to the intensities of the acquisition, float32."""
    restored = image * scale
    return (restored if bias is None else restored * bias).astype(np.float32)
