"""Head motion and eddy currents of a diffusion series, from coarse to fine.

Weighted volumes are first compared with a prediction from the other volumes of their shell, whose contrast is
theirs, by the Gauss-Newton of BOLD; then, at full resolution, with the robust mean of the shell by mutual
information, which minds the change of contrast with direction least. In between, where the axis of phase
encoding is known, volumes may also be sheared and scaled along it; what of that is linear in the gradients is
the field of eddy currents, and is held fixed from there on. Each shell is then brought to the b0s once, by
averages with little noise, in two ways of which one checks the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.cross_contrast import inner_brain
from pds_bids.imaging.dwi import GradientTable
from pds_bids.imaging.dwi_group import FINE_PASSES, SHEAR_PASSES, SLOPPY_PASSES, VolumeGroup
from pds_bids.imaging.dwi_offset import ShellOffset, distance_mm, offset_of_shell
from pds_bids.imaging.eddy import (
    FEWEST_FOR_EDDY,
    EddyCurrents,
    constants_of_gradients,
    slopes_of_gradients,
    split_affines,
)
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.mutual_information import MutualInformation, Schedule
from pds_bids.imaging.realign import realigned_mean, segment_means
from pds_bids.imaging.rigid import POSE_DECIMALS, HeadMotion, grid_centre
from pds_bids.imaging.series import Series, volume_blocks

__all__ = ["DWIHeadMotion", "estimate_dwi_motion", "motion_quality"]

_LOGGER = logging.getLogger("pds_bids.imaging")

# Mutual information with the mean of a shell needs a mean that a volume itself does not make up.
FEWEST_FOR_MEAN = 5
# Parts of a shell whose means are compared voxel by voxel, and the share of them left out at either end.
N_PARTS, TRIMMED = 15, 0.25

WITHIN = Schedule((0.0,), (1.5,), 25_000, 60)
# Strong contrast and few directions leave the start of a volume wrong by 2 mm; this far is astray.
ASTRAY_MM = 5.0


@dataclass(frozen=True, eq=False)
class DWIHeadMotion(HeadMotion):
    """Rigid motion of a diffusion series, and what eddy currents add to it.

    A point ``p`` of the reference is seen in volume ``k`` at ``eddy.affines[k] @ ref2volume[k] @ p``.

    Parameters
    ----------
    eddy : EddyCurrents or None
        None where they were not estimated; zero for b0s, and for shells where none were found.
    eddy_notes : tuple of str
        One sentence for each shell: what was found, or why not.
    offsets : tuple of ShellOffset
        Position of each shell against the b0s.
    """

    eddy: EddyCurrents | None = None
    eddy_notes: tuple[str, ...] = ()
    offsets: tuple[ShellOffset, ...] = ()

    @property
    def ref2seen(self) -> np.ndarray:
        """``(N, 4, 4)`` affine point maps: motion and eddy currents together."""
        return self.ref2volume if self.eddy is None else self.eddy.affines @ self.ref2volume


def estimate_dwi_motion(
    series: Series,
    vox2ras: np.ndarray,
    table: GradientTable,
    *,
    phase_axis: int | None = None,
    is_sloppy: bool = False,
    seed: int = 1,
    device: str = "cpu",
) -> DWIHeadMotion:
    """Estimate the rigid motion of each volume, in the position of the first b0, and its eddy currents.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    table : GradientTable
        b0s and shells of the series; its directions are along the RAS+ axes of the scanner.
    phase_axis : int, optional
        Axis of the array along which phase was encoded. Without it no eddy currents are estimated, and their
        shift remains part of the motion.
    is_sloppy : bool
        Leave out the finest level, for a quick look.
    seed : int
        For the voxels that mutual information samples. Same seed, same result.
    device : str
        Where torch computes.

    Returns
    -------
    DWIHeadMotion

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
    passes = SLOPPY_PASSES if is_sloppy else FINE_PASSES
    poses = np.tile(np.eye(4), (series.shape[3], 1, 1))
    eddy = EddyCurrents(phase_axis or 0, np.zeros((len(poses), 4)), grid.vox2ras, grid_centre(grid))
    b0s = np.asarray(table.b0_volumes)
    group = VolumeGroup(series, grid, table.bvecs, table.b0_volumes, None, device)
    poses[b0s] = group.align(poses[b0s], passes)
    poses[b0s] = poses[b0s] @ np.linalg.inv(poses[b0s[0]])
    b0_mean = _mean_of_b0s(series, grid, poses, table)
    head = ndimage.gaussian_filter(b0_mean, 2.0 / np.asarray(grid.zooms))
    head = ndimage.binary_dilation(head > 0.2 * np.percentile(head, 98), iterations=2)
    inner = inner_brain(b0_mean, grid)
    b02shell, offsets, notes = np.eye(4), [], []
    for shell in table.shells:
        volumes = np.asarray(shell.volumes)
        # The b0 nearest in time knows best where the head was.
        nearest = b0s[np.abs(b0s[None] - volumes[:, None]).argmin(1)]
        group = VolumeGroup(series, grid, table.bvecs, shell.volumes, head, device)
        by_mean = len(volumes) >= FEWEST_FOR_MEAN
        poses[volumes] = group.align(poses[nearest], SLOPPY_PASSES if by_mean else passes)
        if phase_axis is not None:
            sheared = _sheared(group, poses[volumes], table.bvecs[volumes], eddy, is_sloppy=is_sloppy)
            poses[volumes], eddy.coefficients[volumes, 1:], note = sheared
            notes.append(f"b = {shell.bval:.0f}: {note}")
        if by_mean and not is_sloppy:
            poses[volumes] = _to_mean(series, grid, poses, eddy.affines, shell.volumes, seed)
        mean = _robust_mean(series, grid, eddy.affines @ poses, shell.volumes)
        offsets.append(offset_of_shell(b0_mean, mean, grid, inner, b02shell, seed))
        b02shell = offsets[-1].b02shell
        poses[volumes] = poses[volumes] @ b02shell
        if phase_axis is not None:
            poses[volumes], eddy.coefficients[volumes] = _constant(
                poses[volumes], eddy.coefficients[volumes], table.bvecs[volumes], eddy
            )
    return DWIHeadMotion(
        np.round(poses, POSE_DECIMALS),
        grid_centre(grid),
        None if phase_axis is None else eddy,
        tuple(notes),
        tuple(offsets),
    )


