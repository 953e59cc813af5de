"""Series of one virtual person in scanner space: where every voxel lies in the head, BOLD, DWI and T1w."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom import contrast
from pds_bids.phantom.anatomy import Anatomy
from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.orientation import fibre_axes
from pds_bids.phantom.sampling import AnatomySampler, gather
from pds_bids.phantom.susceptibility import dropout
from pds_bids.phantom.tissue import GREY, LATENTS, Latent, TissueProperties, draw_tissue

__all__ = [
    "Person",
    "Scan",
    "bold_series",
    "draw_motion",
    "draw_person",
    "dwi_series",
    "rigid",
    "scan",
    "t1w_image",
]

_FIELD_STRENGTH = 0.4
# Centre of head rotation: near the top of the neck.
_PIVOT_MM = np.array([0.0, -20.0, -40.0])


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
    """

    sampler: AnatomySampler
    tissue: TissueProperties
    scanner2template: np.ndarray
    warp_mm: np.ndarray
    warp_grid: Grid

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
    """

    grid: Grid
    fractions: np.ndarray
    latents: np.ndarray
    maps: dict[str, np.ndarray]
    template_points: np.ndarray

    def image(self, table: np.ndarray) -> np.ndarray:
        """Return ``(X, Y, Z)`` float32 of a table of `pds_bids.phantom.contrast.linearise`."""
        values = np.einsum("nk,nk->n", self.fractions @ table, self.latents)
        return np.maximum(values, 0).reshape(self.grid.shape)

    def share(self, *tissues: int) -> np.ndarray:
        """Return the summed fraction of some tissues, ``(X, Y, Z)``."""
        return self.fractions[:, list(tissues)].sum(1).reshape(self.grid.shape)


def rigid(parameters: np.ndarray) -> np.ndarray:
    """Return a rigid map about the neck.

    Parameters
    ----------
    parameters : ndarray
        ``(6,)``: translations in mm, rotations about x, y, z in degrees.

    Returns
    -------
    ndarray
        ``(4, 4)``: a point of the head at rest to where it is now.

    Examples
    --------
    >>> rigid(np.array([1.0, 0, 0, 0, 0, 0]))[:3, 3]
    array([1., 0., 0.])
    """
    rest2moved = np.eye(4)
    rest2moved[:3, :3] = Rotation.from_euler("xyz", parameters[3:], degrees=True).as_matrix()
    rest2moved[:3, 3] = parameters[:3] + _PIVOT_MM - rest2moved[:3, :3] @ _PIVOT_MM
    return rest2moved


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
    return Scan(grid, fractions, latents, maps, points)


def draw_motion(rng: np.random.Generator, n_volumes: int, *, max_mm: float, max_deg: float) -> np.ndarray:
    """Draw slow head motion with a few jumps.

    Returns
    -------
    ndarray
        ``(n_volumes, 6)`` float64: mm, then degrees; never beyond the limits. The first volume is at rest.
    """
    steps = rng.standard_normal((n_volumes, 6)) * np.where(rng.random((n_volumes, 1)) < 0.05, 4.0, 1.0)
    walk = np.cumsum(steps, 0)
    walk -= walk[0]
    limits = np.array([max_mm] * 3 + [max_deg] * 3) * rng.uniform(0.3, 1.0, 6)
    return walk * (limits / np.maximum(np.abs(walk).max(0), 1e-9))


def _move(image: np.ndarray, grid: Grid, rest2moved: np.ndarray) -> np.ndarray:
    """Return the image after the head has moved."""
    moved2rest = grid.ras2vox @ np.linalg.inv(rest2moved) @ grid.vox2ras
    return ndimage.affine_transform(image, moved2rest[:3, :3], moved2rest[:3, 3], order=1, mode="nearest")


def _coil(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Return a receive field: brighter near the coil, ``(X, Y, Z)`` with a mean of about 1."""
    points = grid.points()
    centre = points.reshape(-1, 3).mean(0) + rng.normal(0, 8, 3)
    radius2 = (((points - centre) / np.array([75.0, 95.0, 80.0])) ** 2).sum(-1)
    broad = random_field(rng, grid.shape, grid.zooms, 70.0)[0]
    return np.exp(rng.uniform(0.1, 0.35) * np.minimum(radius2, 2) - 0.1 + 0.06 * broad).astype(np.float32)


