"""What an acquisition and its preprocessing do to an image: protocol, blur, displacement, shading, noise."""

from dataclasses import dataclass, field

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol
from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.sampling import gather
from pds_bids.phantom.tissue import FLUID, GREY, N_TISSUES, WHITE, Tissue

__all__ = ["Acquisition", "Degradation", "displace", "draw_acquisition", "shading"]

# T1 of grey matter that operators set the Ernst angle for.
_ERNST_T1_S = 1.4
_MAX_DISTORTION_MM = 2.5


@dataclass(frozen=True)
class Degradation:
    """How one modality of one person is degraded.

    Parameters
    ----------
    blur_mm : float
        Standard deviation of the point spread.
    registration_sd_mm : float
        Standard deviation, per axis, of the error of its registration.
    distortion_mm_hz : float
        Residual shift along the phase-encoding axis (anterior-posterior) per Hz of field offset.
    bias_sd : float
        Standard deviation of the logarithm of the residual bias field.
    noise : float
        Standard deviation of the noise relative to the in-brain mean.
    """

    blur_mm: float
    registration_sd_mm: float
    distortion_mm_hz: float
    bias_sd: float
    noise: float


@dataclass(frozen=True)
class Acquisition:
    """Protocols of one person's source images.

    Parameters
    ----------
    bold : BoldProtocol
        Protocol of the BOLD series.
    dwi : DwiProtocol
        Protocol of the DWI series.
    field_strength : float
        Strength of the susceptibility field relative to solid pockets of air, times the field relative to 3
        T.
    slice_mm : float
        Slice thickness of the BOLD series.
    degradations : dict
        Keys ``bold`` and ``dwi``.
    arbitrary : dict
        Contrast index to ``(16,)`` intensities that replace the signal equation.
    """

    bold: BoldProtocol
    dwi: DwiProtocol
    field_strength: float
    slice_mm: float
    degradations: dict[str, Degradation]
    arbitrary: dict[int, np.ndarray] = field(default_factory=dict)


def draw_acquisition(rng: np.random.Generator, random_contrast: float) -> Acquisition:
    """Draw protocols as they occur in the wild, and mild degradations.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    random_contrast : float
        Probability of arbitrary intensities.
    """
    field_t = 1.5 if rng.random() < 0.12 else 3.0
    tr_s = float(np.exp(rng.uniform(np.log(0.6), np.log(3.2))))
    ernst = np.rad2deg(np.arccos(np.exp(-tr_s / _ERNST_T1_S)))
    bold = BoldProtocol(
        tr_s=tr_s,
        te_ms=float(rng.uniform(22, 40) + (10 if field_t < 2 else 0)),
        flip_deg=float(min(90, ernst * rng.uniform(0.85, 1.25))),
        field_t=field_t,
    )
    dwi = DwiProtocol(
        tr_s=float(rng.uniform(2.5, 12)),
        te_ms=float(rng.uniform(58, 108)),
        bval_s_mm2=float(np.exp(rng.uniform(np.log(700), np.log(3000)))),
        field_t=field_t,
    )
    strength = float(rng.uniform(0.3, 0.8)) * field_t / 3
    arbitrary = {}
    if rng.random() < random_contrast:
        arbitrary = {index: _arbitrary_levels(rng) for index in range(3)}
    return Acquisition(
        bold=bold,
        dwi=dwi,
        field_strength=strength,
        slice_mm=float(rng.uniform(2.0, 4.0)),
        degradations={name: _draw_degradation(rng, strength) for name in ("bold", "dwi")},
        arbitrary=arbitrary,
    )


def _draw_degradation(rng: np.random.Generator, strength: float) -> Degradation:
    """Draw mild degradations: harder ones teach a network to blur."""
    return Degradation(
        blur_mm=float(rng.uniform(0.8, 1.8)),
        registration_sd_mm=float(rng.uniform(0, 0.5)),
        # Up to a quarter of the shift of an uncorrected EPI (40 ms over 3 mm voxels), either polarity.
        distortion_mm_hz=float(rng.uniform(-0.25, 0.25) * 0.04 * 3 * strength),
        bias_sd=float(rng.uniform(0, 0.10)),
        noise=float(rng.uniform(0, 0.015)),
    )


def _arbitrary_levels(rng: np.random.Generator) -> np.ndarray:
    """Draw intensities of tissues that obey no signal equation."""
    levels = np.full(N_TISSUES, 0.1)
    for group in (GREY, WHITE, FLUID):
        levels[list(group)] = rng.uniform(0.15, 1.0) + rng.normal(0, 0.06, len(group))
    levels[Tissue.SOFT] = rng.uniform(0.0, 0.4)
    return np.clip(levels, 0.02, None)


def displace(
    rng: np.random.Generator,
    volume: np.ndarray,
    field_hz: np.ndarray,
    grid: Grid,
    where: np.ndarray,
    settings: Degradation,
) -> np.ndarray:
    """Apply registration error and residual distortion.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    volume : ndarray
        ``(X, Y, Z, C)``.
    field_hz : ndarray
        ``(X, Y, Z)``.
    grid : Grid
        Isotropic, RAS-aligned grid of both.
    where : ndarray
        ``(X, Y, Z)`` bool, voxels of the result.
    settings : Degradation
        Amounts.

    Returns
    -------
    ndarray
        ``(N, C)`` float32.
    """
    zoom = grid.zooms[0]
    shift = random_displacement(
        rng, grid.shape, grid.zooms, sd_mm=settings.registration_sd_mm, spacing_mm=25.0
    )
    distortion = np.clip(field_hz * settings.distortion_mm_hz, -_MAX_DISTORTION_MM, _MAX_DISTORTION_MM)
    shift[..., 1] += distortion
    # Signal piles up where the shift shrinks a voxel, and thins out where it stretches it.
    intensity = np.clip(1 + np.gradient(distortion, zoom, axis=1), 0.6, 1.6).astype(np.float32)
    index = np.argwhere(where).astype(np.float32) + shift[where] / np.float32(zoom)
    return gather(np.ascontiguousarray(volume), index) * intensity[where][:, None]


def shading(rng: np.random.Generator, grid: Grid, bias_sd: float, count: int) -> np.ndarray:
    """Draw residual bias fields that images of one series share up to a fifth, ``(X, Y, Z, count)``."""
    fields = random_field(rng, grid.shape, grid.zooms, 55.0, 1 + count)
    log_bias = 0.98 * fields[0] + 0.2 * fields[1:]
    return np.moveaxis(np.exp(np.float32(bias_sd) * log_bias), 0, -1)
