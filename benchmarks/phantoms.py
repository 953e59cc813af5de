"""Moving heads with exactly known motion: series of `pds_bids.phantom` with their truth, for the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.phantom import contrast
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.dwi import dwi_series
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fluctuations import BoldOptions
from pds_bids.phantom.gradients import spread_directions
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, draw_person, scan
from pds_bids.phantom.tissue import BRAIN

FINE_MM = 1.5
CENTRE_MM = np.array([0.0, -18.0, 4.0])
# The head moves, the image is true to shape: errors are of the motion alone. Series are scaled to about 1000.
SCALE, UNDISTORTED_S = 1000.0, 0.0


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

    With dropout, a receive field, slow fluctuations (1% of grey matter), pulsation, a scanner drift of 3%
    that differs over the head, and Rician noise (relative to the mean in the head).
    """
    rng = np.random.default_rng(seed)
    grid = _grid(person, (64, 64, 40), 3.0)
    seen = scan(np.random.default_rng(seed + 1), person, head_lattice(grid, FINE_MM))
    walk = random_walk(rng, n_volumes, 2.0, 2.0)
    poses = parameters_to_matrices(add_spikes(rng, walk, spikes, 5.0), grid_centre(grid))
    epi = EpiOptions(readout_s=UNDISTORTED_S, noise=noise)
    steady = BoldOptions(drift=0.03, discarded=50)
    series, _ = bold_series(rng, person, seen, poses, contrast.BoldProtocol(), epi, steady, grid=grid)
    middle = poses[n_volumes // 2]
    return Case(SCALE * series, grid.vox2ras, poses @ np.linalg.inv(middle), _brain(seen, middle))


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
) -> Case:
    """Simulate DWI: free fluid beside tissue with kurtosis, so that high b is not mono-exponential.

    `noise` is relative to the mean b0 signal in the head: 0.04 is a signal-to-noise ratio of 25 at b = 0.
    """
    rng = np.random.default_rng(seed)
    grid = _grid(person, shape, zoom_mm)
    seen = scan(np.random.default_rng(seed + 1), person, head_lattice(grid, FINE_MM))
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
    epi = EpiOptions(readout_s=UNDISTORTED_S, noise=noise)
    protocol = contrast.DwiProtocol()
    series, _ = dwi_series(rng, person, seen, poses, bvals, bvecs, protocol, epi, kurtosis=True, grid=grid)
    return Case(SCALE * series, grid.vox2ras, poses, _brain(seen, np.eye(4)), bvals, bvecs)


def _grid(person: Person, shape: tuple[int, int, int], zoom_mm: float) -> Grid:
    """Return the grid of the volumes, about the middle of the head."""
    centre = apply_affine(np.linalg.inv(person.scanner2template), CENTRE_MM)
    vox2ras = np.diag([zoom_mm, zoom_mm, zoom_mm, 1.0])
    vox2ras[:3, 3] = np.round(centre - (np.array(shape) - 1) / 2 * zoom_mm, 2)
    return Grid(shape, vox2ras)


def _brain(seen: Scan, rest2reference: np.ndarray) -> np.ndarray:
    """Return points of the brain in the position of the reference."""
    inside = ndimage.binary_opening(seen.share(*BRAIN) > 0.5)
    return apply_affine(rest2reference, seen.grid.points()[inside][::97])