def motion_quality(found: Sequence[DWIHeadMotion], points: np.ndarray) -> dict[str, object]:
    """Return, for the quality file, what eddy currents did and where the shells lie against the b0s.

    Parameters
    ----------
    found : sequence of DWIHeadMotion
        One for each phase-encoding direction.
    points : ndarray
        ``(P, 3)`` points of the head, mm.

    Returns
    -------
    dict
        ``eddy``: whether the axis of phase encoding was known (``estimated``), ``largest_mm`` over points and
        volumes (None if not estimated), ``notes``. ``b0_to_shell``: one dict per shell, mm, None where
        there were no edges to follow. ``warnings``.
    """
    largest = [float(np.abs(one.eddy.displacement_mm(points)).max()) for one in found if one.eddy is not None]
    offsets = [offset for one in found for offset in one.offsets]
    eddy = {
        "estimated": bool(largest),
        "largest_mm": max(largest, default=None),
        "notes": [note for one in found for note in one.eddy_notes],
    }
    names = ("by_mutual_information_mm", "by_edges_mm", "disagreement_mm", "ambiguity_mm")
    shells: list[dict[str, object]] = []
    for offset in offsets:
        values = {name: float(getattr(offset, name)) for name in names}
        shells.append(
            {name: None if np.isnan(v) else v for name, v in values.items()} | {"used": str(offset.used)}
        )
    return {
        "eddy": eddy,
        "b0_to_shell": shells,
        "warnings": [offset.warning for offset in offsets if offset.warning],
    }


def _mean_of_b0s(series: Series, grid: Grid, poses: np.ndarray, table: GradientTable) -> np.ndarray:
    """Return the mean of the b0s in their poses; refuse one without structure."""
    mean = realigned_mean(series, grid.vox2ras, poses, table.b0_volumes)
    if not np.ptp(mean) > 0:
        raise DataError(
            f"b0 has no structure: the mean of volumes {list(table.b0_volumes)} is {mean.flat[0]:g} "
            "everywhere; check the conversion, and that the b-values belong to this series"
        )
    return mean


