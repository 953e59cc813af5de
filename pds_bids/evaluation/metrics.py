"""Fidelity of a synthetic image: PSNR, SSIM, MAE and NRMSE in the brain and on the whole masked volume.

All functions take volumes of any equal shape. Where a mask is given, only its voxels count; without one the
whole volume does. A zero background adds about 6 dB to PSNR, so the two never share a column.
"""

import warnings
from enum import StrEnum

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import GeometryError

__all__ = ["SSIMKernel", "fit_smooth_gain", "mae", "nrmse", "psnr", "ssim", "ssim_map"]

# Constants of Wang et al. 2004, doi:10.1109/TIP.2003.819861.
K1, K2 = 0.01, 0.03
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
UNIFORM_SIZE = 7


class SSIMKernel(StrEnum):
    """Local window of SSIM: Gaussian of 11 voxels with sigma 1.5, or 7 voxels with equal weights."""

    GAUSSIAN = "gaussian"
    UNIFORM = "uniform"


def psnr(image: np.ndarray, truth: np.ndarray, *, data_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(data_range^2 / mean square error)``.

    Parameters
    ----------
    image, truth : ndarray
        Same shape, same unit.
    data_range : float
        Fixed by the training set, never taken from `truth`.
    mask : ndarray, optional
        Voxels that count.

    Returns
    -------
    float
        ``inf`` for equal images; ``nan`` with a warning where no voxel counts or a value is not finite.

    Raises
    ------
    GeometryError
        If shapes differ.

    Examples
    --------
    >>> psnr(np.zeros(4), np.full(4, 0.1), data_range=1.0)
    20.0
    """
    values, expected = _select(image, truth, mask)
    if not _is_defined(values, expected, "PSNR"):
        return float("nan")
    error = float(np.mean((values - expected) ** 2))
    return round(float(10 * np.log10(data_range**2 / error)), 12) if error else float("inf")


def mae(image: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> float:
    """Mean absolute error, in the unit of the images; parameters and ``nan`` as in `psnr`."""
    values, expected = _select(image, truth, mask)
    if not _is_defined(values, expected, "MAE"):
        return float("nan")
    return float(np.mean(np.abs(values - expected)))


def nrmse(image: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> float:
    """Root mean square error over that of `truth` from zero; parameters and ``nan`` as in `psnr`.

    Examples
    --------
    >>> nrmse(np.array([1.1, 0.9]), np.ones(2))
    0.1
    """
    values, expected = _select(image, truth, mask)
    if not _is_defined(values, expected, "NRMSE") or not expected.any():
        return float("nan")
    return round(float(np.linalg.norm(values - expected) / np.linalg.norm(expected)), 12)


def ssim_map(
    image: np.ndarray, truth: np.ndarray, *, data_range: float, kernel: SSIMKernel = SSIMKernel.GAUSSIAN
) -> np.ndarray:
    """Structural similarity at every voxel, with population covariances and mirrored borders.

    Parameters
    ----------
    image, truth : ndarray
        Same shape, same unit.
    data_range : float
        Fixed by the training set.
    kernel : SSIMKernel
        Local window.

    Returns
    -------
    ndarray
        float64, between -1 and 1.

    References
    ----------
    Wang et al. 2004, doi:10.1109/TIP.2003.819861
    """
    x, y = (np.asarray(volume, np.float64) for volume in (image, truth))

    def local_mean(volume: np.ndarray) -> np.ndarray:
        if kernel is SSIMKernel.GAUSSIAN:
            return ndimage.gaussian_filter(volume, GAUSSIAN_SIGMA, radius=GAUSSIAN_RADIUS)
        return ndimage.uniform_filter(volume, UNIFORM_SIZE)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return numerator / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def ssim(
    image: np.ndarray,
    truth: np.ndarray,
    *,
    data_range: float,
    mask: np.ndarray | None = None,
    kernel: SSIMKernel = SSIMKernel.GAUSSIAN,
) -> float:
    """Mean of `ssim_map` over the mask, or over the volume without a border of half a window.

    Returns
    -------
    float
        ``nan`` with a warning where no voxel counts or a value is not finite.

    Raises
    ------
    GeometryError
        If shapes differ.
    """
    if not _is_defined(*_select(image, truth, mask), "SSIM"):
        return float("nan")
    values = ssim_map(image, truth, data_range=data_range, kernel=kernel)
    if mask is not None:
        return float(values[mask].mean())
    border = GAUSSIAN_RADIUS if kernel is SSIMKernel.GAUSSIAN else UNIFORM_SIZE // 2
    return float(values[(slice(border, -border),) * values.ndim].mean())


def fit_smooth_gain(
    image: np.ndarray, truth: np.ndarray, mask: np.ndarray, *, sigma_voxels: float
) -> np.ndarray:
    """Multiply by the smooth field that fits `truth` best in every Gaussian neighbourhood.

    The field is ``G(image truth) / G(image^2)``, the local least-squares gain. The result has seen the truth:
    scores of it forgive a wrong bias field (and nothing finer than about twice the sigma).

    Parameters
    ----------
    image, truth : ndarray
        ``(X, Y, Z)``.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    sigma_voxels : float
        Standard deviation of the neighbourhood.

    Returns
    -------
    ndarray
        float64, zero outside the mask.
    """
    x, y = (np.where(mask, volume, 0).astype(np.float64) for volume in (image, truth))
    cross, power = (ndimage.gaussian_filter(volume, sigma_voxels) for volume in (x * y, x * x))
    gain = np.divide(cross, power, out=np.zeros_like(cross), where=power > 1e-12)
    return x * gain


def _select(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that count, float64."""
    shapes = {image.shape, truth.shape} | ({mask.shape} if mask is not None else set())
    if len(shapes) > 1:
        raise GeometryError(f"image {image.shape}, truth {truth.shape} and mask differ in shape")
    where = slice(None) if mask is None else mask.astype(bool)
    return image[where].astype(np.float64), truth[where].astype(np.float64)


def _is_defined(values: np.ndarray, expected: np.ndarray, name: str) -> bool:
    if values.size and np.isfinite(values).all() and np.isfinite(expected).all():
        return True
    why = "no voxel counts" if not values.size else "a value is not finite"
    warnings.warn(f"{name} is undefined: {why}", RuntimeWarning, stacklevel=3)
    return False
