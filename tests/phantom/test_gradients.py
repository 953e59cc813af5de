"""Gradient tables of one and of several shells."""

import numpy as np
import pytest

from pds_bids.exceptions import UsageError
from pds_bids.phantom.gradients import gradient_table, spread_directions


def nearest_deg(vectors):
    """Angle of each axis to the nearest other one."""
    cosine = np.abs(vectors @ vectors.T) - 2 * np.eye(len(vectors))
    return np.rad2deg(np.arccos(np.clip(cosine.max(1), -1, 1)))


def test_shells_are_even_each_and_together():
    counts, shells = [12, 20, 30], [500, 1000, 2500]
    bvals, bvecs = gradient_table(counts, shells)
    weighted = bvals > 0
    assert [int((bvals == b).sum()) for b in shells] == counts
    for b, n in zip(shells, counts, strict=True):
        own = bvecs[bvals == b]
        np.testing.assert_allclose(own.T @ own / n, np.eye(3) / 3, atol=0.05)
        # Nearly as far apart as if the shell were alone.
        assert nearest_deg(own).min() > 0.75 * nearest_deg(spread_directions(n)).min()
    together = nearest_deg(bvecs[weighted])
    assert together.min() > 0.5 * nearest_deg(spread_directions(62)).min()


def test_vectors_cover_the_whole_sphere_so_that_eddy_currents_cancel():
    for counts, shells in ((30, 1000), ([12, 30], [700, 2000])):
        bvals, bvecs = gradient_table(counts, shells)
        for b in np.unique(bvals[bvals > 0]):
            assert np.linalg.norm(bvecs[bvals == b].mean(0)) < 0.15


def test_shells_and_b0s_last_from_start_to_end():
    bvals, bvecs = gradient_table([12, 30], [700, 2000], b0_every=7)
    place = np.arange(len(bvals)) / (len(bvals) - 1)
    for b in (700, 2000):
        assert place[bvals == b].mean() == pytest.approx(0.5, abs=0.06)
    zeros = np.flatnonzero(bvals == 0)
    assert zeros[0] == 0
    assert zeros[-1] == len(bvals) - 1
    assert np.diff(zeros).max() <= 8
    np.testing.assert_allclose(np.linalg.norm(bvecs, axis=1), bvals > 0)
    weighted = bvecs[bvals > 0]
    apart = np.rad2deg(np.arccos(np.clip(np.abs((weighted[1:] * weighted[:-1]).sum(1)), 0, 1)))
    assert np.median(apart) > 40


def test_same_call_same_table():
    for one, other in zip(
        gradient_table([6, 12], [700, 2000]), gradient_table([6, 12], [700, 2000]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wrong", [(30, [700, 1000]), ([6, 12], 1000), ([6, 0], [1, 2]), (6, 0)])
def test_shells_that_do_not_fit_are_refused(wrong):
    with pytest.raises(UsageError, match="one positive b-value"):
        gradient_table(*wrong)
