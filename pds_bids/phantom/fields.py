"""Smooth random fields: cubic B-splines through random control values."""

from functools import lru_cache

import numpy as np

__all__ = ["random_displacement", "random_field"]


@lru_cache(maxsize=64)
def _basis(n: int, zoom_mm: float, spacing_mm: float) -> np.ndarray:
    """Return the ``(n, controls)`` cubic B-spline weights, each row scaled to unit variance."""
    position = np.arange(n) * zoom_mm / spacing_mm
    n_controls = int(np.floor(position[-1])) + 4
    distance = np.abs(position[:, None] + 1 - np.arange(n_controls))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)


def random_field(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    zooms_mm: tuple[float, float, float],
    spacing_mm: float,
    count: int = 1,
) -> np.ndarray:
    """Draw smooth Gaussian fields of mean 0 and variance 1 at every voxel.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    shape : tuple of int
        ``(X, Y, Z)``.
    zooms_mm : tuple of float
        Voxel sizes.
    spacing_mm : float
        Distance of the control points; the field is correlated over about 1.5 times as much.
    count : int
        Number of independent fields.

    Returns
    -------
    ndarray
        ``(count, X, Y, Z)`` float32.
    """
    x, y, z = (_basis(n, float(zoom), float(spacing_mm)) for n, zoom in zip(shape, zooms_mm, strict=True))
    control = rng.standard_normal((count, x.shape[1], y.shape[1], z.shape[1]), dtype=np.float32)
    rows = control @ z.T
    planes = np.matmul(y, rows)
    volume = x @ planes.reshape(count, x.shape[1], -1)
    return volume.reshape(count, *shape)


def random_displacement(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    zooms_mm: tuple[float, float, float],
    *,
    sd_mm: float,
    spacing_mm: float,
) -> np.ndarray:
    """Draw a smooth displacement of `sd_mm` per axis, ``(X, Y, Z, 3)`` float32 in mm."""
    field = random_field(rng, shape, zooms_mm, spacing_mm, 3)
    return np.moveaxis(np.float32(sd_mm) * field, 0, -1)
