"""A place unlike that of other people is found, wherever people themselves do not vary."""

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.inference.deviation import largest_deviation, norm_of

SHAPE = (40, 44, 40)
PEOPLE = 12
CENTRE = (np.array(SHAPE) - 1) / 2
RESTLESS, QUIET = (28, 22, 20), (20, 30, 20)


def away_from(place):
    return np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - place, axis=-1)


@pytest.fixture(scope="module")
def template():
    """White matter in the middle, grey matter around it, a fluid core, and a T1w of them."""
    radius = away_from(CENTRE)
    white = (radius < 14).astype(np.float32) - (radius < 4)
    fluid = (radius < 4).astype(np.float32)
    grey = (radius < 18) - white - fluid
    return np.stack([grey, white, fluid, 0.7 * grey + white + 0.3 * fluid]).astype(np.float32)


def person(template, rng):
    """Make an image of three tissues, noise and shading, with a place that differs between people."""
    mask = template[:3].sum(0) > 0
    contrast = rng.uniform([1.0, 0.7, 1.3], [1.3, 0.9, 2.0])
    image = np.tensordot(contrast, template[:3], 1)
    image *= 1 + 0.06 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.2) / 0.2
    image *= np.exp(0.2 * (np.indices(SHAPE)[rng.integers(3)] / 40 - 0.5))
    image *= np.where(away_from(RESTLESS) < 4, np.exp(rng.normal(0, 0.4)), 1)
    image = np.where(mask, np.maximum(image, 0.05), 0)
    return (image / image[mask].mean()).astype(np.float32)


@pytest.fixture(scope="module")
def norm(template):
    rng = np.random.default_rng(1)
    return norm_of([person(template, rng) for _ in range(PEOPLE)], template)


def found(image, template, norm):
    mask = image > 0
    return largest_deviation(image / image[mask].mean(), mask, template, norm)


def test_people_deviate_less_than_lesions(template, norm):
    rng = np.random.default_rng(2)
    people = [person(template, rng) for _ in range(PEOPLE)]
    healthy = [found(image, template, norm) for image in people]
    for factor in (0.5, 2.0):
        lesion = np.where(away_from(QUIET) < 10 / 3, factor, 1)
        ill = [found(image * lesion, template, norm) for image in people]
        assert np.percentile(ill, 10) > np.percentile(healthy, 90)


def test_where_people_vary_less_is_made_of_it(template, norm):
    """The same change is less odd in a restless place, and on its other side: people count mirrored."""
    image = person(template, np.random.default_rng(3))
    mirrored = (SHAPE[0] - 1 - RESTLESS[0], *RESTLESS[1:])
    odd = {place: found(image * np.where(away_from(place) < 4, 2.5, 1), template, norm)
           for place in (QUIET, RESTLESS, mirrored)}  # fmt: skip
    assert odd[RESTLESS] < 0.6 * odd[QUIET]
    assert odd[mirrored] < 0.6 * odd[QUIET]


def test_contrast_and_shading_are_no_deviation(template, norm):
    image = person(template, np.random.default_rng(4))
    tissues = np.where(template[1] > 0, 1.5, 1.0)
    shading = np.exp(0.6 * (np.indices(SHAPE)[1] / 40 - 0.5))
    assert found(image * tissues * shading, template, norm) == pytest.approx(
        found(image, template, norm), rel=0.35
    )


def test_too_little_brain_tells_nothing(template, norm):
    image = person(template, np.random.default_rng(5)) * (away_from(CENTRE) < 4)
    assert found(image, template, norm) == 0
    flat = template[:3].sum(0)
    assert largest_deviation(flat, flat > 0, template, norm_of([flat] * 3, template)) == 0
