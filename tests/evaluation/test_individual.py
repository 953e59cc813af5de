"""Against plain correlations, planted people, and errors computed voxel by voxel."""

import numpy as np
import pytest

from pds_bids.evaluation.individual import (
    bland_altman,
    correlate_people,
    cover,
    disturb_pattern,
    identify_people,
)
from pds_bids.exceptions import GeometryError


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_correlation_is_that_of_numpy_and_ignores_what_all_have_in_common(rng):
    acquired = rng.normal(size=(20, 4))
    synthetic = 0.5 * acquired + rng.normal(size=(20, 4))
    found = correlate_people(acquired, synthetic + np.array([9.0, -3.0, 0.0, 100.0]))
    expected = [np.corrcoef(acquired[:, k], synthetic[:, k])[0, 1] for k in range(4)]
    assert found == pytest.approx(expected)


def test_an_atlas_knows_nobody(rng):
    atlas = rng.normal(size=50)
    acquired = atlas + 0.3 * rng.normal(size=(30, 50))
    # Every person gets the atlas: a high correlation over parcels, none over people.
    synthetic = np.tile(atlas, (30, 1)) + 1e-3 * rng.normal(size=(30, 50))
    assert np.corrcoef(acquired[0], synthetic[0])[0, 1] > 0.9
    assert abs(np.median(correlate_people(acquired, synthetic))) < 0.15
    assert identify_people(acquired, synthetic).rate < 0.2


def test_a_difference_between_groups_counts_for_nothing_once_it_is_removed(rng):
    groups = np.repeat(["NC", "AD"], 40)
    shift = np.where(groups == "AD", 3.0, 0.0)[:, None]
    acquired, synthetic = shift + rng.normal(size=(80, 30)), shift + rng.normal(size=(80, 30))
    assert np.median(correlate_people(acquired, synthetic)) > 0.5
    assert abs(np.median(correlate_people(acquired, synthetic, groups))) < 0.1


def test_a_missing_parcel_is_left_out_of_its_own_column_only(rng):
    acquired = rng.normal(size=(10, 2))
    synthetic = acquired.copy()
    synthetic[:8, 1] = np.nan
    found = correlate_people(acquired, synthetic)
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1])


def test_people_are_found_by_their_own_pattern(rng):
    acquired = rng.normal(size=(25, 60))
    found = identify_people(acquired, 2 - 0.4 * rng.normal(size=(25, 60)) + acquired)
    assert found.rate == 1
    assert found.rank.min() == 1
    order = rng.permutation(25)
    exchanged = identify_people(acquired, acquired[order])
    assert exchanged.rate == np.mean(order == np.arange(25))


def test_nobody_is_looked_for_without_common_parcels(rng):
    acquired = rng.normal(size=(4, 8))
    # Two at each end of the field of view: nobody has what all others have.
    acquired[np.arange(8) % 4, np.arange(8)] = np.nan
    found = identify_people(acquired, acquired)
    assert np.isnan(found.rate)
    assert found.similarity.shape == (0, 0)


def test_bland_altman_finds_bias_limits_and_shrinkage(rng):
    acquired = rng.normal(10, 2, size=(4000, 1))
    agreement = bland_altman(acquired, 5 + 0.5 * acquired + 1.0)
    difference = 6 - 0.5 * acquired
    assert agreement.bias[0] == pytest.approx(difference.mean())
    assert agreement.upper[0] - agreement.bias[0] == pytest.approx(1.96 * difference.std(), rel=0.01)
    # Difference -0.5 x against mean 0.75 x: slope -2/3.
    assert agreement.slope[0] == pytest.approx(-2 / 3)


def test_coverage_of_honest_and_of_sure_models(rng):
    mask = np.ones((40, 40, 40), bool)
    truth = rng.normal(0, 2, mask.shape)
    honest = cover(truth, np.zeros(mask.shape), np.full(mask.shape, 2.0), mask)
    assert [honest[level] for level in (50, 80, 95)] == pytest.approx([0.5, 0.8, 0.95], abs=0.01)
    assert cover(truth, np.zeros(mask.shape), np.full(mask.shape, 1.0), mask)[95] < 0.7


def test_disturbed_patterns_have_the_error_of_disturbed_images(rng):
    n_people, n_parcels, n_voxels = 6, 3, 50
    truth = rng.normal(size=(n_people, n_parcels, n_voxels)) + 2 * rng.normal(size=(n_people, n_parcels, 1))
    image = truth + 0.3 * rng.normal(size=truth.shape)
    means = image.mean(-1)
    counts = np.full((n_people, n_parcels), n_voxels)
    found = disturb_pattern(truth.mean(-1), means, ((image - truth) ** 2).mean(-1), counts, rng)
    for person in range(n_people):
        others = np.delete(means, person, 0).mean(0)
        disturbed = image[person] + (others - means[person])[:, None]
        assert found["removed"][person] == pytest.approx(((disturbed - truth[person]) ** 2).mean())
    assert found["own"] == pytest.approx(((image - truth) ** 2).mean((1, 2)))
    assert (found["removed"] > 5 * found["own"]).all()
    assert (found["randomised"] > 5 * found["own"]).all()


def test_tables_must_be_of_the_same_people():
    with pytest.raises(GeometryError, match="one shape"):
        correlate_people(np.zeros((3, 2)), np.zeros((4, 2)))