def _sheared(
    group: VolumeGroup, poses: np.ndarray, bvecs: np.ndarray, eddy: EddyCurrents, *, is_sloppy: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the poses of a shell, ``(n, 4, 4)``, the slopes of its field, ``(n, 3)``, and a sentence."""
    if len(poses) < FEWEST_FOR_EDDY:
        return poses, np.zeros((len(poses), 3)), f"{len(poses)} volumes, too few to tell eddy currents"
    passes = SHEAR_PASSES[:1] if is_sloppy else SHEAR_PASSES
    affines = group.align(poses, passes, sheared=eddy.direction_ras)
    rigid, slopes = split_affines(affines, eddy.direction_ras, eddy.centre_ras)
    by_gradient, p_value = slopes_of_gradients(slopes, bvecs)
    if by_gradient is None:
        return (
            poses,
            np.zeros_like(slopes),
            f"no shear or scale that follows the gradients (p = {p_value:.2g})",
        )
    return rigid, bvecs @ by_gradient, f"shear and scale follow the gradients (p = {p_value:.2g})"


def _constant(
    poses: np.ndarray, coefficients: np.ndarray, bvecs: np.ndarray, eddy: EddyCurrents
) -> tuple[np.ndarray, np.ndarray]:
    """Take the part of the translations that follows the gradients out of the motion.

    What is seen where does not change: only what is called motion, and what eddy current.
    """
    seen = poses[:, :3, :3] @ eddy.centre_ras + poses[:, :3, 3] - eddy.centre_ras
    by_gradient, _ = constants_of_gradients(seen @ eddy.direction_ras, bvecs)
    if by_gradient is None:
        return poses, coefficients
    constant = (bvecs @ by_gradient)[:, 0]
    # The field is where the head is seen without it.
    scale = 1 + coefficients[:, 1:] @ eddy.direction_ras
    poses, coefficients = poses.copy(), coefficients.copy()
    poses[:, :3, 3] -= constant[:, None] * eddy.direction_ras
    coefficients[:, 0] += constant * scale
    return poses, coefficients


def _robust_mean(series: Series, grid: Grid, poses: np.ndarray, volumes: Sequence[int]) -> np.ndarray:
    """Average volumes in their poses on their grid; what is spoilt in one of at least four has no say."""
    n_parts = min(len(volumes), N_PARTS)
    parts = [volumes[k::n_parts] for k in range(n_parts)]
    means = segment_means(series, grid.vox2ras, poses, parts, grid.points(), order=1)
    return np.asarray(stats.trim_mean(means, TRIMMED, axis=0), np.float32)


def _to_mean(
    series: Series, grid: Grid, poses: np.ndarray, eddy: np.ndarray, volumes: Sequence[int], seed: int
) -> np.ndarray:
    """Return the ``(n, 4, 4)`` poses of volumes of a shell, each aligned to the mean of all."""
    mutual = MutualInformation(_robust_mean(series, grid, eddy @ poses, volumes), grid.vox2ras, seed)
    found = poses[list(volumes)]
    done = 0
    for index, block in volume_blocks(series, volumes):
        for position, k in enumerate(index.tolist()):
            pose = mutual.align(_undone(block[..., position], grid, eddy[k]), found[done], WITHIN)
            if distance_mm(pose, found[done], grid) <= ASTRAY_MM:
                found[done] = pose
            done += 1
    return found


def _undone(volume: np.ndarray, grid: Grid, eddy: np.ndarray) -> np.ndarray:
    """Return a volume on its grid without the shear and scale of its eddy currents."""
    if np.array_equal(eddy, np.eye(4)):
        return volume
    # ITK's own way to put a known transform behind the unknown one ended 0.8 mm off, even with identity.
    index = grid.ras2vox @ eddy @ grid.vox2ras
    return np.asarray(ndimage.affine_transform(volume, index[:3, :3], index[:3, 3], order=3, mode="nearest"))
