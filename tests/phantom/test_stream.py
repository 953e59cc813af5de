import dataclasses
import itertools
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table as dipy_table
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom import degrade
from pds_bids.phantom import stream as stream_module
from pds_bids.phantom.contrast import b0_signal, dwi_signal, linearise
from pds_bids.phantom.gradients import spread_directions
from pds_bids.phantom.stream import (
    PROTOCOL_NUMBERS,
    SOURCE_CHANNELS,
    TARGET_CHANNELS,
    PairStream,
    template_channels,
)
from pds_bids.phantom.susceptibility import dropout


@pytest.fixture(scope="module")
def stream(anatomy, model_template):
    return PairStream([anatomy], seed=5, template=model_template)


@pytest.fixture(scope="module")
def pairs(stream):
    return [stream.pair(i) for i in range(12)]


def images(pair):
    return pair.source.numpy(), pair.target.numpy(), pair.mask.numpy()


def correlation(a, b, mask):
    return np.corrcoef(a[mask], b[mask])[0, 1]


def test_an_index_names_a_pair_whatever_came_before(anatomy, model_template, stream, pairs):
    fresh = PairStream([anatomy], seed=5, template=model_template).pair(7)
    for name in ("source", "target", "mask", "protocol"):
        assert torch.equal(getattr(fresh, name), getattr(pairs[7], name))
    other = PairStream([anatomy], seed=6, template=model_template).pair(7)
    assert not torch.equal(other.target, fresh.target)
    assert not torch.equal(pairs[7].target, pairs[8].target)


def test_a_batch_of_two_is_two_of_one(stream, pairs):
    batch = stream.pairs([7, 2])
    assert batch.source.shape == (2, len(SOURCE_CHANNELS), *stream.grid.shape)
    assert batch.target.shape == (2, len(TARGET_CHANNELS), *stream.grid.shape)
    for row, index in enumerate((7, 2)):
        for name in ("source", "target", "mask", "protocol"):
            assert torch.equal(getattr(batch, name)[row], getattr(pairs[index], name))


def test_units_and_mask(pairs):
    for pair in pairs:
        source, target, mask = images(pair)
        for image in (source, target):
            assert image.dtype == np.float32
            assert np.isfinite(image).all()
            assert (image >= 0).all()
            assert (image[:, ~mask] == 0).all()
        for image in (source, target[:3]):
            np.testing.assert_allclose(image[:, mask].mean(1), 1, rtol=1e-4)
        fa, md = target[3:]
        assert fa.max() < 0.86
        assert fa[mask].max() > 0.3
        assert np.percentile(md[mask], 10) > 0.5
        assert 2 < md.max() < 3.6


def test_draws_do_not_disturb_each_other(anatomy, model_template, pairs, monkeypatch):
    # One number more from one generator leaves everything that others draw as it was.
    draw = stream_module.draw_tissue

    def greedy(rng, spread):
        tissue = draw(rng, spread)
        rng.random(1000)
        return tissue

    monkeypatch.setattr(stream_module, "draw_tissue", greedy)
    again = PairStream([anatomy], seed=5, template=model_template).pair(7)
    assert torch.equal(again.source, pairs[7].source)


def test_source_and_target_show_the_same_person(pairs):
    # High-passed b0 images agree within a person far more than between people.
    def detail(image):
        return image - ndimage.gaussian_filter(image, 2)

    sources, targets, masks = zip(*map(images, pairs), strict=True)
    lawful = [i for i, p in enumerate(pairs) if p.protocol.any()]
    same = [correlation(detail(sources[i][2]), detail(targets[i][2]), masks[i]) for i in lawful]
    other = [
        correlation(detail(sources[i][2]), detail(targets[j][2]), masks[i] & masks[j])
        for i, j in itertools.pairwise(lawful)
    ]
    assert np.median(same) > 0.8
    assert np.median(same) > np.median(other) + 0.1


