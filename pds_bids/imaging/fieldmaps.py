"""Off-resonance in Hz from the phase of gradient echoes, smooth and continued beyond the head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.masks import check_image, eroded, head_mask, largest_piece, rough_brain_mask

__all__ = ["FieldImage", "field_from_hz", "field_from_phases", "phase_to_radians"]

# Hz per unit of a field given directly; tesla by the gyromagnetic ratio of the proton (MHz/T).
HZ_PER_UNIT = {"hz": 1.0, "rad/s": 1 / (2 * np.pi), "tesla": 42.577478518e6, "t": 42.577478518e6}
# A value this far from the median of its neighbours, relative to their spread, is an error of unwrapping.
SPIKE = 4.0
SPIKE_LEAST_HZ = 15.0
# Smoothing inside the head, then ever wider beyond it (SD, mm).
SMOOTHING_MM = 3.0
WIDENING_MM = (5.0, 10.0, 20.0, 40.0)
# The phase of the scalp and of the rim of the head is not to be trusted (mm).
RIM_MM = 3.0


@dataclass(frozen=True, eq=False)
class FieldImage:
    """A field and the picture of the head that belongs to it.

    Parameters
    ----------
    hz : ndarray
        ``(X, Y, Z)`` float32, where the head truly is; defined everywhere. Its median in the brain is 0: what
        is constant is the choice of the scanner's centre frequency, and moves the image as a whole.
    magnitude : ndarray
        ``(X, Y, Z)`` float32.
    brain : ndarray
        ``(X, Y, Z)`` bool.
    grid : Grid
        Lattice of the three.
    """

    hz: np.ndarray
    magnitude: np.ndarray
    brain: np.ndarray
    grid: Grid


def phase_to_radians(phase: np.ndarray, units: str | None = None) -> np.ndarray:
    """Bring a phase image to radians.

    Parameters
    ----------
    phase : ndarray
        Any shape. Siemens stores 0 to 4095 or -4096 to 4094, Philips milliradians or radians.
    units : str, optional
        ``Units`` of the sidecar.

    Returns
    -------
    ndarray
        float64; the same angle, not necessarily within one turn around 0.

    Raises
    ------
    DataError
        If the values are no full turn of any unit in use.

    Examples
    --------
    >>> phase_to_radians(np.array([-4096.0, 0.0, 2048.0, 4094.0])).round(3)
    array([-3.142,  0.   ,  1.571,  3.14 ])
    """
    values = np.asarray(phase, np.float64)
    low, high = float(values.min()), float(values.max())
    if units and units.lower() in ("rad", "rads", "radian", "radians"):
        return values
    reach = max(-low, high)
    # Air has any phase, so that a whole head covers the range.
    if low < 0 and 0.95 * np.pi < reach < 1.02 * np.pi:
        return values
    if low < 0 and 0.95 * 1000 * np.pi < reach < 1.02 * 1000 * np.pi:
        return values / 1000
    if low >= 0 and 0.95 * 2 * np.pi < high < 1.02 * 2 * np.pi:
        return values
    turn = 2.0 ** np.ceil(np.log2(max(reach, 2.0)))
    if reach < 8 or reach < 0.95 * turn:
        raise DataError(
            f"phase image with values from {low:g} to {high:g}: neither radians nor the range of a scanner "
            "(0 to 4095, -4096 to 4094, -3142 to 3142); give its Units in the sidecar, or convert it again"
        )
    return values * (np.pi / turn if low < 0 else 2 * np.pi / turn)


def field_from_phases(
    phases: Sequence[np.ndarray],
    magnitude: np.ndarray,
    grid: Grid,
    echo_times_s: tuple[float, float],
    units: str | None = None,
) -> FieldImage:
    """Turn the phase difference of two gradient echoes into off-resonance.

    Parameters
    ----------
    phases : sequence of ndarray
        ``(X, Y, Z)``: one difference, or the phases of the first and the second echo.
    magnitude : ndarray
        ``(X, Y, Z)`` magnitude of an echo.
    grid : Grid
        Their lattice.
    echo_times_s : tuple of float
        First and second echo time, seconds. The phase of spins that turn 1 Hz too fast grows by
        ``2 pi (TE2 - TE1)``.
    units : str, optional
        ``Units`` of the phase images' sidecar.

    Returns
    -------
    FieldImage

    Raises
    ------
    DataError
        If the echo times are no two moments, the images do not fit the grid, or the phase has no known unit.
    """
    first_s, second_s = echo_times_s
    if not 1e-5 < abs(second_s - first_s) < 0.1:
        raise DataError(
            f"echo times {first_s!r} and {second_s!r} s of the fieldmap: expected two times, seconds, "
            "some milliseconds apart; correct EchoTime1 and EchoTime2"
        )
    for name, image in (("magnitude", magnitude), *(("phase", phase) for phase in phases)):
        check_image(image, grid, f"{name} image of the fieldmap")
    angles = [phase_to_radians(phase, units) for phase in phases]
    turn = angles[0] if len(angles) == 1 else angles[1] - angles[0]
    head = largest_piece(eroded(head_mask(magnitude, grid), grid, RIM_MM / 2))
    unwrapped = _unwrap(turn, head)
    return _finished(unwrapped / (2 * np.pi * (second_s - first_s)), head, magnitude, grid)


def field_from_hz(field: np.ndarray, magnitude: np.ndarray, grid: Grid, units: str) -> FieldImage:
    """Take over a field that the scanner has computed.

    Parameters
    ----------
    field : ndarray
        ``(X, Y, Z)`` in `units`.
    magnitude : ndarray
        ``(X, Y, Z)``.
    grid : Grid
        Their lattice.
    units : str
        ``Hz``, ``rad/s`` or ``Tesla``, as BIDS has it.

    Returns
    -------
    FieldImage

    Raises
    ------
    DataError
        If the unit is another, or the images do not fit the grid.
    """
    if units.lower() not in HZ_PER_UNIT:
        raise DataError(f"Units {units!r} of the fieldmap: expected Hz, rad/s or Tesla; correct the sidecar")
    check_image(field, grid, "fieldmap")
    check_image(magnitude, grid, "magnitude image of the fieldmap")
    head = largest_piece(eroded(head_mask(magnitude, grid), grid, RIM_MM / 2))
    return _finished(np.asarray(field, float) * HZ_PER_UNIT[units.lower()], head, magnitude, grid)


def _unwrap(turn: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Add whole turns so that the phase is continuous in the head."""
    from skimage.restoration import unwrap_phase  # late: scikit-image is slow to import

    wrapped = np.angle(np.exp(1j * turn))
    unwrapped = unwrap_phase(np.ma.masked_array(wrapped, ~head), rng=0)
    return np.where(head, np.ma.getdata(unwrapped), 0.0)


