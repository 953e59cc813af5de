"""A field is brought to a distorted head and judged; a wrong polarity must never pass."""

import numpy as np
import pytest

from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.fieldmaps import FieldImage
from pds_bids.imaging.grid import apply_affine
from pds_bids.imaging.intensity import n4_bias
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.imaging.undistort import bring_field, compare_signs, implausible, undistorted

ENCODING = PhaseEncoding(1, -0.05)


@pytest.fixture(scope="module")
def scan(rich_head, off_resonance, make_grid, make_epi):
    """A distorted mean, its grid, the true field in it, and a fieldmap on another grid of a turned head."""
    grid = make_grid("RAS", zooms=(4.0,) * 3)
    other = make_grid("LAS", zooms=(5.0, 4.0, 5.0), turn_deg=(3, 4, -2))
    pose = parameters_to_matrices(np.array([[3.0, -2.0, 2.0, 0.03, 0.0, -0.04]]), grid_centre(grid))[0]
    rest = apply_affine(np.linalg.inv(pose), other.points())
    magnitude = (1000 * rich_head(rest)).astype(np.float32)
    field = FieldImage(off_resonance(rest).astype(np.float32), magnitude, magnitude > 500, other)
    mean = make_epi(grid, ENCODING.axis, ENCODING.readout_s, noise=0.01, shown=rich_head)
    return mean, grid, off_resonance(grid.points()), field


def test_field_is_brought_to_the_head(rich_head, scan):
    mean, grid, truth, field = scan
    hz, gate = bring_field(field, mean, grid, ENCODING)
    assert gate.passed, gate
    inside = rich_head(grid.points()) > 0.5
    at_rest = np.abs(truth)[inside].mean()
    assert np.abs(hz - truth)[inside].mean() < 3.0 < at_rest / 3


def test_undoing_restores_the_head(rich_head, scan):
    mean, grid, truth, _ = scan
    true_image = 1000 * rich_head(grid.points())
    inside = true_image > 500
    before, after = (
        np.abs(image - true_image)[inside].mean()
        for image in (mean, undistorted(mean, grid, truth, ENCODING))
    )
    assert after < before / 2


def test_wrong_polarity_is_found_out(rich_head, scan, make_grid):
    mean, grid, truth, _ = scan
    t1w_grid = make_grid("RAS", zooms=(3.0,) * 3)
    t1w = 1000 * rich_head(t1w_grid.points(), 0.4) ** 0.5
    brain = rich_head(t1w_grid.points()) > 0.5
    target = (t1w / n4_bias(t1w, t1w_grid, brain)).astype(np.float32), t1w_grid, brain
    right = compare_signs(truth, mean, grid, ENCODING, *target)
    assert right.reason == ""
    assert right.corrected > right.uncorrected > right.negated
    wrong = compare_signs(truth, mean, grid, PhaseEncoding(1, 0.05), *target)
    assert "opposite sign" in wrong.reason
    assert wrong.negated == pytest.approx(right.corrected, rel=0.02)


def test_a_field_of_something_else_is_refused(rich_head, scan):
    mean, grid, _, field = scan
    points = grid.points()
    other = 80 * np.sin(points[..., 0] / 12) * np.cos(points[..., 1] / 14)
    target = field.magnitude, field.grid, field.brain
    found = compare_signs(other, mean, grid, ENCODING, *target)
    assert found.reason


def test_no_verdict_without_registration(rich_head, scan):
    mean, grid, truth, field = scan
    empty = np.random.default_rng(0).normal(500, 50, field.grid.shape).astype(np.float32)
    found = compare_signs(truth, mean, grid, ENCODING, empty, field.grid, field.brain)
    assert found.doubt
    assert found.reason == ""
    assert np.isnan(found.corrected)


def test_fields_that_cannot_be(rich_head, scan):
    _, grid, truth, _ = scan
    brain = rich_head(grid.points()) > 0.5
    assert implausible(truth, grid, ENCODING, brain) == ""
    assert "moves 1%" in implausible(20 * truth, grid, ENCODING, brain)
    stripes = 60.0 * np.sin(grid.points()[..., 1] * 0.3)
    assert "folds" in implausible(stripes, grid, ENCODING, brain)
    assert "finite" in implausible(np.full(grid.shape, np.nan), grid, ENCODING, brain)
