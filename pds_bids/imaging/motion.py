"""Rigid head motion of a series whose volumes look alike, by batched Gauss-Newton.

Inverse compositional: gradients belong to the smoothed reference and are computed once, so that one step for
a whole block of volumes is one interpolation and two matrix products. Each volume has its own gain and
offset, and Tukey weights discount voxels that changed for other reasons than motion.

References
----------
Baker and Matthews 2004, 10.1023/B:VISI.0000011205.11775.fd (inverse compositional alignment).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.dwi_motion import estimate_dwi_motion
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.realign import realigned_mean, realigned_timeseries, segment_means
from pds_bids.imaging.rigid import (
    POSE_DECIMALS,
    HeadMotion,
    grid_centre,
    matrices_to_parameters,
    parameters_to_matrices,
)
from pds_bids.imaging.series import Series, volume_blocks

if TYPE_CHECKING:
    import torch

__all__ = [
    "HeadMotion",
    "estimate_dwi_motion",
    "estimate_motion",
    "matrices_to_parameters",
    "parameters_to_matrices",
    "realigned_mean",
    "realigned_timeseries",
    "segment_means",
]

# Pose (6), gain and offset. A gain that varies along the axes was tried and did not lower the error.
N_UNKNOWNS = 8
# Rotations enter the equations as arcs at this radius, which makes all six unknowns of a like size (mm).
ARC_MM = 50.0
# Below this step of the fastest-moving volume of a block, iterations stop.
TOLERANCE_MM = 2e-3
# A step longer than this comes from a linearisation that does not hold.
LONGEST_STEP_MM = 6.0
# Tukey's constant in robust standard deviations; 4.685 is 95% efficient for Gaussian residuals.
TUKEY = 4.685
# A pose is given up for another that fits better by this factor; less is noise of the median.
CLEARLY = 1.05


@dataclass(frozen=True)
class _Level:
    """Smoothing (SD, mm and at least so many voxels), most points used, most iterations."""

    sigma_mm: float
    sigma_voxels: float
    n_points: int
    n_iterations: int


LEVELS = (
    _Level(6.0, 2.0, 4_000, 12),
    _Level(3.0, 1.2, 12_000, 8),
    _Level(2.0, 0.8, 40_000, 8),
)


def estimate_motion(
    series: Series,
    vox2ras: np.ndarray,
    reference: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    device: str = "cpu",
) -> HeadMotion:
    """Estimate the rigid motion of each volume.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)`` volumes of like contrast (BOLD), in any storage order.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    reference : ndarray
        ``(X, Y, Z)`` on the grid of the series.
    mask : ndarray, optional
        ``(X, Y, Z)`` bool, where to look; by default wherever the smoothed reference is bright.
    device : str
        Where torch computes.

    Returns
    -------
    HeadMotion

    Raises
    ------
    GeometryError
        If reference or mask are not on the grid of the series.
    DataError
        If the reference has too little structure to align to.
    """
    grid = Grid((series.shape[0], series.shape[1], series.shape[2]), vox2ras)
    for name, image in (("reference", reference), ("mask", mask)):
        if image is not None and image.shape != grid.shape:
            raise GeometryError(f"{name} {image.shape} != volumes {grid.shape}: give it on the same grid")
    targets = [_Target(reference, mask, grid, level, device) for level in LEVELS]
    poses = _align(series, targets, device)
    return HeadMotion(np.round(poses, POSE_DECIMALS), grid_centre(grid))


class _Target:
    """The reference at one level: smoothing, points, and the matrices of the normal equations.

    ``design``, ``(P, 8)``: six derivatives by the pose, the reference itself, and 1. ``products``,
    ``(P, 64)``: their products by pairs, so that the normal equations of a block are one matrix product.
    """

    def __init__(
        self, reference: np.ndarray, mask: np.ndarray | None, grid: Grid, level: _Level, device: str
    ) -> None:
        import torch

        self.level = level
        zooms = np.asarray(grid.zooms)
        sigma = np.maximum(level.sigma_mm, level.sigma_voxels * zooms) / zooms
        # A lattice of nearly one SD keeps what the smoothing leaves.
        steps = np.maximum(1, np.floor(0.8 * sigma)).astype(int)
        smoothers = [_smoother(*axis) for axis in zip(grid.shape, sigma, steps, strict=True)]
        self._smoothers = [torch.as_tensor(smoother, device=device) for smoother in smoothers]
        # Views that run backwards, as reorientation makes them, are not for torch.
        image = np.ascontiguousarray(reference, dtype=np.float32)
        smooth = self.smooth(torch.as_tensor(image[None], device=device))
        x, y, z = smooth.shape[1:]
        lattice = Grid((x, y, z), grid.vox2ras @ np.diag([*steps, 1.0]))
        self.centre = grid_centre(grid)
        values = smooth[0].cpu().numpy().astype(np.float64)
        inside = None if mask is None else np.asarray(mask)[:: steps[0], :: steps[1], :: steps[2]]
        index = _choose(values, inside, np.ceil(sigma / steps).astype(int), level.n_points)
        points = apply_affine(lattice.vox2ras, np.stack(index, 1).astype(float))
        design = _design(values, lattice, index, points - self.centre)
        self.products = self._tensor(
            (design[:, :, None] * design[:, None, :]).reshape(-1, N_UNKNOWNS**2), smooth
        )
        self.design = self._tensor(design, smooth)
        self._points = self._tensor(np.column_stack([points, np.ones(len(points))]), smooth)
        # grid_sample wants the last axis first and -1..1 between the centres of the outermost voxels.
        scale = 2 / (np.asarray(lattice.shape)[::-1] - 1)
        index2unit = np.zeros((3, 4))
        index2unit[[0, 1, 2], [2, 1, 0]], index2unit[:, 3] = scale, -1
        self._ras2unit = index2unit @ lattice.ras2vox

    @staticmethod
    def _tensor(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.as_tensor(values, dtype=torch.float32, device=like.device)

    def smooth(self, volumes: torch.Tensor) -> torch.Tensor:
        """Smooth and thin out ``(B, X, Y, Z)`` volumes."""
        x, y, z = self._smoothers
        thin = y @ (volumes @ z.T)
        return (x @ thin.flatten(2)).unflatten(2, thin.shape[2:])

    def sample(self, images: torch.Tensor, poses: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images at the moved points, ``(B, P)``, and 1 where these are in view, else 0."""
        import torch

        maps = self._tensor(self._ras2unit @ poses, images)
        unit = self._points @ maps.transpose(1, 2)
        values = torch.nn.functional.grid_sample(
            images[:, None], unit[:, None, None], mode="bilinear", padding_mode="border", align_corners=True
        )
        return values[:, 0, 0, 0], (unit.abs().amax(2) <= 1).to(values.dtype)

    def misfit(self, images: torch.Tensor, poses: np.ndarray) -> np.ndarray:
        """Return the median absolute residual of each image in its pose over its gain, ``(B,)``."""
        import torch

        values, inside = self.sample(images, poses)
        gain = _robust_gain(self, values, inside)
        residual = (values - gain @ self.design[:, 6:].T).abs()
        residual = torch.where(inside > 0, residual, torch.nan).nanmedian(1).values
        # A volume that anticorrelates, or is out of view, fits worst.
        misfit = residual / gain[:, 0].clamp_min(1e-6)
        return np.nan_to_num(misfit.cpu().numpy().astype(np.float64), nan=np.inf)


