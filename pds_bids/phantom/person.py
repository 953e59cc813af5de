"""A virtual person, and what lies where in a scanner's field of view."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.demographics import Traits, head_scale
from pds_bids.phantom.disease import Effects, draw_effects, healthy_effects, no_effects
from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.head_motion import rigid
from pds_bids.phantom.parcels import Parcellation
from pds_bids.phantom.sampling import AnatomySampler, gather
from pds_bids.phantom.tissue import GREY, LATENTS, Latent, Tissue, TissueProperties, draw_tissue
from pds_bids.seeds import derive_seed

__all__ = ["Person", "Scan", "draw_person", "flow", "scan", "thinning"]

# Lattices in template space: of the warp and of the fields that belong to a person.
_WARP_GRID = Grid(
    (41, 49, 41), np.array([[5.0, 0, 0, -100], [0, 5.0, 0, -136], [0, 0, 5.0, -82], [0, 0, 0, 1]])
)
_LATENT_GRID = Grid(
    (67, 81, 67), np.array([[3.0, 0, 0, -100], [0, 3.0, 0, -136], [0, 0, 3.0, -82], [0, 0, 0, 1]])
)
# Together 9% of the volume of the brain, and 5% of its length relative to its width.
_SIZE_SD, _AXIS_SD = 0.022, 0.035
# Limits of the logarithm of how long a head is relative to its width, at the same volume: the mean brain of
# 95 Taiwanese adults has 0.91 of the ratio of the template (PMID 19964850), and long heads differ as much.
_LONG = 0.09
# Spacing of the latent fields and their standard deviations: regions; bundles and layers of the cortex.
_LATENT_SPACINGS_MM, _LATENT_SD = (24.0, 5.0), (0.7, 0.4)
# Radius of the spinal cord and of its canal; the way down is a little backwards.
_CORD_MM, _CANAL_MM, _CORD_TILT = 5.0, 9.0, 0.15
# Vessels of the surface are about as wide as the points of this lattice are apart.
_VESSEL_GRID = Grid(
    (101, 121, 101), np.array([[2.0, 0, 0, -100], [0, 2.0, 0, -136], [0, 0, 2.0, -82], [0, 0, 0, 1]])
)
# Mean and spread of their share of the fluid around the brain, cut at 0 and at the last.
_VESSEL_SHARE, _VESSEL_SD, _MOST_VESSEL = 0.05, 0.5, 0.9
# Units of iron that dephase cortex as a vein does; their mean is in T2* of cortex already.
_VENOUS_IRON = 20.0
# A displacement is doubled so often: the first step is a thirty-second of a few mm.
_DOUBLINGS = 5
# Cortex that gets thinner loses what borders on fluid, and never all of it.
_MOST_LOST = 0.9


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
        What age and disease change; by default nothing.
    mirrored : bool
        Whether the head is the mirror image of the anatomy. Parcels, effects and fibres are not: the
        person's left is the template's left.
    thinning : float
        From `thinning`: ratio of all cortex to the cortex that borders on fluid; 0 keeps the cortex as it is.
    unwarp_mm : ndarray, optional
        Inverse of the warp: a template point x lies at ``inv(scanner2template) (x + unwarp_mm(x))``.
    sharpness : float
        How much of the averaging over the voxels of the anatomy is undone, 0 to 1.
    cord_mm : ndarray, optional
        ``(3,)``, where the brainstem of the anatomy ends; None: it ends there.
    vessels : float
        Amount of vessels in the fluid around the brain and in the cortex; 0: none.
    """

    sampler: AnatomySampler
    tissue: TissueProperties
    scanner2template: np.ndarray
    warp_mm: np.ndarray
    warp_grid: Grid
    effects: Effects = field(default_factory=no_effects)
    mirrored: bool = False
    thinning: float = 0.0
    unwarp_mm: np.ndarray | None = None
    sharpness: float = 0.0
    vessels: float = 0.0
    cord_mm: np.ndarray | None = None

    def look(self, scanner_points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Return fractions, maps and template points at ``(N, 3)`` points of the scanner, mm."""
        points = apply_affine(self.scanner2template, scanner_points).astype(np.float32)
        points += gather(self.warp_mm, apply_affine(self.warp_grid.ras2vox, points))
        in_head = points * np.array([-1 if self.mirrored else 1, 1, 1], np.float32)
        # Anatomies end in the neck, which goes on.
        in_head[:, 2] = np.maximum(in_head[:, 2], self.sampler.low_mm[2])
        outside = ((in_head < self.sampler.low_mm) | (in_head > self.sampler.high_mm)).any(1)
        if self.effects.ventricle_mm:
            in_head = self.sampler.follow(in_head, 0.0, self.effects.ventricle_mm)
        fractions, maps = self.sampler.at(in_head)
        fractions[outside] = 0
        if self.cord_mm is not None:
            _add_cord(fractions, in_head, self.cord_mm)
        if self.sharpness:
            fractions = _sharpened(fractions, self.sharpness)
        self._shrink(fractions, points)
        return fractions, maps, points

    def _shrink(self, fractions: np.ndarray, points: np.ndarray) -> None:
        """Turn the lost shares of hippocampus and cortex into fluid; in place."""
        lost = self.effects.hippocampus * fractions[:, Tissue.LIMBIC]
        fractions[:, Tissue.LIMBIC] -= lost
        fractions[:, Tissue.CSF] += lost
        share: float | np.ndarray = self.effects.cortex
        if self.effects.atrophy is not None:
            index = apply_affine(self.effects.grid.ras2vox, points)
            share = share + gather(self.effects.atrophy, index)[:, 0]
        lost = np.minimum(share * self.thinning, _MOST_LOST) * _exposed(
            fractions[:, Tissue.CORTEX], fractions[:, Tissue.CSF]
        )
        fractions[:, Tissue.CORTEX] -= lost
        fractions[:, Tissue.CSF] += lost


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
        ``(N, 6)`` float32; the first column is 1. Those of age and disease are in it.
    maps : dict
        Fields and priors, ``(N,)`` each.
    template_points : ndarray
        ``(N, 3)`` mm.
    parcels : ndarray
        ``(N,)`` int32, parcel of every voxel with grey matter in it, 1 to P; 0 none.
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


def draw_person(
    rng: np.random.Generator,
    anatomy: Anatomy,
    traits: Traits | None = None,
    atlas: Parcellation | None = None,
) -> Person:
    """Draw tissues, pose, size and shape of one person, and what age and disease have done.

    Parameters
    ----------
    rng : Generator
        Gives one number, from which every draw is seeded by name.
    anatomy : Anatomy
        The head; it is mirrored for half of all people.
    traits : Traits, optional
        Diagnosis, age and sex; None: a young adult of no sex.
    atlas : Parcellation, optional
        Parcels and networks; None: without.

    Returns
    -------
    Person
    """
    seed = int(rng.integers(2**63 - 1))
    sampler, cord_mm = _prepared(anatomy)
    sharpness = float(_named(seed, "sharpness").uniform(0.5, 1.0))
    velocity = _velocity(seed)
    effects = no_effects()
    if atlas is not None:
        effects = draw_effects(seed, traits, atlas) if traits else healthy_effects(atlas)
    return Person(
        sampler,
        draw_tissue(_named(seed, "tissue")),
        _pose(seed, traits),
        flow(velocity, _WARP_GRID),
        _WARP_GRID,
        effects,
        bool(_named(seed, "side").random() < 0.5),
        thinning(anatomy, sharpness),
        flow(-velocity, _WARP_GRID),
        sharpness,
        float(_named(seed, "vessels").uniform(0.4, 1.4)),
        cord_mm,
    )


def flow(velocity_mm: np.ndarray, grid: Grid) -> np.ndarray:
    """Follow a steady flow for one unit of time, by scaling and squaring.

    The result is a diffeomorphism; its inverse is the flow of the negative velocity.

    Parameters
    ----------
    velocity_mm : ndarray
        ``(X, Y, Z, 3)`` mm per unit of time.
    grid : Grid
        Its lattice, axis-aligned.

    Returns
    -------
    ndarray
        ``(X, Y, Z, 3)`` float32: a point x ends at ``x + flow(x)``.

    References
    ----------
    Arsigny et al. 2006, doi:10.1007/11866565_113.
    """
    shift = velocity_mm / 2**_DOUBLINGS
    start = np.indices(grid.shape, dtype=np.float32)
    scale = np.array(grid.zooms).reshape(3, 1, 1, 1)
    for _ in range(_DOUBLINGS):
        there = start + np.moveaxis(shift, -1, 0) / scale
        onward = [ndimage.map_coordinates(shift[..., k], there, order=1, mode="nearest") for k in range(3)]
        shift = shift + np.stack(onward, -1)
    return np.ascontiguousarray(shift, np.float32)


def scan(rng: np.random.Generator, person: Person, grid: Grid) -> Scan:
    """Look at a person on a grid; the same seed on another grid gives the same person."""
    seed = int(rng.integers(2**63 - 1))
    fractions, maps, points = person.look(grid.points().reshape(-1, 3))
    latents = np.ones((len(points), 1 + len(LATENTS)), np.float32)
    rng_fields = _named(seed, "fields")
    fields = np.zeros((3, *_LATENT_GRID.shape), np.float32)
    for spacing, sd in zip(_LATENT_SPACINGS_MM, _LATENT_SD, strict=True):
        fields += sd * random_field(rng_fields, _LATENT_GRID.shape, _LATENT_GRID.zooms, spacing, 3)
    smooth = gather(
        np.ascontiguousarray(np.moveaxis(fields, 0, -1)), apply_affine(_LATENT_GRID.ras2vox, points)
    )
    means = _named(seed, "means").normal(0, 0.4, 3)
    for latent in (Latent.IRON, Latent.MYELIN, Latent.WATER):
        latents[:, 1 + latent] = smooth[:, latent] + means[latent]
    latents[:, 1 + Latent.TRACT] = maps["tract"]
    latents[:, 1 + Latent.NUCLEUS] = maps["nuclei"]
    if person.vessels:
        _add_vessels(_named(seed, "vessels"), fractions, latents, points, person.vessels)
    effects = person.effects
    latents[:, 1:] += gather(effects.latents, apply_affine(effects.grid.ras2vox, points))
    parcels = np.where(fractions[:, list(GREY)].sum(1) > 0, _parcels_at(effects, points), 0)
    return Scan(grid, fractions, latents, maps, points, parcels.astype(np.int32))


def _named(seed: int, what: str) -> np.random.Generator:
    """Return the generator of one draw."""
    return np.random.default_rng(derive_seed(seed, what))


def _pose(seed: int, traits: Traits | None) -> np.ndarray:
    """Draw where the head lies and how large it is: scanner to template, before the warp."""
    rng = _named(seed, "pose")
    pose = rigid(np.concatenate([rng.uniform(-4, 4, 3), rng.uniform(-5, 5, 3)]))
    rng = _named(seed, "size")
    length = head_scale(traits.sex if traits else None) * rng.normal(1.0, _SIZE_SD)
    stretch = _named(seed, "long").uniform(-_LONG, _LONG) * np.array([-1, 2, -1]) / 3
    axes = length * rng.normal(1.0, _AXIS_SD, 3) * np.exp(stretch)
    template2head = np.eye(4)
    template2head[:3, :3] = np.diag(axes) + np.triu(rng.normal(0, 0.015, (3, 3)), 1)
    return np.linalg.inv(pose @ template2head)


def _velocity(seed: int) -> np.ndarray:
    """Draw the flow that shapes a head: broad differences, and finer ones."""
    rng = _named(seed, "warp")
    shape, zooms = _WARP_GRID.shape, _WARP_GRID.zooms
    broad = random_displacement(rng, shape, zooms, sd_mm=rng.uniform(0.8, 2.0), spacing_mm=40.0)
    return broad + random_displacement(rng, shape, zooms, sd_mm=rng.uniform(0.2, 0.6), spacing_mm=20.0)


def _add_cord(fractions: np.ndarray, points: np.ndarray, start_mm: np.ndarray) -> None:
    """Continue the brainstem by a cord in its canal of fluid, which label maps do not have; in place."""
    depth = start_mm[2] - points[:, 2]
    near = np.flatnonzero((depth > 0) & (np.abs(points[:, 0] - start_mm[0]) < 2 * _CANAL_MM))
    depth = depth[near]
    distance = np.hypot(points[near, 0] - start_mm[0], points[near, 1] - start_mm[1] + _CORD_TILT * depth)
    begun = np.clip(depth / _CORD_MM, 0, 1)
    canal, cord = (np.clip((radius - distance) / 2 + 0.5, 0, 1) * begun for radius in (_CANAL_MM, _CORD_MM))
    fractions[near] *= (1 - canal)[:, None].astype(np.float32)
    fractions[near, Tissue.BRAINSTEM] += (canal * cord).astype(np.float32)
    fractions[near, Tissue.CSF] += (canal * (1 - cord)).astype(np.float32)


def _add_vessels(
    rng: np.random.Generator, fractions: np.ndarray, latents: np.ndarray, points: np.ndarray, amount: float
) -> None:
    """Give some of the fluid around the brain to vessels, and the cortex beside veins their iron; in place.

    Blood of veins has a short T2* and T2, that of arteries leaves before the echo: both are dark, as
    `Tissue.SOFT` is. Deoxygenated blood also dephases the tissue around a vein, as iron does. Together they
    make the grain of cortex and sulci that images of real heads have and label maps do not.
    """
    share = rng.standard_normal((*_VESSEL_GRID.shape, 1), dtype=np.float32)
    share = np.clip(_VESSEL_SHARE + _VESSEL_SD * share, 0, _MOST_VESSEL)
    mean = share.mean()
    share = gather(share, apply_affine(_VESSEL_GRID.ras2vox, points))[:, 0]
    latents[:, 1 + Latent.IRON] += amount * _VENOUS_IRON * (share - mean) * fractions[:, Tissue.CORTEX]
    blood = np.minimum(amount * share, _MOST_VESSEL) * fractions[:, Tissue.CSF]
    fractions[:, Tissue.CSF] -= blood
    fractions[:, Tissue.SOFT] += blood


def _sharpened(fractions: np.ndarray, share: float) -> np.ndarray:
    """Undo some of the averaging over the anatomy's 2 mm voxels: what is much of a voxel grows."""
    squares = fractions**2
    ratio = fractions.sum(1, keepdims=True) / np.maximum(squares.sum(1, keepdims=True), 1e-6)
    squares *= np.float32(share) * ratio
    squares += np.float32(1 - share) * fractions
    return squares


def _exposed(cortex: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Return the cortex that borders on fluid."""
    return cortex * np.minimum(3 * fluid, 1)


@lru_cache(maxsize=1)
def _prepared(anatomy: Anatomy) -> tuple[AnatomySampler, np.ndarray | None]:
    """Return a sampler of the whole head, and where its brainstem ends."""
    grid = anatomy.grid
    corner = apply_affine(grid.vox2ras, np.array(grid.shape) - 1.0)
    return AnatomySampler(anatomy, grid.vox2ras[:3, 3], corner), _end_of_brainstem(anatomy)


def thinning(anatomy: Anatomy, sharpness: float) -> float:
    """Return the ratio of all cortex to that bordering on fluid, in an anatomy that is sharpened so."""
    has_cortex = anatomy.fractions[..., Tissue.CORTEX] > 0
    fractions = _sharpened(anatomy.fractions[has_cortex].astype(np.float32) / 255, sharpness)
    cortex, fluid = fractions[:, Tissue.CORTEX], fractions[:, Tissue.CSF]
    return float(cortex.sum() / max(float(_exposed(cortex, fluid).sum()), 1e-6))


def _end_of_brainstem(anatomy: Anatomy) -> np.ndarray | None:
    """Return the middle of the lowest part of the brainstem, ``(3,)`` mm; None if there is none."""
    index = np.argwhere(anatomy.fraction(Tissue.BRAINSTEM) > 0.5)
    if not len(index):
        return None
    lowest = np.percentile(index[:, 2], 1)
    return apply_affine(anatomy.grid.vox2ras, index[index[:, 2] <= lowest + 1].mean(0))


def _parcels_at(effects: Effects, points: np.ndarray) -> np.ndarray:
    """Return the parcel at ``(N, 3)`` template points."""
    index = np.rint(apply_affine(effects.parcel_grid.ras2vox, points)).astype(np.int64)
    inside = ((index >= 0) & (index < effects.parcels.shape)).all(1)
    index[~inside] = 0
    return np.where(inside, effects.parcels[index[:, 0], index[:, 1], index[:, 2]], 0)
