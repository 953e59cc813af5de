"""Sources that no model has seen must not pass in silence; people like those of the training must."""

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.inference.bundle import load_bundle
from pds_bids.inference.card import default_model_dir
from pds_bids.inference.familiarity import describe_source, find_oddities, gather_ranges, widened_by
from pds_bids.inference.prepare import scale_template, scale_to_mean
from pds_bids.modalities import Contrast

PEOPLE = range(8)


@pytest.fixture(scope="module")
def world():
    """Simulated people, the mask and tissues that their own images imply, and the ranges of the weights."""
    bundle = load_bundle(default_model_dir())
    window, bank = bundle.window, bundle.bank
    mask = window.crop(bank.mask)
    atlas = {
        c: window.crop(bank.volume(v))
        for c, v in zip(("bold", "dwi", "b0", "fa", "md"), bank.atlas, strict=True)
    }
    return bundle, mask, atlas


def test_figures_of_a_known_image():
    """Two flat tissues: the fit is perfect, the ratio is that of the tissues, both sides are alike."""
    shape = (16, 16, 16)
    mask = np.zeros(shape, bool)
    mask[2:14, 2:14, 2:14] = True
    white = np.zeros(shape)
    white[2:14, 2:8, 2:14] = 1
    template = np.stack([(1 - white) * mask, white, 0 * white, mask * 1.0])
    image = np.where(white > 0, 0.8, 1.2) * mask
    figures = describe_source(image, mask, template)
    assert figures["tissue_fit"] == pytest.approx(1)
    assert figures["grey_to_white"] == pytest.approx(1.5)
    assert figures["fluid_to_white"] == 0
    assert figures["mirror"] == pytest.approx(1)
    assert figures["spread"] == pytest.approx(0.2)
    assert figures["likeness"] == 0
    assert describe_source(image, mask, np.stack([*template[:3], 2 - image]))["likeness"] == pytest.approx(-1)
    image[9, 9, 9] += 5
    assert describe_source(image, mask, template)["largest_blob"] > figures["largest_blob"] + 0.01


def test_ranges_hold_the_people_that_they_come_from():
    figures = [{Contrast.BOLD: {"spread": value}} for value in np.linspace(1, 2, 21)]
    complete = [{c: dict.fromkeys(describe_names(), 0.0) | named for c, named in f.items()} for f in figures]
    ranges = gather_ranges(complete)
    low, high = ranges["bold"]["spread"]
    assert low == pytest.approx(1.05 - 0.5 * 0.9)
    assert high == pytest.approx(1.95 + 0.5 * 0.9)
    assert not find_oddities({Contrast.BOLD: {"spread": 1.5}}, ranges)
    (oddity,) = find_oddities({Contrast.BOLD: {"spread": 3.0}}, ranges)
    assert "source bold" in oddity
    assert "3.00" in oddity
    assert widened_by({Contrast.BOLD: {"spread": 1.5}}, ranges) == 1
    assert widened_by({Contrast.BOLD: {"spread": high + 0.5 * (high - low)}}, ranges) == pytest.approx(1.5)
    assert widened_by({Contrast.BOLD: {"spread": 99.0}}, ranges) == 3


def test_an_image_never_follows_the_tissues_too_well():
    ranges = {"t1w": {"tissue_fit": [0.1, 0.6], "upright": [-0.1, 0.5]}}
    too_good = {Contrast.T1W: {"tissue_fit": 0.9, "upright": 0.8}}
    assert not find_oddities(too_good, ranges)
    assert widened_by(too_good, ranges) == 1
    too_bad = {Contrast.T1W: {"tissue_fit": 0.05, "upright": -0.05}}
    assert len(find_oddities(too_bad, ranges)) == 2
    assert widened_by(too_bad, ranges) == pytest.approx(1.1)


def describe_names():
    from pds_bids.inference.familiarity import FEATURES

    return list(FEATURES)


def shuffled(image, mask, rng):
    image[mask] = rng.permutation(image[mask])
    return image, mask


def noise(image, mask, rng):
    image[mask] = np.abs(rng.normal(1, 0.3, int(mask.sum())))
    return image, mask


def another_organ(image, mask, rng):
    coarse = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4)
    image[mask] = (1 + coarse / coarse.std() * 0.3)[mask].clip(0.05)
    return image, mask


def inverted(image, mask, rng):
    image[mask] = (2.2 - image[mask]).clip(0.02)
    return image, mask


def lesion(image, mask, rng):
    centre = np.array([36, 30, 32])
    away = np.linalg.norm(np.moveaxis(np.indices(mask.shape), 0, -1) - centre, axis=-1)
    image[(away < 7) & mask] = 3.0
    return image, mask


def half_a_brain(image, mask, rng):
    mask[: mask.shape[0] // 2] = False
    return image * mask, mask


def upside_down(image, mask, rng):
    return image[:, :, ::-1], mask[:, :, ::-1]


def flat(image, mask, rng):
    return mask * 1.0, mask


TRIALS = (shuffled, noise, another_organ, inverted, lesion, half_a_brain, upside_down, flat)


def oddities(world, image, mask, template, contrast):
    scaled, _ = scale_to_mean(image, mask, "trial")
    return find_oddities({contrast: describe_source(scaled, mask, template)}, world[0].card["source_ranges"])


@pytest.fixture(scope="module")
def template(world, tmp_path_factory):
    from pds_bids.phantom.pair import template_channels
    from pds_bids.template import MODEL_GRID, get_template, load_template

    bundle, mask, _ = world
    channels = template_channels(load_template(get_template(tmp_path_factory.mktemp("template")), MODEL_GRID))
    return scale_template(bundle.window.crop(channels), mask)


def images(world, index, contrast):
    bundle, mask, _ = world
    volume = bundle.window.crop(bundle.bank.volume(bundle.bank.person(index, contrast, is_source=True)))
    inside = mask & (volume > 0)
    return volume * inside, inside


@pytest.mark.parametrize("contrast", [Contrast.BOLD, Contrast.DWI, Contrast.B0])
def test_people_of_the_training_are_familiar(world, template, contrast):
    odd = [
        oddities(world, *images(world, i, contrast), template * images(world, i, contrast)[1], contrast)
        for i in PEOPLE
    ]
    assert sum(map(bool, odd)) <= 1, odd


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("contrast", [Contrast.BOLD, Contrast.DWI])
def test_no_trial_passes_in_silence(world, template, trial, contrast):
    rng = np.random.default_rng(0)
    silent = []
    for index in PEOPLE:
        image, mask = images(world, index, contrast)
        image, mask = trial(image.copy(), mask.copy(), rng)
        if not oddities(world, image, mask, template * mask, contrast):
            silent.append(index)
    assert len(silent) <= 1, silent


#: What is read as what. Not here: b = 0 as BOLD, for T2 weights both, and T1w as DWI, which looks like
#: strong diffusion weighting.
MISTAKEN = [
    (Contrast.DWI, Contrast.BOLD),
    (Contrast.T1W, Contrast.BOLD),
    (Contrast.BOLD, Contrast.DWI),
    (Contrast.B0, Contrast.DWI),
    (Contrast.DWI, Contrast.B0),
    (Contrast.BOLD, Contrast.T1W),
]


@pytest.mark.parametrize(("given", "taken_for"), MISTAKEN)
def test_a_wrong_modality_does_not_pass_in_silence(world, template, given, taken_for):
    silent = []
    for index in PEOPLE:
        image, mask = images(world, index, given)
        if not oddities(world, image, mask, template * mask, taken_for):
            silent.append(index)
    assert len(silent) <= 1, silent
