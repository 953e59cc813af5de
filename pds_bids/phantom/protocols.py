"""Acquisition protocols of simulated sites."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pds_bids.exceptions import UsageError
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol, MprageProtocol
from pds_bids.phantom.epi import EpiOptions

__all__ = ["SITES", "Series", "Site", "direction_label", "opposite", "slice_times_s", "stored_direction"]

_OPPOSITE = {"i": "i-", "i-": "i", "j": "j-", "j-": "j"}
_LABELS = {"i": "LR", "i-": "RL", "j": "PA", "j-": "AP"}


@dataclass(frozen=True)
class Series:
    """How an echo-planar series is read out at a site.

    Parameters
    ----------
    zooms : tuple of float
        Voxel size relative to the one that is asked for.
    echo_spacing_s : float
        Effective echo spacing.
    phase_encoding : str
        ``j``, ``j-``, ``i`` or ``i-``: axis of the RAS+ array.
    noise : float
        Standard deviation of the thermal noise relative to the mean signal of the head.
    bands : int
        Slices excited together.
    ghost, fat : float
        Artefacts as in `EpiOptions`; 0 switches them off.
    """

    zooms: tuple[float, float, float]
    echo_spacing_s: float
    phase_encoding: str
    noise: float
    bands: int = 1
    ghost: float = 0.01
    fat: float = 0.01

    def epi(self, shape: tuple[int, int, int], coil: float, field_strength: float) -> EpiOptions:
        """Return the readout of a grid of some shape."""
        return EpiOptions(
            readout_s=self.total_readout_s(shape),
            phase_encoding=self.phase_encoding,
            field_strength=field_strength,
            coil=coil,
            noise=self.noise,
            ghost=self.ghost,
            fat=self.fat,
        )

    def total_readout_s(self, shape: tuple[int, int, int]) -> float:
        """Return the time from the first to the last echo, as BIDS defines ``TotalReadoutTime``."""
        return round(self.echo_spacing_s * (shape["ijk".index(self.phase_encoding[0])] - 1), 6)


@dataclass(frozen=True)
class Site:
    """A scanner and its protocol.

    Parameters
    ----------
    name : str
        As in ``participants.tsv``.
    model : str
        As in the sidecars.
    bold, dwi : BoldProtocol, DwiProtocol
        Contrasts; the b-value of the second is not used.
    bold_series, dwi_series : Series
        Readouts.
    bvals_s_mm2 : tuple of float
        Shells.
    coil : float
        Strength of the receive field that a reference scan has left; 1: nothing was undone.
    shim : float
        Off-resonance relative to solid pockets of air.
    mprage : MprageProtocol
        T1-weighted image.
    """

    name: str
    model: str
    bold: BoldProtocol
    dwi: DwiProtocol
    bold_series: Series
    dwi_series: Series
    bvals_s_mm2: tuple[float, ...] = (1000.0,)
    coil: float = 0.4
    shim: float = 0.4
    mprage: MprageProtocol = field(default_factory=MprageProtocol)

    @property
    def field_t(self) -> float:
        """Field strength in tesla."""
        return self.bold.field_t


#: Ranges are those of large public cohorts: 1.5 and 3 T, TR 0.8 to 3 s, TE 30 to 40 ms, one to four bands.
SITES: tuple[Site, ...] = (
    Site(
        "A",
        "reference",
        BoldProtocol(tr_s=2.0, te_ms=30.0, flip_deg=75.0, inflow=0.7),
        DwiProtocol(tr_s=6.0, te_ms=80.0),
        Series((1, 1, 4 / 3), 0.0005, "j-", 0.015),
        Series((1, 1, 1), 0.0007, "j-", 0.03),
    ),
    Site(
        "B",
        "long repetition",
        BoldProtocol(tr_s=3.0, te_ms=30.0, flip_deg=80.0, inflow=0.8),
        DwiProtocol(tr_s=9.0, te_ms=68.0),
        Series((1.1, 1.1, 1.1), 0.00055, "j-", 0.012),
        Series((0.9, 0.9, 0.9), 0.00075, "j-", 0.035),
    ),
    Site(
        "C",
        "multiband",
        BoldProtocol(tr_s=0.8, te_ms=35.0, flip_deg=52.0, inflow=0.5),
        DwiProtocol(tr_s=3.4, te_ms=90.0),
        Series((0.85, 0.85, 0.85), 0.00058, "j", 0.03, bands=4),
        Series((0.85, 0.85, 0.85), 0.00069, "j", 0.05, bands=4),
        bvals_s_mm2=(1000.0, 2000.0),
        coil=0.6,
    ),
    Site(
        "D",
        "low field",
        BoldProtocol(tr_s=2.5, te_ms=40.0, flip_deg=90.0, field_t=1.5, inflow=0.7),
        DwiProtocol(tr_s=8.0, te_ms=95.0, field_t=1.5),
        Series((1.1, 1.1, 1.5), 0.0006, "j", 0.025),
        Series((1.0, 1.0, 1.1), 0.0008, "j", 0.045),
        coil=0.2,
        mprage=MprageProtocol(field_t=1.5),
    ),
    Site(
        "E",
        "strong weighting",
        BoldProtocol(tr_s=2.2, te_ms=28.0, flip_deg=65.0, inflow=0.6),
        DwiProtocol(tr_s=7.0, te_ms=88.0),
        Series((1.05, 1.05, 1.2), 0.00048, "j-", 0.018, bands=2),
        Series((1.05, 1.05, 1.05), 0.00065, "j-", 0.035, bands=2),
        bvals_s_mm2=(700.0, 1500.0),
        coil=0.5,
        shim=0.5,
    ),
)


def opposite(direction: str) -> str:
    """Return the phase encoding along the same axis the other way.

    Examples
    --------
    >>> opposite("j-")
    'j'
    """
    return _OPPOSITE[direction]


def direction_label(direction: str) -> str:
    """Return the value of the ``dir-`` entity for a phase encoding of the RAS+ array.

    Examples
    --------
    >>> direction_label("j-"), direction_label("i")
    ('AP', 'LR')
    """
    return _LABELS[direction]


def stored_direction(direction: str) -> str:
    """Return ``PhaseEncodingDirection`` of a series that is stored as LAS, from that of the RAS+ array.

    Examples
    --------
    >>> stored_direction("j-"), stored_direction("i")
    ('j-', 'i-')
    """
    return _OPPOSITE[direction] if direction.startswith("i") else direction


def slice_times_s(n_slices: int, tr_s: float, bands: int = 1) -> tuple[float, ...]:
    """Return when each slice is excited: even ones first, every band alike.

    Parameters
    ----------
    n_slices : int
        Number of slices.
    tr_s : float
        Repetition time.
    bands : int
        Slices excited together.

    Returns
    -------
    tuple of float
        Seconds after the start of the volume, below `tr_s`.

    Raises
    ------
    UsageError
        If there are more bands than slices.

    Examples
    --------
    >>> slice_times_s(4, 2.0), slice_times_s(4, 2.0, bands=2)
    ((0.0, 1.0, 0.5, 1.5), (0.0, 1.0, 0.0, 1.0))
    """
    if not 1 <= bands <= n_slices:
        raise UsageError(f"{bands} bands for {n_slices} slices; expected 1 to {n_slices}")
    shots = -(-n_slices // bands)
    order: Sequence[int] = [*range(0, shots, 2), *range(1, shots, 2)]
    when = np.empty(shots)
    when[list(order)] = np.arange(shots) * tr_s / shots
    return tuple(round(float(when[k % shots]), 6) for k in range(n_slices))
