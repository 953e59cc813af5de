"""Moving heads with exactly known motion, for the benchmarks.

A head at rest is painted on a lattice finer than the voxels, blurred by the point spread of the acquisition
and turned into a cubic spline, which is a function of space. Every volume evaluates that function at the
points where the head was: nothing is interpolated twice, and no volume is the privileged one. What belongs to
the scanner (receive field, noise) is multiplied or added afterwards and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pds_bids.imaging.eddy import along_phase_encoding
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.phantom import contrast
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.fields import random_field
from pds_bids.phantom.gradients import spread_directions
from pds_bids.phantom.orientation import fibre_axes
from pds_bids.phantom.person import Person, Scan, draw_person, scan
from pds_bids.phantom.susceptibility import dropout
from pds_bids.phantom.tissue import BRAIN, FLUID, GREY

FINE_MM = 1.5
# Full width of the point spread in voxels, and the factor from full width to standard deviation.
SPREAD_VOXELS, FWHM_TO_SD = 1.0, 0.4247
CENTRE_MM = np.array([0.0, -18.0, 4.0])


@dataclass(frozen=True, eq=False)
class Case:
    """A series with known motion.

    Parameters
    ----------
    series : ndarray
        ``(X, Y, Z, N)`` float32.
    vox2ras : ndarray
        ``(4, 4)``, mm.
    ref2volume : ndarray
        ``(N, 4, 4)`` point maps from volume 0 of DWI, from the volume in the middle of BOLD.
    brain : ndarray
        ``(P, 3)`` points of the brain in the reference, mm: where errors are measured.
    bvals, bvecs_ras : ndarray, optional
        ``(N,)`` s/mm2 and ``(N, 3)`` unit vectors along the scanner's axes.
    """

    series: np.ndarray
    vox2ras: np.ndarray
    ref2volume: np.ndarray
    brain: np.ndarray
    bvals: np.ndarray | None = None
    bvecs_ras: np.ndarray | None = None

    def errors_mm(self, ref2volume: np.ndarray) -> np.ndarray:
        """Return the mean displacement in the brain against the truth, ``(N,)`` mm."""
        return np.array(
            [
                np.linalg.norm(apply_affine(a, self.brain) - apply_affine(b, self.brain), axis=1).mean()
                for a, b in zip(ref2volume, self.ref2volume, strict=True)
            ]
        )


def load_person(labels: Path | None, cache: Path, seed: int) -> Person:
    """Draw a person from a label map (the template's tissue maps if there is none)."""
    from pds_bids.template import RES02_GRID, get_template, load_template

    template = load_template(get_template(cache), RES02_GRID)
    only = None if labels is None else [seed % len(list(labels.glob("*.nii.gz")))]
    anatomy = build_anatomies(labels, cache, template, only=only, deformable=False)[0]
    return draw_person(np.random.default_rng(seed), anatomy)


def random_walk(rng: np.random.Generator, n_volumes: int, mm: float, deg: float) -> np.ndarray:
    """Return ``(N, 6)`` mm and radians: a walk whose largest excursion is `mm` and `deg` on every axis."""
    walk = np.cumsum(rng.standard_normal((n_volumes, 6)), 0)
    walk -= walk[n_volumes // 2]
    return walk / np.abs(walk).max(0) * np.repeat([mm, np.deg2rad(deg)], 3)


def add_spikes(rng: np.random.Generator, walk: np.ndarray, count: int, mm: float) -> np.ndarray:
    """Return the walk with jumps of `mm` in single volumes (not the reference), and half as many degrees."""
    spiked = walk.copy()
    free = np.setdiff1d(np.arange(1, len(walk)), [len(walk) // 2])
    for k in rng.choice(free, count, replace=False):
        for part, size in ((slice(0, 3), mm), (slice(3, 6), np.deg2rad(mm / 2))):
            way = rng.standard_normal(3)
            spiked[k, part] += size * way / np.linalg.norm(way)
    return spiked


def bold_case(
    person: Person, seed: int, *, n_volumes: int = 200, spikes: int = 0, noise: float = 0.015
) -> Case:
    """Simulate BOLD of 64 x 64 x 40 voxels of 3 mm.

    With dropout, a receive field, slow fluctuations (1% of grey matter), a scanner drift of 3% that differs
    over the head, and Rician noise (relative to the mean in the head).
    """
    rng = np.random.default_rng(seed)
    grid, fine = _grids(person, (64, 64, 40), 3.0)
    seen = scan(np.random.default_rng(seed + 1), person, fine)
    protocol = contrast.BoldProtocol()
    steady = seen.image(contrast.linearise(lambda p: contrast.bold_signal(p, protocol), person.tissue))
    steady *= dropout(0.4 * seen.maps["gradient_hz_mm"], protocol.te_ms, 3.0).reshape(fine.shape)
    grey = seen.share(*GREY)
    courses = ndimage.gaussian_filter1d(rng.standard_normal((n_volumes, 3)), 2, axis=0)
    courses *= 0.01 / courses.std(0)
    active = random_field(rng, fine.shape, fine.zooms, 30.0, 3) * grey * steady
    parts = [_spline(image, fine, 3.0) for image in (steady, *active)]
    walk = random_walk(rng, n_volumes, 2.0, 2.0)
    poses = parameters_to_matrices(add_spikes(rng, walk, spikes, 5.0), grid_centre(grid))
    coil = _coil(rng, grid)
    drift = 0.03 * random_field(rng, grid.shape, grid.zooms, 60.0, 1)[0]
    sd = noise * float(steady[steady > 0.3 * steady.max()].mean())
    series = np.empty((*grid.shape, n_volumes), np.float32)
    for k, pose in enumerate(poses):
        weights = [1.0, *courses[k]]
        image = sum(w * _at(part, fine, grid, pose) for w, part in zip(weights, parts, strict=True))
        slow = 1 + (k / n_volumes - 0.5) * (drift - 0.02)
        series[..., k] = 1000 * _rician(rng, coil * slow * image, sd)
    middle = poses[n_volumes // 2]
    return Case(series, grid.vox2ras, poses @ np.linalg.inv(middle), _brain(seen, middle))


def dwi_case(
    person: Person,
    seed: int,
    bval_s_mm2: float,
    *,
    n_directions: int = 59,
    n_b0: int = 6,
    noise: float = 0.04,
    shape: tuple[int, int, int] = (96, 96, 60),
    zoom_mm: float = 2.0,
    eddy: np.ndarray | None = None,
) -> Case:
    """Simulate DWI: free fluid beside tissue of two compartments, so that high b is not mono-exponential.

    `noise` is relative to the mean b0 signal in the head: 0.04 is a signal-to-noise ratio of 25 at b = 0.
    `eddy`, ``(3, 4)``, holds the coefficients of `EddyCurrents` along A for a gradient along R, A and S; the
    maps of the case then contain the shear, and signal piles up where voxels are squeezed.
    """
    rng = np.random.default_rng(seed)
    grid, fine = _grids(person, shape, zoom_mm)
    seen = scan(np.random.default_rng(seed + 1), person, fine)
    every = max(1, -(-(n_directions + n_b0) // n_b0))
    n_volumes = n_directions + n_b0
    is_b0 = np.arange(n_volumes) % every == 0
    bvals = np.where(is_b0, 0.0, bval_s_mm2)
    bvecs = np.zeros((n_volumes, 3))
    vectors = spread_directions(int((~is_b0).sum()))
    bvecs[~is_b0] = vectors[rng.permutation(len(vectors))]
    bvecs[~is_b0] *= rng.choice([-1, 1], (len(vectors), 1))
    walk = random_walk(rng, n_volumes, 2.0, 2.0)
    poses = parameters_to_matrices(walk - walk[0], grid_centre(grid))
    rest = poses
    if eddy is not None:
        poses = along_phase_encoding(bvecs @ eddy, np.array([0.0, 1, 0]), grid_centre(grid)) @ poses
    coil = _coil(rng, grid)
    b0, signal = _diffusion(rng, person, seen)
    sd = noise * float(b0[b0 > 0.3 * b0.max()].mean())
    series = np.empty((*grid.shape, n_volumes), np.float32)
    for k, pose in enumerate(poses):
        image = b0 if is_b0[k] else signal(bvals[k] / 1000, rest[k, :3, :3].T @ bvecs[k])
        moved = _at(_spline(image, fine, zoom_mm), fine, grid, pose) / np.linalg.det(pose)
        series[..., k] = 1000 * _rician(rng, coil * moved, sd)
    return Case(series, grid.vox2ras, poses, _brain(seen, np.eye(4)), bvals, bvecs)


def _diffusion(
    rng: np.random.Generator, person: Person, seen: Scan
) -> tuple[np.ndarray, Callable[[float, np.ndarray], np.ndarray]]:
    """Return the b0 image and the signal at b (ms/um2) along a direction of the head, on the fine lattice."""
    protocol = contrast.DwiProtocol()
    table = contrast.linearise(lambda p: contrast.b0_signal(p, protocol), person.tissue)
    is_fluid = np.zeros((len(table), 1), np.float32)
    is_fluid[list(FLUID)] = 1
    fluid, solid = seen.image(table * is_fluid), seen.image(table * (1 - is_fluid))
    shape = seen.grid.shape
    tissue = seen.fractions * (1 - is_fluid[:, 0])
    share = np.maximum(tissue.sum(1), 1e-3)
    md = (tissue @ person.tissue.column("md_um2_ms") / share).reshape(shape)
    fa = (tissue @ person.tissue.column("fa") / share).reshape(shape)
    fa = np.clip(fa * np.exp(0.25 * seen.maps["tract"].reshape(shape)), 0, 0.85)
    axis = fibre_axes(rng, seen).astype(np.float32)
    parallel, perpendicular = (x.astype(np.float32) for x in contrast.axial_diffusivities(md, fa))

    def signal(b: float, direction: np.ndarray) -> np.ndarray:
        along = perpendicular + (parallel - perpendicular) * (axis @ direction.astype(np.float32)) ** 2
        return fluid * np.exp(-3 * b) + solid * (
            0.7 * np.exp(-1.3 * b * along) + 0.3 * np.exp(-0.3 * b * along)
        )

    return fluid + solid, signal


def _grids(person: Person, shape: tuple[int, int, int], zoom_mm: float) -> tuple[Grid, Grid]:
    """Return the grid of the volumes, and the fine lattice that holds the head."""
    centre = apply_affine(np.linalg.inv(person.scanner2template), CENTRE_MM)
    grids = []
    for size, zoom in ((shape, zoom_mm), ((134, 160, 120), FINE_MM)):
        vox2ras = np.diag([zoom, zoom, zoom, 1.0])
        vox2ras[:3, 3] = np.round(centre - (np.array(size) - 1) / 2 * zoom, 2)
        grids.append(Grid(size, vox2ras))
    return grids[0], grids[1]


def _spline(image: np.ndarray, fine: Grid, voxel_mm: float) -> np.ndarray:
    """Return the spline coefficients of the image, blurred by the point spread."""
    blurred = ndimage.gaussian_filter(image, FWHM_TO_SD * SPREAD_VOXELS * voxel_mm / fine.zooms[0])
    return ndimage.spline_filter(blurred, order=3, output=np.float32, mode="mirror")


def _at(coefficients: np.ndarray, fine: Grid, grid: Grid, rest2volume: np.ndarray) -> np.ndarray:
    """Evaluate the spline where the head was."""
    index = fine.ras2vox @ np.linalg.inv(rest2volume) @ grid.vox2ras
    return ndimage.affine_transform(
        coefficients,
        index[:3, :3],
        index[:3, 3],
        output_shape=grid.shape,
        order=3,
        prefilter=False,
        mode="constant",
    )


def _coil(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Return a receive field, brighter towards the coil."""
    offset = (grid.points() - grid_centre(grid)) / [80.0, 100.0, 85.0]
    broad = random_field(rng, grid.shape, grid.zooms, 70.0)[0]
    return np.exp(0.25 * np.minimum((offset**2).sum(-1), 2) + 0.06 * broad).astype(np.float32)


def _rician(rng: np.random.Generator, image: np.ndarray, sd: float) -> np.ndarray:
    real, imaginary = (sd * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    return np.hypot(image + real, imaginary)


def _brain(seen: Scan, rest2reference: np.ndarray) -> np.ndarray:
    """Return points of the brain in the position of the reference."""
    inside = ndimage.binary_opening(seen.share(*BRAIN) > 0.5)
    return apply_affine(rest2reference, seen.grid.points()[inside][::97])