def _align(series: Series, targets: list[_Target], device: str) -> np.ndarray:
    """Return the poses of all volumes, ``(N, 4, 4)``, starting at rest or where the block before ended."""
    import torch

    poses = np.tile(np.eye(4), (series.shape[3], 1, 1))
    with torch.inference_mode():
        for index, block in volume_blocks(series):
            volumes = torch.as_tensor(np.ascontiguousarray(np.moveaxis(block, 3, 0)), device=device)
            pose = rest = poses[index]
            for target in targets:
                images = target.smooth(volumes)
                if target is targets[0] and index[0] > 0:
                    before = np.broadcast_to(poses[index[0] - 1], rest.shape)
                    pose = rest = _better(target, images, rest, before)
                # A coarse level may go astray (spoilt slices smear widely there): not for the finer ones.
                pose = _better(target, images, pose, rest)
                pose = _better(target, images, _descend(target, images, pose), pose)
            poses[index] = pose
    return poses


def _better(target: _Target, images: torch.Tensor, pose: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return, for each volume, `pose` unless `other` clearly fits the reference better."""
    wins = target.misfit(images, pose) <= CLEARLY * target.misfit(images, other)
    return np.where(wins[:, None, None], pose, other)


def _descend(target: _Target, images: torch.Tensor, poses: np.ndarray) -> np.ndarray:
    """Take Gauss-Newton steps from `poses` until they are short."""
    gain = _robust_gain(target, *target.sample(images, poses))
    for _ in range(target.level.n_iterations):
        values, weights = target.sample(images, poses)
        weights = weights * _tukey(values - gain @ target.design[:, 6:].T)
        normal = (weights @ target.products).unflatten(1, (N_UNKNOWNS, N_UNKNOWNS)).double()
        right = ((weights * values) @ target.design).double()
        solved = _solve(normal, right)
        gain = solved[:, 6:].to(values.dtype)
        # I(M p) = a Ref(dM p) + b: the first six unknowns are the step times the gain a.
        step = (solved[:, :6] / solved[:, 6:7].clamp_min(1e-6)).cpu().numpy()
        length = np.sqrt((step**2).sum(1))
        step *= np.minimum(1, LONGEST_STEP_MM / np.maximum(length, 1e-12))[:, None]
        poses = poses @ np.linalg.inv(_small_motion(step, target.centre))
        if length.max() < TOLERANCE_MM:
            break
    return poses


def _robust_gain(target: _Target, values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return gain and offset, ``(B, 2)``, by reweighting, so that spoilt slices do not decide."""
    weights = inside
    for _ in range(4):
        normal = (weights @ target.products).unflatten(1, (N_UNKNOWNS, N_UNKNOWNS))[:, 6:, 6:].double()
        right = ((weights * values) @ target.design[:, 6:]).double()
        gain = _solve(normal, right).to(values.dtype)
        weights = inside * _tukey(values - gain @ target.design[:, 6:].T)
    return gain


def _solve(normal: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve the ``(B, n, n)`` equations; a volume with no voxel in view gets a step of nearly zero."""
    import torch

    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-6)
    damped = normal + ridge[:, None, None] * torch.eye(
        normal.shape[1], dtype=normal.dtype, device=normal.device
    )
    return torch.linalg.solve(damped, right)


def _tukey(residual: torch.Tensor) -> torch.Tensor:
    """Return biweights from ``(B, P)`` residuals, each row in units of its own robust SD."""
    scale = 1.4826 * residual[:, ::4].abs().median(1, keepdim=True).values
    return (1 - (residual / (TUKEY * scale).clamp_min(1e-12)).square()).clamp_min(0).square()


def _small_motion(step: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the rigid matrices of steps (mm, and mm on the arc) about `centre`."""
    motion = np.tile(np.eye(4), (len(step), 1, 1))
    motion[:, :3, :3] = Rotation.from_rotvec(step[:, 3:] / ARC_MM).as_matrix()
    motion[:, :3, 3] = centre - motion[:, :3, :3] @ centre + step[:, :3]
    return motion


def _smoother(length: int, sigma: float, step: int) -> np.ndarray:
    """Return the matrix that smooths along an axis (SD in voxels) and keeps each `step`-th voxel, float32."""
    distance = np.arange(length) - np.arange(0, length, step)[:, None]
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel[np.abs(distance) > 4 * sigma] = 0
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


def _choose(
    values: np.ndarray, inside: np.ndarray | None, margin: np.ndarray, n_points: int
) -> tuple[np.ndarray, ...]:
    """Return the lattice indices of at most `n_points` points with structure, away from the border."""
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(values)))
    if inside is None:
        inside = values > 0.2 * np.percentile(values, 98)
    chosen = np.zeros(values.shape, dtype=bool)
    core = tuple(slice(int(m), n - int(m)) for m, n in zip(margin, values.shape, strict=True))
    chosen[core] = inside[core]
    if chosen.any():
        chosen &= slope > 0.1 * np.percentile(slope[chosen], 98)
    index = np.nonzero(chosen)
    if index[0].size < 100:
        raise DataError(
            f"only {index[0].size} of {values.size} voxels of the reference have structure to align to: "
            "check that it shows a head and that the mask covers it"
        )
    if index[0].size > n_points:
        # Pseudo-random thinning: a regular one would beat against the rows of the lattice.
        keep = np.sort(np.random.default_rng(0).choice(index[0].size, n_points, replace=False))
        index = tuple(axis[keep] for axis in index)
    return index


def _design(values: np.ndarray, lattice: Grid, index: tuple[np.ndarray, ...], arm: np.ndarray) -> np.ndarray:
    """Return the ``(P, 8)`` design of `_Target`, with the reference standardised."""
    gradient = np.stack([g[index] for g in np.gradient(values)], 1) @ lattice.ras2vox[:3, :3]
    here = values[index]
    design = np.column_stack([gradient, np.cross(arm, gradient) / ARC_MM, here - here.mean()])
    return np.column_stack([design / here.std(), np.ones(len(arm))])
