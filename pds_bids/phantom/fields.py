"""Smooth random fields: cubic B-splines through random control values."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["random_displacement", "random_field", "random_field_on"]


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
    control, bases = _draw(rng, shape, zooms_mm, spacing_mm, count)
    return _expand(control, *bases)


def random_field_on(
    device: "torch.device",
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    zooms_mm: tuple[float, float, float],
    spacing_mm: float,
    count: int = 1,
) -> "torch.Tensor":
    """Draw what `random_field` draws, and expand it on a device.

    The control values come from the generator on the CPU, so that the same seed gives the same field on every
    device, up to rounding.

    Parameters
    ----------
    device : torch.device
        Where the result lies.
    rng, shape, zooms_mm, spacing_mm, count
        As `random_field`.

    Returns
    -------
    Tensor
        ``(count, X, Y, Z)`` float32.
    """
    import torch

    control, bases = _draw(rng, shape, zooms_mm, spacing_mm, count)
    moved = [torch.from_numpy(array).to(device, non_blocking=True) for array in (control, *bases)]
    field: torch.Tensor = _expand(*moved)
    return field


def _draw(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    zooms_mm: tuple[float, float, float],
    spacing_mm: float,
    count: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return control values ``(count, CX, CY, CZ)`` and the three bases."""
    bases = [_basis(n, float(zoom), float(spacing_mm)) for n, zoom in zip(shape, zooms_mm, strict=True)]
    control = rng.standard_normal((count, *(basis.shape[1] for basis in bases)), dtype=np.float32)
    return control, bases


def _expand(control, x, y, z):  # type: ignore[no-untyped-def]  # arrays or tensors alike
    """Evaluate the splines at every voxel, ``(count, X, Y, Z)``."""
    count = len(control)
    planes = y @ (control @ z.T)
    return (x @ planes.reshape(count, x.shape[1], -1)).reshape(count, len(x), len(y), len(z))


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
