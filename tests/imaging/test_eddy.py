import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.distortion import Distortion, phase_encoding_axis, with_eddy_currents
from pds_bids.imaging.eddy import (
    EddyCurrents,
    along_phase_encoding,
    constants_of_gradients,
    slopes_of_gradients,
    split_affines,
)
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.realign import realigned_mean
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices
from pds_bids.phantom.gradients import spread_directions

BY_GRADIENT = np.array([[0.012, -0.004, 0.008], [0.006, 0.018, -0.005], [-0.007, 0.006, 0.015]])


@pytest.fixture
def vectors():
    """Directions of which no two are opposite, on both halves of the sphere."""
    found = spread_directions(16)
    return found * np.random.default_rng(2).choice([-1, 1], (16, 1))


@pytest.mark.parametrize("direction", [[1, 0, 0], [0, 1, 0], [0.1, 0.9, -0.3]])
def test_rigid_and_shear_are_told_apart(direction):
    rng = np.random.default_rng(0)
    direction = np.array(direction, float) / np.linalg.norm(direction)
    centre = np.array([3.0, -5, 8])
    slopes = np.insert(0.05 * rng.normal(size=(6, 3)), 0, 0, axis=1)
    rigid = parameters_to_matrices(rng.normal(size=(6, 6)) * [2, 2, 2, 0.1, 0.1, 0.1], centre)
    affines = along_phase_encoding(slopes, direction, centre) @ rigid
    found_rigid, found_slopes = split_affines(affines, direction, centre)
    np.testing.assert_allclose(found_rigid, rigid, atol=1e-12)
    np.testing.assert_allclose(found_slopes, slopes[:, 1:], atol=1e-12)


def test_slopes_follow_gradients_whatever_is_common(vectors):
    rng = np.random.default_rng(1)
    slopes = vectors @ BY_GRADIENT + [0.02, -0.01, 0.03] + 0.001 * rng.normal(size=(16, 3))
    found, p_value = slopes_of_gradients(slopes, vectors)
    np.testing.assert_allclose(found, BY_GRADIENT, atol=0.002)
    assert p_value < 1e-6


def test_noise_is_no_field(vectors):
    rng = np.random.default_rng(1)
    passed = [slopes_of_gradients(rng.normal(size=(16, 3)), vectors)[0] is not None for _ in range(500)]
    assert sum(passed) <= 4


def test_contrast_is_no_field(vectors):
    """What is the same for opposite gradients has no part that is linear in them."""
    both = np.concatenate([vectors, -vectors])
    slopes = 0.01 * np.stack([both[:, 0] ** 2, both[:, 1] * both[:, 2], both[:, 2] ** 2], 1)
    assert slopes_of_gradients(slopes, both)[0] is None


@pytest.mark.parametrize("n", [4, 6])
def test_too_few_or_flat_directions(n):
    flat = np.column_stack([np.cos(np.arange(n)), np.sin(np.arange(n)), np.zeros(n)])
    assert slopes_of_gradients(flat @ BY_GRADIENT, flat)[0] is None


def test_shift_is_told_from_a_drifting_head(vectors):
    drift = np.linspace(0, 3, 16)
    noise = 0.05 * np.random.default_rng(3).normal(size=16)
    found, _ = constants_of_gradients(vectors @ [0.9, -0.7, 1.1] + drift + noise, vectors)
    np.testing.assert_allclose(found[:, 0], [0.9, -0.7, 1.1], atol=0.1)
    assert constants_of_gradients(drift + noise, vectors)[0] is None


@pytest.mark.parametrize("has_susceptibility", [False, True])
def test_undone_in_one_interpolation(rich_head, make_grid, has_susceptibility):
    """A volume evaluated where eddy currents put it comes back, with the signal it had."""
    grid = make_grid(zooms=(3, 3, 3))
    coefficients = np.array([[1.5, 0.02, 0.03, -0.02]])
    eddy = EddyCurrents(1, coefficients, grid.vox2ras, grid_centre(grid))
    pose = parameters_to_matrices([[1, -2, 1, 0.02, 0, 0.03]], grid_centre(grid))
    shift = 2.0 * grid.zooms[1] * eddy.direction_ras if has_susceptibility else np.zeros(3)
    truth = rich_head(grid.points())
    seen2ref = np.linalg.inv(eddy.affines[0] @ pose[0])
    volume = rich_head(apply_affine(seen2ref, grid.points() - shift)) / np.linalg.det(eddy.affines[0])
    field = None
    if has_susceptibility:
        # 40 Hz x 50 ms = 2 voxels everywhere.
        field = Distortion(np.full(grid.shape, 40, np.float32), grid, np.array([1]), np.array([0.05]))
    distortion = with_eddy_currents(field, eddy.affines)
    back = realigned_mean(volume[..., None], grid.vox2ras, pose, distortion=distortion)
    left = realigned_mean(volume[..., None], grid.vox2ras, pose, distortion=field)
    core = (slice(6, -6),) * 3
    error, before = (np.abs(image - truth)[core].mean() / truth[core].mean() for image in (back, left))
    assert error < 0.01
    assert error < 0.2 * before


def test_displacement_agrees_with_the_affines(make_grid):
    grid = make_grid(turn_deg=(8, 0, 5))
    eddy = EddyCurrents(1, np.array([[1.5, 0.02, 0.03, -0.02]]), grid.vox2ras, grid_centre(grid))
    points = np.random.default_rng(0).normal(size=(20, 3)) * 40
    moved = apply_affine(eddy.affines[0], points) - points
    np.testing.assert_allclose(moved, eddy.displacement_mm(points).T * eddy.direction_ras, atol=1e-12)


def test_axis_without_sign():
    las = np.diag([-2.0, 2, 2, 1])
    assert phase_encoding_axis({"PhaseEncodingDirection": "i-"}, las) == 0
    assert phase_encoding_axis({"PhaseEncodingAxis": "j"}, las[[1, 0, 2, 3]]) == 0
    assert phase_encoding_axis({}, las) is None


def test_refused():
    with pytest.raises(GeometryError, match="coefficients"):
        EddyCurrents(1, np.zeros((3, 3)), np.eye(4), np.zeros(3))
    grid = Grid((2, 2, 2), np.eye(4))
    with pytest.raises(GeometryError, match="eddy currents"):
        with_eddy_currents(
            Distortion(np.zeros((2, 2, 2), np.float32), grid, np.zeros(2, int), np.zeros(2)),
            np.zeros((3, 4, 4)),
        )
