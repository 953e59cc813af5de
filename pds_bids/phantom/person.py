"""A virtual person, and what lies where in a scanner's field of view."""

from dataclasses import dataclass, field

import numpy as np

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.disease import Effects, no_effects
from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.head_motion import rigid
from pds_bids.phantom.sampling import AnatomySampler, gather
from pds_bids.phantom.tissue import LATENTS, Latent, TissueProperties, draw_tissue

__all__ = ["Person", "Scan", "draw_person", "scan"]


@dataclass(frozen=True, eq=False)
class Person:
    """A virtual person.

    Parameters
    ----------
    sampler : AnatomySampler
        The head in template space.
    tissue : TissueProperties
        Properties of the tissues.
    scanner2template : ndarray
        ``(4, 4)``, pose and size of the head.
    warp_mm : ndarray
        ``(X, Y, Z, 3)`` float32 on `warp_grid`, in template space: what the affine does not say.
    warp_grid : Grid
        Coarse lattice.
    effects : Effects
        What a disease changes; by default nothing.
    """

    sampler: AnatomySampler
    tissue: TissueProperties
    scanner2template: np.ndarray
    warp_mm: np.ndarray
    warp_grid: Grid
    effects: Effects = field(default_factory=no_effects)

    def look(self, scanner_points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Return fractions, maps and template points at ``(N, 3)`` points of the scanner, mm."""
        points = apply_affine(self.scanner2template, scanner_points).astype(np.float32)
        points += gather(self.warp_mm, apply_affine(self.warp_grid.ras2vox, points))
        fractions, maps = self.sampler.at(points)
        outside = ((points < self.sampler.low_mm) | (points > self.sampler.high_mm)).any(1)
        fractions[outside] = 0
        return fractions, maps, points


@dataclass(frozen=True, eq=False)
class Scan:
    """Noise-free description of what a scanner sees on one grid.

    Parameters
    ----------
    grid : Grid
        Grid of the scan.
    fractions : ndarray
        ``(N, 16)`` float32 over all voxels.
    latents : ndarray
        ``(N, 6)`` float32; the first column is 1.
    maps : dict
        Fields and priors, ``(N,)`` each.
    template_points : ndarray
        ``(N, 3)`` mm.
    parcels : ndarray
        ``(N,)`` int32 index of the atlas's parcel, 0 none.
    """

    grid: Grid
    fractions: np.ndarray
    latents: np.ndarray
    maps: dict[str, np.ndarray]
    template_points: np.ndarray
    parcels: np.ndarray

    def image(self, table: np.ndarray) -> np.ndarray:
        """Return ``(X, Y, Z)`` float32 of a table of `pds_bids.phantom.contrast.linearise`."""
        values = np.einsum("nk,nk->n", self.fractions @ table, self.latents)
        return np.maximum(values, 0).reshape(self.grid.shape)

    def share(self, *tissues: int) -> np.ndarray:
        """Return the summed fraction of some tissues, ``(X, Y, Z)``."""
        return self.fractions[:, list(tissues)].sum(1).reshape(self.grid.shape)


def draw_person(rng: np.random.Generator, anatomy: Anatomy) -> Person:
    """Draw tissues, pose, size and shape of one person."""
    grid = anatomy.grid
    corner = apply_affine(grid.vox2ras, np.array(grid.shape) - 1.0)
    sampler = AnatomySampler(anatomy, grid.vox2ras[:3, 3], corner)
    pose = rigid(np.concatenate([rng.uniform(-4, 4, 3), rng.uniform(-5, 5, 3)]))
    size = np.diag([*rng.normal(1.0, 0.03, 3), 1.0])
    coarse = Grid(
        (26, 31, 26), np.array([[8.0, 0, 0, -100], [0, 8.0, 0, -136], [0, 0, 8.0, -82], [0, 0, 0, 1]])
    )
    warp = random_displacement(rng, coarse.shape, coarse.zooms, sd_mm=rng.uniform(0.8, 1.8), spacing_mm=40.0)
    tissue = draw_tissue(rng)
    return Person(sampler, tissue, np.linalg.inv(pose) @ size, np.ascontiguousarray(warp), coarse)


def scan(rng: np.random.Generator, person: Person, grid: Grid) -> Scan:
    """Look at a person on a grid; the same seed on another grid gives the same person."""
    fractions, maps, points = person.look(grid.points().reshape(-1, 3))
    latents = np.ones((len(points), 1 + len(LATENTS)), np.float32)
    coarse = person.warp_grid
    fields = random_field(rng, coarse.shape, coarse.zooms, 24.0, 3)
    smooth = gather(np.ascontiguousarray(np.moveaxis(fields, 0, -1)), apply_affine(coarse.ras2vox, points))
    for latent in (Latent.IRON, Latent.MYELIN, Latent.WATER):
        latents[:, 1 + latent] = 0.8 * smooth[:, latent] + rng.normal(0, 0.4)
    latents[:, 1 + Latent.TRACT] = maps["tract"]
    latents[:, 1 + Latent.NUCLEUS] = maps["nuclei"]
    latents[:, 1:] += gather(person.effects.latents, apply_affine(person.effects.grid.ras2vox, points))
    return Scan(grid, fractions, latents, maps, points, _parcels(person.effects, points))


def _parcels(effects: Effects, points: np.ndarray) -> np.ndarray:
    """Return the nearest parcel at ``(N, 3)`` template points, 0 outside of the atlas."""
    index = np.rint(apply_affine(effects.parcel_grid.ras2vox, points)).astype(np.int64)
    inside = ((index >= 0) & (index < effects.parcels.shape)).all(1)
    found = np.zeros(len(points), np.int32)
    found[inside] = effects.parcels[tuple(index[inside].T)]
    return found
