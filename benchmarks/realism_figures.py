"""First-order figures of one mean image: contrast between tissues, noise, smoothness, shape of the brain."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from pds_bids.imaging.grid import Grid
from pds_bids.imaging.masks import eroded

__all__ = ["FIGURES", "SHAPES", "Look", "figures", "shapes"]

#: Figures of the intensities, then of the mask.
FIGURES = {
    "gm/wm": "median of grey matter / median of white matter",
    "csf/wm": "ventricles / white matter",
    "pallidum/wm": "pallidum / white matter",
    "snr": "white matter / noise from third-order differences",
    "fwhm in plane": "smoothness along the first two axes, mm",
    "fwhm across": "smoothness along the third axis, mm",
    "skew": "skewness in the brain",
    "spread": "standard deviation / mean in the brain",
    "shading": "standard deviation of the logarithm after smoothing by 15 mm",
}
SHAPES = {
    "volume ml": "volume of the mask",
    "length/width": "extent in y / extent in x",
    "height/width": "extent in z / extent in x",
    "box fill": "share of the bounding box that the mask fills",
    "base": "area of the lowest 10 mm of the mask / area of the largest slice",
}
_PURE, _MANY = 0.8, 20
_DETREND_MM, _SHADING_MM, _BASE_MM = 10.0, 15.0, 10.0


@dataclass(frozen=True, eq=False)
class Look:
    """One mean image and where its tissues should be.

    Parameters
    ----------
    name, kind : str
        Who; ``bold``, ``b0`` or ``dwi``.
    image, mask : ndarray
        ``(X, Y, Z)`` float32, any unit; bool.
    tissues : ndarray
        ``(4, X, Y, Z)``: template probabilities of grey matter, white matter, fluid and pallidum.
    grid : Grid
        Their lattice.
    """

    name: str
    kind: str
    image: np.ndarray
    mask: np.ndarray
    tissues: np.ndarray
    grid: Grid


def figures(look: Look) -> dict[str, float]:
    """Return `FIGURES` of an image; nan where a tissue is hardly there."""
    inner = eroded(look.mask, look.grid, 3.0)
    gm, wm, csf, pallidum = look.tissues
    white = ndimage.binary_erosion(wm > _PURE) & inner
    deep = eroded(look.mask, look.grid, 20.0)
    level = _median(look.image, white)
    values = look.image[look.mask] / look.image[look.mask].mean()
    low, high = np.percentile(values, (0.5, 99.5))
    clipped = np.clip(values, low, high)
    fwhm = _smoothness(look.image, inner, look.grid)
    return {
        "gm/wm": _median(look.image, (gm > _PURE) & inner) / level,
        "csf/wm": _median(look.image, (csf > _PURE) & deep) / level,
        "pallidum/wm": _median(look.image, (pallidum > _PURE) & inner) / level,
        "snr": level / _noise(look.image, inner),
        "fwhm in plane": float(np.sqrt(fwhm[0] * fwhm[1])),
        "fwhm across": fwhm[2],
        "skew": float(stats.skew(clipped)),
        "spread": float(clipped.std()),
        "shading": _shading(look.image, look.mask, look.grid),
    }


def shapes(look: Look) -> dict[str, float]:
    """Return `SHAPES` of the mask of an image."""
    points = look.grid.points()[look.mask]
    width, length, height = np.percentile(points, 99.8, axis=0) - np.percentile(points, 0.2, axis=0)
    voxel_ml = abs(np.linalg.det(look.grid.vox2ras[:3, :3])) / 1000
    volume = look.mask.sum() * voxel_ml
    per_slice = look.mask.sum((0, 1)).astype(float)
    rows = np.flatnonzero(per_slice)
    lowest = per_slice[rows[0] : rows[0] + max(1, round(_BASE_MM / look.grid.zooms[2]))]
    return {
        "volume ml": float(volume),
        "length/width": float(length / width),
        "height/width": float(height / width),
        "box fill": float(volume / (width * length * height / 1000)),
        "base": float(lowest.mean() / per_slice.max()),
    }


def _median(image: np.ndarray, where: np.ndarray) -> float:
    return float(np.median(image[where])) if where.sum() >= _MANY else np.nan


def _noise(image: np.ndarray, inner: np.ndarray) -> float:
    """Return the standard deviation of white noise with the same finest detail (Immerkaer 1996, in 3D)."""
    detail = image.astype(float)
    for axis in range(3):
        detail = ndimage.correlate1d(detail, [1, -2, 1], axis=axis)
    return float(1.4826 * np.median(np.abs(detail[inner])) / np.sqrt(6.0) ** 3)


def _smoothness(image: np.ndarray, inner: np.ndarray, grid: Grid) -> list[float]:
    """Return the full width at half maximum along each axis, from the variance of first differences.

    Forman et al. 1995, doi:10.1002/mrm.1910330508; what is broader than 10 mm is taken off before.
    """
    sigma = _DETREND_MM / np.array(grid.zooms)
    weight = ndimage.gaussian_filter(inner.astype(float), sigma)
    trend = ndimage.gaussian_filter(np.where(inner, image, 0.0), sigma) / np.maximum(weight, 1e-6)
    detail = np.where(inner, image - trend, 0.0)
    variance = detail[inner].var()
    widths = []
    for axis, zoom in enumerate(grid.zooms):
        both = inner & np.roll(inner, -1, axis)
        steps = (np.roll(detail, -1, axis) - detail)[both]
        ratio = np.clip(1 - steps.var() / (2 * variance), 1e-3, 1 - 1e-6)
        widths.append(float(zoom * np.sqrt(-2 * np.log(2) / np.log(ratio))))
    return widths


def _shading(image: np.ndarray, mask: np.ndarray, grid: Grid) -> float:
    sigma = _SHADING_MM / np.array(grid.zooms)
    weight = ndimage.gaussian_filter(mask.astype(float), sigma)
    smooth = ndimage.gaussian_filter(np.where(mask, image, 0.0), sigma) / np.maximum(weight, 1e-6)
    return float(np.log(np.maximum(smooth[mask], 1e-6)).std())
