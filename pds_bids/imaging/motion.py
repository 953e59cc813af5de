"""Rigid head motion of a series whose volumes look alike (BOLD), by batched Gauss-Newton."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.dwi_motion import estimate_dwi_motion
from pds_bids.imaging.gauss_newton import Target, align
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.realign import realigned_mean, realigned_timeseries, segment_means
from pds_bids.imaging.rigid import (
    POSE_DECIMALS,
    HeadMotion,
    grid_centre,
    matrices_to_parameters,
    parameters_to_matrices,
)
from pds_bids.imaging.sampler import Level
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

LEVELS = (
    Level(6.0, 2.0, step=0.8, n_points=4_000, n_iterations=12, gain_degree=1),
    Level(3.0, 1.2, step=0.8, n_points=12_000, n_iterations=8),
    Level(1.0, 0.65, step=0.75, n_points=30_000, n_iterations=8),
)
# Smoothed volumes held at once: a fine lattice has several times the voxels of a volume.
LATTICE_BYTES = 96 * 2**20


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
        ``(X, Y, Z)`` on the grid of the series. Its noise becomes an offset of all volumes: an average of
        several aligned volumes is better than one.
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
    targets = [Target.of_image(reference, mask, grid, level, device) for level in LEVELS]
    poses = _align(series, targets, device)
    return HeadMotion(np.round(poses, POSE_DECIMALS), grid_centre(grid))


def _align(series: Series, targets: list[Target], device: str) -> np.ndarray:
    """Return the poses of all volumes, ``(N, 4, 4)``, starting at rest or where the block before ended."""
    import torch

    poses = np.tile(np.eye(4), (series.shape[3], 1, 1))
    with torch.inference_mode():
        for index, block in volume_blocks(series):
            volumes = torch.as_tensor(np.ascontiguousarray(np.moveaxis(block, 3, 0)), device=device)
            before = poses[index[0] - 1] if index[0] > 0 else np.eye(4)
            size = max(1, LATTICE_BYTES // targets[-1].sampler.bytes_per_volume)
            for start in range(0, len(index), size):
                part = index[start : start + size]
                poses[part] = _align_block(volumes[start : start + size], targets, before)
    return poses


def _align_block(volumes: torch.Tensor, targets: list[Target], before: np.ndarray) -> np.ndarray:
    """Return the poses of some volumes, from coarse to fine."""
    poses = np.tile(np.eye(4), (len(volumes), 1, 1))
    # A coarse level may go astray (spoilt slices smear widely there): the finer ones may start over.
    start = np.broadcast_to(before, poses.shape)
    for target in targets:
        poses = align(target, target.sampler.smooth(volumes), poses, start)
    return poses
