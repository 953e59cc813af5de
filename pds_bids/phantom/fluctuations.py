"""What makes a BOLD signal change over time: networks of parcels, heart, breathing, drift.

Every course is a sum of sinusoids of random phase, a function of continuous time, so that each slice takes it
at the moment when it is excited.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom.disease import Effects
from pds_bids.phantom.fields import random_field
from pds_bids.phantom.moving_head import evaluate
from pds_bids.phantom.person import Scan
from pds_bids.phantom.tissue import GREY, WHITE, Tissue

__all__ = ["BoldOptions", "Modulation", "band_noise", "interleaved_slice_times", "parcel_courses"]

BAND_HZ = (0.01, 0.1)
# Echo time at which amplitudes are stated.
_TE_MS = 30.0
_HEART_HZ, _BREATH_HZ = (0.9, 1.3), (0.2, 0.33)
# Large vessels, template space: circle of Willis, sagittal sinus; centre and half axes in mm.
_VESSELS = (((0.0, 2.0, -22.0), (22.0, 20.0, 10.0)), ((0.0, -80.0, 30.0), (7.0, 25.0, 40.0)))


@dataclass(frozen=True)
class BoldOptions:
    """How a BOLD series changes over time.

    Parameters
    ----------
    fluctuation : float
        Standard deviation of a parcel's course, relative to the signal of pure grey matter at an echo time of
        30 ms; it is a change of R2*, so it grows with the echo time.
    cardiac, respiratory : float
        Standard deviation of pulsation in fluid beside large vessels, and of breathing in fluid, relative to
        the signal; a fraction of it in tissue.
    drift : float
        Standard deviation over space of the change of the scanner from the first volume to the last.
    discarded : int
        Excitations before the first volume that is kept.
    slice_times_s : sequence of float, optional
        When each slice (third array axis) is excited after the start of its volume; None: all at once.

    Raises
    ------
    UsageError
        If a value is negative.
    """

    fluctuation: float = 0.01
    cardiac: float = 0.02
    respiratory: float = 0.008
    drift: float = 0.01
    discarded: int = 0
    slice_times_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("fluctuation", "cardiac", "respiratory", "drift", "discarded"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more")

    @classmethod
    def constant(cls, discarded: int = 0) -> "BoldOptions":
        """Return a series in which nothing changes but what the pulses do."""
        return cls(fluctuation=0, cardiac=0, respiratory=0, drift=0, discarded=discarded)


def interleaved_slice_times(n_slices: int, tr_s: float) -> tuple[float, ...]:
    """Return slice times, slices 0, 2, 4 ... first, then 1, 3, 5 ..., spread over the whole TR.

    Examples
    --------
    >>> interleaved_slice_times(4, 2.0)
    (0.0, 1.0, 0.5, 1.5)
    """
    times = np.empty(n_slices)
    times[[*range(0, n_slices, 2), *range(1, n_slices, 2)]] = np.arange(n_slices) * tr_s / n_slices
    return tuple(float(t) for t in times.round(6))


def band_noise(
    rng: np.random.Generator, count: int, duration_s: float, band_hz: tuple[float, float]
) -> Callable[[np.ndarray], np.ndarray]:
    """Draw Gaussian courses of variance 1 with a flat spectrum between two frequencies.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    count : int
        Number of courses.
    duration_s : float
        How long they must not repeat themselves.
    band_hz : tuple of float
        Lowest and highest frequency.

    Returns
    -------
    callable
        ``(T,)`` seconds to ``(T, count)`` float64.
    """
    low, high = band_hz
    # Harmonics of twice the duration do not repeat within it; eight at least look like noise.
    n_waves = max(8, int(np.ceil((high - low) * 2 * duration_s)))
    frequency = low + (np.arange(n_waves) + 0.5) * (high - low) / n_waves
    weights = rng.standard_normal((2 * n_waves, count)) / np.sqrt(n_waves)

    def course(times_s: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * np.asarray(times_s, float)[:, None] * frequency
        return np.concatenate([np.cos(angle), np.sin(angle)], 1) @ weights

    return course


def parcel_courses(
    rng: np.random.Generator, effects: Effects, duration_s: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Draw the course of every parcel: what its network shares, and what is its own.

    ``c_p = sqrt(k) n + sqrt(1 - k) o`` with the course n of the network of p, an own course o, both of
    variance 1, and the coupling k of the network, which is thus the correlation of two of its parcels.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    effects : Effects
        Networks, couplings and amplitudes of the person.
    duration_s : float
        Length of the series.

    Returns
    -------
    callable
        ``(T,)`` seconds to ``(T, P + 1)``, in units of a normal amplitude. Column 0 is grey matter without a
        parcel.
    """
    n_networks = len(effects.coupling) - 1
    shared = band_noise(rng, n_networks + 1, duration_s, BAND_HZ)
    own = band_noise(rng, len(effects.network), duration_s, BAND_HZ)
    coupling = np.clip(np.asarray(effects.coupling, float), 0, 1)[effects.network]
    coupling = np.where(effects.network > 0, coupling, 0)

    def courses(times_s: np.ndarray) -> np.ndarray:
        mixed = np.sqrt(coupling) * shared(times_s)[:, effects.network]
        return (mixed + np.sqrt(1 - coupling) * own(times_s)) * effects.amplitude

    return courses


