"""Rigid head motion of a diffusion series, from coarse to fine.

Weighted volumes are first compared with a prediction from the other volumes of their shell, whose contrast is
theirs, by the Gauss-Newton of BOLD; then, at full resolution, with the robust mean of the shell by mutual
information, which minds the change of contrast with direction least. Each shell is then brought to the b0s
once, by averages with little noise, in two ways of which one checks the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.cross_contrast import inner_brain, refine_across
from pds_bids.imaging.dwi import GradientTable, rotate_bvecs
from pds_bids.imaging.dwi_model import leave_one_out_weights, mean_of_others, predict_others
from pds_bids.imaging.gauss_newton import Level, Sampler, Target, align, choose_points
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.mutual_information import MutualInformation, Schedule
from pds_bids.imaging.realign import realigned_mean, segment_means
from pds_bids.imaging.rigid import POSE_DECIMALS, HeadMotion, grid_centre
from pds_bids.imaging.series import Series, volume_blocks

if TYPE_CHECKING:
    import torch

__all__ = ["estimate_dwi_motion"]

_LOGGER = logging.getLogger("pds_bids.imaging")

COARSE = Level(6.0, 2.0, step=0.8, n_points=4_000, n_iterations=10, gain_degree=1)
MIDDLE = Level(3.0, 1.2, step=0.8, n_points=12_000, n_iterations=6, gain_degree=1)
FINE = Level(1.0, 0.8, step=0.8, n_points=30_000, n_iterations=5, gain_degree=1)
# The level of each pass, and whether directions count: a model of volumes that lie apart learns their
# displacement. Predictions change with the poses, so the finest is passed twice.
PASSES = ((COARSE, False), (MIDDLE, False), (MIDDLE, True), (FINE, True), (FINE, True))
SLOPPY_PASSES = PASSES[:3]
# Share of a pull below which the system of all pulls is not trusted.
RIDGE = 0.05
# Volumes behind the choice of points.
N_LOOKED_AT = 8
# Smoothed volumes held at once.
LATTICE_BYTES = 96 * 2**20

# Mutual information with the mean of a shell needs a mean that a volume itself does not make up.
FEWEST_FOR_MEAN = 5
# Parts of a shell whose means are compared voxel by voxel, and the share of them left out at either end.
N_PARTS, TRIMMED = 15, 0.25

WITHIN = Schedule((0.0,), (1.5,), 25_000, 60)
ROUGH = Schedule((8.0, 4.0), (4.0, 2.0), 15_000, 60)
ACROSS = Schedule((0.0,), (1.5,), 60_000, 60)
# Strong contrast and few directions leave the start of a volume wrong by 2 mm; this far is astray.
ASTRAY_MM = 5.0
# A regression this far from mutual information, whose own errors are within 0.7 mm, went astray.
TRUST_MM = 1.5
# Mutual information and regression were at most this far apart where the regression was right.
DISAGREE_MM = 1.0
# Share of the points inside the brain that the regression discards. At most 1% on simulated heads, 3% on a
# real series, 6% and more where intensities were no function of each other and the result was 0.3 mm off.
MOST_DISCARDED = 0.05


def estimate_dwi_motion(
    series: Series,
    vox2ras: np.ndarray,
    table: GradientTable,
    *,
    is_sloppy: bool = False,
    seed: int = 1,
    device: str = "cpu",
) -> HeadMotion:
    """Estimate the rigid motion of each volume, in the position of the first b0.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    table : GradientTable
        b0s and shells of the series; its directions are along the RAS+ axes of the scanner.
    is_sloppy : bool
        Leave out the finest level, for a quick look.
    seed : int
        For the voxels that mutual information samples. Same seed, same result.
    device : str
        Where torch computes.

    Returns
    -------
    HeadMotion

    Raises
    ------
    GeometryError
        If the table is not of the length of the series.
    DataError
        If the volumes have too little structure to align to.
    """
    if series.shape[3] != len(table.bvals):
        raise GeometryError(
            f"{series.shape[3]} volumes != {len(table.bvals)} b-values: give the table of the series"
        )
    grid = Grid((series.shape[0], series.shape[1], series.shape[2]), vox2ras)
    passes = SLOPPY_PASSES if is_sloppy else PASSES
    poses = np.tile(np.eye(4), (series.shape[3], 1, 1))
    b0s = np.asarray(table.b0_volumes)
    group = _Group(series, grid, table.bvecs, table.b0_volumes, None, device)
    poses[b0s] = group.align(poses[b0s], passes)
    poses[b0s] = poses[b0s] @ np.linalg.inv(poses[b0s[0]])
    b0_mean = realigned_mean(series, vox2ras, poses, table.b0_volumes)
    if not np.ptp(b0_mean) > 0:
        raise DataError(
            f"b0 has no structure: the mean of volumes {list(table.b0_volumes)} is {b0_mean.flat[0]:g} "
            "everywhere; check the conversion, and that the b-values belong to this series"
        )
    head = ndimage.gaussian_filter(b0_mean, 2.0 / np.asarray(grid.zooms))
    head = ndimage.binary_dilation(head > 0.2 * np.percentile(head, 98), iterations=2)
    inner = inner_brain(b0_mean, grid)
    b02shell = np.eye(4)
    for shell in table.shells:
        volumes = np.asarray(shell.volumes)
        # The b0 nearest in time knows best where the head was.
        nearest = b0s[np.abs(b0s[None] - volumes[:, None]).argmin(1)]
        group = _Group(series, grid, table.bvecs, shell.volumes, head, device)
        by_mean = len(volumes) >= FEWEST_FOR_MEAN
        poses[volumes] = group.align(poses[nearest], SLOPPY_PASSES if by_mean else passes)
        if by_mean and not is_sloppy:
            poses[volumes] = _to_mean(series, grid, poses, shell.volumes, seed)
        mean = _robust_mean(series, grid, poses, shell.volumes)
        b02shell = _across(b0_mean, mean, grid, inner, b02shell, seed)
        poses[volumes] = poses[volumes] @ b02shell
    return HeadMotion(np.round(poses, POSE_DECIMALS), grid_centre(grid))


class _Group:
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

    def align(self, poses: np.ndarray, passes: Sequence[tuple[Level, bool]]) -> np.ndarray:
        """Return the ``(n, 4, 4)`` poses of the group, found from `poses`, in a position of its own."""
        import torch

        if len(self._volumes) < 2:
            return poses
        with torch.inference_mode():
            level = None
            for coming, is_modelled in passes:
                if coming is not level:
                    level, sampler = coming, Sampler(self._grid, coming, self._device)
                    points = self._points(sampler, level, poses)
                poses = self._pass(sampler, level, points, poses, is_modelled=is_modelled)
        return poses

    def _pass(
        self, sampler: Sampler, level: Level, points: np.ndarray, poses: np.ndarray, *, is_modelled: bool
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
                sampler, level, points, values[part].astype(float), slopes[part], grid_centre(self._grid)
            )
            moved[part] = align(target, images, poses[part])
        return _reconcile(weights, poses, moved)

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


def _robust_mean(series: Series, grid: Grid, poses: np.ndarray, volumes: Sequence[int]) -> np.ndarray:
    """Average volumes in their poses on their grid; what is spoilt in one of at least four has no say."""
    n_parts = min(len(volumes), N_PARTS)
    parts = [volumes[k::n_parts] for k in range(n_parts)]
    means = segment_means(series, grid.vox2ras, poses, parts, grid.points(), order=1)
    return np.asarray(stats.trim_mean(means, TRIMMED, axis=0), np.float32)


def _to_mean(series: Series, grid: Grid, poses: np.ndarray, volumes: Sequence[int], seed: int) -> np.ndarray:
    """Return the ``(n, 4, 4)`` poses of volumes of a shell, each aligned to the mean of all."""
    mutual = MutualInformation(_robust_mean(series, grid, poses, volumes), grid.vox2ras, seed)
    found = poses[list(volumes)]
    done = 0
    for index, block in volume_blocks(series, volumes):
        for position in range(len(index)):
            pose = mutual.align(block[..., position], found[done], WITHIN)
            if _distance_mm(pose, found[done], grid) <= ASTRAY_MM:
                found[done] = pose
            done += 1
    return found


def _across(
    b0: np.ndarray, mean: np.ndarray, grid: Grid, inner: np.ndarray, start: np.ndarray, seed: int
) -> np.ndarray:
    """Return the point map from the b0s to a shell: by regression, unless it contradicts mutual information.

    Mutual information has a bias of 0.2 to 0.7 mm on heads, but does not fail; the regression has 0.1 mm,
    where its model holds.
    """
    mutual = MutualInformation(b0, grid.vox2ras, seed)
    check = mutual.align(mean, mutual.align(mean, start, ROUGH), ACROSS)
    try:
        fine, discarded = refine_across(b0, mean, grid, inner, check)
    except DataError as error:
        # No brain to look into: an object, a slab.
        _LOGGER.warning("offset of shell to b0 by mutual information alone, expect 0.5 mm: %s", error)
        return check
    far_mm = _distance_mm(fine, check, grid)
    if far_mm > TRUST_MM or discarded > MOST_DISCARDED:
        _LOGGER.warning(
            "offset of shell to b0 by mutual information alone, expect 0.5 mm: regression inside the brain "
            "is %.2f mm away (limit %g) and discards %.1f%% of the points (limit %g%%)",
            *(far_mm, TRUST_MM, 100 * discarded, 100 * MOST_DISCARDED),
        )
        return check
    if far_mm > DISAGREE_MM:
        _LOGGER.warning(
            "offset of shell to b0: mutual information is %.2f mm (limit %g) from the regression inside the "
            "brain, which is kept; look at b0 and shell one over the other",
            *(far_mm, DISAGREE_MM),
        )
    return fine


def _distance_mm(one: np.ndarray, other: np.ndarray, grid: Grid) -> float:
    """Return how far apart two poses put points 50 mm from the centre, at most."""
    points = grid_centre(grid) + np.concatenate([50 * np.eye(3), -50 * np.eye(3)])
    return float(np.linalg.norm(apply_affine(one, points) - apply_affine(other, points), axis=1).max())


def _reconcile(weights: np.ndarray, poses: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return poses ``(n, 4, 4)`` in which all volumes agree, from where each one's prediction pulled it.

    A volume whose error is ``x_k`` is pulled by ``d_k = sum_j w_kj x_j - x_k``: its prediction inherits the
    errors of the others. Small motions add, so all errors follow from all pulls by one linear system. What it
    hardly determines, such as a displacement common to all, is left as it is by the ridge.
    """
    way = np.linalg.inv(poses) @ moved
    pulls = np.concatenate([Rotation.from_matrix(way[:, :3, :3]).as_rotvec(), way[:, :3, 3]], axis=1)
    system = np.eye(len(weights)) - weights
    error = -np.linalg.solve(system.T @ system + RIDGE**2 * np.eye(len(weights)), system.T @ pulls)
    step = np.tile(np.eye(4), (len(way), 1, 1))
    step[:, :3, :3] = Rotation.from_rotvec(-error[:, :3]).as_matrix()
    step[:, :3, 3] = -error[:, 3:]
    return poses @ step
