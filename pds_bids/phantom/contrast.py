"""Signal equations: from the properties of a tissue to the intensity of an acquisition."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import erf

from pds_bids.phantom.tissue import LATENTS, PROPERTIES, TissueProperties

__all__ = [
    "CANONICAL_BOLD",
    "CANONICAL_DWI",
    "BoldProtocol",
    "DwiProtocol",
    "axial_diffusivities",
    "b0_signal",
    "bold_signal",
    "dwi_signal",
    "gradient_echo",
    "linearise",
    "powder_average",
    "signals",
    "spin_echo",
    "t1w_signal",
]

_PD, _T1, _T2, _T2S, _MD, _FA, _KURTOSIS = range(len(PROPERTIES))
# The expansion in the kurtosis turns upward beyond its range; b MD is clipped where it is last used.
_MAX_ATTENUATION = 2.2


@dataclass(frozen=True)
class BoldProtocol:
    """A gradient-echo EPI acquisition.

    Parameters
    ----------
    tr_s, te_ms, flip_deg : float
        Repetition time, echo time, flip angle.
    field_t : float
        Field strength; T1 and T2* are scaled from 3 T.
    """

    tr_s: float = 2.0
    te_ms: float = 30.0
    flip_deg: float = 65.0
    field_t: float = 3.0


@dataclass(frozen=True)
class DwiProtocol:
    """A spin-echo EPI acquisition with diffusion weighting.

    Parameters
    ----------
    tr_s, te_ms : float
        Repetition and echo time.
    bval_s_mm2 : float
        b-value of the shell that is averaged.
    field_t : float
        Field strength.
    """

    tr_s: float = 6.0
    te_ms: float = 80.0
    bval_s_mm2: float = 1000.0
    field_t: float = 3.0


CANONICAL_BOLD = BoldProtocol()
CANONICAL_DWI = DwiProtocol()


def gradient_echo(
    pd: np.ndarray, t1_ms: np.ndarray, t2s_ms: np.ndarray, *, tr_ms: float, te_ms: float, flip_deg: float
) -> np.ndarray:
    """Return the steady-state signal of a spoiled gradient echo.

    ``PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``.
    """
    e1 = np.exp(-tr_ms / t1_ms)
    flip = np.deg2rad(flip_deg)
    return pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te_ms / t2s_ms)


def spin_echo(
    pd: np.ndarray, t1_ms: np.ndarray, t2_ms: np.ndarray, *, tr_ms: float, te_ms: float
) -> np.ndarray:
    """Return the signal of a 90-180 degree spin echo, ``PD (1 - exp(-TR / T1)) exp(-TE / T2)``."""
    return pd * (1 - np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def axial_diffusivities(md: np.ndarray, fa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues along and across the axis of a cylindrical tensor.

    Parameters
    ----------
    md, fa : ndarray
        Mean diffusivity (any unit) and fractional anisotropy in [0, 1).

    Returns
    -------
    parallel, perpendicular : ndarray
        ``MD (1 + 2k)`` and ``MD (1 - k)`` with ``k = FA / sqrt(3 - 2 FA^2)``, in the unit of `md`.

    Examples
    --------
    >>> [float(x) for x in axial_diffusivities(np.array(0.8), np.array(0.0))]
    [0.8, 0.8]
    """
    k = fa / np.sqrt(3 - 2 * fa**2)
    return md * (1 + 2 * k), md * (1 - k)


def powder_average(b: float, parallel: np.ndarray, perpendicular: np.ndarray) -> np.ndarray:
    """Return the mean of ``exp(-b g' D g)`` over all directions of g, for a cylindrical tensor D.

    ``exp(-b Dperp) sqrt(pi / (4 x)) erf(sqrt(x))`` with ``x = b (Dpar - Dperp)``; `b` and the diffusivities
    in units that cancel.

    References
    ----------
    Kaden, Kruggel and Alexander 2016, doi:10.1002/mrm.25734.
    """
    x = np.maximum(b * (np.asarray(parallel) - perpendicular), 0.0)
    root = np.sqrt(np.maximum(x, 1e-12))
    # erf(r) / r loses all digits as r goes to 0, where the integral is 1 - x / 3.
    mean = np.where(x < 1e-6, 1 - x / 3, np.sqrt(np.pi) / 2 * erf(root) / root)
    return np.exp(-b * np.asarray(perpendicular)) * mean