def _finished(hz: np.ndarray, head: np.ndarray, magnitude: np.ndarray, grid: Grid) -> FieldImage:
    """Drop spikes, centre, smooth, and continue beyond the head."""
    brain = rough_brain_mask(magnitude, grid)
    trusted = eroded(head, grid, RIM_MM)
    core = brain & trusted
    if not core.any():
        raise DataError("the fieldmap's magnitude image shows no brain inside its head; look at it")
    middle = ndimage.median_filter(np.where(head, hz, np.median(hz[core])), size=3)
    spread = 1.4826 * np.median(np.abs(hz - middle)[core])
    trusted &= np.abs(hz - middle) < max(SPIKE * spread, SPIKE_LEAST_HZ)
    weight = trusted * np.clip(magnitude / np.median(magnitude[core]), 0.02, 1.5) ** 2
    smooth = _continued(hz - np.median(hz[core]), weight, grid)
    smooth -= np.median(smooth[core])
    return FieldImage(smooth.astype(np.float32), np.asarray(magnitude, np.float32), brain, grid)


def _continued(values: np.ndarray, weight: np.ndarray, grid: Grid) -> np.ndarray:
    """Average with weights over a Gaussian, wider where there are none nearby."""
    total, support = np.zeros(values.shape), np.zeros(values.shape)
    for sigma_mm in (SMOOTHING_MM, *WIDENING_MM):
        sigma_vox = sigma_mm / np.asarray(grid.zooms)
        near = ndimage.gaussian_filter(weight.astype(float), sigma_vox, mode="constant")
        mean = ndimage.gaussian_filter(weight * values, sigma_vox, mode="constant") / np.maximum(near, 1e-12)
        # The first, narrowest average that has enough to go by decides, and the next fades in.
        share = np.clip(near / 0.1, 0, 1) * (1 - support)
        total += share * mean
        support += share
    return total / np.maximum(support, 1e-6)
