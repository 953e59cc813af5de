"""Rows of the carpet: right tissue, one scale, no trend."""

import numpy as np

from pds_bids.imaging.carpet import carpet_rows


def test_rows_have_no_trend_and_unit_deviation():
    rng = np.random.default_rng(0)
    signals = 1000 + 5 * rng.normal(size=(50, 80)) + np.linspace(0, 300, 80)
    (rows,) = carpet_rows(signals.astype(np.float32), {"gm": np.ones(50, bool)}).values()
    assert np.allclose(rows.std(1), 1, atol=1e-5)
    slopes = np.polyfit(np.arange(80), rows.T, 1)[0]
    assert np.abs(slopes).max() < 1e-5


def test_a_jump_of_all_voxels_is_a_column():
    signals = np.full((10, 40), 500.0)
    signals[:, 17] += 50
    (rows,) = carpet_rows(signals, {"gm": np.ones(10, bool)}).values()
    assert (rows.argmax(1) == 17).all()
    assert (rows[:, 17] > 4).all()


def test_tissues_are_kept_apart_thinned_evenly_and_empty_ones_left_out():
    signals = np.cumsum(np.ones((1000, 4)), axis=0) * np.array([1, -1, 1, -1])
    tissues = {"gm": np.arange(1000) < 900, "wm": np.arange(1000) >= 900, "csf": np.zeros(1000, bool)}
    found = carpet_rows(signals, tissues, rows_per_tissue=200)
    assert {name: len(rows) for name, rows in found.items()} == {"gm": 200, "wm": 100}


def test_a_voxel_that_does_not_change_is_zero():
    (rows,) = carpet_rows(np.full((3, 10), 7.1, np.float32), {"gm": np.ones(3, bool)}).values()
    assert not rows.any()
