"""Smoothed volumes that are read at moving points: what Gauss-Newton on a lattice needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import make_interp_spline

from pds_bids.imaging.grid import Grid

if TYPE_CHECKING:
    import torch

__all__ = ["Level", "Sampler"]


@dataclass(frozen=True)
class Level:
    """One step from coarse to fine.

    Parameters
    ----------
    sigma_mm, sigma_voxels : float
        Standard deviation of the smoothing: as many mm, and at least so many voxels.
    step : float
        Spacing of the lattice of the smoothed image in standard deviations. Below 1 voxel it is read from a
        cubic spline, which leaves little to the linear interpolation that follows.
    n_points : int
        Most points used.
    n_iterations : int
        Most Gauss-Newton steps.
    gain_degree : int
        Degree of the polynomial in space by which a volume is brighter than its reference.
    """

    sigma_mm: float
    sigma_voxels: float
    step: float
    n_points: int
    n_iterations: int
    gain_degree: int = 2


class Sampler:
    """Smooths volumes onto the lattice of a level and reads them at points.

    Parameters
    ----------
    grid : Grid
        Of the volumes.
    level : Level
        Smoothing and spacing.
    device : str
        Where torch computes.
    """

    def __init__(self, grid: Grid, level: Level, device: str) -> None:
        import torch

        zooms = np.asarray(grid.zooms)
        sigma = np.maximum(level.sigma_mm, level.sigma_voxels * zooms) / zooms
        steps = level.step * sigma
        steps = np.where(steps >= 1, np.floor(steps), steps)
        matrices = [_smoother(*axis) for axis in zip(grid.shape, sigma, steps, strict=True)]
        self._smoothers = [torch.as_tensor(matrix, device=device) for matrix in matrices]
        x, y, z = (len(matrix) for matrix in matrices)
        self.lattice = Grid((x, y, z), grid.vox2ras @ np.diag([*steps, 1.0]))
        self.steps = steps
        self.margin = np.ceil(sigma / steps).astype(int)
        # grid_sample wants the last axis first and -1..1 between the centres of the outermost voxels.
        scale = 2 / np.maximum(np.asarray(self.lattice.shape)[::-1] - 1, 1)
        index2unit = np.zeros((3, 4))
        index2unit[[0, 1, 2], [2, 1, 0]], index2unit[:, 3] = scale, -1
        self._ras2unit = index2unit @ self.lattice.ras2vox
        self.device = device
        self.level = level
        self.bytes_per_volume = 4 * x * y * z

    def smooth(self, volumes: torch.Tensor) -> torch.Tensor:
        """Smooth ``(B, X, Y, Z)`` volumes onto the lattice."""
        x, y, z = self._smoothers
        rows = y @ (volumes @ z.T)
        return (x @ rows.flatten(2)).unflatten(2, rows.shape[2:])

    def read(
        self, images: torch.Tensor, points: torch.Tensor, poses: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return smoothed images at the moved points, ``(B, P)``, and 1 where these are in view, else 0.

        Parameters
        ----------
        images : Tensor
            ``(B, ...)`` from `smooth`.
        points : Tensor
            ``(P, 4)`` homogeneous RAS+ mm in the reference.
        poses : ndarray
            ``(B, 4, 4)`` point maps.
        """
        import torch

        maps = torch.as_tensor(self._ras2unit @ poses, dtype=torch.float32, device=self.device)
        unit = points @ maps.transpose(1, 2)
        values = torch.nn.functional.grid_sample(
            images[:, None], unit[:, None, None], mode="bilinear", padding_mode="border", align_corners=True
        )
        return values[:, 0, 0, 0], (unit.abs().amax(2) <= 1).to(values.dtype)


def _smoother(length: int, sigma: float, step: float) -> np.ndarray:
    """Return the matrix that smooths along an axis (SD in voxels) and reads each `step` voxels, float32."""
    places = step * np.arange(int(np.floor((length - 1) / step + 1e-9)) + 1)
    is_fine = step < 1 and length > 3
    distance = np.arange(length) - (np.arange(length) if is_fine else places)[:, None]
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel[np.abs(distance) > 4 * sigma] = 0
    kernel /= kernel.sum(1, keepdims=True)
    if is_fine:
        kernel = make_interp_spline(np.arange(length), np.eye(length), k=3)(places) @ kernel
    return kernel.astype(np.float32)
