import numpy as np
import pytest

from pds_bids.phantom.labelmap import open_sulci

WHITE, CORTEX, CSF = 2, 3, 24


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness_mm", [2.5, 3.5])
def test_fluid_lies_in_the_middle_between_two_banks(axis, thickness_mm):
    zooms = np.ones(3)
    zooms[axis] = 0.5
    n = int(2 * thickness_mm / 0.5)
    labels = np.full((12, 12, 12), WHITE)
    labels = np.insert(labels, [6] * n, CORTEX, axis)
    opened = np.moveaxis(open_sulci(labels, tuple(zooms)), axis, 0)
    where = np.flatnonzero((opened == CSF).all((1, 2)))
    assert 1 <= len(where) <= 3
    assert where.mean() == pytest.approx(6 + (n - 1) / 2, abs=0.5)
    changed = opened != np.moveaxis(labels, axis, 0)
    assert changed.sum() == len(where) * 12 * 12


def test_cortex_with_fluid_beside_it_and_thin_cortex_stay():
    crown = np.full((20, 12, 12), WHITE)
    crown[10:13], crown[13:] = CORTEX, CSF
    thin = np.full((20, 12, 12), WHITE)
    thin[10:12] = CORTEX
    for labels in (crown, thin):
        np.testing.assert_array_equal(open_sulci(labels, (1.0, 1.0, 1.0)), labels)


def test_a_map_without_a_brain_stays():
    labels = np.full((5, 6, 7), 515)
    np.testing.assert_array_equal(open_sulci(labels, (1.0, 1.0, 1.0)), labels)
