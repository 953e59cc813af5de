"""Networks of the baselines against what can be computed without them."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from pds_bids.exceptions import WeightsError
from pds_bids.models.attention import SelfAttention
from pds_bids.models.autoencoder import Autoencoder, AutoencoderConfig, kl_to_standard_normal
from pds_bids.models.denoiser import Denoiser, DenoiserConfig
from pds_bids.models.discriminator import DiscriminatorConfig, PatchDiscriminator, with_spectral_norm
from pds_bids.models.dit import DiT, DiTConfig
from pds_bids.models.generator import Generator, GeneratorConfig, drop_out
from pds_bids.models.padding import crop_to, pad_to_multiple
from pds_bids.models.perceptual import IMAGENET_MEAN, Perceptual, projections, slices, vgg_features


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def touched(network, image, *others):
    """Return which voxels of the first axis move the middle output voxel."""
    image = image.clone().requires_grad_()
    output = network(image, *others)
    output = output[-1] if isinstance(output, list) else output
    middle = [size // 2 for size in output.shape[2:]]
    output[0, 0, middle[0], middle[1], middle[2]].backward()
    return image.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten()


@pytest.mark.parametrize(("n_layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_patch_discriminator_sees_its_patch(n_layers, field):
    """The receptive field of pix2pix; group norms, which look at everything, are left out."""
    network = PatchDiscriminator(DiscriminatorConfig(8, n_layers, is_spectral=True), 1)
    seen = touched(network, torch.randn(1, 1, field + 58, 24, 24))
    assert int(seen.max() - seen.min()) + 1 == field


def test_spectral_norm_bounds_every_convolution():
    network = with_spectral_norm(Generator(GeneratorConfig((8, 16)), 2, 1, 3))
    image = torch.randn(1, 2, 8, 8, 8)
    for _ in range(30):
        network(image, torch.zeros(1, 3))
    for layer in network.down:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(
            1, abs=0.02
        )
    for layer in network.up:
        flat = layer.weight.detach().transpose(0, 1).flatten(1)
        assert float(torch.linalg.matrix_norm(flat, 2)) == pytest.approx(1, abs=0.02)


def test_self_attention_by_loops():
    layer = SelfAttention(8)
    image = torch.randn(1, 8, 2, 2, 1)
    assert torch.equal(layer(image), image)
    torch.nn.init.constant_(layer.gamma, 0.7)
    query, key, value = (part(image).flatten(2)[0] for part in (layer.query, layer.key, layer.value))
    expected = image.flatten(2)[0].clone()
    for i in range(4):
        weights = torch.stack([(query[:, i] * key[:, j]).sum() for j in range(4)]).softmax(0)
        expected[:, i] += 0.7 * sum(weights[j] * value[:, j] for j in range(4))
    torch.testing.assert_close(layer(image).flatten(2)[0], expected)


def test_generator_without_generators_drops_nothing():
    network = Generator(GeneratorConfig((8, 16, 16), attention_level=1), 2, 3, 4)
    image, known = torch.randn(2, 2, 16, 8, 8), torch.randn(2, 4)
    assert torch.equal(network(image, known), network(image, known))
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    assert not torch.equal(network(image, known, seeds), network(image, known))
    assert not torch.equal(network(image, known), network(image, known + 1))


def test_odd_sizes_come_back():
    generator = Generator(GeneratorConfig((8, 16)), 1, 1, 1)
    denoiser = Denoiser(DenoiserConfig((8, 8), (False, False), head_width=8), 1, 1, 1)
    image, known = torch.randn(1, 1, 10, 6, 8), torch.zeros(1, 1)
    assert generator(image, known).shape == image.shape
    assert denoiser(image, torch.zeros(1), known).shape == image.shape
    padded = pad_to_multiple(image, 4)
    assert padded.shape[2:] == (12, 8, 8)
    assert torch.equal(crop_to(padded, image), image)
    assert float(padded.sum()) == pytest.approx(float(image.sum()), abs=1e-3)


def test_dropout_keeps_the_mean():
    dropped = drop_out(torch.ones(1, 1, 100, 100, 1), 0.3, [torch.Generator().manual_seed(0)])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_denoiser_starts_at_zero_and_uses_time_and_known():
    network = Denoiser(DenoiserConfig((8, 8), (False, True), head_width=8), 2, 1, 3)
    image, step, known = torch.randn(1, 2, 8, 8, 8), torch.tensor([500]), torch.randn(1, 3)
    assert not network(image, step, known).any()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    base = network(image, step, known)
    assert base.shape == (1, 1, 8, 8, 8)
    assert not torch.equal(base, network(image, step // 2, known))
    assert not torch.equal(base, network(image, step, known + 1))


@pytest.mark.parametrize(("config", "factor"), [(AutoencoderConfig((8, 8)), 4), (AutoencoderConfig((8,)), 2)])
def test_autoencoder_divides_the_grid(config, factor):
    network = Autoencoder(config)
    mean, std = network.encode(torch.randn(1, 1, 16, 8, 8))
    assert config.factor == factor
    assert mean.shape == std.shape == (1, 4, 16 // factor, 8 // factor, 8 // factor)
    assert (std > 0).all()
    assert network.decode(mean).shape == (1, 1, 16, 8, 8)


def test_divergence_agrees_with_torch():
    mean, std = torch.randn(2, 3), torch.rand(2, 3) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_to_standard_normal(mean, std), expected)


def test_dit_is_the_identity_between_embedding_and_head():
    network = DiT(DiTConfig(24, 2, 3, 2), 2, 1, 3, (8, 4, 4))
    image, step, known = torch.randn(1, 2, 8, 4, 4), torch.tensor([9]), torch.randn(1, 3)
    assert not network(image, step, known).any()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    # adaLN-Zero: before training only the own patch matters.
    assert touched(network, image, step, known).tolist() == [4, 5]
    for block in network.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.5)
    assert touched(network, image, step, known).tolist() == list(range(8))


def test_dit_puts_patches_back_in_place():
    network = DiT(DiTConfig(24, 1, 3, 2), 1, 1, 1, (4, 6, 8))
    cubes = torch.arange(24 * 8.0).view(1, 24, 8)
    image = network._assemble(cubes, torch.Size((2, 3, 4)))
    # The second patch along the last axis; its voxels in order of the last axis first.
    assert image[0, 0, :2, :2, 2:4].flatten().tolist() == list(range(8, 16))
    assert float(image[0, 0, 2, 0, 0]) == 3 * 4 * 8


def vgg_state(widths=(4, 4, None, 8, 8), n_in=1):
    return {f"features.{name}": value for name, value in vgg_features(widths, n_in).state_dict().items()}


def test_perceptual_is_the_mean_absolute_difference_of_features():
    state = vgg_state()
    network = Perceptual(state, (1, 8))
    one, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    plain = vgg_features((4, 4, None, 8, 8), 1)
    plain.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    expected = [(plain[:stop](one) - plain[:stop](other)).abs().flatten(1).mean(1) for stop in (2, 9)]
    torch.testing.assert_close(network.distance(one, other), torch.stack(expected).mean(0))


def test_perceptual_is_frozen_and_shared_by_copies():
    network = Perceptual(vgg_state()).train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert copy.deepcopy(network) is network


def test_photographic_weights_see_a_normalised_grey_image():
    network = Perceptual(vgg_state(n_in=3), (0,))
    white = network(torch.full((1, 1, 4, 4), 3.0))[0]
    assert torch.equal(white, network(torch.full((1, 1, 4, 4), 9.0))[0])
    weight, bias = network.features[0].weight, network.features[0].bias
    std = torch.tensor((0.229, 0.224, 0.225))
    grey = (1 - torch.tensor(IMAGENET_MEAN)) / std
    expected = bias + (weight.sum((2, 3)) * grey).sum(1)
    torch.testing.assert_close(white[0, :, 1, 1], expected)


def test_perceptual_from_files(tmp_path):
    state = vgg_state()
    save_file(state, tmp_path / "encoder.safetensors")
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "encoder.pth")
    one, other = (Perceptual.load(tmp_path / f"encoder.{kind}") for kind in ("safetensors", "pth"))
    assert one.sha256 == other.sha256
    assert one.sha256 != Perceptual(vgg_state()).sha256


class Unsafe:
    def __reduce__(self):
        return (print, ("run",))


def test_perceptual_refuses_what_is_not_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"features\.0\.weight"):
        Perceptual({})
    with pytest.raises(WeightsError, match="got nothing"):
        Perceptual({name: value for name, value in vgg_state().items() if not name.startswith("features.7")})
    with pytest.raises(WeightsError, match="cannot be read"):
        Perceptual.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        Perceptual.load(tmp_path / "text.safetensors")
    torch.save({"features.0.weight": Unsafe()}, tmp_path / "unsafe.pth")
    with pytest.raises(WeightsError, match="more than tensors"):
        Perceptual.load(tmp_path / "unsafe.pth")


def test_projections_and_slices():
    volumes = torch.rand(2, 4, 5, 6)
    for image, axis in zip(projections(volumes), (1, 2, 3), strict=True):
        assert torch.equal(image[:, 0], volumes.mean(axis))
    for image, expected in zip(
        slices(volumes, (1, 2, 3)), (volumes[:, 1], volumes[:, :, 2], volumes[..., 3]), strict=True
    ):
        assert torch.equal(image[:, 0], expected)
