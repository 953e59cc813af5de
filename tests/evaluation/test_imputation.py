"""Imputation by neighbours gives the numbers of scikit-learn's."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.impute import KNNImputer

from pds_bids.evaluation.imputation import BlockNeighbourImputer


def cohort(seed: int, n: int = 24) -> np.ndarray:
    """People who lack the first block, the second, single features, or nothing."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 30))
    rows[: n // 3, :12] = np.nan
    rows[n // 3 : n // 2, 12:] = np.nan
    rows[rng.random(rows.shape) < 0.05] = np.nan
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 5, 40])
def test_numbers_are_those_of_scikit_learn(seed: int, k: int) -> None:
    rows, others = cohort(seed), cohort(seed + 100, 7)
    peer = KNNImputer(n_neighbors=k, keep_empty_features=True).fit(rows)
    own = BlockNeighbourImputer(k).fit(rows)
    for each in (rows, others):
        before = each.copy()
        np.testing.assert_allclose(own.transform(each), peer.transform(each), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(each, before)


def test_people_with_nothing_in_common_get_the_mean_of_those_who_have_it() -> None:
    rows = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]])
    asked = np.array([[np.nan, 7.0], [2.0, np.nan], [np.nan, np.nan]])
    peer = KNNImputer(n_neighbors=2, keep_empty_features=True).fit(rows[:2])
    own = BlockNeighbourImputer(2).fit(rows[:2])
    np.testing.assert_allclose(own.transform(asked), peer.transform(asked))
    np.testing.assert_allclose(own.transform(asked), [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    own = clone(own).fit(rows)
    np.testing.assert_allclose(own.transform(asked[1:]), [[2.0, 5.0], [2.0, 5.0]])
