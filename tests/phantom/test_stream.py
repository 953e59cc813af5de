import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom import degrade
from pds_bids.phantom.stream import PairStream, template_channels


@pytest.fixture(scope="module")
def stream(anatomy, model_template):
    return PairStream([anatomy], seed=5, template=model_template)


@pytest.fixture(scope="module")
def pairs(stream):
    return [stream.pair(i) for i in range(12)]


def correlation(a, b, mask):
    return np.corrcoef(a[mask], b[mask])[0, 1]


def test_an_index_names_a_pair_whatever_came_before(anatomy, model_template, stream, pairs):
    fresh = PairStream([anatomy], seed=5, template=model_template).pair(7)
    np.testing.assert_array_equal(fresh.source, pairs[7].source)
    np.testing.assert_array_equal(fresh.target, pairs[7].target)
    np.testing.assert_array_equal(fresh.mask, pairs[7].mask)
    other = PairStream([anatomy], seed=6, template=model_template).pair(7)
    assert not np.array_equal(other.target, fresh.target)
    assert not np.array_equal(pairs[7].target, pairs[8].target)


def test_units_and_mask(pairs):
    for pair in pairs:
        for image in (pair.source, pair.target):
            assert image.dtype == np.float32
            assert np.isfinite(image).all()
            assert (image >= 0).all()
            np.testing.assert_allclose(image[:, pair.mask].mean(1), 1, rtol=1e-4)
            assert (image[:, ~pair.mask] == 0).all()


def test_source_and_target_show_the_same_person(pairs):
    # High-passed b0 images agree within a person far more than between people.
    def detail(image):
        return image - ndimage.gaussian_filter(image, 2)

    same = [correlation(detail(p.source[2]), detail(p.target[2]), p.mask) for p in pairs]
    other = [
        correlation(detail(p.source[2]), detail(q.target[2]), p.mask & q.mask)
        for p, q in itertools.pairwise(pairs)
    ]
    assert np.median(same) > 0.85
    assert np.median(same) > np.median(other) + 0.1


def test_contrasts_of_the_target(pairs, model_template):
    fluid = model_template.csf * (np.abs(model_template.grid.points()[..., 0]) < 10) > 0.9
    white = ndimage.binary_erosion(model_template.wm > 0.9)
    deep = fluid & ndimage.binary_erosion(model_template.mask, iterations=3)
    ratio = np.median([[t[deep].mean() / t[white].mean() for t in pair.target] for pair in pairs], 0)
    assert ratio[0] > 1.05
    assert ratio[1] < 0.7
    assert ratio[2] > 1.5


def test_mask_is_near_the_template_but_not_the_same(pairs, model_template):
    for pair in pairs:
        overlap = 2 * (pair.mask & model_template.mask).sum() / (pair.mask.sum() + model_template.mask.sum())
        assert 0.85 < overlap < 1


def test_target_does_not_know_the_protocol(anatomy, model_template, monkeypatch):
    # With one acquisition replaced by another and the same randomness, only the source changes.
    stream = PairStream([anatomy], seed=1, template=model_template)
    plain = stream.pair(0)
    draw = degrade.draw_acquisition

    def other(rng, share):
        plan = draw(rng, share)
        object.__setattr__(plan, "dwi", degrade.DwiProtocol(bval_s_mm2=3000, te_ms=100))
        return plan

    monkeypatch.setattr(degrade, "draw_acquisition", other)
    changed = stream.pair(0)
    np.testing.assert_array_equal(changed.target, plain.target)
    assert np.abs(changed.source[1] - plain.source[1]).max() > 0.1


def test_random_contrast_can_be_forced(anatomy, model_template):
    def agreement(share):
        stream = PairStream([anatomy], seed=2, template=model_template, random_contrast=share)
        pairs = [stream.pair(i) for i in range(8)]
        return np.array([correlation(p.source[2], p.target[2], p.mask) for p in pairs])

    assert agreement(0.0).min() > 0.8
    assert agreement(1.0).min() < 0.5


def test_protocols_cover_the_wild():
    rng = np.random.default_rng(0)
    plans = [degrade.draw_acquisition(rng, 0.1) for _ in range(500)]
    bvals = [p.dwi.bval_s_mm2 for p in plans]
    assert min(bvals) < 800
    assert max(bvals) > 2700
    settings = [s for p in plans for s in p.degradations.values()]
    assert max(s.blur_mm for s in settings) <= 1.8
    assert max(s.registration_sd_mm for s in settings) <= 0.5
    assert max(s.noise for s in settings) <= 0.015
    assert 0.04 < np.mean([bool(p.arbitrary) for p in plans]) < 0.17


def test_displacement_moves_by_the_distortion():
    grid = Grid((9, 21, 9), np.diag([3.0, 3.0, 3.0, 1.0]))
    volume = np.broadcast_to(np.arange(21.0)[None, :, None, None], (9, 21, 9, 1))
    field = np.full(grid.shape, 50.0)
    settings = degrade.Degradation(1, 0.0, 0.02, 0, 0)  # 50 Hz x 0.02 mm/Hz = 1 mm = 1/3 voxel
    where = np.zeros(grid.shape, bool)
    where[4, 10, 4] = True
    moved = degrade.displace(np.random.default_rng(0), volume, field, grid, where, settings)
    assert moved[0, 0] == pytest.approx(10 + 1 / 3, abs=1e-5)


def test_template_channels(model_template):
    channels = template_channels(model_template)
    np.testing.assert_array_equal(channels[1], model_template.wm)
    assert channels[3][model_template.mask].mean() == pytest.approx(1, rel=1e-5)


def test_refusals(anatomy, model_template):
    with pytest.raises(DataError, match="no anatomies"):
        PairStream([], seed=0, template=model_template)
    skewed = type(model_template)(
        **{**vars(model_template), "grid": Grid((33, 39, 33), np.diag([6, 6, 5, 1.0]))}
    )
    with pytest.raises(GeometryError, match="isotropic"):
        PairStream([anatomy], seed=0, template=skewed)


@pytest.mark.skipif(not os.environ.get("PDS_LABELS"), reason="PDS_LABELS names no label maps")
def test_label_map_lands_on_the_template(tmp_path):
    from pds_bids.phantom.anatomy import build_anatomies
    from pds_bids.phantom.tissue import Tissue
    from pds_bids.template import RES02_GRID, get_template, load_template

    template = load_template(get_template(tmp_path), RES02_GRID)
    labels = Path(os.environ["PDS_LABELS"])
    (built,) = build_anatomies(labels, tmp_path / "cache", template, only=[0], deformable=False)
    white = built.fraction(Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM) > 0.5
    overlap = 2 * (white & (template.wm > 0.5)).sum() / (white.sum() + (template.wm > 0.5).sum())
    assert overlap > 0.55
    (again,) = build_anatomies(labels, tmp_path / "cache", template, only=[0], deformable=False)
    np.testing.assert_array_equal(again.fractions, built.fractions)
