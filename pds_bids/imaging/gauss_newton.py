"""Batched rigid Gauss-Newton of volumes to references of their own contrast.

Inverse compositional: gradients belong to the reference and are computed once, so that one step for a whole
block of volumes is one interpolation and one matrix product. Each volume has its own offset and its own gain,
a polynomial in space: the receive field stays in the scanner when the head moves, and drifts of the scanner
differ over the head. Tukey weights discount voxels that changed for other reasons than motion.

References
----------
Baker and Matthews 2004, 10.1023/B:VISI.0000011205.11775.fd (inverse compositional alignment).
"""

from __future__ import annotations

from copy import copy
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError
from pds_bids.imaging.eddy import along_phase_encoding
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre
from pds_bids.imaging.sampler import Level, Sampler

if TYPE_CHECKING:
    import torch

__all__ = ["Target", "align", "choose_points", "small_motion"]

N_RIGID = 6
# Rotations enter the equations as arcs at this radius, which makes all six unknowns of a like size (mm).
# The gain is a polynomial in units of about the radius of a head.
ARC_MM, GAIN_MM = 50.0, 80.0
# Below this step of the fastest-moving volume of a block, iterations stop.
TOLERANCE_MM = 2e-3
LONGEST_STEP_MM = 6.0  # a longer one comes from a linearisation that does not hold
# Tukey's constant in robust standard deviations; 4.685 is 95% efficient for Gaussian residuals.
TUKEY = 4.685
# A pose is given up for one that fits better by this factor; less is noise.
CLEARLY = 1.05
FEWEST_POINTS, THIN = 100, 4


