"""BOLD series of one virtual person: gradient-echo echo-planar imaging."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.phantom import contrast
from pds_bids.phantom.coil import coil_field
from pds_bids.phantom.epi import EpiOptions, Readout, named_draws, noise_sd, rician
from pds_bids.phantom.fluctuations import BoldOptions, Modulation
from pds_bids.phantom.head_motion import rest2volumes
from pds_bids.phantom.person import Person, Scan
from pds_bids.phantom.susceptibility import dropout, echo_shift
from pds_bids.phantom.tissue import GREY, PROPERTIES

__all__ = ["BoldTruth", "bold_echoes", "bold_series", "signal_left"]

# Magnetisation that is this close to the steady state is in it.
_STEADY = 1e-4
# Half the width of k-space, cycles per voxel, and over how much of it an echo fades at the border.
_NYQUIST, _FADE = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class BoldTruth:
    """What a BOLD series was made from.

    Parameters
    ----------
    mean : ndarray
        ``(X, Y, Z)`` float32: steady state at rest, without distortion, receive field and noise.
    field_hz : ndarray
        ``(X, Y, Z)`` float32: off-resonance at rest, where the head truly is.
    fluctuations : ndarray
        ``(V, P + 1)`` float32: relative change of the signal of each parcel's pure grey matter, at the start
        of each volume; column 0 is grey matter without a parcel.
    rest2volume : ndarray
        ``(V, 4, 4)``: a point of the head at rest to where it is in each volume, RAS+ mm.
    """

    mean: np.ndarray
    field_hz: np.ndarray
    fluctuations: np.ndarray
    rest2volume: np.ndarray


def bold_series(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    motion: np.ndarray,
    protocol: contrast.BoldProtocol,
    epi: EpiOptions | None = None,
    options: BoldOptions | None = None,
    *,
    grid: Grid | None = None,
) -> tuple[np.ndarray, BoldTruth]:
    """Simulate a BOLD series.

    Parameters
    ----------
    rng : Generator
        Source of randomness. With the same seed another echo time, readout or noise is the same run of the
        same receive coil, heart and networks.
    person : Person
        Who is scanned.
    seen : Scan
        The person at rest, on the lattice of `pds_bids.phantom.moving_head.head_lattice` or on the grid of
        the series.
    motion : ndarray
        ``(V, 6)`` from `draw_motion`, or ``(V, 4, 4)`` maps from rest to each volume.
    protocol : BoldProtocol
        The acquisition.
    epi : EpiOptions, optional
        Its readout.
    options : BoldOptions, optional
        What changes over time.
    grid : Grid, optional
        Grid of the series, slices along the third axis; None: that of `seen`.

    Returns
    -------
    series : ndarray
        ``(X, Y, Z, V)`` float32. The first volumes are brighter, before the steady state.
    truth : BoldTruth

    Raises
    ------
    UsageError
        If there is not one slice time per slice.
    """
    epi, options, grid = epi or EpiOptions(), options or BoldOptions(), grid or seen.grid
    draw = named_draws(rng)
    poses = rest2volumes(motion)
    readout = Readout.of(seen, grid, epi, protocol.field_t)
    left, steady = _steady(person, seen, protocol, epi, grid)
    modulation = Modulation.draw(
        draw,
        person.effects,
        seen,
        grid,
        options,
        n_volumes=len(poses),
        tr_s=protocol.tr_s,
        te_ms=protocol.te_ms,
    )
    coil = coil_field(draw("coil"), grid, epi.coil, epi.lowest_loops)
    sd = noise_sd(steady, epi.noise)
    noise = draw("noise", str(protocol.te_ms))
    coefficients = readout.prepare(steady)
    series = np.empty((*grid.shape, len(poses)), np.float32)
    for v, pose in enumerate(poses):
        pulse = v + options.discarded
        now = coefficients
        if not _is_steady(person, protocol, pulse):
            now = readout.prepare(left * _signal(person, seen, protocol, pulse))
        series[..., v] = rician(noise, readout.volume(now, pose, coil * modulation.at(v, pose)), sd)
    first = int(np.argmin(options.slice_times_s)) if options.slice_times_s else 0
    truth = BoldTruth(
        readout.undistorted(steady), readout.field_on_grid(), modulation.courses[:, first], poses
    )
    return series, truth


def bold_echoes(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    motion: np.ndarray,
    protocols: Sequence[contrast.BoldProtocol],
    epi: EpiOptions | None = None,
    options: BoldOptions | None = None,
    *,
    grid: Grid | None = None,
) -> tuple[list[np.ndarray], list[BoldTruth]]:
    """Simulate the echoes of one multi-echo run; arguments as `bold_series`, one protocol per echo.

    Motion, receive field, heart, breathing and the changes of R2* are the same in all echoes. Each has noise
    of its own, as strong in all of them: its size is relative to the first.
    """
    state, epi = int(rng.integers(2**62)), epi or EpiOptions()
    grid = grid or seen.grid
    sizes = [noise_sd(_steady(person, seen, protocol, epi, grid)[1], 1.0) for protocol in protocols]
    runs = [
        bold_series(
            np.random.default_rng(state),
            person,
            seen,
            motion,
            protocol,
            replace(epi, noise=epi.noise * sizes[0] / size),
            options,
            grid=grid,
        )
        for protocol, size in zip(protocols, sizes, strict=True)
    ]
    return [series for series, _ in runs], [truth for _, truth in runs]


def signal_left(
    person: Person, seen: Scan, protocol: contrast.BoldProtocol, epi: EpiOptions, readout: Readout
) -> np.ndarray:
    """Return the share of the gradient echo that the field leaves, on the lattice, ``(X, Y, Z)`` float32.

    Across a slice spins dephase until the echo. A gradient along the phase encoding moves the echo: it comes
    with more or less decay, or not at all if it leaves the readout.
    """
    if epi.field_strength == 0:
        return np.ones(seen.grid.shape, np.float32)
    zooms, lattice = readout.grid.zooms, readout.lattice
    axis, readout_s = readout.encoding.axis, readout.encoding.readout_s
    per_voxel = np.gradient(readout.field_hz, lattice.zooms[axis], axis=axis) * zooms[axis]
    te_ms = echo_shift(readout_s * per_voxel, protocol.te_ms)
    comes = np.isfinite(te_ms)
    te_ms = np.where(comes, te_ms, protocol.te_ms)
    far = np.abs(per_voxel) * te_ms / 1000
    weight = np.where(comes, np.clip((_NYQUIST - far) / _FADE + 0.5, 0, 1), 0)
    through = np.abs(np.gradient(readout.field_hz, lattice.zooms[2], axis=2))
    thickness = epi.slice_thickness_mm or zooms[2]
    r2s = contrast.linearise(lambda p: 1000 / contrast.t2s_ms(p, protocol.field_t), person.tissue)
    share = np.maximum(seen.fractions.sum(1).reshape(seen.grid.shape), 1e-3)
    decay = np.exp(-(te_ms - protocol.te_ms) / 1000 * np.minimum(seen.image(r2s) / share, 100))
    return (weight * dropout(through, te_ms, thickness) * decay).astype(np.float32)


def _steady(
    person: Person, seen: Scan, protocol: contrast.BoldProtocol, epi: EpiOptions, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Return what field and disease leave of the signal, and the steady state, on the lattice."""
    readout = Readout.of(seen, grid, epi, protocol.field_t)
    left = signal_left(person, seen, protocol, epi, readout) * _levels(person, seen)
    return left, left * _signal(person, seen, protocol)