def test_contrasts_of_the_target(pairs, model_template):
    fluid = model_template.csf * (np.abs(model_template.grid.points()[..., 0]) < 10) > 0.9
    white = ndimage.binary_erosion(model_template.wm > 0.9)
    deep = fluid & ndimage.binary_erosion(model_template.mask, iterations=3)
    ratio = np.median([[t[deep].mean() / t[white].mean() for t in pair.target.numpy()] for pair in pairs], 0)
    assert ratio[0] > 1.05
    assert ratio[1] < 0.7
    assert ratio[2] > 1.5
    assert ratio[3] < 0.4
    assert ratio[4] > 2.5


def test_fa_and_md_are_what_a_tensor_fit_finds(anatomy, model_template, monkeypatch):
    # A series of 30 directions through the same head, smoothed by SciPy and fitted by dipy.
    stream = PairStream([anatomy], seed=3, template=model_template)
    seen = {}
    images_of = PairStream._images

    def spy(self, tissue, plan, fractions, latents):
        seen.update(tissue=tissue, fractions=fractions.numpy(), latents=latents.numpy())
        return images_of(self, tissue, plan, fractions, latents)

    monkeypatch.setattr(PairStream, "_images", spy)
    pair = stream.pair(0)
    directions = spread_directions(30)
    axis = np.array([2.0, 1.0, 2.0]) / 3
    x, y, z = stream._voxels.numpy().T + np.array([[s.start] for s in stream._box])
    sigma = 1.4 / stream.grid.zooms[0]
    mask = pair.mask.numpy()

    def smooth(signal):
        table = linearise(signal, seen["tissue"])
        volume = np.zeros(stream.grid.shape)
        volume[x, y, z] = np.maximum(np.einsum("kn,nt,tk->n", seen["latents"], seen["fractions"], table), 0)
        return ndimage.gaussian_filter(volume, sigma, truncate=5)[mask]

    series = [smooth(b0_signal)]
    series += [smooth(partial(dwi_signal, cosine2=(g @ axis) ** 2)) for g in directions]
    gradients = dipy_table(np.r_[0, np.full(30, 1.0)], bvecs=np.r_[np.zeros((1, 3)), directions])
    fit = TensorModel(gradients, fit_method="WLS").fit(np.stack(series, 1))
    _, dwi, _, fa, md = pair.target.numpy()[:, mask]
    np.testing.assert_allclose(md, fit.md, rtol=0.01)
    np.testing.assert_allclose(fa, fit.fa, atol=0.01)
    mean = np.mean(series[1:], 0)
    np.testing.assert_allclose(dwi, mean / mean.mean(), rtol=0.01)
    # Half fluid, half tissue: the fit follows the tissue, which is brighter then.
    assert md.max() > 2.4
    assert np.median(md) < 1.1


def test_mask_is_near_the_template_but_not_the_same(pairs, model_template):
    for pair in pairs:
        mask = pair.mask.numpy()
        overlap = 2 * (mask & model_template.mask).sum() / (mask.sum() + model_template.mask.sum())
        assert 0.75 < overlap < 1


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
    # Of the target, only what the mask of the source leaves, and with it the scale, may differ.
    both = plain.mask & changed.mask
    for one, other in zip(plain.target[:, both], changed.target[:, both], strict=True):
        torch.testing.assert_close(one / one.mean(), other / other.mean(), rtol=1e-4, atol=1e-5)
    assert (changed.source[1] - plain.source[1]).abs().max() > 0.1
    numbers = dict(zip(PROTOCOL_NUMBERS, changed.protocol.tolist(), strict=True))
    assert (numbers["dwi_bval_s_mm2"], numbers["dwi_te_ms"]) == (3000, 100)
    assert plain.protocol[0] == changed.protocol[0] > 0


def test_random_contrast_can_be_forced(anatomy, model_template):
    def agreement(share):
        stream = PairStream([anatomy], seed=2, template=model_template, random_contrast=share)
        pairs = [stream.pair(i) for i in range(8)]
        assert all(p.protocol.any().item() == (share == 0) for p in pairs)
        return np.array(
            [correlation(p.source[2].numpy(), p.target[2].numpy(), p.mask.numpy()) for p in pairs]
        )

    assert agreement(0.0).min() > 0.7
    assert agreement(1.0).min() < 0.5