def _rician(rng: np.random.Generator, image: np.ndarray, sd: float) -> np.ndarray:
    """Return the magnitude of the image with complex noise."""
    real = image + sd * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = sd * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def bold_series(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    motion: np.ndarray,
    protocol: contrast.BoldProtocol,
    *,
    noise: float = 0.015,
) -> np.ndarray:
    """Simulate a BOLD series.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    person : Person
        Who is scanned.
    seen : Scan
        The person on the grid of the series.
    motion : ndarray
        ``(V, 6)`` from `draw_motion`.
    protocol : BoldProtocol
        The acquisition.
    noise : float
        Standard deviation of the thermal noise relative to the mean in the head; 0 also leaves out the coil.

    Returns
    -------
    ndarray
        ``(X, Y, Z, V)`` float32; the first volume is brighter, before the steady state.
    """
    steady = _echo(person, seen, protocol)
    relaxed = _echo(
        person, seen, contrast.BoldProtocol(30.0, protocol.te_ms, protocol.flip_deg, protocol.field_t)
    )
    coil = _coil(rng, seen.grid) if noise > 0 else np.ones(seen.grid.shape, np.float32)
    sd = noise * float(steady[steady > 0.3 * steady.max()].mean())
    n_volumes = len(motion)
    courses = _fluctuations(rng, seen, n_volumes, protocol.tr_s)
    grey = seen.share(*GREY)
    series = np.empty((*seen.grid.shape, n_volumes), np.float32)
    for v in range(n_volumes):
        activity = 1 + 0.01 * grey * np.tensordot(courses[0][v], courses[1], 1)
        # Longitudinal magnetisation falls from full relaxation to the steady state.
        image = (steady + (relaxed - steady) * (1.0 if v == 0 else 0.06 * 0.2**v)) * activity
        series[..., v] = _rician(rng, coil * _move(image, seen.grid, rigid(motion[v])), sd)
    return series


def _echo(person: Person, seen: Scan, protocol: contrast.BoldProtocol) -> np.ndarray:
    """Return the gradient-echo image with dropout and the blur of EPI."""
    table = contrast.linearise(lambda p: contrast.bold_signal(p, protocol), person.tissue)
    thickness = seen.grid.zooms[2]
    loss = dropout(seen.maps["gradient_hz_mm"] * _FIELD_STRENGTH, protocol.te_ms, thickness)
    return ndimage.gaussian_filter(seen.image(table) * loss.reshape(seen.grid.shape), 0.4)


def _fluctuations(
    rng: np.random.Generator, seen: Scan, n_volumes: int, tr_s: float, count: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Return time courses ``(V, count)`` below 0.1 Hz and their smooth maps ``(count, X, Y, Z)``."""
    white = rng.standard_normal((n_volumes, count))
    courses = ndimage.gaussian_filter1d(white, max(0.5, 2.5 / tr_s), axis=0)
    courses /= courses.std(0) + 1e-9
    maps = random_field(rng, seen.grid.shape, seen.grid.zooms, 30.0, count)
    return courses.astype(np.float32), (maps / np.sqrt(count)).astype(np.float32)


def dwi_series(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    motion: np.ndarray,
    bvals: np.ndarray,
    bvecs_ras: np.ndarray,
    protocol: contrast.DwiProtocol,
    *,
    noise: float = 0.02,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Simulate a diffusion series.

    Parameters
    ----------
    rng, person, seen, motion
        As `bold_series`.
    bvals : ndarray
        ``(V,)`` s/mm^2.
    bvecs_ras : ndarray
        ``(V, 3)`` unit vectors along the axes of the scanner.
    protocol : DwiProtocol
        Echo and repetition time.
    noise : float
        Standard deviation relative to the mean b = 0 signal in the head; 0 also leaves out the coil.

    Returns
    -------
    series : ndarray
        ``(X, Y, Z, V)`` float32. A voxel's signal is that of one cylindrical tensor.
    truth : dict
        ``fa``, ``md_um2_ms`` and ``b0`` ``(X, Y, Z)``, ``axis_ras`` ``(X, Y, Z, 3)``.
    """
    shape = seen.grid.shape
    b0 = seen.image(contrast.linearise(lambda p: contrast.b0_signal(p, protocol), person.tissue))
    weights = np.maximum(seen.fractions.sum(1), 1e-3)
    md = (seen.fractions @ person.tissue.column("md_um2_ms") / weights).reshape(shape)
    fa = (seen.fractions @ person.tissue.column("fa") / weights).reshape(shape)
    fa = np.clip(fa * np.exp(0.25 * seen.maps["tract"].reshape(shape)), 0, 0.85)
    axis = fibre_axes(rng, seen)
    parallel, perpendicular = contrast.axial_diffusivities(md, fa)
    coil = _coil(rng, seen.grid) if noise > 0 else np.ones(shape, np.float32)
    sd = noise * float(b0[b0 > 0.3 * b0.max()].mean())
    series = np.empty((*shape, len(bvals)), np.float32)
    for v, (b, vector) in enumerate(zip(bvals / 1000, bvecs_ras, strict=True)):
        rest2moved = rigid(motion[v])
        # The gradient is fixed to the scanner: seen from the head it turns the other way.
        cosine2 = (axis @ (rest2moved[:3, :3].T @ vector)) ** 2
        image = b0 * np.exp(-b * (perpendicular + (parallel - perpendicular) * cosine2))
        moved = image if not motion[v].any() else _move(image, seen.grid, rest2moved)
        series[..., v] = _rician(rng, coil * moved, sd) if noise > 0 else moved
    return series, {"fa": fa, "md_um2_ms": md, "b0": b0, "axis_ras": axis}


def t1w_image(rng: np.random.Generator, person: Person, seen: Scan, *, noise: float = 0.02) -> np.ndarray:
    """Simulate an MPRAGE-like image, ``(X, Y, Z)`` float32, white matter near 1 before the coil."""
    image = seen.image(contrast.linearise(contrast.t1w_signal, person.tissue))
    image = image / np.percentile(image, 98)
    return _rician(rng, _coil(rng, seen.grid) * image, noise)