class Target:
    """References at points: the linear model of what volumes look like after a small motion.

    Parameters
    ----------
    sampler : Sampler
        Of the level.
    level : Level
        Most iterations, and degree of the gain.
    points : ndarray
        ``(P, 3)`` mm.
    values : ndarray
        ``(T, P)`` smoothed references at the points: one for all volumes, or one for each.
    gradients : ndarray
        ``(T, P, 3)`` their derivatives along RAS+, per mm.
    centre : ndarray
        ``(3,)`` mm, about which small rotations turn.
    sheared : ndarray, optional
        ``(3,)`` unit vector: volumes may also be sheared and scaled along it.

    Attributes
    ----------
    design : Tensor
        ``(T, P, U)``: six (sheared: nine) derivatives by the pose, the standardised reference, 1, and the
        reference times powers of the coordinates.
    """

    def __init__(
        self,
        sampler: Sampler,
        level: Level,
        points: np.ndarray,
        values: np.ndarray,
        gradients: np.ndarray,
        centre: np.ndarray,
        *,
        sheared: np.ndarray | None = None,
    ) -> None:
        self.sampler, self.level, self.centre, self.sheared = sampler, level, centre, sheared
        self.n_pose = N_RIGID if sheared is None else N_RIGID + 3
        arm = points - centre
        self.points = self._tensor(np.column_stack([points, np.ones(len(points))]))
        scale = values.std(1)[:, None]
        turns = np.cross(arm, gradients) / ARC_MM
        constant = np.broadcast_to(1.0, values.shape)
        shape = values / scale
        columns = [
            *np.moveaxis(gradients / scale[..., None], 2, 0),
            *np.moveaxis(turns / scale[..., None], 2, 0),
        ]
        if sheared is not None:
            columns += list(((gradients @ sheared / scale)[..., None] * arm / ARC_MM).transpose(2, 0, 1))
        columns += [shape - shape.mean(1, keepdims=True), constant]
        for degree in range(1, level.gain_degree + 1):
            for axes in combinations_with_replacement(range(3), degree):
                columns.append(shape * np.prod(arm[:, axes] / GAIN_MM, axis=1))
        self.design = self._tensor(np.stack(columns, 2))

    @classmethod
    def of_image(
        cls, image: np.ndarray, mask: np.ndarray | None, grid: Grid, level: Level, device: str
    ) -> Target:
        """Return the target of one reference ``(X, Y, Z)`` for all volumes, as `estimate_motion`."""
        import torch

        sampler = Sampler(grid, level, device)
        # Views that run backwards, as reorientation makes them, are not for torch.
        smooth = sampler.smooth(torch.as_tensor(np.ascontiguousarray(image[None], "f4"), device=device))[0]
        values: np.ndarray = smooth.cpu().numpy().astype(np.float64)
        index = choose_points(values, mask, sampler, level.n_points)
        points = apply_affine(sampler.lattice.vox2ras, np.stack(index, 1).astype(float))
        gradients = np.stack([g[index] for g in np.gradient(values)], 1) @ sampler.lattice.ras2vox[:3, :3]
        return cls(
            sampler, level, points, np.asarray(values[index])[None], gradients[None], grid_centre(grid)
        )

    def part(self, block: slice) -> Target:
        """Return the targets of a block of volumes; the target itself where all volumes share it."""
        return self if len(self.design) == 1 else self._with(self.points, self.design[block])

    def thinned(self) -> Target:
        """Return the target at each `THIN`-th point: enough for a gain, or to compare poses."""
        return self._with(self.points[::THIN].contiguous(), self.design[:, ::THIN].contiguous())

    def _with(self, points: torch.Tensor, design: torch.Tensor) -> Target:
        chosen = copy(self)
        chosen.points, chosen.design = points, design
        return chosen

    def read(self, images: torch.Tensor, poses: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return smoothed images in their poses, ``(B, P)``, and 1 where in view, else 0."""
        return self.sampler.read(images, self.points, poses)

    def gain(self, values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Return gain and offset, ``(B, U - n_pose)``, reweighted so that spoilt slices do not decide."""
        weights = inside
        for _ in range(4):
            gain = _solve(self.design[..., self.n_pose :], weights, values).to(values.dtype)
            weights = inside * _tukey(self.residual(values, gain))
        return gain

    def residual(self, values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """Return what a gain leaves of the values, ``(B, P)``."""
        return values - _product(self.design[..., self.n_pose :].transpose(1, 2), gain)

    def misfit(self, images: torch.Tensor, poses: np.ndarray) -> np.ndarray:
        """Return the median absolute residual of each image in its pose over its gain, ``(B,)``."""
        import torch

        values, inside = self.read(images, poses)
        gain = self.gain(values, inside)
        residual = torch.where(inside > 0, self.residual(values, gain).abs(), torch.nan)
        # A volume that anticorrelates, or is out of view, fits worst.
        misfit = residual.nanmedian(1).values / gain[:, 0].clamp_min(1e-6)
        return np.nan_to_num(misfit.cpu().numpy().astype(np.float64), nan=np.inf)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        import torch

        return torch.as_tensor(values, dtype=torch.float32, device=self.sampler.device)


def align(
    target: Target, images: torch.Tensor, poses: np.ndarray, other: np.ndarray | None = None
) -> np.ndarray:
    """Align smoothed volumes from the better of two poses.

    Parameters
    ----------
    target : Target
        References of the level.
    images : Tensor
        ``(B, ...)`` from `Sampler.smooth`.
    poses : ndarray
        ``(B, 4, 4)`` where to start.
    other : ndarray, optional
        ``(B, 4, 4)`` where to start instead, for volumes that fit clearly better there.

    Returns
    -------
    ndarray
        ``(B, 4, 4)``. A volume that fits clearly better before than after the descent stays where it was.
    """
    thin = target.thinned()
    misfit = thin.misfit(images, poses)
    if other is not None and not np.array_equal(other, poses):
        poses, misfit = _better(poses, misfit, other, thin.misfit(images, other))
    found = _descend(target, thin, images, poses)
    return _better(found, thin.misfit(images, found), poses, misfit)[0]


def _better(
    poses: np.ndarray, misfit: np.ndarray, other: np.ndarray, other_misfit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each volume, pose and misfit, unless the other clearly fits better."""
    wins = misfit <= CLEARLY * other_misfit
    return np.where(wins[:, None, None], poses, other), np.where(wins, misfit, other_misfit)


def _descend(target: Target, thin: Target, images: torch.Tensor, poses: np.ndarray) -> np.ndarray:
    """Take Gauss-Newton steps until they are short."""
    gain = thin.gain(*thin.read(images, poses))
    for _ in range(target.level.n_iterations):
        values, inside = target.read(images, poses)
        residual = target.residual(values, gain)
        weights = inside * _tukey(residual)
        # The matrix only sets the length of steps, so few points will do; the right side decides their end.
        solved = _solve(target.design, weights, residual, THIN)
        gain = gain + solved[:, target.n_pose :].to(values.dtype)
        # I(M p) = a Ref(dM p) + b: the first unknowns are the step times the gain a.
        step = (solved[:, : target.n_pose] / gain[:, :1].double().clamp_min(1e-6)).cpu().numpy()
        length = np.sqrt((step**2).sum(1))
        step *= np.minimum(1, LONGEST_STEP_MM / np.maximum(length, 1e-12))[:, None]
        poses = poses @ np.linalg.inv(small_motion(step, target.centre, target.sheared))
        if length.max() < TOLERANCE_MM:
            break
    return poses


def choose_points(
    values: np.ndarray, mask: np.ndarray | None, sampler: Sampler, n_points: int
) -> tuple[np.ndarray, ...]:
    """Return lattice indices of at most `n_points` points with structure, away from the border.

    Parameters
    ----------
    values : ndarray
        Smoothed reference on the lattice.
    mask : ndarray, optional
        ``(X, Y, Z)`` bool on the grid of the volumes; by default wherever the reference is bright.
    sampler : Sampler
        Of the level.
    n_points : int
        Most points.

    Raises
    ------
    DataError
        If there are fewer than 100.
    """
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(values)))
    if mask is None:
        inside = values > 0.2 * np.percentile(values, 98)
    else:
        voxels = [
            np.rint(s * np.arange(n)).astype(int) for s, n in zip(sampler.steps, values.shape, strict=True)
        ]
        inside = np.asarray(mask, bool)[np.ix_(*voxels)]
    chosen = np.zeros(values.shape, dtype=bool)
    core = tuple(slice(int(m), n - int(m)) for m, n in zip(sampler.margin, values.shape, strict=True))
    chosen[core] = inside[core]
    if chosen.any():
        chosen &= slope > 0.1 * np.percentile(slope[chosen], 98)
    found = np.flatnonzero(chosen)
    if found.size < FEWEST_POINTS:
        raise DataError(
            f"only {found.size} of {values.size} voxels of the reference have structure to align to: "
            "check that it shows a head and that the mask covers it"
        )
    if found.size > n_points:
        # Pseudo-random thinning: a regular one would beat against the rows of the lattice.
        found = np.sort(np.random.default_rng(0).choice(found, n_points, replace=False))
    return np.unravel_index(found, values.shape)


def _solve(design: torch.Tensor, weights: torch.Tensor, values: torch.Tensor, thin: int = 1) -> torch.Tensor:
    """Solve weighted least squares for each volume, ``(B, U)`` float64.

    The normal matrix is taken from each `thin`-th point. A volume with no point in view gets nearly zero.
    """
    import torch

    some = design[:, ::thin]
    normal = thin * ((some * weights[:, ::thin, None]).transpose(1, 2) @ some).double()
    right = _product(design, weights * values).double()
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).clamp_min(1e-6)
    return torch.linalg.solve(normal + torch.diag_embed(ridge), right)


def _product(matrices: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return ``(B, m)`` products of ``(B, n)`` vectors with one ``(1, n, m)`` matrix, or one each."""
    # Broadcasting would copy the shared matrix for each volume.
    return vectors @ matrices[0] if len(matrices) == 1 else (vectors[:, None] @ matrices)[:, 0]


def _tukey(residual: torch.Tensor) -> torch.Tensor:
    """Return biweights from ``(B, P)`` residuals, each row in units of its own robust SD."""
    scale = 1.4826 * residual[:, ::4].abs().median(1, keepdim=True).values
    return (1 - (residual / (TUKEY * scale).clamp_min(1e-12)).square()).clamp_min(0).square()


def small_motion(step: np.ndarray, centre: np.ndarray, sheared: np.ndarray | None = None) -> np.ndarray:
    """Return the maps of steps (mm, mm on the arc) about `centre`; the last three shear along `sheared`."""
    motion = np.tile(np.eye(4), (len(step), 1, 1))
    motion[:, :3, :3] = Rotation.from_rotvec(step[:, 3:6] / ARC_MM).as_matrix()
    motion[:, :3, 3] = centre - motion[:, :3, :3] @ centre + step[:, :3]
    if sheared is None:
        return motion
    return along_phase_encoding(np.insert(step[:, 6:] / ARC_MM, 0, 0, axis=1), sheared, centre) @ motion
