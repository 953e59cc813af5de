"""What an acquisition and its preprocessing do to an image: protocol, blur, displacement, shading, noise.

Protocols and damage are drawn wider than they are in life, but mostly mild: where the damage is hard, the
best answer of a network is a blur.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol, MprageProtocol
from pds_bids.phantom.fields import random_field_on
from pds_bids.phantom.sampling import look_up
from pds_bids.phantom.tissue import FLUID, GREY, N_TISSUES, WHITE, Tissue

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["GROUPS", "Acquisition", "Degradation", "blur", "displace", "draw_acquisition", "shading"]

#: Images that are acquired, and so damaged, together; indices of the channels of the source.
GROUPS: dict[str, tuple[int, ...]] = {"bold": (0,), "dwi": (1, 2), "t1w": (3,)}
# Fewest and most volumes behind each image of a group, and the blur that motion leaves at worst (sigma, mm).
_VOLUMES = {"bold": ((4, 300),), "dwi": ((6, 150), (1, 10)), "t1w": ((1, 2),)}
_SHAKEN_MM = {"bold": (0.8,), "dwi": (3.5, 1.2), "t1w": (0.6,)}
# T1 of grey matter that operators set the Ernst angle for.
_ERNST_T1_S = 1.4
_MAX_DISTORTION_MM = 4.0
# Shift of an uncorrected EPI per Hz: 40 ms of read-out over 3 mm voxels.
_UNCORRECTED_MM_HZ = 0.04 * 3


@dataclass(frozen=True)
class Degradation:
    """How the images of one series of one person are degraded.

    Parameters
    ----------
    blur_mm : tuple of float
        Standard deviation of the point spread along the three axes.
    registration_sd_mm : float
        Standard deviation, per axis, of the smooth error of its registration.
    misplaced : tuple of float
        Rigid error of its registration: three shifts in mm, three turns in degrees.
    distortion_mm_hz : float
        Residual shift along the phase-encoding axis per Hz of field offset.
    phase_axis : int
        Phase-encoding axis.
    bias_sd : float
        Standard deviation of the logarithm of the residual bias field.
    flattened : float
        Share of what is broader than about 60 mm that the removal of the bias field has taken away.
    noise : float
        Standard deviation of the complex noise of a single volume relative to the in-brain mean of the
        brightest image of the series: where it is as strong as the signal, the mean magnitude is too bright.
    volumes : tuple of float
        Number of volumes that each image is the mean of.
    shaken_mm : tuple of float
        Blur of each image by volumes that were not put in place; standard deviations.
    deep_noise : float
        Logarithm of how much stronger the noise is in the middle of the head than at its surface: what was
        divided by the receive field of an array has its noise divided, too.
    """

    blur_mm: tuple[float, float, float]
    registration_sd_mm: float
    misplaced: tuple[float, float, float, float, float, float]
    distortion_mm_hz: float
    phase_axis: int
    bias_sd: float
    flattened: float
    noise: float
    volumes: tuple[float, ...]
    shaken_mm: tuple[float, ...]
    deep_noise: float = 0.0

    @property
    def sigma_mm(self) -> np.ndarray:
        """Standard deviations of the point spread of each image along the axes, ``(C, 3)``."""
        return np.sqrt(np.add.outer(np.square(self.shaken_mm), np.square(self.blur_mm)))


@dataclass(frozen=True)
class Acquisition:
    """Protocols of one person's source images.

    Parameters
    ----------
    bold : BoldProtocol
        Protocol of the BOLD series.
    dwi : DwiProtocol
        Protocol of the DWI series.
    t1w : MprageProtocol
        Protocol of the T1w image.
    field_strength : float
        Strength of the susceptibility field relative to solid pockets of air, times the field relative to 3
        T.
    slice_mm : float
        Slice thickness of the BOLD series.
    inflow : float
        Factor of the T1 of fluid in the BOLD series: fresh spins that pulsation brings into a slice are not
        saturated.
    degradations : dict
        One for each of `GROUPS`.
    arbitrary : dict
        Channel of the source to ``(16,)`` intensities that replace the signal equation.
    """

    bold: BoldProtocol
    dwi: DwiProtocol
    t1w: MprageProtocol
    field_strength: float
    slice_mm: float
    inflow: float
    degradations: dict[str, Degradation]
    arbitrary: dict[int, np.ndarray] = field(default_factory=dict)


def draw_acquisition(rng: np.random.Generator, random_contrast: float) -> Acquisition:
    """Draw protocols wider than they occur in the wild, and mostly mild degradations.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    random_contrast : float
        Probability of arbitrary intensities.
    """
    field_t = 1.5 if rng.random() < 0.12 else 3.0
    tr_s = float(np.exp(rng.uniform(np.log(0.5), np.log(3.5))))
    ernst = np.rad2deg(np.arccos(np.exp(-tr_s / _ERNST_T1_S)))
    bold = BoldProtocol(
        tr_s=tr_s,
        te_ms=float(rng.uniform(20, 42) + (10 if field_t < 2 else 0)),
        flip_deg=float(min(90, ernst * rng.uniform(0.75, 1.3))),
        field_t=field_t,
    )
    dwi = DwiProtocol(
        tr_s=float(rng.uniform(2.2, 13)),
        te_ms=float(rng.uniform(52, 112)),
        bval_s_mm2=float(np.exp(rng.uniform(np.log(650), np.log(3200)))),
        field_t=field_t,
    )
    t1w = MprageProtocol(
        tr_s=float(rng.uniform(1.8, 2.6)),
        ti_s=float(rng.uniform(0.75, 1.1)),
        flip_deg=float(rng.uniform(6, 12)),
        field_t=field_t,
    )
    strength = float(rng.uniform(0.3, 0.8)) * field_t / 3
    slice_mm = float(rng.uniform(1.8, 4.5))
    arbitrary = {}
    if rng.random() < random_contrast:
        arbitrary = {index: _arbitrary_levels(rng) for group in GROUPS.values() for index in group}
    return Acquisition(
        bold=bold,
        dwi=dwi,
        t1w=t1w,
        field_strength=strength,
        slice_mm=slice_mm,
        inflow=float(rng.uniform(0.25, 1.0)),
        degradations={name: _draw_degradation(rng, name, strength) for name in GROUPS},
        arbitrary=arbitrary,
    )


def _draw_degradation(rng: np.random.Generator, group: str, strength: float) -> Degradation:
    """Draw one series' damage; one in five is harder than the others."""
    hard = rng.random() < 0.2
    # Voxels of 2 to 2.5 mm are as common as larger ones.
    sharp = rng.uniform(0, 1, 3) ** 1.3
    plane, phase, across = np.array([0.1, 0.2, 0.1]) + [1.4, 1.4, 1.8] * sharp
    share = rng.uniform(-0.5, 0.5) if hard else rng.uniform(-0.25, 0.25)
    axis = 0 if rng.random() < 0.1 else 1
    sd_mm, turn_deg = (0.6, 0.7) if hard else (0.25, 0.3)
    shifts, turns = rng.normal(0, sd_mm, 3), rng.normal(0, turn_deg, 3)
    volumes = tuple(float(np.exp(rng.uniform(*np.log(limits)))) for limits in _VOLUMES[group])
    # Diffusion-weighted volumes are hard to put in place.
    shaken = tuple(float(most * rng.uniform(0, 1) ** 2) for most in _SHAKEN_MM[group])
    warped = group != "t1w"
    return Degradation(
        blur_mm=(float(plane), float(phase), float(across)) if warped else (float(plane),) * 3,
        registration_sd_mm=float(rng.uniform(0.5, 1.0) if hard else rng.uniform(0, 0.5)),
        misplaced=(*_three(shifts), *_three(turns)),
        distortion_mm_hz=float(share * _UNCORRECTED_MM_HZ * strength) if warped else 0.0,
        phase_axis=axis,
        # After N4 little is left, mostly.
        bias_sd=float(0.1 * rng.uniform(0, 1) ** 2),
        flattened=float(rng.uniform(0, 0.9)),
        noise=float(0.003 + 0.077 * rng.uniform(0, 1) ** 1.5),
        volumes=volumes,
        shaken_mm=shaken,
        deep_noise=float(1.5 * rng.uniform(0, 1)),
    )


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _arbitrary_levels(rng: np.random.Generator) -> np.ndarray:
    """Draw intensities of tissues that obey no signal equation."""
    levels = np.full(N_TISSUES, 0.1)
    for group in (GREY, WHITE, FLUID):
        levels[list(group)] = rng.uniform(0.15, 1.0) + rng.normal(0, 0.06, len(group))
    levels[Tissue.SOFT] = rng.uniform(0.0, 0.4)
    return np.clip(levels, 0.02, None)


