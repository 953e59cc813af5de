"""Signal equations: from the properties of a tissue to the intensity of an acquisition."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import erf

from pds_bids.phantom.tissue import FLUID, LATENTS, N_TISSUES, PROPERTIES, TissueProperties

__all__ = [
    "CANONICAL_BOLD",
    "CANONICAL_DWI",
    "BoldProtocol",
    "DwiProtocol",
    "MprageProtocol",
    "approach_to_steady_state",
    "axial_diffusivities",
    "b0_signal",
    "bold_signal",
    "dwi_signal",
    "gradient_echo",
    "inflow_factors",
    "linearise",
    "mprage",
    "powder_average",
    "signals",
    "spin_echo",
    "t1w_signal",
    "t2s_ms",
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
    inflow : float
        Factor of the T1 of fluid in `pds_bids.phantom.bold`: pulsation brings in fresh spins, which no
        pulse has saturated; 1: none.
    """

    tr_s: float = 2.0
    te_ms: float = 30.0
    flip_deg: float = 65.0
    field_t: float = 3.0
    inflow: float = 1.0


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


@dataclass(frozen=True)
class MprageProtocol:
    """An inversion-prepared train of gradient echoes.

    Parameters
    ----------
    tr_s : float
        From one inversion to the next.
    ti_s : float
        From the inversion to the echo in the middle of the train, where the centre of k-space is read.
    echo_spacing_ms, n_echoes : float, int
        Distance and number of the echoes of a train.
    flip_deg : float
        Flip angle of their pulses.
    field_t : float
        Field strength.
    """

    tr_s: float = 2.3
    ti_s: float = 0.9
    echo_spacing_ms: float = 7.0
    n_echoes: int = 176
    flip_deg: float = 9.0
    field_t: float = 3.0


CANONICAL_BOLD = BoldProtocol(inflow=0.8)
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


def inflow_factors(inflow: float) -> np.ndarray:
    """Return what fresh spins make of all properties, ``(16, 7)`` factors; see `BoldProtocol.inflow`."""
    factors = np.ones((N_TISSUES, len(PROPERTIES)))
    factors[list(FLUID), _T1] = inflow
    return factors


def approach_to_steady_state(t1_ms: np.ndarray, tr_ms: float, flip_deg: float, pulse: int) -> np.ndarray:
    """Return how much brighter than in the steady state the signal after a pulse is.

    Between pulses ``M <- 1 + (M cos(a) - 1) E1``, from ``M = 1`` before the first; in closed form
    ``M(n) = Ms + (1 - Ms) (E1 cos(a))^n`` with the steady state ``Ms = (1 - E1) / (1 - E1 cos(a))``.

    Parameters
    ----------
    t1_ms : ndarray
        Longitudinal relaxation times.
    tr_ms, flip_deg : float
        Time between pulses, flip angle.
    pulse : int
        Number of pulses before this one: 0 for the first.

    Returns
    -------
    ndarray
        ``M(n) / Ms``, at least 1 for flip angles up to 90 degrees.

    Examples
    --------
    >>> float(approach_to_steady_state(np.array(1e-3), 2000, 75, 0))
    1.0
    """
    e1 = np.exp(-tr_ms / t1_ms)
    kept = e1 * np.cos(np.deg2rad(flip_deg))
    steady = (1 - e1) / (1 - kept)
    return 1 + (1 - steady) * kept**pulse / steady


