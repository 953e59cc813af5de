"""Series of one virtual person in scanner space: BOLD, DWI and T1w."""

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid
from pds_bids.phantom import contrast
from pds_bids.phantom.fields import random_field
from pds_bids.phantom.head_motion import rigid
from pds_bids.phantom.orientation import fibre_axes
from pds_bids.phantom.person import Person, Scan
from pds_bids.phantom.susceptibility import dropout
from pds_bids.phantom.tissue import GREY

__all__ = ["bold_series", "dwi_series", "t1w_image"]

_FIELD_STRENGTH = 0.4


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
