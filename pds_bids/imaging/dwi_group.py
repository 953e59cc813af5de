"""Volumes of one b-value, aligned by Gauss-Newton to what they predict of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from pds_bids.imaging.dwi import rotate_bvecs
from pds_bids.imaging.dwi_model import leave_one_out_weights, mean_of_others, predict_others
from pds_bids.imaging.eddy import along_phase_encoding, split_affines
from pds_bids.imaging.gauss_newton import Target, align, choose_points
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.realign import realigned_mean
from pds_bids.imaging.rigid import grid_centre
from pds_bids.imaging.sampler import Level, Sampler
from pds_bids.imaging.series import Series, volume_blocks

if TYPE_CHECKING:
    import torch

__all__ = ["FINE_PASSES", "SHEAR_PASSES", "SLOPPY_PASSES", "VolumeGroup"]

COARSE = Level(6.0, 2.0, step=0.8, n_points=4_000, n_iterations=10, gain_degree=1)
MIDDLE = Level(3.0, 1.2, step=0.8, n_points=12_000, n_iterations=6, gain_degree=1)
FINE = Level(1.0, 0.8, step=0.8, n_points=30_000, n_iterations=5, gain_degree=1)
# The level of each pass, and whether directions count: a model of volumes that lie apart learns their
# displacement. Predictions change with the poses, so the finest is passed twice.
FINE_PASSES = ((COARSE, False), (MIDDLE, False), (MIDDLE, True), (FINE, True), (FINE, True))
SLOPPY_PASSES = FINE_PASSES[:3]
# For the shear and scale of eddy currents, from where the sloppy passes end.
SHEAR_PASSES = ((MIDDLE, True), (FINE, True))
# Share of a pull below which the system of all pulls is not trusted.
RIDGE = 0.05
# Volumes behind the choice of points.
N_LOOKED_AT = 8
# Smoothed volumes held at once.
LATTICE_BYTES = 96 * 2**20


class VolumeGroup:
    """Volumes of one b-value, which predict each other."""

    def __init__(
        self,
        series: Series,
        grid: Grid,
        bvecs: np.ndarray,
        volumes: Sequence[int],
        mask: np.ndarray | None,
        device: str,
    ) -> None:
        self._series, self._grid, self._mask, self._device = series, grid, mask, device
        self._volumes = np.asarray(volumes)
        self._bvecs = bvecs[self._volumes]

    def align(
        self,
        poses: np.ndarray,
        passes: Sequence[tuple[Level, bool]],
        *,
        sheared: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the poses of the group in a position of its own.

        Parameters
        ----------
        poses : ndarray
            ``(n, 4, 4)`` where to start.
        passes : sequence of (Level, bool)
            Smoothing of each pass, and whether its predictions know directions.
        sheared : ndarray, optional
            ``(3,)`` unit vector along which volumes may also be sheared and scaled.

        Returns
        -------
        ndarray
            ``(n, 4, 4)`` rigid; with `sheared`, rigid and after that as `along_phase_encoding`.
        """
        import torch

        if len(self._volumes) < 2:
            return poses
        with torch.inference_mode():
            level = None
            for coming, is_modelled in passes:
                if coming is not level:
                    level, sampler = coming, Sampler(self._grid, coming, self._device)
                    points = self._points(sampler, level, poses)
                poses = self._pass(sampler, points, poses, is_modelled=is_modelled, sheared=sheared)
        return poses

    def _pass(
        self,
        sampler: Sampler,
        points: np.ndarray,
        poses: np.ndarray,
        *,
        is_modelled: bool,
        sheared: np.ndarray | None,
    ) -> np.ndarray:
        """Predict all volumes from where they are now, and align each to its prediction."""
        values, slopes = self._read(sampler, points, poses)
        weights = mean_of_others(len(poses))
        if is_modelled:
            weights = leave_one_out_weights(rotate_bvecs(self._bvecs, poses), values[:, ::4])
        values, slopes = predict_others(weights, values, slopes)
        moved = poses.copy()
        for part, images in self._smoothed(sampler):
            target = Target(
                sampler,
                sampler.level,
                points,
                values[part].astype(float),
                slopes[part],
                grid_centre(self._grid),
                sheared=sheared,
            )
            moved[part] = align(target, images, poses[part])
        if sheared is None:
            return _reconcile(weights, poses, moved)
        return _reconcile_sheared(weights, poses, moved, sheared, grid_centre(self._grid))

    def _points(self, sampler: Sampler, level: Level, poses: np.ndarray) -> np.ndarray:
        """Return points of the head with structure in the mean of some volumes, ``(P, 3)`` mm."""
        import torch

        some = self._volumes[np.unique(np.linspace(0, len(poses) - 1, N_LOOKED_AT).round().astype(int))]
        all_poses = np.tile(np.eye(4), (self._series.shape[3], 1, 1))
        all_poses[self._volumes] = poses
        mean = realigned_mean(self._series, self._grid.vox2ras, all_poses, some.tolist(), order=1)
        values = sampler.smooth(torch.as_tensor(np.ascontiguousarray(mean[None]), device=self._device))
        index = choose_points(values[0].cpu().numpy().astype(float), self._mask, sampler, level.n_points)
        return apply_affine(sampler.lattice.vox2ras, np.stack(index, 1).astype(float))

    def _read(self, sampler: Sampler, points: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the volumes in their poses at the points, ``(n, P)``, and their gradients, ``(n, P, 3)``."""
        import torch

        values = np.empty((len(poses), len(points)), np.float32)
        slopes = np.empty((len(poses), len(points), 3), np.float32)
        reach_mm = float(min(sampler.lattice.zooms))
        ahead, behind = (
            [self._homogeneous(points + sign * reach_mm * axis) for axis in np.eye(3)] for sign in (1, -1)
        )
        here = self._homogeneous(points)
        for part, images in self._smoothed(sampler):
            values[part] = sampler.read(images, here, poses[part])[0].cpu().numpy()
            rises = [
                sampler.read(images, a, poses[part])[0] - sampler.read(images, b, poses[part])[0]
                for a, b in zip(ahead, behind, strict=True)
            ]
            slopes[part] = (torch.stack(rises, 2) / (2 * reach_mm)).cpu().numpy()
        return values, slopes

    def _smoothed(self, sampler: Sampler) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the smoothed volumes of the group in small blocks, and which they are."""
        import torch

        size = max(1, LATTICE_BYTES // sampler.bytes_per_volume)
        done = 0
        for index, block in volume_blocks(self._series, self._volumes.tolist()):
            for start in range(0, len(index), size):
                some = np.ascontiguousarray(np.moveaxis(block[..., start : start + size], 3, 0))
                yield (
                    slice(done, done + len(some)),
                    sampler.smooth(torch.as_tensor(some, device=self._device)),
                )
                done += len(some)

    def _homogeneous(self, points: np.ndarray) -> torch.Tensor:
        import torch

        columns = np.column_stack([points, np.ones(len(points))])
        return torch.as_tensor(columns, dtype=torch.float32, device=self._device)


def _reconcile(weights: np.ndarray, poses: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return poses ``(n, 4, 4)`` in which all volumes agree, from where each one's prediction pulled it.

    A volume whose error is ``x_k`` is pulled by ``d_k = sum_j w_kj x_j - x_k``: its prediction inherits the
    errors of the others. Small motions add, so all errors follow from all pulls by one linear system. What it
    hardly determines, such as a displacement common to all, is left as it is by the ridge.
    """
    way = np.linalg.inv(poses) @ moved
    pulls = np.concatenate([Rotation.from_matrix(way[:, :3, :3]).as_rotvec(), way[:, :3, 3]], axis=1)
    error = _errors(weights, pulls)
    step = np.tile(np.eye(4), (len(way), 1, 1))
    step[:, :3, :3] = Rotation.from_rotvec(-error[:, :3]).as_matrix()
    step[:, :3, 3] = -error[:, 3:]
    return poses @ step


def _reconcile_sheared(
    weights: np.ndarray, poses: np.ndarray, moved: np.ndarray, sheared: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Do the same where volumes are sheared, and take from the result what is of that form."""
    way = np.linalg.inv(poses) @ moved - np.eye(4)
    step = np.tile(np.eye(4), (len(way), 1, 1))
    step[:, :3] -= _errors(weights, way[:, :3].reshape(len(way), -1)).reshape(len(way), 3, 4)
    rigid, slopes = split_affines(poses @ step, sheared, centre)
    return along_phase_encoding(np.insert(slopes, 0, 0, axis=1), sheared, centre) @ rigid


def _errors(weights: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    """Solve for the errors ``(n, U)`` that explain the pulls ``(n, U)``."""
    system = np.eye(len(weights)) - weights
    return -np.linalg.solve(system.T @ system + RIDGE**2 * np.eye(len(weights)), system.T @ pulls)
