"""Simulated means for `realism.py`: from the cohort generator and from the training stream."""

from dataclasses import replace

import numpy as np
from realism_figures import Look
from realism_scans import tissue_maps

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid, apply_affine, resample
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.imaging.tissues import Template
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.degrade import draw_acquisition
from pds_bids.phantom.dwi import dwi_series
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fluctuations import BoldOptions
from pds_bids.phantom.gradients import spread_directions
from pds_bids.phantom.moving_head import head_lattice
from pds_bids.phantom.person import Person, draw_person, scan
from pds_bids.phantom.stream import PairStream
from pds_bids.seeds import derive_seed

__all__ = ["model_looks", "native_looks", "native_person"]

# Voxels in plane and slice thickness, each drawn between two limits.
BOLD_VOXELS_MM = (2.2, 4.0), (2.4, 4.6)
DWI_VOXELS_MM = (1.9, 3.2), (1.9, 3.4)

# A series is as noisy as the mean of this many volumes; its noise floor is that of a single one.
N_BOLD, N_DIRECTIONS = 40, 6


def model_looks(heads: list[Anatomy], template: Template, seed: int, count: int) -> list[Look]:
    """Return the sources of the training stream that obey signal equations."""
    stream = PairStream(heads, seed, template=template, random_contrast=0.0)
    maps = tissue_maps(template)
    looks = []
    for index in range(count):
        pair = stream.pair(index)
        mask = pair.mask.numpy()
        for channel, kind in enumerate(("bold", "dwi", "b0")):
            image = pair.source[channel].numpy()
            looks.append(Look(f"stream {index}", kind, image, mask, maps, template.grid))
    return looks


def native_looks(heads: list[Anatomy], template: Template, seed: int, count: int) -> list[Look]:
    """Return means of the cohort generator's series of people at rest, protocols and fields of view drawn."""
    return [look for index in range(count) for look in native_person(heads, template, seed, index)]


def native_person(heads: list[Anatomy], template: Template, seed: int, index: int) -> list[Look]:
    """Return the means of one person."""
    rng = np.random.default_rng(derive_seed(seed, "native", index))
    person = draw_person(rng, heads[index % len(heads)])
    plan = draw_acquisition(rng, 0.0)
    fields = derive_seed(seed, "fields", index)
    epi = EpiOptions(
        phase_encoding=str(rng.choice(["j", "j-"])),
        field_strength=plan.field_strength * 3 / plan.bold.field_t,
        coil=rng.uniform(0, 2),
        psf_voxels=rng.uniform(0.4, 1.1),
        oversampling=2,
    )
    bold_grid, dwi_grid = (_grid(rng, person, *limits) for limits in (BOLD_VOXELS_MM, DWI_VOXELS_MM))
    readout = replace(
        epi, readout_s=rng.uniform(0.015, 0.045), noise=rng.uniform(0.005, 0.08) / np.sqrt(N_BOLD)
    )
    seen = scan(np.random.default_rng(fields), person, head_lattice(bold_grid))
    steady = BoldOptions.constant(6)
    series, _ = bold_series(rng, person, seen, np.zeros((1, 6)), plan.bold, readout, steady, grid=bold_grid)
    means = {"bold": series[..., 0]}
    looks = _looks(f"phantom {index}", means, bold_grid, person, template)
    readout = replace(epi, readout_s=rng.uniform(0.02, 0.06), noise=rng.uniform(0.01, 0.08))
    seen = scan(np.random.default_rng(fields), person, head_lattice(dwi_grid))
    directions = np.vstack([np.zeros((1, 3)), spread_directions(N_DIRECTIONS)])
    bvals = np.array([0.0] + [plan.dwi.bval_s_mm2] * N_DIRECTIONS)
    still = np.zeros((len(bvals), 6))
    series, _ = dwi_series(
        rng, person, seen, still, bvals, directions, plan.dwi, readout, kurtosis=True, grid=dwi_grid
    )
    means = {"b0": series[..., 0], "dwi": series[..., 1:].mean(-1)}
    return looks + _looks(f"phantom {index}", means, dwi_grid, person, template)


def _grid(
    rng: np.random.Generator, person: Person, plane_mm: tuple[float, float], slice_mm: tuple[float, float]
) -> Grid:
    """Draw a field of view that begins above the head and may end within the cerebellum."""
    size, thickness = rng.uniform(*plane_mm), rng.uniform(*slice_mm)
    zooms = np.array([size, size, thickness])
    extent = np.array([rng.uniform(205, 235)] * 2 + [rng.uniform(108, 165)])
    shape = np.round(extent / zooms).astype(int)
    head = np.linalg.inv(person.scanner2template)
    middle = apply_affine(head, np.array([0.0, -18.0, 0.0]))
    top = apply_affine(head, np.array([0.0, -18.0, 80.0]))[2] + rng.uniform(4, 18)
    vox2ras = np.diag([*zooms, 1.0])
    vox2ras[:3, 3] = [*(middle[:2] - (shape[:2] - 1) / 2 * zooms[:2]), top - (shape[2] - 1) * thickness]
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), vox2ras)


def _looks(
    name: str, means: dict[str, np.ndarray], grid: Grid, person: Person, template: Template
) -> list[Look]:
    """Mask the first mean as the app does, and carry the template's tissues over."""
    try:
        mask = rough_brain_mask(next(iter(means.values())), grid)
    except DataError as error:
        print(f"{name}: no mask, {error}")
        return []
    points = person.look(grid.points().reshape(-1, 3))[2]
    if person.mirrored:
        points = points * np.array([-1, 1, 1], np.float32)
    # To first order the inverse of the registration of the head to the template.
    points = 2 * points - person.sampler.follow(points, 1.0, 0.0)
    points = points.reshape(*grid.shape, 3)
    tissues = np.stack([resample(m, template.grid.vox2ras, points, order=1) for m in tissue_maps(template)])
    return [Look(name, kind, image, mask, tissues, grid) for kind, image in means.items()]