def mprage(pd: np.ndarray, t1_ms: np.ndarray, protocol: MprageProtocol) -> np.ndarray:
    """Return the longitudinal magnetisation at the centre of k-space, tipped by the flip angle.

    Inversion, delay, a train of pulses, delay, and again, in the steady state of the whole cycle.

    Parameters
    ----------
    pd, t1_ms : ndarray
        Proton density and T1.
    protocol : MprageProtocol
        The acquisition.

    Returns
    -------
    ndarray
        Magnitude, relative to fully relaxed water.

    References
    ----------
    Deichmann et al. 2000, NeuroImage.
    """
    spacing, train = protocol.echo_spacing_ms, protocol.n_echoes * protocol.echo_spacing_ms
    before = 1000 * protocol.ti_s - train / 2
    after = 1000 * protocol.tr_s - before - train
    flip = np.deg2rad(protocol.flip_deg)
    e_before, e_after, e_echo = (np.exp(-t / t1_ms) for t in (before, after, spacing))
    kept = np.cos(flip) * e_echo
    driven = (1 - e_echo) / (1 - kept)  # what the train tends to

    def run(start: np.ndarray, pulses: float) -> np.ndarray:
        first = 1 + (start - 1) * e_before
        return driven + (first - driven) * kept**pulses

    def cycle(start: np.ndarray) -> np.ndarray:
        return 1 + (run(start, protocol.n_echoes) - 1) * e_after

    # The end of a cycle is linear in its start, and each starts with the inverse of the last one's end.
    offset = cycle(np.zeros_like(t1_ms))
    slope = cycle(np.ones_like(t1_ms)) - offset
    end = offset / (1 + slope)
    return pd * np.sin(flip) * np.abs(run(-end, protocol.n_echoes / 2))


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


def t2s_ms(properties: np.ndarray, field_t: float = 3.0) -> np.ndarray:
    """Return T2* at a field strength, ms; arguments as `bold_signal`."""
    return _at_field(properties, field_t)[..., _T2S]


def bold_signal(
    properties: np.ndarray, protocol: BoldProtocol = CANONICAL_BOLD, pulse: int | None = None
) -> np.ndarray:
    """Return the mean BOLD intensity of tissues.

    Parameters
    ----------
    properties : ndarray
        ``(..., 7)`` in the order of `PROPERTIES`.
    protocol : BoldProtocol
        The acquisition.
    pulse : int, optional
        Number of the excitation, 0 the first after full relaxation; None: in the steady state.

    Returns
    -------
    ndarray
        ``properties.shape[:-1]``, relative to fully relaxed water.
    """
    p = _at_field(properties, protocol.field_t)
    times = {"tr_ms": 1000 * protocol.tr_s, "te_ms": protocol.te_ms, "flip_deg": protocol.flip_deg}
    signal = gradient_echo(p[..., _PD], p[..., _T1], p[..., _T2S], **times)
    if pulse is None:
        return signal
    return signal * approach_to_steady_state(p[..., _T1], 1000 * protocol.tr_s, protocol.flip_deg, pulse)


def b0_signal(properties: np.ndarray, protocol: DwiProtocol = CANONICAL_DWI) -> np.ndarray:
    """Return the intensity without diffusion weighting; arguments as `bold_signal`."""
    p = _at_field(properties, protocol.field_t)
    return spin_echo(p[..., _PD], p[..., _T1], p[..., _T2], tr_ms=1000 * protocol.tr_s, te_ms=protocol.te_ms)


def dwi_signal(
    properties: np.ndarray, protocol: DwiProtocol = CANONICAL_DWI, cosine2: float | None = None
) -> np.ndarray:
    """Return the diffusion-weighted signal.

    That of the tensor, times ``exp((b MD)^2 K / 6)`` for the kurtosis K of the tissue.

    Parameters
    ----------
    properties, protocol
        As of `bold_signal`.
    cosine2 : float, optional
        Squared cosine of the angle between gradient and fibres; None: mean over all directions.

    Returns
    -------
    ndarray
        ``properties.shape[:-1]``, relative to fully relaxed water.
    """
    b = protocol.bval_s_mm2 / 1000  # ms / um^2, so that b MD has no unit
    md, fa = properties[..., _MD], properties[..., _FA]
    parallel, perpendicular = axial_diffusivities(md, fa)
    if cosine2 is None:
        decay = powder_average(b, parallel, perpendicular)
    else:
        decay = np.exp(-b * (perpendicular + (parallel - perpendicular) * cosine2))
    kurtosis = np.exp(np.minimum(b * md, _MAX_ATTENUATION) ** 2 * properties[..., _KURTOSIS] / 6)
    return b0_signal(properties, protocol) * decay * kurtosis


def t1w_signal(properties: np.ndarray, protocol: MprageProtocol | None = None) -> np.ndarray:
    """Return the MPRAGE intensity; arguments as `bold_signal`, by default TI 900 ms and TR 2300 ms."""
    protocol = protocol or MprageProtocol()
    p = _at_field(properties, protocol.field_t)
    return mprage(p[..., _PD], p[..., _T1], protocol)


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
