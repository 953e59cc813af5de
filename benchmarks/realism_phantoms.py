"""Simulated means for `realism.py`: from the cohort generator and from the training stream."""

from dataclasses import replace

import numpy as np
from realism_figures import Look
from realism_scans import carried_over, registered, tissue_maps
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, QualityError
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.realign import realigned_mean
from pds_bids.imaging.tissues import Template
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol
from pds_bids.phantom.degrade import draw_acquisition
from pds_bids.phantom.dwi import dwi_series
from pds_bids.phantom.eddy import draw_eddy
from pds_bids.phantom.epi import EpiOptions, noise_sd, rician
from pds_bids.phantom.fluctuations import BoldOptions
from pds_bids.phantom.gradients import spread_directions
from pds_bids.phantom.head_motion import draw_motion, rest2volumes
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, Scan, draw_person, scan
from pds_bids.phantom.stream import PairStream
from pds_bids.phantom.tissue import draw_tissue
from pds_bids.seeds import derive_seed

__all__ = ["model_person", "model_stream", "native_person"]

# Voxels in plane and slice thickness, drawn evenly in their logarithm: 2 to 2.5 mm are as common as 3 to 4,
# and fast series have finer ones.
BOLD_VOXELS_MM = (1.7, 4.0), (1.7, 4.4)
DWI_VOXELS_MM = (1.5, 3.2), (1.5, 3.4)

# Volumes of the real series are 10 to 20, of the phantoms as many; few poses and directions stand for all.
N_BOLD, N_DWI, N_POSES, N_DIRECTIONS = (8, 24), (12, 24), 3, 6
# Noise of a single volume relative to the mean of the head, drawn evenly in its logarithm.
NOISE = 0.002, 0.05
# Full width of the point spread, voxels: diffusion images are often of partial k-space, and filtered.
SHARP, FILTERED = (0.3, 0.7), (0.3, 1.6)
# Width of slices relative to their distance: gaps, and profiles that reach into the next slice.
GAPPED, WIDE = (0.7, 1.1), (0.8, 1.5)
# Scanners whose images have the receive field of the array, and where that ends: from half-way to the chin
# to the middle of the head.
SHARE_RAW, LOWEST_LOOPS = 0.5, (-0.6, 0.0)
# Tissues vary as in the training stream; vessels more than in a cohort.
TISSUE_SPREAD, VESSELS = 1.35, (0.4, 2.0)
# From children of school age to large men; ratio of length to width of the head: half its range, beyond
# that of a cohort.
SIZE, LONG = (0.93, 1.05), 0.04
# Fields of view: side of the square; 30 to 40 thick slices, or as many thin ones as cover the whole brain;
# tilts in the manner of the line between the commissures.
PLANE_MM, SLAB_MM, WHOLE_MM = (200, 256), (105, 140), (135, 190)
SHARE_SLABS, TILT_DEG = 0.5, 8.0
# Upper end of the field of view above the vertex: slabs that are to hold the cerebellum lose the vertex.
TOP_MM = -20.0, 14.0
# Off-resonance relative to solid pockets of air at 3 T after a second-order shim.
SHIM = 0.4, 1.0
# What shims of first and second order leave at 80 mm from the middle, each term: standard deviation in Hz.
UNSHIMMED_HZ, UNSHIMMED_MM = 10.0, 80.0
# Width and length of what is looked at: heads, and those that lie aside.
HEAD_MM = (190.0, 240.0)
# Ghost, and fat that its suppression left.
GHOST, FAT = (0.0, 0.04), (0.0, 0.04)
# Series whose volumes stay where they are, since no registration found them.
SHARE_FAILED = 0.2


def model_stream(heads: list[Anatomy], template: Template, seed: int) -> PairStream:
    """Return a stream whose sources all obey signal equations."""
    return PairStream(heads, seed, template=template, random_contrast=0.0)


def model_person(stream: PairStream, template: Template, index: int) -> list[Look]:
    """Return the sources of one pair of the training stream."""
    maps = tissue_maps(template)
    pair = stream.pair(index)
    mask = pair.mask.numpy()
    return [
        Look(f"stream {index}", kind, pair.source[channel].numpy(), mask, maps, template.grid)
        for channel, kind in enumerate(("bold", "dwi", "b0"))
    ]


