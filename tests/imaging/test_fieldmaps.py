"""Off-resonance from phases that were computed from a known field."""

import numpy as np
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.fieldmaps import field_from_hz, field_from_phases, phase_to_radians

ECHOES_S = (0.00492, 0.00738)
DELTA_S = ECHOES_S[1] - ECHOES_S[0]


@pytest.fixture(scope="module")
def scan(head, off_resonance, make_grid):
    """Magnitude, wrapped phases of two echoes, the field, and the brain; air has any phase."""
    rng = np.random.default_rng(0)
    grid = make_grid("LPS", zooms=(4.0, 4.0, 4.0), turn_deg=(5, 0, 3))
    points = grid.points()
    magnitude = head(points)
    hz = off_resonance(points) + 25.0
    offset = 1.0 + points[..., 0] / 40
    noise = rng.normal(size=(2, *grid.shape)) * 0.03 / np.maximum(magnitude, 0.005)
    phases = [
        np.angle(np.exp(1j * (offset + 2 * np.pi * hz * t + n))) for t, n in zip(ECHOES_S, noise, strict=True)
    ]
    return 1000 * magnitude.astype(np.float32), phases, hz, magnitude > 0.5, grid


def error_hz(found, hz, brain):
    off = (found.hz - hz)[brain]
    return np.abs(off - np.median(off))


def siemens(difference):
    """-4096 to 4094 for -pi to pi."""
    return np.round(np.angle(np.exp(1j * difference)) / np.pi * 2047) * 2


@pytest.mark.parametrize(
    ("store", "units"),
    [
        (lambda d: [np.angle(np.exp(1j * d))], "rad"),
        (lambda d: [np.angle(np.exp(1j * d))], None),
        (lambda d: [siemens(d)], None),
        (lambda d: [np.round((siemens(d) + 4096) / 2)], None),
        (lambda d: [1000 * np.angle(np.exp(1j * d))], None),
    ],
)
def test_difference_in_every_unit(scan, store, units):
    magnitude, (first, second), hz, brain, grid = scan
    found = field_from_phases(store(second - first), magnitude, grid, ECHOES_S, units)
    error = error_hz(found, hz, brain)
    # The field bends by some hertz within the smoothing of 3 mm only at the rim.
    assert error.mean() < 2.0
    assert np.percentile(error, 95) < 6.0
    # 125 Hz wraps nothing at this echo spacing, but centring must have taken the 25 Hz out.
    assert abs(np.median(found.hz[found.brain])) < 3.0


def test_two_phases_and_their_order(scan):
    magnitude, phases, hz, brain, grid = scan
    found = field_from_phases(phases, magnitude, grid, ECHOES_S)
    assert error_hz(found, hz, brain).mean() < 2.0
    turned = field_from_phases(phases[::-1], magnitude, grid, ECHOES_S)
    assert error_hz(turned, -hz, brain).mean() < 2.0


def test_phase_wraps_are_undone(scan):
    magnitude, _, hz, brain, grid = scan
    strong = 4 * hz
    assert np.abs(2 * np.pi * strong * DELTA_S)[brain].max() > 1.5 * np.pi
    wrapped = np.angle(np.exp(2j * np.pi * strong * DELTA_S))
    found = field_from_phases([wrapped], magnitude, grid, ECHOES_S, "rad")
    assert error_hz(found, strong, brain).mean() < 8.0


@pytest.mark.parametrize(
    ("units", "factor"), [("Hz", 1.0), ("rad/s", 2 * np.pi), ("Tesla", 1 / 42.577478518e6)]
)
def test_field_given_directly(scan, units, factor):
    magnitude, _, hz, brain, grid = scan
    found = field_from_hz(hz * factor, magnitude, grid, units)
    assert error_hz(found, hz, brain).mean() < 2.0


def test_field_goes_on_smoothly_beyond_the_head(scan):
    magnitude, (first, second), _, _, grid = scan
    found = field_from_phases([second - first], magnitude, grid, ECHOES_S, "rad")
    assert np.isfinite(found.hz).all()
    assert np.abs(found.hz).max() < 200
    for axis in range(3):
        assert np.abs(np.diff(found.hz, axis=axis)).max() < 40


def test_what_is_no_phase_is_refused(scan):
    magnitude, (first, second), hz, _, grid = scan
    with pytest.raises(DataError, match="neither radians"):
        phase_to_radians(np.array([0.0, 300.0]))
    with pytest.raises(DataError, match="EchoTime1"):
        field_from_phases([first], magnitude, grid, (4.92, 7.38), "rad")
    with pytest.raises(DataError, match="Units 'ppm'"):
        field_from_hz(hz, magnitude, grid, "ppm")
    with pytest.raises(DataError, match="does not fit its grid"):
        field_from_phases([second[1:]], magnitude, grid, ECHOES_S, "rad")
