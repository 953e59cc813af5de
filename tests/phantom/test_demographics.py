from collections import Counter

import numpy as np
import pytest

from pds_bids.exceptions import UsageError
from pds_bids.phantom.demographics import Diagnosis, Sex, Traits, aging, deal, draw_traits
from pds_bids.phantom.tissue import Latent

NAMES = [f"sub-{k:02d}" for k in range(24)]


def test_groups_and_sexes_are_balanced():
    people = draw_traits(3, NAMES, list(Diagnosis), (55, 90))
    assert Counter((p.diagnosis, p.sex) for p in people) == dict.fromkeys(
        [(group, sex) for group in Diagnosis for sex in Sex], 4
    )


def test_more_people_do_not_change_the_first_ones():
    few = draw_traits(3, NAMES[:7], list(Diagnosis), (55, 90))
    assert few == draw_traits(3, NAMES, list(Diagnosis), (55, 90))[:7]
    assert deal(1, "x", "abc", 5) == deal(1, "x", "abc", 50)[:5]
    assert len({tuple(deal(seed, "x", "abc", 3)) for seed in range(30)}) > 3


def test_age_does_not_depend_on_the_diagnosis():
    names = [f"sub-{k}" for k in range(900)]
    people = draw_traits(0, names, list(Diagnosis), (55, 90))
    ages = {g: np.array([p.age_years for p in people if p.diagnosis is g]) for g in Diagnosis}
    assert all(a.min() >= 55 and a.max() <= 90 for a in ages.values())
    # Standard error of a difference of means: 7.2 years * sqrt(2 / 300) = 0.6.
    means = [a.mean() for a in ages.values()]
    assert max(means) - min(means) < 2
    assert {p.age_years for p in draw_traits(0, NAMES, [Diagnosis.NC], (30, 30))} == {30}


def test_age_goes_one_way():
    young, old, older = aging(25), aging(70), aging(85)
    assert not young.latents.any()
    assert young.cortex == young.hippocampus == young.ventricle_mm == 0
    assert 0 < old.hippocampus < older.hippocampus
    assert 0 < old.cortex < older.cortex
    assert 0 < old.ventricle_mm < older.ventricle_mm
    assert older.latents[Latent.MYELIN] < old.latents[Latent.MYELIN] < 0
    assert older.latents[Latent.WATER] > old.latents[Latent.WATER] > 0
    assert older.latents[Latent.IRON] > old.latents[Latent.IRON] > 0


def test_children_are_refused():
    with pytest.raises(UsageError, match="age 12"):
        Traits(Diagnosis.NC, 12, Sex.MALE)