def test_protocols_cover_the_wild_and_most_damage_is_mild():
    rng = np.random.default_rng(0)
    plans = [degrade.draw_acquisition(rng, 0.1) for _ in range(500)]
    bvals = [p.dwi.bval_s_mm2 for p in plans]
    assert min(bvals) < 800
    assert max(bvals) > 3000
    settings = [s for p in plans for s in p.degradations.values()]
    assert max(max(s.blur_mm) for s in settings) <= 1.9
    warps = np.array([s.registration_sd_mm for s in settings])
    assert np.mean(warps <= 0.5) > 0.75
    assert warps.max() <= 1.0
    assert all(len(p.degradations[g].volumes) == len(m) for p in plans for g, m in degrade.GROUPS.items())
    assert 0.04 < np.mean([bool(p.arbitrary) for p in plans]) < 0.17


def still(**changes):
    plain = degrade.Degradation((1, 1, 1), 0.0, (0,) * 6, 0.0, 1, 0, 0, 0, (1,), (0,))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("axis", [0, 1])
def test_displacement_moves_by_the_distortion(axis):
    grid = Grid((21, 21, 9), np.diag([3.0, 3.0, 3.0, 1.0]))
    place = torch.arange(21.0).reshape([21 if k == axis else 1 for k in range(3)])
    volume = place.expand(grid.shape)[None]
    field = torch.full(grid.shape, 50.0)
    settings = still(distortion_mm_hz=0.02, phase_axis=axis)  # 50 Hz x 0.02 mm/Hz = 1 mm = 1/3 voxel
    voxel = torch.tensor([[10, 10, 4]])
    moved = degrade.displace(np.random.default_rng(0), volume, field, grid, voxel, settings)
    assert float(moved[0, 0]) == pytest.approx(10 + 1 / 3, abs=1e-5)