def blur(volume: "Tensor", sigma_mm: np.ndarray, zoom_mm: float) -> "Tensor":
    """Smooth every channel by a Gaussian of its own, cut off at three standard deviations.

    Three products with banded matrices, which is faster than a convolution for volumes of this size, on the
    CPU and on a GPU. Beyond its borders the volume is zero.

    Parameters
    ----------
    volume : Tensor
        ``(C, X, Y, Z)`` float32.
    sigma_mm : ndarray
        ``(C, 3)`` standard deviations.
    zoom_mm : float
        Voxel size.

    Returns
    -------
    Tensor
        ``(C, X, Y, Z)`` float32.
    """
    x, y, z = (
        _kernels(n, sigma_mm[:, axis] / zoom_mm, volume.device) for axis, n in enumerate(volume.shape[1:])
    )
    planes = y[:, None] @ (volume @ z[:, None])
    return (x @ planes.flatten(2)).view_as(planes)


def _kernels(n: int, sigma: np.ndarray, device: "torch.device") -> "Tensor":
    """Return ``(C, n, n)`` symmetric smoothing matrices; sigma in voxels."""
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    width = np.maximum(sigma, 1e-3)[:, None]
    taps = np.arange(n)
    kernel = np.where(taps <= np.ceil(3 * width), np.exp(-0.5 * (taps / width) ** 2), 0)
    kernel /= 2 * kernel.sum(1, keepdims=True) - kernel[:, :1]
    return _on(kernel[:, distance], device)


