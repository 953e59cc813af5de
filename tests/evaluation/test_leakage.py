"""Traps that must be refused, and honest data that must not."""

import numpy as np
import pytest

from pds_bids.evaluation.leakage import check_duplicates, check_folds
from pds_bids.exceptions import LeakageError


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(size=(12, 40))


@pytest.fixture
def people():
    return [f"sub-{k:02d}" for k in range(12)]


def test_segments_of_a_person_in_two_folds_are_refused():
    people = ["sub-01"] * 5 + ["sub-02"] * 5
    with pytest.raises(LeakageError, match="rows of sub-01 lie in folds 0 and 1"):
        check_folds(people, np.arange(10) % 2)
    check_folds(people, np.repeat([0, 1], 5))


def test_a_duplicate_under_another_name_is_refused(features, people):
    features[7] = features[2]
    with pytest.raises(LeakageError, match="sub-02 and sub-07 have the same values in 40 features"):
        check_duplicates(people, features)


def test_a_duplicate_in_the_same_fold_is_no_leak_between_folds(features, people):
    features[7] = features[2]
    folds = np.arange(12) % 6
    with pytest.raises(LeakageError, match="sub-02 and sub-07"):
        check_duplicates(people, features, folds)
    folds[7] = folds[2]
    check_duplicates(people, features, folds)


def test_a_duplicate_that_was_rounded_is_refused(features, people):
    features[7] = np.round(features[2], 2)
    with pytest.raises(LeakageError, match="too alike"):
        check_duplicates(people, features)


def test_the_same_image_behind_other_features_is_refused(features, people):
    digests = [frozenset({str(k)}) for k in range(12)]
    digests[9] = frozenset({"9", "4"})
    with pytest.raises(LeakageError, match="sub-04 and sub-09 have an image in common"):
        check_duplicates(people, features, digests=digests)


def test_different_people_and_several_rows_of_one_pass(features, people):
    check_duplicates(people, features)
    features[7] = features[2]
    people[7] = people[2]
    check_duplicates(people, features)


def test_rows_without_common_features_are_no_duplicates(features, people):
    features[:6, 20:] = np.nan
    features[6:, :20] = np.nan
    check_duplicates(people, features)
