import numpy as np
import pytest
import torch

from pds_bids.exceptions import DataError, DeviceError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.bundle import Bundle
from pds_bids.inference.prepare import DEFAULT_WINDOW, Window, scale_template, scale_to_mean
from pds_bids.inference.synthesize import choose_device, synthesize
from pds_bids.methods import UNetMethod
from pds_bids.modalities import CONTRASTS, Contrast, Direction
from pds_bids.models.unet import UNetConfig
from pds_bids.template import MODEL_GRID

GRID = Grid((18, 9, 10), np.diag([3.0, 3, 3, 1]))
WINDOW = Window((1, 1, 0), (16, 8, 8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = UNetMethod(UNetConfig((8, 8, 8), 1, 8), WINDOW.shape)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp("bundle")
    return Bundle(folder, method.eval(), {}, GRID, WINDOW, dict.fromkeys(CONTRASTS, 2.0))


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    mask = np.zeros(GRID.shape, bool)
    mask[3:15, 2:8, 1:7] = True
    source = {Contrast.BOLD: rng.uniform(300, 900, (*GRID.shape, 3)).astype(np.float32)}
    return source, mask, rng.random((*GRID.shape, 4)).astype(np.float32)


def run(bundle, inputs, n=3, direction=Direction.BOLD2DWI, grid=GRID):
    source, mask, template = inputs
    return synthesize(
        {c: v[..., :n] for c, v in source.items()},
        mask,
        template,
        grid,
        bundle,
        direction=direction,
        seeds=range(n),
    )


def test_result_is_masked_named_and_reports_the_scale(bundle, inputs):
    result = run(bundle, inputs)
    assert list(result.mean) == list(result.std) == [Contrast.DWI, Contrast.B0, Contrast.FA, Contrast.MD]
    source, mask, _ = inputs
    expected = source[Contrast.BOLD][mask].mean(0)
    np.testing.assert_allclose(result.source_scale[Contrast.BOLD], expected, rtol=1e-5)
    for volumes in (*result.mean.values(), *result.std.values()):
        assert volumes.dtype == np.float32
        assert not volumes[~mask].any()
        assert (volumes >= 0).all()
    assert all(volumes[mask].all() for volumes in result.std.values())


def test_a_volume_does_not_depend_on_the_others(bundle, inputs):
    source, mask, template = inputs
    together = run(bundle, inputs)
    for index in range(3):
        alone = run(
            bundle, ({Contrast.BOLD: source[Contrast.BOLD][..., index : index + 1]}, mask, template), 1
        )
        for contrast, volumes in alone.mean.items():
            np.testing.assert_allclose(volumes[..., 0], together.mean[contrast][..., index], atol=2e-5)


def test_same_bits_twice(bundle, inputs):
    one, two = run(bundle, inputs), run(bundle, inputs)
    assert all(np.array_equal(one.mean[c], two.mean[c]) for c in one.mean)


def test_unit_and_what_lies_outside_the_brain_do_not_matter(bundle, inputs):
    source, mask, template = inputs
    expected = run(bundle, inputs)
    other = np.where(mask[..., None], source[Contrast.BOLD] * 0.01, 77)
    other_template = np.where(mask[..., None], template * [1, 1, 1, 50], np.nan)
    found = run(bundle, ({Contrast.BOLD: other}, mask, other_template))
    for contrast in expected.mean:
        np.testing.assert_allclose(found.mean[contrast], expected.mean[contrast], atol=2e-4)


def test_source_and_template_change_the_result(bundle, inputs):
    source, mask, template = inputs
    base = run(bundle, inputs).mean[Contrast.DWI]
    turned = {Contrast.BOLD: source[Contrast.BOLD][::-1]}
    assert np.abs(run(bundle, (turned, mask, template)).mean[Contrast.DWI] - base).max() > 1e-3
    assert np.abs(run(bundle, (source, mask, template[::-1])).mean[Contrast.DWI] - base).max() > 1e-4


def test_one_of_two_diffusion_contrasts_suffices(bundle, inputs):
    source, mask, template = inputs
    images = source[Contrast.BOLD]
    both = run(
        bundle, ({Contrast.DWI: images, Contrast.B0: images}, mask, template), direction=Direction.DWI2BOLD
    )
    one = run(bundle, ({Contrast.B0: images}, mask, template), direction=Direction.DWI2BOLD)
    assert list(one.mean) == [Contrast.BOLD]
    assert np.abs(one.mean[Contrast.BOLD] - both.mean[Contrast.BOLD]).max() > 1e-3


def test_wrong_inputs_are_refused(bundle, inputs):
    source, mask, template = inputs
    shifted = Grid(GRID.shape, GRID.vox2ras + np.eye(4, k=3))
    with pytest.raises(GeometryError, match="model works on"):
        run(bundle, inputs, grid=shifted)
    with pytest.raises(GeometryError, match=r"template: shape .* expected"):
        run(bundle, (source, mask, template[..., :3]))
    with pytest.raises(GeometryError, match="mask: shape"):
        run(bundle, (source, mask[1:], template))
    with pytest.raises(DataError, match="expected some of"):
        run(bundle, inputs, direction=Direction.DWI2BOLD)
    with pytest.raises(DataError, match="mask is empty"):
        run(bundle, (source, mask & False, template))
    with pytest.raises(DataError, match="no volume"):
        run(bundle, inputs, n=0)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (0, "in-brain mean 0")])
def test_unusable_source_is_named(bundle, inputs, value, message):
    source, mask, template = inputs
    spoiled = source[Contrast.BOLD].copy()
    spoiled[..., 1] = value
    with pytest.raises(DataError, match=f"source bold, volume 1.*{message}"):
        run(bundle, ({Contrast.BOLD: spoiled}, mask, template))


def test_brain_beyond_the_window_is_reported(bundle, inputs, caplog):
    source, mask, template = inputs
    mask = mask.copy()
    mask[-1] = True
    result = run(bundle, (source, mask, template))
    assert "90 brain voxels lie outside" in caplog.text
    assert not result.mean[Contrast.DWI][-1].any()


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="no GPU"):
        choose_device("cuda")


def test_window_round_trip_and_default():
    image = np.random.default_rng(0).random((2, *MODEL_GRID.shape))
    pasted = DEFAULT_WINDOW.paste(DEFAULT_WINDOW.crop(image), MODEL_GRID)
    inside = np.zeros(MODEL_GRID.shape, bool)
    inside[5:61, 6:70, 0:56] = True
    np.testing.assert_array_equal(pasted, np.where(inside, image, 0))
    DEFAULT_WINDOW.check(MODEL_GRID)
    middle = MODEL_GRID.vox2ras[0] @ [5 + 55 / 2, 0, 0, 1]
    assert middle == pytest.approx(0.5)


def test_scaling_by_hand():
    image, mask = np.array([[[1.0, 3.0, 100.0]]]), np.array([[[True, True, False]]])
    scaled, scale = scale_to_mean(image, mask, "toy")
    assert scale == 2
    np.testing.assert_array_equal(scaled, [[[0.5, 1.5, 0]]])
    channels = np.stack([image] * 4)
    np.testing.assert_array_equal(scale_template(channels, mask)[:, 0, 0], [[1, 3, 0]] * 3 + [[0.5, 1.5, 0]])
