import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pds_bids.exceptions import DataError, UsageError, WeightsError
from pds_bids.models.microstructure import (
    LAYERS,
    MicrostructureLoss,
    load_vgg16,
    train_projection_encoder,
)
from pds_bids.models.perceptual import Perceptual, vgg_features

ONE = torch.ones(1, 1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def heads(n, seed=0, size=24):
    """Return ellipsoids with a dark core and a shell: (n, size, size, size)."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, size)
    place = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    volumes = []
    for _ in range(n):
        radii = rng.uniform(0.6, 0.95, (3, 1, 1, 1))
        radius = np.sqrt(((place / radii) ** 2).sum(0))
        core = (((place - rng.uniform(-0.1, 0.1, (3, 1, 1, 1))) / radii) ** 2).sum(0) ** 0.5 < rng.uniform(
            0.2, 0.4
        )
        volumes.append((radius < 1) * (1 + 0.4 * (radius > 0.8) - 0.6 * core))
    return torch.from_numpy(np.stack(volumes)).float()


@pytest.fixture(scope="module")
def encoder():
    torch.set_num_threads(1)
    return train_projection_encoder(heads(12), n_updates=150)


def test_encoder_restores_and_is_the_same_for_the_same_seed(encoder):
    """`train_projection_encoder` checks the restoration itself; here: bits, and the global generator."""
    before = torch.random.get_rng_state()
    first, again = (train_projection_encoder(heads(6), n_updates=60, seed=4) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert set(encoder) == {
        f"features.{i}.{kind}" for i in (0, 2, 5, 7, 10, 12, 14) for kind in ("weight", "bias")
    }


def test_encoder_that_has_not_learned_is_refused():
    with pytest.raises(WeightsError, match="train longer or on more volumes"):
        train_projection_encoder(heads(4), n_updates=1)


@pytest.mark.parametrize("volumes", [torch.ones(2, 16, 16, 16) * 0, torch.rand(2, 4, 16, 16)])
def test_encoder_needs_images(volumes):
    with pytest.raises(DataError, match="expected finite, varied ones"):
        train_projection_encoder(volumes)


def test_encoder_goes_through_a_file(encoder, tmp_path):
    save_file(encoder, tmp_path / "encoder.safetensors")
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    one, other = Perceptual(encoder, LAYERS), Perceptual.load(tmp_path / "encoder.safetensors", LAYERS)
    for mine, theirs in zip(one(image), other(image), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_loss_without_trained_weights():
    for nothing in (None, torch.nn.Identity(), vgg_features((4, 4, None, 8, 8), 1)):
        with pytest.raises(WeightsError, match="trained weights"):
            MicrostructureLoss(nothing)


def test_distance_grows_with_the_change_and_is_zero_without(encoder):
    loss = MicrostructureLoss(Perceptual(encoder, LAYERS))
    truth = heads(1, seed=9)[:, None]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    values = [float(loss(truth + size * noise, truth, ONE)) for size in (0, 0.1, 0.5)]
    assert values[0] == 0
    assert 0 < values[1] < values[2]
    other = float(loss(heads(1, seed=10)[:, None], truth, ONE))
    assert 0.02 < other < 2


def test_distance_of_each_view_by_hand(encoder):
    """Features of NumPy means along each axis, L1 over the size of the wanted features, averaged."""
    network = Perceptual(encoder, LAYERS)
    first, second = heads(1, seed=1), heads(1, seed=2)
    parts = []
    for axis in (1, 2, 3):
        views = [torch.from_numpy(v.numpy().mean(axis))[None] for v in (first, second)]
        pairs = zip(*(network(view) for view in views), strict=True)
        parts.append(np.mean([float((a - b).abs().mean() / b.abs().mean()) for a, b in pairs]))
    result = MicrostructureLoss(network)(first[:, None], second[:, None], ONE)
    assert float(result) == pytest.approx(np.mean(parts), rel=1e-4)


def test_a_shallower_network_has_the_first_features_and_no_deeper_layers(encoder):
    """By hand: the distance at the first depth alone, with the two convolutions that lead to it."""
    network = Perceptual(encoder, LAYERS)
    shallow = MicrostructureLoss(network, depth=1)
    first, second = heads(1, seed=1), heads(1, seed=2)
    parts = []
    for axis in (1, 2, 3):
        views = [torch.from_numpy(v.numpy().mean(axis))[None] for v in (first, second)]
        one, other = (network(view)[0] for view in views)
        parts.append(float((one - other).abs().mean() / other.abs().mean()))
    value = float(shallow(first[:, None], second[:, None], ONE))
    assert value == pytest.approx(np.mean(parts), rel=1e-4)
    assert sum(p.numel() for p in shallow.parameters()) == 16 * 9 + 16 + 16 * 16 * 9 + 16
    whole = float(MicrostructureLoss(network, depth=3)(first[:, None], second[:, None], ONE))
    assert whole == float(MicrostructureLoss(network)(first[:, None], second[:, None], ONE)) != value
    for depth in (0, 4):
        with pytest.raises(UsageError, match="expected 1 to 3"):
            MicrostructureLoss(network, depth=depth)


def test_only_weighted_contrasts_count(encoder):
    loss = MicrostructureLoss(Perceptual(encoder, LAYERS))
    truth, image = (torch.stack([heads(2, seed=s), heads(2, seed=s + 5)], 1) for s in (0, 20))
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    value = loss(image, truth, weights)
    single = [float(loss(image[i : i + 1, [i]], truth[i : i + 1, [i]], ONE)) for i in range(2)]
    assert float(value) == pytest.approx((single[0] + 0.5 * single[1]) / 2, rel=1e-4)
    assert float(loss(image, truth, 0 * weights)) == 0


def test_gradient_goes_to_the_image_and_never_to_the_network(encoder):
    loss = MicrostructureLoss(Perceptual(encoder, LAYERS)).train()
    image = heads(1, seed=3)[:, None].requires_grad_()
    loss(image, heads(1, seed=4)[:, None], ONE).backward()
    assert image.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not loss.network.training
    assert copy.deepcopy(loss).network is loss.network


def test_too_small_volumes(encoder):
    with pytest.raises(UsageError, match="expected 8"):
        MicrostructureLoss(Perceptual(encoder, LAYERS))(
            torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1, 4, 8, 8), ONE
        )


def test_vgg16_from_a_file(tmp_path):
    """The layout of torchvision: 16 layers of three groups, and a classifier that is ignored."""
    torch.manual_seed(0)
    state = vgg_features((64, 64, None, 128, 128, None, 256, 256, 256)).state_dict()
    state = {f"features.{name}": value for name, value in state.items()} | {
        "classifier.0.bias": torch.ones(3)
    }
    torch.save(state, tmp_path / "vgg16.pth")
    network = load_vgg16(tmp_path / "vgg16.pth")
    # 64, 128 and 256 channels of torchvision's VGG16 have this many parameters, by its published layout.
    assert sum(p.numel() for p in network.parameters()) == 1_735_488
    assert float(MicrostructureLoss(network)(heads(1)[:, None], heads(1, seed=1)[:, None], ONE)) > 0


def test_download_only_when_allowed(monkeypatch):
    asked = []

    def fetch(url, **options):
        asked.append((url, options))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(WeightsError, match="allow the download"):
        load_vgg16()
    assert asked == []
    with pytest.raises(WeightsError, match="download failed: no network"):
        load_vgg16(is_download_allowed=True)
    url, options = asked[0]
    assert url.endswith("vgg16-397923af.pth")
    assert options["check_hash"]
    assert options["weights_only"]
