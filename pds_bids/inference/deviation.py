"""Where a source differs from other people: tumours, strokes, artefacts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Norm", "largest_deviation", "norm_of"]

# Deviations of 1 cm are looked for; what is broader than the second is shading (sigma, voxels of 3 mm).
BLOB_VOXELS, BROAD_VOXELS = 1.8, 5.0
# Neighbours share their spread, which a dozen people tell badly; it is never much below the usual one.
SPREAD_VOXELS, LEAST_SPREAD = 1.5, 0.7
# Surfaces are left out (voxels): there brains differ by sulci, registration and masks.
SURFACE_VOXELS = 3
# The mean over this many voxels, 0.8 ml.
LARGEST = 30
# Intensities, of an image whose mean is 1, that a logarithm can stand.
DARKEST, BRIGHTEST = 0.15, 6.0
TO_SD = 1.4826


@dataclass(frozen=True, eq=False)
class Norm:
    """What one contrast looks like in people.

    Parameters
    ----------
    mean : ndarray
        ``(X, Y, Z)`` mean image, in-brain mean 1, both sides alike; 1 where nobody has a brain.
    spread : ndarray
        ``(X, Y, Z)``, how much more than elsewhere people differ from what tissues explain; 1 is usual.
    """

    mean: np.ndarray
    spread: np.ndarray


def norm_of(people: Sequence[np.ndarray], template: np.ndarray) -> Norm:
    """Learn what is usual where.

    Parameters
    ----------
    people : sequence of ndarray
        ``(X, Y, Z)`` images, in-brain mean 1, zero outside of the brain, in a window that is symmetric about
        the middle of the brain; each counts mirrored, too.
    template : ndarray
        ``(4, X, Y, Z)`` as of `describe_source`.

    Returns
    -------
    Norm
    """
    masks = [image > 0 for image in people]
    count = np.sum(masks, axis=0, dtype=np.float32)
    mean = np.where(count > 0, np.sum(people, axis=0) / np.maximum(count, 1), 1)
    mean = (mean + mean[::-1]) / 2
    squares, total = np.zeros((2, *mean.shape), np.float32)
    for image, mask in zip(people, masks, strict=True):
        square = _relative(image, mask, template, mean) ** 2 * mask
        squares += square + square[::-1]
        total += mask.astype(np.float32) + mask[::-1]
    known = (total > len(people) / 2).astype(np.float32)
    square = _smooth(squares / np.maximum(total, 1), known, SPREAD_VOXELS)
    return Norm(mean, np.maximum(np.sqrt(square), LEAST_SPREAD))


def largest_deviation(image: np.ndarray, mask: np.ndarray, template: np.ndarray, norm: Norm) -> float:
    """Return how much the oddest place differs, in robust standard deviations, given what is usual there.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``, in-brain mean 1.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain.
    template : ndarray
        ``(4, X, Y, Z)``.
    norm : Norm
        Of the contrast.

    Returns
    -------
    float
        Mean over the 0.8 ml that differ most, at least three voxels below the surface; 0 for a brain that has
        no such inside.
    """
    inside = ndimage.binary_erosion(mask, iterations=SURFACE_VOXELS)
    if inside.sum() < LARGEST:
        return 0.0
    values = np.abs(_relative(image, mask, template, norm.mean) / norm.spread)[inside]
    return float(np.partition(values, -LARGEST)[-LARGEST:].mean())


def _relative(image: np.ndarray, mask: np.ndarray, template: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return what tissues and the mean person leave of the logarithm, in robust standard deviations."""
    values, usual = (np.log(np.clip(array[mask], DARKEST, BRIGHTEST)) for array in (image, mean))
    design = np.stack([np.ones(values.size), *template[:, mask], usual], 1).astype(np.float64)
    rest = np.zeros(mask.shape, np.float32)
    rest[mask] = values - design @ np.linalg.lstsq(design, values.astype(np.float64), rcond=None)[0]
    weight = mask.astype(np.float32)
    blobs = _smooth(rest, weight, BLOB_VOXELS) - _smooth(rest, weight, BROAD_VOXELS)
    usual_size = float(np.median(np.abs(blobs[mask])))
    return blobs / (TO_SD * usual_size) if usual_size else np.zeros_like(blobs)


def _smooth(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Average over neighbours with a weight."""
    total = ndimage.gaussian_filter(weight, sigma, truncate=3)
    smoothed = ndimage.gaussian_filter(values * weight, sigma, truncate=3)
    return np.asarray(smoothed / np.maximum(total, 0.2))