def _at_field(properties: np.ndarray, field_t: float) -> np.ndarray:
    """Scale relaxation times from 3 T: T1 grows with the field, T2* and a little T2 shrink."""
    ratio = field_t / 3.0
    scaled = properties.copy()
    scaled[..., _T1] *= ratio**0.3
    scaled[..., _T2] *= ratio**-0.15
    scaled[..., _T2S] *= ratio**-0.5
    return scaled


def bold_signal(properties: np.ndarray, protocol: BoldProtocol = CANONICAL_BOLD) -> np.ndarray:
    """Return the mean BOLD intensity of tissues.

    Parameters
    ----------
    properties : ndarray
        ``(..., 7)`` in the order of `PROPERTIES`.
    protocol : BoldProtocol
        The acquisition.

    Returns
    -------
    ndarray
        ``properties.shape[:-1]``, relative to fully relaxed water.
    """
    p = _at_field(properties, protocol.field_t)
    times = {"tr_ms": 1000 * protocol.tr_s, "te_ms": protocol.te_ms, "flip_deg": protocol.flip_deg}
    return gradient_echo(p[..., _PD], p[..., _T1], p[..., _T2S], **times)


def b0_signal(properties: np.ndarray, protocol: DwiProtocol = CANONICAL_DWI) -> np.ndarray:
    """Return the intensity without diffusion weighting; arguments as `bold_signal`."""
    p = _at_field(properties, protocol.field_t)
    return spin_echo(p[..., _PD], p[..., _T1], p[..., _T2], tr_ms=1000 * protocol.tr_s, te_ms=protocol.te_ms)


def dwi_signal(properties: np.ndarray, protocol: DwiProtocol = CANONICAL_DWI) -> np.ndarray:
    """Return the mean over all directions of the diffusion-weighted signal; arguments as `bold_signal`.

    The tensor's powder average, times ``exp((b MD)^2 K / 6)`` for the kurtosis K of the tissue.
    """
    b = protocol.bval_s_mm2 / 1000  # ms / um^2, so that b MD has no unit
    md, fa = properties[..., _MD], properties[..., _FA]
    kurtosis = np.exp(np.minimum(b * md, _MAX_ATTENUATION) ** 2 * properties[..., _KURTOSIS] / 6)
    return b0_signal(properties, protocol) * powder_average(b, *axial_diffusivities(md, fa)) * kurtosis


def t1w_signal(properties: np.ndarray) -> np.ndarray:
    """Return an MPRAGE-like intensity: inversion recovery, TI 900 ms, TR 2300 ms."""
    t1 = properties[..., _T1]
    recovery = np.abs(1 - 2 * np.exp(-900.0 / t1) + np.exp(-2300.0 / t1))
    return properties[..., _PD] * recovery


def signals(bold: BoldProtocol, dwi: DwiProtocol) -> tuple[Callable[[np.ndarray], np.ndarray], ...]:
    """Return the signal functions of all contrasts, in the order of `pds_bids.modalities.Contrast`."""
    return (
        partial(bold_signal, protocol=bold),
        partial(dwi_signal, protocol=dwi),
        partial(b0_signal, protocol=dwi),
    )


def linearise(
    signal: Callable[[np.ndarray], np.ndarray], tissue: TissueProperties, step: float = 0.5
) -> np.ndarray:
    """Expand the signal of every tissue to first order in the latent fields.

    A whole image is then one small matrix product, ``sum_k z_k(v) (fractions(v) . A_k)``.

    Parameters
    ----------
    signal : callable
        ``(16, 7)`` properties to ``(16,)`` intensities.
    tissue : TissueProperties
        The person.
    step : float
        Half the distance of the central differences, in units of the latent fields.

    Returns
    -------
    ndarray
        ``(16, 6)`` float32: value at zero, then the slope along each latent.
    """
    unit = np.eye(len(LATENTS))
    columns = [signal(tissue.at(np.zeros(len(LATENTS))))]
    for axis in unit:
        rise = signal(tissue.at(step * axis)) - signal(tissue.at(-step * axis))
        columns.append(rise / (2 * step))
    return np.stack(columns, 1).astype(np.float32)
