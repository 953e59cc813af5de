"""Fine rigid alignment of two averages of different contrast inside one brain, by the directions of edges.

Where tissues meet, both images have an edge along the same normal, whichever side is bright. Only directions
count, and less where an edge is weak. A receive field turns hardly any of them, while it makes the intensity
of one image no function of the other: on ten simulated persons a regression of intensities, with a gain
that varies over the head, ended 0.05 to 2 mm from the truth (median 0.14 mm), this 0.05 to 0.17 mm.

References
----------
Haber and Modersitzki 2006, 10.1007/11866763_89 (normalised gradient fields).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError
from pds_bids.imaging.gauss_newton import ARC_MM, choose_points
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre, matrices_to_parameters
from pds_bids.imaging.sampler import Level, Sampler

if TYPE_CHECKING:
    import torch

__all__ = ["Refined", "inner_brain", "refine_across"]

# On a lattice of half voxels; more smoothing mixes the fluid between folds into the tissue.
LEVEL = Level(0.8, 0.4, step=1.25, n_points=40_000, n_iterations=40)
# The rim that is left out, and the opening that cuts off eyes and scalp (mm).
RIM_MM, NECK_MM = 6.0, 4.0
# On simulated heads edges find their way from 4 mm off; a result farther from its start is astray.
FARTHEST_MM = 6.0
# Share of the similarity that must be lost when the image is moved by so many mm along any axis. Simulated
# persons lose 0.09 to 0.23 (at 4.5 mm voxels 0.05), real series 0.09 to 0.24, smooth blobs 0.01 to 0.02.
LEAST_SHARPNESS, MOVED_MM = 0.035, 2.0


@dataclass(frozen=True, eq=False)
class Refined:
    """Where one contrast lies in the other.

    Parameters
    ----------
    pose : ndarray
        ``(4, 4)`` point map from the fixed to the moving image.
    similarity : float
        Mean squared cosine between gradients, less where these are weak: 0 to 1.
    """

    pose: np.ndarray
    similarity: float


def inner_brain(b0: np.ndarray, grid: Grid) -> np.ndarray:
    """Return where an image is brain without its rim, ``(X, Y, Z)`` bool; empty if it is too thin."""
    smooth = ndimage.gaussian_filter(b0, 2.0 / np.asarray(grid.zooms))
    head = smooth > 0.25 * np.percentile(smooth, 98)
    opened = ndimage.distance_transform_edt(_eroded(head, grid, NECK_MM) == 0, sampling=grid.zooms) <= NECK_MM
    return _eroded(ndimage.binary_fill_holes(opened & head), grid, RIM_MM)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread: sums over several differ in their last bits, descents in 1e-3 mm."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def refine_across(
    fixed: np.ndarray, moving: np.ndarray, grid: Grid, mask: np.ndarray, start: np.ndarray
) -> Refined:
    """Align `moving` to `fixed` from a start within about two voxels.

    Parameters
    ----------
    fixed, moving : ndarray
        ``(X, Y, Z)`` averages with little noise.
    grid : Grid
        Of both.
    mask : ndarray
        ``(X, Y, Z)`` bool, where to look in `fixed`.
    start : ndarray
        ``(4, 4)`` rigid point map from fixed to moving.

    Returns
    -------
    Refined

    Raises
    ------
    DataError
        If the mask holds too little structure or only soft edges, or the result is not near the start.
    """
    import torch

    sampler, centre = Sampler(grid, LEVEL, "cpu"), grid_centre(grid)
    images = sampler.smooth(
        torch.as_tensor(np.ascontiguousarray(np.stack([fixed, moving]), dtype=np.float32))
    )
    index = np.stack(choose_points(images[0].numpy().astype(float), mask, sampler, LEVEL.n_points), 1)
    # On the lattice itself nothing is interpolated where nothing moves, which would favour no motion.
    index = index + np.random.default_rng(0).uniform(-0.5, 0.5, index.shape)
    edges = _Edges(sampler, apply_affine(sampler.lattice.vox2ras, index) - centre, centre)
    here = edges.normals(images[:1], torch.eye(3), torch.zeros(3))
    shift, turn = matrices_to_parameters(start[None], centre)[0, :3], start[:3, :3]
    unknown = torch.zeros(6, requires_grad=True)
    shift_now, turn_now = (torch.as_tensor(x, dtype=torch.float32) for x in (shift, turn))

    def dissimilarity(step: torch.Tensor) -> torch.Tensor:
        there = edges.normals(images[1:], _rotation(step[3:] / ARC_MM) @ turn_now, shift_now + step[:3])
        return -(here * there).sum(1).square().mean()

    similarity = -_minimised(dissimilarity, unknown)
    step = unknown.detach().numpy().astype(float)
    distance_mm = float(np.linalg.norm(step))
    # Written so that a descent that ended in nan counts as astray.
    if not distance_mm < FARTHEST_MM:
        raise DataError(
            f"edges inside the brain lead {distance_mm:.1f} mm away from the start (limit {FARTHEST_MM:g})"
        )
    sharpness = 1 + _when_moved(dissimilarity, unknown) / similarity
    if not sharpness > LEAST_SHARPNESS:
        raise DataError(
            f"edges inside the brain are too soft: {MOVED_MM:g} mm off they agree only "
            f"{100 * sharpness:.1f}% less (at least {100 * LEAST_SHARPNESS:g}%)"
        )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(step[3:] / ARC_MM).as_matrix() @ turn
    pose[:3, 3] = centre + shift + step[:3] - pose[:3, :3] @ centre
    return Refined(pose, similarity)


class _Edges:
    """Reads gradients of smoothed images at moving points."""

    def __init__(self, sampler: Sampler, arm: np.ndarray, centre: np.ndarray) -> None:
        import torch

        reach = np.asarray(sampler.lattice.zooms).min() * np.concatenate([np.eye(3), -np.eye(3)])
        self._arms = torch.as_tensor(arm[None] + reach[:, None], dtype=torch.float32)
        scale = 2 / (np.asarray(sampler.lattice.shape) - 1)
        ras2unit = np.diag([*scale, 1.0]) @ sampler.lattice.ras2vox
        self._turn = torch.as_tensor(ras2unit[:3, :3], dtype=torch.float32)
        self._offset = torch.as_tensor(apply_affine(ras2unit, centre) - 1, dtype=torch.float32)

    def normals(self, image: torch.Tensor, turn: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return gradients along the axes of a pose, ``(P, 3)``, of length near 1, or 0 where weak."""
        import torch

        unit = (self._arms @ turn.T + shift) @ self._turn.T + self._offset
        values = torch.nn.functional.grid_sample(
            image[None], unit.flip(-1)[None, None], padding_mode="border", align_corners=True
        )[0, 0, 0]
        gradient = (values[:3] - values[3:]).T
        square = gradient.square().sum(1, keepdim=True)
        # The median: a mean is set by the borders of the ventricles, beside which all others are weak.
        return gradient / (square + square.detach().median().clamp_min(1e-12)).sqrt()