def displace(
    rng: np.random.Generator,
    volume: "Tensor",
    field_hz: "Tensor",
    grid: Grid,
    voxels: "Tensor",
    settings: Degradation,
) -> "Tensor":
    """Apply registration error and residual distortion.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    volume : Tensor
        ``(C, X, Y, Z)``.
    field_hz : Tensor
        ``(X, Y, Z)``.
    grid : Grid
        Isotropic, RAS-aligned grid of both.
    voxels : Tensor
        ``(N, 3)`` int64, voxels of the result.
    settings : Degradation
        Amounts.

    Returns
    -------
    Tensor
        ``(C, N)`` float32.
    """
    import torch

    zoom, device = grid.zooms[0], volume.device
    x, y, z = voxels.unbind(1)
    smooth = random_field_on(device, rng, grid.shape, grid.zooms, 25.0, 3)[:, x, y, z]
    turn = Rotation.from_euler("xyz", settings.misplaced[3:], degrees=True).as_matrix()
    centre = (np.array(grid.shape) - 1) / 2
    shift = np.array(settings.misplaced[:3]) / zoom + centre - turn @ centre
    index = voxels.float() @ _on(turn.T, device) + _on(shift, device)
    index = index + smooth.T * (settings.registration_sd_mm / zoom)
    distortion = (field_hz * settings.distortion_mm_hz).clamp(-_MAX_DISTORTION_MM, _MAX_DISTORTION_MM)
    index[:, settings.phase_axis] += distortion[x, y, z] / zoom
    # Signal piles up where the shift shrinks a voxel, and thins out where it stretches it.
    (stretch,) = torch.gradient(distortion, spacing=zoom, dim=settings.phase_axis)
    intensity = (1 + stretch[x, y, z]).clamp(0.6, 1.6)
    table = volume.flatten(1).T.contiguous()
    return look_up(table, grid.shape, index).T * intensity


def _on(array: np.ndarray, device: "torch.device") -> "Tensor":
    """Return a float32 tensor on a device."""
    import torch

    return torch.from_numpy(array.astype(np.float32)).to(device)


def shading(rng: np.random.Generator, voxels: "Tensor", grid: Grid, bias_sd: float, count: int) -> "Tensor":
    """Draw residual bias fields that images of one series share up to a fifth, ``(count, N)``."""
    x, y, z = voxels.unbind(1)
    fields = random_field_on(voxels.device, rng, grid.shape, grid.zooms, 55.0, 1 + count)[:, x, y, z]
    return (bias_sd * (0.98 * fields[:1] + 0.2 * fields[1:])).exp()
