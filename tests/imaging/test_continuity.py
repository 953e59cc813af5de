"""Offsets known from continuity alone: simulated walks, whose truth is known."""

import numpy as np
import pytest

from pds_bids.imaging.continuity import Expected, combined, expected_offset
from pds_bids.imaging.rigid import matrices_to_parameters, parameters_to_matrices

CENTRE = np.array([3.0, -20.0, 11.0])
# mm and radians: a head moves by so much from volume to volume.
STEP = np.repeat([0.2, 0.2 / 50], 3)


def walk(n_volumes, b0s, offset, seed):
    """Return poses of b0s in the reference, and of the others in a position that is `offset` off."""
    steps = np.random.default_rng(seed).normal(size=(n_volumes, 6)) * STEP
    poses = parameters_to_matrices(np.cumsum(steps, 0) - steps[0], CENTRE)
    volumes = np.setdiff1d(np.arange(n_volumes), b0s)
    poses[volumes] = poses[volumes] @ np.linalg.inv(offset)
    return poses, volumes


@pytest.mark.parametrize("b0s", [[0], [0, 12, 24, 36, 48], [0, 1, 2, 30], [59]])
def test_error_is_as_large_as_it_says(b0s):
    b0s = np.array(b0s)
    offset = parameters_to_matrices([[1.0, -2, 0.5, 0.02, -0.01, 0.03]], CENTRE)[0]
    found = [expected_offset(*walk(60, b0s, offset, seed), b0s, CENTRE) for seed in range(300)]
    error = matrices_to_parameters(
        np.stack([one.pose @ np.linalg.inv(offset) for one in found]), CENTRE
    ) * np.repeat([1, 50], 3)
    said = np.stack([one.sd_mm for one in found])
    np.testing.assert_allclose(error.mean(0), 0, atol=4 * said.mean() / np.sqrt(300))
    # b0s that follow each other share a step, which averaging takes for two.
    assert 0.85 < np.sqrt(np.square(error / said).mean()) < (1.6 if 1 in b0s else 1.15)


def test_still_head_is_exact():
    b0s, offset = np.array([0, 8]), parameters_to_matrices([[1.0, -2, 0.5, 0.02, -0.01, 0.03]], CENTRE)[0]
    poses = np.tile(np.eye(4), (16, 1, 1))
    volumes = np.setdiff1d(np.arange(16), b0s)
    poses[volumes] = np.linalg.inv(offset)
    np.testing.assert_allclose(expected_offset(poses, volumes, b0s, CENTRE).pose, offset, atol=1e-12)


def test_shell_of_few_volumes_says_nothing():
    found = expected_offset(np.tile(np.eye(4), (3, 1, 1)), np.array([1, 2]), np.array([0]), CENTRE)
    assert np.isinf(found.sd_mm).all()
    image = Expected(parameters_to_matrices([[1.0, 0, 0, 0, 0, 0]], CENTRE)[0], np.full(6, 0.1))
    pose, contradiction = combined(image, found, CENTRE)
    np.testing.assert_allclose(pose, image.pose)
    assert contradiction == 0


def test_axes_count_by_their_own_variance():
    image = Expected(parameters_to_matrices([[1.0, 1.0, 0, 0, 0, 0]], CENTRE)[0], np.ones(6))
    time = Expected(np.eye(4), np.array([1.0, 3.0, 1, 1, 1, 1]))
    shift = combined(image, time, CENTRE)[0][:3, 3]
    np.testing.assert_allclose(shift, [0.5, 0.9, 0], atol=1e-12)