def _rotation(turn: torch.Tensor) -> torch.Tensor:
    """Return the rotation matrix of a rotation vector."""
    import torch

    zero = torch.zeros(())
    rows = [[zero, -turn[2], turn[1]], [turn[2], zero, -turn[0]], [-turn[1], turn[0], zero]]
    return torch.matrix_exp(torch.stack([torch.stack(row) for row in rows]))


def _minimised(objective: Callable[[torch.Tensor], torch.Tensor], unknown: torch.Tensor) -> float:
    """Minimise an objective of six unknowns, in place; return its value."""
    import torch

    # Values are near -0.1 and change by 1e-3 over a voxel, which the line search takes for converged.
    scale = 1000.0
    method = torch.optim.LBFGS(
        [unknown],
        max_iter=LEVEL.n_iterations,
        tolerance_grad=1e-4,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        method.zero_grad()
        value = scale * objective(unknown)
        value.backward()
        return value

    method.step(closure)
    with torch.no_grad():
        return float(objective(unknown))


def _when_moved(objective: Callable[[torch.Tensor], torch.Tensor], unknown: torch.Tensor) -> float:
    """Return the least mean over both ways along an axis that an objective has after a shift."""
    import torch

    ways = MOVED_MM * torch.eye(6)[:3]
    with torch.no_grad():
        return min(float(objective(unknown + way) + objective(unknown - way)) / 2 for way in ways)


def _eroded(mask: np.ndarray, grid: Grid, radius_mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(mask, sampling=grid.zooms) > radius_mm
