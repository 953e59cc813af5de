import json

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.evaluation.baselines import cubic_features, fit_baselines, tree_features
from pds_bids.evaluation.fidelity import compare
from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bank import Bank
from pds_bids.inference.bundle import Bundle
from pds_bids.inference.prepare import Window
from pds_bids.modalities import CONTRASTS, Contrast, Direction

SHAPE = (14, 15, 12)
GRID = Grid(SHAPE, np.diag([3.0, 3, 3, 1]))
MASK = np.zeros(SHAPE, bool)
MASK[2:12, 2:13, 2:10] = True
TEMPLATE = np.random.default_rng(9).random((*SHAPE, 4))


def person(seed):
    """Return images that follow ``dwi = 0.3 + 0.9 bold - 0.2 bold^3 + 0.1 atlas`` exactly, before scaling."""
    rng = np.random.default_rng(seed)
    bold = 1 + ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.0)
    dwi = 0.3 + 0.9 * bold - 0.2 * bold**3 + 0.1 * ATLAS
    return np.stack([bold, dwi, bold**2, bold + 1, dwi + 1, 2 - bold]) * MASK


ATLAS = 1 + 0.5 * np.sin(np.arange(SHAPE[1]))[None, :, None] * np.ones(SHAPE)


@pytest.fixture(scope="module")
def bank():
    people = np.stack([person(seed) for seed in range(5)])
    return Bank.from_images(MASK, people, people, np.stack([ATLAS] * 6))


@pytest.fixture(scope="module")
def fitted(bank):
    return fit_baselines(bank, TEMPLATE, Direction.BOLD2DWI)


def source_of(seed):
    return {Contrast.BOLD: person(seed)[0]}


def test_cubic_finds_a_cubic_law(fitted):
    truth = person(77)[1]
    found = fitted.predict(source_of(77), MASK)["cubic"][Contrast.DWI]
    # Half a level of 8 bits, and the 0.05% that is cut.
    np.testing.assert_allclose(found[MASK], truth[MASK], atol=0.03)


def test_cubic_equals_an_independent_fit(fitted, bank):
    """All voxels with numpy.polyfit's relative, `lstsq` on a Vandermonde matrix."""
    values = bank.source[:, 0] * bank.unit[0]
    atlas = np.tile(bank.atlas[0].astype(float), len(values))
    design = np.column_stack([np.vander(values.ravel(), 4, increasing=True), atlas])
    expected = np.linalg.lstsq(design, (bank.target[:, 1] * bank.unit[1]).ravel(), rcond=None)[0]
    one, atlas_weight, *powers = fitted.cubics[Contrast.DWI]
    # 4,000 voxels per person are more than there are: the same data.
    np.testing.assert_allclose([one, *powers, atlas_weight], expected, atol=1e-6)


def test_nearest_is_the_person_in_the_bank(fitted):
    noisy = {Contrast.BOLD: person(3)[0] + 0.02 * np.random.default_rng(0).normal(size=SHAPE)}
    assert fitted.nearest(noisy, MASK) == 3
    found = fitted.predict(noisy, MASK)["nearest"][Contrast.DWI]
    np.testing.assert_allclose(found[MASK], person(3)[1][MASK], atol=0.02)


def test_rows_are_masked_and_complete(fitted):
    smaller = ndimage.binary_erosion(MASK)
    rows = fitted.predict(source_of(77), smaller)
    assert set(rows) == {"source-bold", "atlas", "cubic", "nearest", "trees"}
    for row, images in rows.items():
        maps = set() if row == "source-bold" else {Contrast.FA, Contrast.MD}
        assert set(images) == {Contrast.DWI, Contrast.B0} | maps
        assert all(not image[~smaller].any() for image in images.values())
    np.testing.assert_array_equal(rows["source-bold"][Contrast.B0][smaller], person(77)[0][smaller])
    np.testing.assert_allclose(rows["atlas"][Contrast.DWI][smaller], ATLAS[smaller], atol=1e-3)


def test_trees_learn_the_law_and_are_the_same_twice(fitted, bank):
    truth = person(77)[1]
    found = fitted.predict(source_of(77), MASK)["trees"][Contrast.DWI]
    residual = np.std((found - truth)[MASK]) / np.std(truth[MASK])
    assert residual < 0.35
    again = fit_baselines(bank, TEMPLATE, Direction.BOLD2DWI).predict(source_of(77), MASK)
    np.testing.assert_array_equal(again["trees"][Contrast.DWI], found)


def test_tree_features_by_hand(bank):
    flat = {Contrast.BOLD: np.ones(SHAPE)}
    features = tree_features(flat, MASK, bank, np.moveaxis(TEMPLATE, -1, 0), (Contrast.BOLD,))
    index = 17
    place = np.argwhere(MASK)[index]
    # A flat image stays flat under a blur that is normalised by the mask.
    np.testing.assert_allclose(features[index, :3], 1, atol=1e-5)
    np.testing.assert_allclose(features[index, 4:9], ATLAS[tuple(place)], atol=1e-3)
    np.testing.assert_allclose(features[index, 9:13], TEMPLATE[tuple(place)], atol=1e-6)
    np.testing.assert_array_equal(features[index, 13:], place)


def test_cubic_features_of_two_sources():
    mask = np.ones((1, 1, 1), bool)
    source = {Contrast.DWI: np.full((1, 1, 1), 2.0), Contrast.B0: np.full((1, 1, 1), 3.0)}
    row = cubic_features(source, mask, np.full((1, 1, 1), 0.5), (Contrast.DWI, Contrast.B0))
    assert row.tolist() == [[1, 0.5, 2, 4, 8, 3, 9, 27]]


@pytest.fixture
def bundle(bank, tmp_path):
    made = Bundle(tmp_path, None, {}, GRID, Window((0, 0, 0), SHAPE), dict.fromkeys(CONTRASTS, 2.0))
    made.__dict__["bank"] = bank
    return made


def test_compare_puts_the_truth_on_top(bundle, fitted):
    truth = {Contrast.DWI: 40 * person(77)[1], Contrast.B0: 7 * person(77)[2]}
    report = compare(
        {c: image / 3 for c, image in truth.items()},
        truth,
        source_of(77),
        MASK,
        Direction.BOLD2DWI,
        bundle,
        template=TEMPLATE,
        baselines=fitted,
    )
    scores = report["scores"]
    assert next(iter(scores)) == "model"
    assert min(scores["model"][c]["psnr_brain"] for c in ("dwi", "b0")) > 100
    assert scores["cubic"]["dwi"]["psnr_brain"] > scores["atlas"]["dwi"]["psnr_brain"] + 10
    assert report["n_voxels"] == MASK.sum()
    json.dumps(report)


def test_background_adds_its_share_to_psnr(bundle, fitted):
    """Whole-volume error is the in-brain error diluted by the share of the brain."""
    truth = {Contrast.DWI: person(77)[1]}
    report = compare(
        {Contrast.DWI: person(78)[1]},
        truth,
        source_of(77),
        MASK,
        Direction.BOLD2DWI,
        bundle,
        template=TEMPLATE,
        baselines=fitted,
    )
    scores = report["scores"]["model"]["dwi"]
    dilution = 10 * np.log10(MASK.size / MASK.sum())
    assert scores["psnr_whole"] - scores["psnr_brain"] == pytest.approx(dilution, abs=1e-6)


def test_compare_needs_a_brain(bundle, fitted):
    with pytest.raises(DataError, match="does not meet"):
        compare({}, {}, {}, ~MASK, Direction.BOLD2DWI, bundle, template=TEMPLATE, baselines=fitted)