def native_person(heads: list[Anatomy], template: Template, seed: int, index: int) -> list[Look]:
    """Return means of the cohort generator's series of one person, protocol and field of view drawn."""
    rng = np.random.default_rng(derive_seed(seed, "native", index))
    person = _wider(rng, draw_person(rng, heads[index % len(heads)]))
    plan = draw_acquisition(rng, 0.0)
    epi = EpiOptions(
        phase_encoding=str(rng.choice(["j", "j-"])),
        field_strength=rng.uniform(*SHIM),
        coil=1.0 if rng.random() < SHARE_RAW else rng.uniform(0.1, 0.7),
        lowest_loops=rng.uniform(*LOWEST_LOOPS),
        noise=0,
        oversampling=2,
    )
    bold_grid, dwi_grid = (_grid(rng, person, *limits) for limits in (BOLD_VOXELS_MM, DWI_VOXELS_MM))
    latents = derive_seed(seed, "native", index, "latents")
    bold_seen, dwi_seen = (
        _badly_shimmed(
            rng, scan(np.random.default_rng(latents), person, head_lattice(_around_head(grid))), epi
        )
        for grid in (bold_grid, dwi_grid)
    )
    readout = _readout(rng, epi, bold_grid, (0.015, 0.045), SHARP, GAPPED)
    means = _bold_mean(rng, person, bold_seen, replace(plan.bold, inflow=plan.inflow), readout, bold_grid)
    looks = _looks(f"phantom {index}", means, bold_grid, template)
    readout = _readout(rng, epi, dwi_grid, (0.02, 0.06), FILTERED, WIDE)
    means = _dwi_means(rng, person, dwi_seen, plan.dwi, readout, dwi_grid)
    return looks + _looks(f"phantom {index}", means, dwi_grid, template)


def _wider(rng: np.random.Generator, person: Person) -> Person:
    """Draw tissues, vessels, size and form of a head from wider ranges than those of one cohort."""
    stretch = np.exp(rng.uniform(-LONG, LONG) * np.array([-1, 1, 0]))
    return replace(
        person,
        tissue=draw_tissue(rng, TISSUE_SPREAD),
        vessels=rng.uniform(*VESSELS),
        scanner2template=np.diag([*1 / (rng.uniform(*SIZE) * stretch), 1.0]) @ person.scanner2template,
    )


def _readout(
    rng: np.random.Generator,
    epi: EpiOptions,
    grid: Grid,
    readout_s: tuple[float, float],
    psf_voxels: tuple[float, float],
    profile: tuple[float, float],
) -> EpiOptions:
    """Draw readout time, point spread, slice profile and artefacts."""
    return replace(
        epi,
        readout_s=rng.uniform(*readout_s),
        psf_voxels=rng.uniform(*psf_voxels),
        slice_thickness_mm=grid.zooms[2] * rng.uniform(*profile),
        ghost=rng.uniform(*GHOST),
        fat=rng.uniform(*FAT),
    )


def _bold_mean(
    rng: np.random.Generator, person: Person, seen: Scan, protocol: BoldProtocol, epi: EpiOptions, grid: Grid
) -> dict[str, np.ndarray]:
    """Return the mean of a realigned BOLD series."""
    poses, found = _motion(rng, N_POSES)
    series, _ = bold_series(rng, person, seen, poses, protocol, epi, BoldOptions.constant(50), grid=grid)
    sd = noise_sd(series, _log_uniform(rng, *NOISE))
    repeats = max(1, round(rng.uniform(*N_BOLD) / N_POSES))
    noisy = np.stack([_repeated(rng, series[..., v], sd, repeats) for v in range(N_POSES)], -1)
    return {"bold": realigned_mean(noisy, grid.vox2ras, found)}


def _dwi_means(
    rng: np.random.Generator, person: Person, seen: Scan, protocol: DwiProtocol, epi: EpiOptions, grid: Grid
) -> dict[str, np.ndarray]:
    """Return the image at b = 0 and the mean of the realigned others."""
    directions = np.vstack([np.zeros((1, 3)), spread_directions(N_DIRECTIONS)])
    bvals = np.array([0.0] + [protocol.bval_s_mm2] * N_DIRECTIONS)
    poses, found = _motion(rng, len(bvals))
    series, _ = dwi_series(
        rng,
        person,
        seen,
        poses,
        bvals,
        directions,
        protocol,
        epi,
        eddy=draw_eddy(rng),
        kurtosis=True,
        grid=grid,
    )
    sd = noise_sd(series[..., 0], _log_uniform(rng, *NOISE))
    repeats = max(1, round(rng.uniform(*N_DWI) / N_DIRECTIONS))
    noisy = np.stack([_repeated(rng, series[..., v], sd, repeats) for v in range(1, len(bvals))], -1)
    return {
        "b0": rician(rng, series[..., 0], sd),
        "dwi": realigned_mean(noisy, grid.vox2ras, found[1:]),
    }