@dataclass(frozen=True, eq=False)
class Modulation:
    """What multiplies the signal of each volume, where the head is in it.

    Parameters
    ----------
    grid, lattice : Grid
        Of the volumes; of the head at rest.
    parcels : ndarray
        ``(X, Y, Z)`` int32 on the lattice.
    maps : ndarray
        ``(3, X, Y, Z)`` float32 on the lattice: grey matter, pulsation, breathing.
    courses : ndarray
        ``(V, S, P + 1)`` relative change of pure grey matter in slice s of volume v.
    pulses : ndarray
        ``(V, S, 2)`` heart and breathing.
    drift : ndarray
        ``(2, X, Y, Z)`` on the grid: linear and quadratic change of the scanner.
    """

    grid: Grid
    lattice: Grid
    parcels: np.ndarray
    maps: np.ndarray
    courses: np.ndarray
    pulses: np.ndarray
    drift: np.ndarray

    @classmethod
    def draw(
        cls,
        draw: Callable[..., np.random.Generator],
        effects: Effects,
        seen: Scan,
        grid: Grid,
        options: BoldOptions,
        *,
        n_volumes: int,
        tr_s: float,
        te_ms: float,
    ) -> "Modulation":
        """Draw what changes in one series."""
        slices = np.zeros(grid.shape[2]) if options.slice_times_s is None else np.array(options.slice_times_s)
        if slices.shape != (grid.shape[2],):
            raise UsageError(f"{slices.size} slice times for {grid.shape[2]} slices; give one per slice")
        times = (tr_s * np.arange(n_volumes)[:, None] + slices).ravel()
        duration_s = tr_s * (n_volumes + 1)
        size = (n_volumes, len(slices))
        amplitude = options.fluctuation * te_ms / _TE_MS
        courses = amplitude * parcel_courses(draw("fluctuations"), effects, duration_s)(times)
        heart = options.cardiac * _rhythm(draw("cardiac"), times, duration_s, _HEART_HZ, 0.35)
        breath = options.respiratory * _rhythm(draw("respiratory"), times, duration_s, _BREATH_HZ, 0.15)
        fields = random_field(draw("drift"), grid.shape, grid.zooms, 60.0, 2)
        return cls(
            grid,
            seen.grid,
            seen.parcels.reshape(seen.grid.shape),
            _places(seen),
            courses.reshape(*size, -1).astype(np.float32),
            np.stack([heart, breath], -1).reshape(*size, 2).astype(np.float32),
            np.float32(options.drift) * fields,
        )

    def at(self, volume: int, rest2volume: np.ndarray) -> np.ndarray:
        """Return the factor of one volume, ``(X, Y, Z)`` float32 on the grid, about 1."""
        moment = volume / max(len(self.courses) - 1, 1) - 0.5
        slow = self.drift[0] * moment + self.drift[1] * (moment**2 - 1 / 12)
        change = np.zeros(self.grid.shape, np.float32)
        if self.courses[volume].any():
            parcels = evaluate(self.parcels, self.lattice, self.grid, rest2volume, order=0)
            grey = evaluate(self.maps[0], self.lattice, self.grid, rest2volume, order=1)
            change += grey * self.courses[volume][np.arange(self.grid.shape[2]), parcels]
        for k in range(2):
            if self.pulses[volume, :, k].any():
                where = evaluate(self.maps[1 + k], self.lattice, self.grid, rest2volume, order=1)
                change += where * self.pulses[volume, :, k]
        return (1 + change) * (1 + slow)


def _rhythm(
    rng: np.random.Generator,
    times_s: np.ndarray,
    duration_s: float,
    range_hz: tuple[float, float],
    harmonic: float,
) -> np.ndarray:
    """Return a rhythm of variance about 1 whose rate wanders, with its first harmonic."""
    wander = band_noise(rng, 1, duration_s, (0.005, 0.05))(times_s)[:, 0]
    phase = 2 * np.pi * rng.uniform(*range_hz) * times_s + 1.5 * wander + rng.uniform(0, 2 * np.pi)
    return np.sqrt(2 / (1 + harmonic**2)) * (np.sin(phase) + harmonic * np.sin(2 * phase + 0.7))


def _places(seen: Scan) -> np.ndarray:
    """Return where grey matter, pulsation and breathing are seen, ``(3, X, Y, Z)`` float32."""
    grey, fluid = seen.share(*GREY), seen.share(Tissue.CSF)
    ventricle, brain = seen.share(Tissue.VENTRICLE), grey + seen.share(*WHITE)
    near = np.zeros(len(seen.template_points))
    for centre, radii in _VESSELS:
        offset = (seen.template_points - np.array(centre)) / np.array(radii)
        near = np.maximum(near, np.exp(-0.5 * (offset**2).sum(1)))
    vessel = near.reshape(seen.grid.shape)
    pulsation = (0.5 + 0.5 * vessel) * fluid + 0.3 * ventricle + (0.1 + 0.4 * vessel) * brain
    breathing = fluid + 0.5 * ventricle + 0.4 * brain
    return np.stack([grey, pulsation, breathing]).astype(np.float32)