def test_signal_piles_up_where_the_distortion_shrinks_a_voxel():
    grid = Grid((5, 41, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
    y = torch.arange(41.0)
    volume = torch.exp(-(((y - 20) / 4) ** 2))[None, :, None].expand(grid.shape)[None].contiguous()
    field = (60 * torch.sin(y / 6))[None, :, None].expand(grid.shape).contiguous()
    where = torch.stack([torch.full((41,), 2), torch.arange(41), torch.full((41,), 2)], 1)
    moved = degrade.displace(
        np.random.default_rng(0), volume, field, grid, where, still(distortion_mm_hz=0.03)
    )
    assert float(moved.sum()) == pytest.approx(float(volume[0, 2, :, 2].sum()), rel=0.02)


def test_misplacement_is_rigid_about_the_middle():
    grid = Grid((31, 31, 31), np.diag([2.0, 2.0, 2.0, 1.0]))
    volume = torch.arange(31.0).reshape(1, 31, 1, 1).expand(1, 31, 31, 31).contiguous()
    voxels = torch.tensor([[15, 15, 15], [15, 25, 15]])
    settings = still(misplaced=(1.0, 0, 0, 0, 0, 10.0))
    moved = degrade.displace(
        np.random.default_rng(0), volume, torch.zeros(31, 31, 31), grid, voxels, settings
    )
    # 1 mm is half a voxel; a turn by +10 degrees about z takes +y towards -x.
    want = [15.5, 15.5 - 10 * np.sin(np.deg2rad(10))]
    np.testing.assert_allclose(moved[0].numpy(), want, atol=1e-4)


def test_blur_is_a_gaussian_per_channel_and_axis():
    rng = np.random.default_rng(0)
    volume = np.zeros((2, 30, 32, 28), np.float32)
    volume[:, 8:22, 8:24, 8:20] = rng.random((2, 14, 16, 12))
    sigma = np.array([[1.0, 2.0, 3.0], [2.5, 1.0, 0.0]])
    found = degrade.blur(torch.from_numpy(volume), sigma, 2.0).numpy()
    for channel in range(2):
        want = ndimage.gaussian_filter(volume[channel], sigma[channel] / 2, mode="constant", truncate=3)
        np.testing.assert_allclose(found[channel], want, atol=5e-3)


def test_noise_is_deeper_where_the_receive_field_was_divided_out(anatomy, model_template, monkeypatch):
    draw = degrade.draw_acquisition

    def image(noise, deep):
        def plain(rng, share):
            plan = draw(rng, 0)
            for name, old in plan.degradations.items():
                count = len(old.volumes)
                new = still(noise=noise, deep_noise=deep, volumes=(1,) * count, shaken_mm=(0,) * count)
                plan.degradations[name] = dataclasses.replace(new, blur_mm=(0, 0, 0))
            return plan

        monkeypatch.setattr(degrade, "draw_acquisition", plain)
        pair = PairStream([anatomy], seed=1, template=model_template).pair(0)
        return pair.source[2].numpy(), pair.mask.numpy()

    still_image, mask = image(0.0, 0.0)
    even, deep = image(1e-3, 0.0)[0] - still_image, image(1e-3, 1.0)[0] - still_image
    points = (model_template.grid.points() - [0, -18, 8]) / [68, 87, 70]
    radius2 = (points**2).sum(-1)
    for inside in (mask & (radius2 < 0.2), mask & (radius2 > 0.6)):
        want = np.exp(0.5 - radius2[inside].mean())
        assert deep[inside].std() / even[inside].std() == pytest.approx(want, rel=0.1)


def test_dephasing_is_that_of_the_cohort():
    gradient = np.linspace(0, 20, 50)
    want = dropout(gradient, 30.0, 3.0)
    np.testing.assert_allclose(stream_module._left(torch.from_numpy(gradient), 30.0, 3.0), want, rtol=1e-6)


def test_a_gpu_makes_the_same_people(anatomy, model_template):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: only the CPU can run the stream")
    here = PairStream([anatomy], seed=5, template=model_template).pair(0)
    there = PairStream([anatomy], seed=5, template=model_template, device="cuda").pair(0)
    both = here.mask & there.mask.cpu()
    assert (here.mask ^ there.mask.cpu()).sum() < 20  # a voxel at a threshold may fall on either side
    difference = (there.target.cpu() - here.target)[:, both].abs()
    assert difference.max() < 2e-3


def test_patients_keep_the_protocol_and_change_the_brain(anatomy, model_template):
    well = PairStream([anatomy], seed=5, template=model_template, patients=0.0).pair(1)
    ill = PairStream([anatomy], seed=5, template=model_template, patients=1.0).pair(1)
    assert torch.equal(well.protocol, ill.protocol)
    assert (well.target - ill.target).abs().max() > 0.01


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


def test_real_scans_look_like_sources(tmp_path):
    """Figures of ``benchmarks/realism.py``; set PDS_REALISM_CACHE to keep what takes minutes to prepare."""
    root = os.environ.get("PDS_REAL_DATA")
    if not root:
        pytest.skip("PDS_REAL_DATA is not set")
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import realism
    finally:
        sys.path.remove(folder)
    cache = Path(os.environ.get("PDS_REALISM_CACHE", tmp_path))
    labels = Path(os.environ["PDS_LABELS"]) if os.environ.get("PDS_LABELS") else None
    heads, template = realism.load_heads(labels, cache, 2)
    datasets = [folder for name in ("paired", "missing") if (folder := Path(root) / name).is_dir()] or [
        Path(root)
    ]
    real = realism.measure(realism.real_looks(datasets, template, cache / "real", sloppy=True)["model"])
    stream = realism.model_stream(heads, template, realism.SEED)
    people = partial(realism.model_person, stream, template)
    made = realism.figures_of_people(people, tmp_path / "people", "model", realism.SEED, 48)
    outside = []
    for key, known in real.items():
        values = np.array(list(made[key].values()))
        # The extremes of 48 people stand for what is drawn, and a twentieth more for chance: of the first 24
        # none has a DWI as bright in grey matter as one in 25 of the stream has.
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.05 * (high - low)
        outside += [(*key, n, v) for n, v in known.items() if not low - margin <= v <= high + margin]
    assert len(real["b0", "csf/wm"]) >= 1
    # Contrasts of tissues and shapes of brains are those of life. Anatomies are on a 2 mm lattice, so that
    # the finest scans are sharper than any phantom, and a scan may be shaded more: docs/realism.md.
    must = {"gm/wm", "csf/wm", "pallidum/wm", *realism.SHAPES}
    assert [row for row in outside if row[1] in must] == []
    assert len(outside) <= 0.04 * sum(len(known) for known in real.values()), outside


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