def _signal(
    person: Person, seen: Scan, protocol: contrast.BoldProtocol, pulse: int | None = None
) -> np.ndarray:
    """Return the gradient echo of all tissues, on the lattice."""
    flowing = contrast.inflow_factors(protocol.inflow)
    table = contrast.linearise(lambda p: contrast.bold_signal(p * flowing, protocol, pulse), person.tissue)
    return seen.image(table)


def _is_steady(person: Person, protocol: contrast.BoldProtocol, pulse: int) -> bool:
    """Return whether every tissue is in the steady state at a pulse."""
    t1_ms = person.tissue.base[:, PROPERTIES.index("t1_ms")]
    excess = contrast.approach_to_steady_state(t1_ms, 1000 * protocol.tr_s, protocol.flip_deg, pulse) - 1
    return bool(np.abs(excess).max() < _STEADY)


def _levels(person: Person, seen: Scan) -> np.ndarray:
    """Return what a disease makes of the mean signal of grey matter, on the lattice."""
    level = person.effects.level[seen.parcels].reshape(seen.grid.shape)
    if (level == 1).all():
        return np.ones(seen.grid.shape, np.float32)
    total = np.maximum(seen.fractions.sum(1).reshape(seen.grid.shape), 1e-3)
    return (1 + seen.share(*GREY) / total * (level - 1)).astype(np.float32)
