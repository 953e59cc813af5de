"""Echoes against the closed form of their decay, and against a head that moves."""

import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.echoes import combined_volumes, mean_weights, t2star_weights
from pds_bids.imaging.grid import apply_affine
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices

TIMES_S = (0.012, 0.028, 0.045)


@pytest.mark.parametrize("t2star_s", [0.015, 0.045, 0.2])
def test_t2star_of_an_exact_decay(t2star_s):
    means = 1200 * np.exp(-np.array(TIMES_S) / t2star_s)[None, None, None]
    weights, fitted = t2star_weights(means, TIMES_S)
    assert fitted[0, 0, 0] == pytest.approx(t2star_s, rel=1e-5)
    expected = [t * np.exp(-t / t2star_s) for t in TIMES_S]
    np.testing.assert_allclose(weights[0, 0, 0], np.array(expected) / sum(expected), rtol=1e-5)


def test_weights_maximise_contrast_to_noise():
    """For small changes of R2* the signal changes by TE S(TE): no other weights do better against noise."""
    rng = np.random.default_rng(0)
    t2star_s = 0.035
    change = np.array(TIMES_S) * np.exp(-np.array(TIMES_S) / t2star_s)
    best, _ = t2star_weights(np.exp(-np.array(TIMES_S) / t2star_s)[None, None, None], TIMES_S)

    def contrast(weights):
        return weights @ change / np.sqrt((weights**2).sum())

    assert all(contrast(best[0, 0, 0]) >= contrast(w) for w in rng.uniform(0, 1, (200, 3)))


def test_rising_and_empty_signal_stays_within_bounds():
    means = np.array([[[[100.0, 120, 150], [0, 0, 0], [1000, 0.001, 0]]]])
    weights, t2star_s = t2star_weights(means, TIMES_S)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert t2star_s[0, 0, 0] == pytest.approx(0.5)
    assert t2star_s[0, 0, 2] == pytest.approx(0.005)


def test_weights_move_with_the_head(head, make_grid):
    grid = make_grid("LPS", zooms=(4.0,) * 3)
    motion = parameters_to_matrices(np.array([[0] * 6, [6, -4, 5, 0.1, 0.05, -0.1]]), grid_centre(grid))

    def t2star_at(points):
        return 0.02 + 0.04 * np.exp(-((points / 40) ** 2).sum(-1))

    echoes, truth = [], []
    for time_s in TIMES_S:
        volumes = []
        for matrix in motion:
            rest = apply_affine(np.linalg.inv(matrix), grid.points())
            volumes.append(1000 * head(rest) * np.exp(-time_s / t2star_at(rest)))
        echoes.append(np.stack(volumes, -1).astype(np.float32))
    weights, _ = t2star_weights(np.stack([echo[..., 0] for echo in echoes], -1), TIMES_S)
    for k, combined in enumerate(combined_volumes(echoes, grid.vox2ras, motion, weights)):
        rest = apply_affine(np.linalg.inv(motion[k]), grid.points())
        own = np.stack([t * np.exp(-t / t2star_at(rest)) for t in TIMES_S], -1)
        truth = (own * np.stack([echo[..., k] for echo in echoes], -1)).sum(-1) / own.sum(-1)
        inside = head(rest) > 0.5
        assert np.abs(combined - truth)[inside].max() < 0.01 * truth[inside].mean()


def test_equal_weights_are_the_mean():
    echoes = [np.full((2, 2, 2, 3), value, np.float32) for value in (1, 2, 6)]
    motion = np.tile(np.eye(4), (3, 1, 1))
    volumes = list(combined_volumes(echoes, np.eye(4), motion, mean_weights((2, 2, 2, 3))))
    np.testing.assert_allclose(np.stack(volumes), 3, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(GeometryError, match="3 echoes and 2 echo times"):
        t2star_weights(np.ones((1, 1, 1, 3)), (0.01, 0.02))
    with pytest.raises(GeometryError, match="expected one shape"):
        next(combined_volumes([np.ones((2, 2, 2, 3))], np.eye(4), np.eye(4)[None], np.ones((2, 2, 2, 1))))