def _repeated(rng: np.random.Generator, image: np.ndarray, sd: float, count: int) -> np.ndarray:
    """Return the mean of some volumes that differ by their noise: its floor is that of one."""
    return np.mean([rician(rng, image, sd) for _ in range(count)], 0)


def _motion(rng: np.random.Generator, n_volumes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw poses, and what an estimate of them finds: the truth, or in some restless series nothing."""
    is_lost = rng.random() < SHARE_FAILED
    size = _log_uniform(rng, 1.0, 4.0) if is_lost else _log_uniform(rng, 0.1, 2.0)
    poses = rest2volumes(draw_motion(rng, n_volumes, max_mm=size, max_deg=size / 2))
    return poses, np.tile(np.eye(4), (n_volumes, 1, 1)) if is_lost else poses


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _grid(
    rng: np.random.Generator, person: Person, plane_mm: tuple[float, float], slice_mm: tuple[float, float]
) -> Grid:
    """Draw a field of view, tilted about the left-right axis, about the vertex."""
    size, thickness = _log_uniform(rng, *plane_mm), _log_uniform(rng, *slice_mm)
    zooms = np.array([size, size, thickness])
    height = rng.uniform(*(SLAB_MM if rng.random() < SHARE_SLABS else WHOLE_MM))
    shape = np.round(np.array([rng.uniform(*PLANE_MM)] * 2 + [height]) / zooms).astype(int)
    head = np.linalg.inv(person.scanner2template)
    middle = apply_affine(head, np.array([0.0, -18.0, 0.0]))
    top = apply_affine(head, np.array([0.0, -18.0, 80.0]))[2] + rng.uniform(*TOP_MM)
    upright = np.diag([*zooms, 1.0])
    upright[:3, 3] = [*(middle[:2] - (shape[:2] - 1) / 2 * zooms[:2]), top - (shape[2] - 1) * thickness]
    turn = Rotation.from_euler("x", np.clip(rng.normal(0, TILT_DEG), -20, 20), degrees=True).as_matrix()
    vox2ras = np.eye(4)
    vox2ras[:3, :3] = turn @ upright[:3, :3]
    vox2ras[:3, 3] = middle + turn @ (upright[:3, 3] - middle)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), vox2ras)


def _around_head(grid: Grid) -> Grid:
    """Crop a field of view, of which air is a large part."""
    x, y = (min(n, int(size / zoom)) for n, size, zoom in zip(grid.shape, HEAD_MM, grid.zooms, strict=False))
    return grid.crop(((grid.shape[0] - x) // 2, (grid.shape[1] - y) // 2, 0), (x, y, grid.shape[2]))


def _badly_shimmed(rng: np.random.Generator, seen: Scan, epi: EpiOptions) -> Scan:
    """Add what the shims have left to the field of a head: terms of first and second order."""
    points = seen.grid.points().reshape(-1, 3)
    x, y, z = ((points - points.mean(0)) / UNSHIMMED_MM).T
    terms = np.stack([x, y, z, x * y, x * z, y * z, x**2 - y**2, z**2 - (x**2 + y**2) / 2])
    left = rng.normal(0, UNSHIMMED_HZ, len(terms)) @ terms
    field = seen.maps["field_hz"] + (left / epi.field_strength).astype(np.float32)
    return replace(seen, maps=seen.maps | {"field_hz": field})


def _looks(name: str, means: dict[str, np.ndarray], grid: Grid, template: Template) -> list[Look]:
    """Mask and register the first mean as the app does, and carry the template's tissues over."""
    kind, first = next(iter(means.items()))
    try:
        mask = rough_brain_mask(first, grid)
        _, found = registered(first, mask, grid, template, kind)
    except (DataError, QualityError) as error:
        print(f"{name}: left out, {error}")
        return []
    tissues = carried_over(tissue_maps(template), template, found)
    return [Look(name, kind, image, mask, tissues, grid) for kind, image in means.items()]
