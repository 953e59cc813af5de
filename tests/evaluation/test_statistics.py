"""Against scipy's own bootstrap, exact enumeration, and the coverage that is promised."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pds_bids.evaluation.statistics import (
    bootstrap_interval,
    cohens_dz,
    compare_paired,
    holm,
    signed_rank_p,
)
from pds_bids.exceptions import DataError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_bootstrap_agrees_with_scipy(rng):
    values = rng.exponential(size=40)
    ours = bootstrap_interval(values, seed=1, n_resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2)
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.02)
    assert ours.estimate == pytest.approx(values.mean())


def test_bootstrap_of_another_statistic_keeps_rows_together(rng):
    pairs = rng.normal(size=(60, 2))
    pairs[:, 1] += 2 * pairs[:, 0]

    def correlation(rows):
        return float(np.corrcoef(rows.T)[0, 1])

    interval = bootstrap_interval(pairs, seed=1, statistic=correlation, n_resamples=1000)
    assert interval.low < correlation(pairs) < interval.high
    assert interval.low > 0.7  # rows torn apart would give correlations about zero


def test_clusters_cover_where_subjects_alone_do_not(rng):
    """Six heads of eight simulations each: an interval that ignores heads is far too narrow."""
    heads = np.repeat(np.arange(6), 8)
    hits = {"subjects": 0, "clusters": 0}
    for trial in range(100):
        values = rng.normal(size=6)[heads] + 0.3 * rng.normal(size=len(heads))
        for name, clusters in (("subjects", None), ("clusters", list(heads))):
            found = bootstrap_interval(values, seed=trial, clusters=clusters, n_resamples=200)
            hits[name] += found.low < 0 < found.high
    assert hits["subjects"] < 65
    assert hits["clusters"] > 75


def test_signed_rank_p_equals_enumeration():
    differences = np.array([0.3, -0.1, 0.9, 0.4, 0.7, -0.2])
    ranks = stats.rankdata(np.abs(differences))
    seen = ranks[differences > 0].sum()
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    expected = 2 * np.mean([total >= seen for total in sums])
    assert signed_rank_p(differences) == pytest.approx(expected)


def test_equal_rows_do_not_differ():
    assert signed_rank_p(np.zeros(5)) == 1.0


def test_holm_keeps_the_family_wise_error(rng):
    """Of ten true null hypotheses, one is rejected in at most 5% of experiments."""
    p_values = rng.uniform(size=(4000, 10))
    wrong = np.mean([min(holm(list(row))) < 0.05 for row in p_values])
    assert wrong == pytest.approx(0.05, abs=0.012)
    assert np.mean(p_values.min(1) < 0.05) > 0.35


def test_holm_leaves_out_what_is_undefined():
    first, missing, last = holm([0.01, float("nan"), 0.04])
    assert (first, last) == (0.02, 0.04)
    assert np.isnan(missing)


def test_effect_size_against_a_test_of_scipy(rng):
    a = rng.normal(1, 1, 25)
    t = stats.ttest_1samp(a, 0).statistic
    assert cohens_dz(a) == pytest.approx(t / np.sqrt(25))


def test_comparison_is_paired_and_corrected(rng):
    subjects = 10 * rng.normal(size=30)  # differ far more than the methods do
    ours = subjects + 0.2 + 0.05 * rng.normal(size=30)
    rows = {
        "better-by-little": subjects,
        "same": ours.copy(),
        "holes": np.where(subjects > 0, subjects, np.nan),
    }
    with pytest.warns(RuntimeWarning, match="without spread"):
        found = {each.name: each for each in compare_paired(ours, rows, seed=1)}
    assert found["better-by-little"].difference.estimate == pytest.approx(0.2, abs=0.04)
    assert found["better-by-little"].difference.low > 0
    assert found["better-by-little"].p_holm == pytest.approx(3 * found["better-by-little"].p)
    assert found["same"].p_holm == 1.0
    assert found["holes"].n_subjects == (subjects > 0).sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.ones(1), seed=0).low, "1 subject"),
        (lambda: bootstrap_interval(np.array([1, np.nan]), seed=0).low, "not finite"),
        (lambda: bootstrap_interval(np.ones(4), seed=0, clusters=["a"] * 4).low, "1 subject or cluster"),
        (lambda: signed_rank_p(np.ones(1)), "1 subjects"),
        (lambda: cohens_dz(np.ones(3)), "without spread"),
    ],
)
def test_what_is_undefined_is_nan_with_a_warning(call, message):
    with pytest.warns(RuntimeWarning, match=message):
        assert np.isnan(call())


def test_wrong_shapes_are_named():
    with pytest.raises(DataError, match="row other"):
        compare_paired(np.ones(3), {"other": np.ones(2)}, seed=0)
    with pytest.raises(DataError, match="one cluster per subject"):
        bootstrap_interval(np.ones(3), seed=0, clusters=["a"])
    with pytest.raises(DataError, match="between 0 and 1"):
        bootstrap_interval(np.ones(3), seed=0, level=95)
