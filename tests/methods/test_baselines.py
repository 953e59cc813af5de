"""What is special to single baselines."""

from dataclasses import replace

import pytest
import torch
from small_world import SHAPE

from pds_bids.exceptions import UsageError
from pds_bids.inference.prepare import DEFAULT_WINDOW
from pds_bids.methods import METHODS, Baseline
from pds_bids.methods.adm import ADMConfig, ADMMethod, gradient_penalty
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, SPREAD_FLOOR
from pds_bids.methods.gan import GANConfig, GANMethod
from pds_bids.methods.ldm import LDMConfig, LDMMethod
from pds_bids.methods.pgan import PGANConfig, PGANMethod
from pds_bids.methods.sagan import SAGANConfig, SAGANMethod
from pds_bids.modalities import CONTRASTS
from pds_bids.models.autoencoder import AutoencoderConfig
from pds_bids.models.denoiser import DenoiserConfig
from pds_bids.models.discriminator import DiscriminatorConfig
from pds_bids.models.generator import GeneratorConfig

N = len(CONTRASTS)
SMALL = DiscriminatorConfig(8, 1)
DENOISER = DenoiserConfig((8, 8), (False, False), head_width=8)


def gan(kind=GANMethod, config=GANConfig, **options):
    return kind(config(GeneratorConfig((8, 16)), SMALL, **options), SHAPE)


def test_least_squares_by_hand(batch):
    """A discriminator that says 0.25 everywhere; a generator that says zero."""
    method = gan(l1_weight=10.0)
    torch.nn.init.zeros_(method.discriminator.verdict.weight)
    torch.nn.init.constant_(method.discriminator.verdict.bias, 0.25)
    torch.nn.init.zeros_(method.generator.up[-1].weight)
    torch.nn.init.zeros_(method.generator.up[-1].bias)
    losses = {key: loss.detach() for key, loss in method.losses(batch, "generator").items()}
    inside = batch.mask[0, 0] > 0
    # Units of 0.2 about an atlas of 1; every person counts once.
    errors = [
        (batch.target[0, 1:][:, inside] - 1).abs().mean() / 0.2,
        (batch.target[1, 0][inside] - 1).abs().mean() / 0.2,
    ]
    assert float(losses["l1"]) == pytest.approx(10 * float(sum(errors)) / 2, rel=1e-4)
    assert float(losses["adversarial"]) == pytest.approx(0.75**2, rel=1e-5)
    losses = {key: loss.detach() for key, loss in method.losses(batch, "discriminator").items()}
    assert float(losses["real"]) == pytest.approx(0.5 * 0.75**2, rel=1e-5)
    assert float(losses["fake"]) == pytest.approx(0.5 * 0.25**2, rel=1e-5)


def test_hinge_by_hand(batch):
    method = gan(SAGANMethod, SAGANConfig)
    torch.nn.init.zeros_(method.discriminator.verdict.weight)
    torch.nn.init.constant_(method.discriminator.verdict.bias, 0.25)
    assert float(method.losses(batch, "generator")["adversarial"].detach()) == pytest.approx(-0.25, rel=1e-5)
    losses = {key: loss.detach() for key, loss in method.losses(batch, "discriminator").items()}
    assert float(losses["real"]) == pytest.approx(0.75, rel=1e-5)
    assert float(losses["fake"]) == pytest.approx(1.25, rel=1e-5)


@pytest.mark.parametrize("name", ["pgan", "psagan"])
def test_perceptual_methods_refuse_to_train_without_a_network(batch, name):
    method = METHODS[name].from_architecture(
        {"generator": {"widths": [8, 16]}, "discriminator": {"width": 8, "n_layers": 1}}, SHAPE
    )
    with pytest.raises(UsageError, match=r"Perceptual\.load"):
        method.losses(batch)
    # Only training needs it.
    method.sample(batch, [torch.Generator(), torch.Generator()])


def test_perceptual_loss_of_the_truth_is_zero(batch, perceptual):
    method = gan(PGANMethod, PGANConfig)
    method.set_perceptual(perceptual)
    truth = method.standardise(batch)
    assert float(method.perceptual_loss(batch, truth, torch.Generator())) == 0
    assert float(method.perceptual_loss(batch, 0 * truth, torch.Generator()).detach()) > 0
    assert not any("perceptual" in name for name in method.state_dict())


def test_standardised_images_are_restored(batch):
    method = gan()
    method.set_statistics(torch.rand(1, N, *SHAPE), torch.zeros(1))
    restored = method.restore(method.standardise(batch), batch)
    torch.testing.assert_close(restored[0, 1:-1], batch.target[0, 1:-1])
    torch.testing.assert_close(restored[1, 0], batch.target[1, 0])


def test_inputs_hold_no_absent_contrast(batch):
    method = gan()
    changed = replace(batch, source=batch.source + 5 * (1 - batch.present[..., None, None, None]))
    assert torch.equal(method.inputs(batch), method.inputs(changed))


class TwoFaces(Baseline):
    """Draws two above the atlas, then four, and so on."""

    name = "two-faces"
    sampler = "none"
    steps = 1

    def draw(self, condition, generators):
        self.count = getattr(self, "count", 0) + 2
        return torch.full_like(condition.source, float(self.count))

    def losses(self, batch, player=None, generator=None):
        return {}


def test_mean_and_spread_of_draws(batch):
    method = TwoFaces(GANConfig(n_samples=2), SHAPE)
    method.calibration.copy_(torch.tensor([1.0, 3.0, 1.0, 1, 1, 1]))
    result = method.sample(batch, [])
    inside = (batch.mask > 0).expand_as(result.mean)
    # Draws of 2 and 4 units of 0.2 about 1.
    torch.testing.assert_close(result.mean[inside], torch.full_like(result.mean[inside], 1.6))
    std = (2 * 0.2**2 + SPREAD_FLOOR**2) ** 0.5
    assert float(result.std[0, 0, 8, 8, 8]) == pytest.approx(std, rel=1e-4)
    assert float(result.std[0, 1, 8, 8, 8]) == pytest.approx(3 * std, rel=1e-4)


def test_sampling_leaves_the_mode_alone(batch):
    method = gan().train()
    method.sample(batch, [torch.Generator(), torch.Generator()])
    assert method.training


def test_unknown_sizes_and_fields_are_refused():
    with pytest.raises(UsageError, match="no size 'huge'"):
        GANMethod.of_size("huge", SHAPE)
    with pytest.raises(UsageError, match="no field width"):
        GANMethod.from_architecture({"width": 3}, SHAPE)


@pytest.mark.parametrize("size", ["reduced", "paper"])
@pytest.mark.parametrize("name", ["gan", "sagan", "ddim", "sa-ddpm", "ldm", "dit", "adm"])
def test_every_size_fits_the_window(name, size):
    """Networks map the window to itself; on tensors without memory, which cost nothing."""
    shape = DEFAULT_WINDOW.shape
    with torch.device("meta"):
        method = METHODS[name].of_size(size, shape)
        image, known, step = torch.zeros(1, N, *shape), torch.zeros(1, N_KNOWN), torch.zeros(1)
        inputs = torch.zeros(1, N_INPUTS, *shape)
        if name in ("ldm", "dit"):
            latent = torch.zeros(1, method.n_in, *method.latent_shape)
            assert method.network(latent, step, known).shape == (1, method.n_latent, *method.latent_shape)
            mean, _ = method.autoencoder.encode(image[:, :1])
            assert method.autoencoder.decode(mean).shape == (1, 1, *shape)
            assert min(method.discriminator(image[:, :1])[-1].shape) == 1
        elif name in ("gan", "sagan"):
            assert method.generator(inputs, known).shape == image.shape
            assert min(method.discriminator(torch.cat([inputs, image], 1))[-1].shape[2:]) > 1
        else:
            known = torch.zeros(1, N_KNOWN + getattr(method.config, "n_noise", 0))
            assert method.network(torch.cat([image, inputs], 1), step, known).shape == image.shape


def ldm(**options):
    denoiser = replace(DENOISER, has_voxel_blocks=False)
    return LDMMethod(LDMConfig(AutoencoderConfig((8,)), SMALL, denoiser=denoiser, **options), SHAPE)


def test_autoencoder_with_perceptual_loss_needs_a_network(batch, perceptual):
    method = ldm(perceptual_weight=0.1)
    with pytest.raises(UsageError, match=r"Perceptual\.load"):
        method.losses(batch)
    method.set_perceptual(perceptual)
    assert float(method.losses(batch)["perceptual"].detach()) > 0
    rows, images, _ = method.pool(batch)
    found = method.restore_rows(images, rows, batch)
    torch.testing.assert_close(found[0], batch.source[0, 0])
    torch.testing.assert_close(found[1], batch.target[0, 1])
    assert "perceptual" not in ldm().losses(batch)


def test_latent_stages_train_what_they_should(batch):
    method = ldm()
    for stage, players in (
        ("autoencoder", {"autoencoder": "autoencoder", "discriminator": "discriminator"}),
        ("diffusion", {"diffusion": "network"}),
    ):
        method.set_stage(stage)
        assert set(method.players()) == set(players)
        for player, part in players.items():
            listed = {id(parameter) for parameter in method.players()[player]}
            assert listed == {id(parameter) for parameter in getattr(method, part).parameters()}
            method.zero_grad()
            parameters = method.players()[player]
            losses = method.losses(batch, player, torch.Generator())
            torch.stack(list(losses.values())).sum().backward(inputs=parameters)
            assert any(parameter.grad.any() for parameter in parameters)
    assert not any(parameter.requires_grad for parameter in method.autoencoder.parameters())


def test_scale_of_latent_images_follows_the_autoencoder(batch):
    method = ldm()
    for _ in range(200):
        method.losses(batch, "autoencoder", torch.Generator())
    rows, images, _ = method.pool(batch)
    # One source and four targets; two sources and one target.
    assert rows.sum(1).tolist() == [5, 3]
    whole = torch.zeros(2, N, *SHAPE)
    whole[rows] = images[:, 0]
    latents = method.encode(whole, rows)[method.spread(rows)[..., 0, 0, 0]]
    assert float(latents.std()) == pytest.approx(1, abs=0.02)


def test_reverse_step_agrees_with_the_forward_chain():
    """For x0 known, the posterior drawn after x_t must have the joint moments of the forward chain."""
    method = ADMMethod(ADMConfig(DENOISER, SMALL), SHAPE)
    n = 40000
    clean = torch.full((n, 1), 0.7)
    for t in (1, 2, 4):
        step = torch.full((n,), t)
        seeds = [torch.Generator().manual_seed(t)] * n
        before, noisy = (x.flatten() for x in forward(method, clean, step, seeds))
        back = method.step_back(clean.view(n, 1, 1, 1, 1), noisy.view(n, 1, 1, 1, 1), step, seeds).flatten()
        expected = torch.cov(torch.stack([before, noisy]))
        found = torch.cov(torch.stack([back, noisy]))
        torch.testing.assert_close(found, expected, atol=0.025, rtol=0)
        assert float(back.mean()) == pytest.approx(float(before.mean()), abs=0.025)


def forward(method, clean, step, seeds):
    shape = (len(clean), 1, 1, 1, 1)
    # By definition, not by `noise_twice`.
    first = method.alpha_bar[step - 1].view(shape)
    now = method.alpha_bar[step].view(shape)
    generator = seeds[0]
    before = first.sqrt() * clean.view(shape) + (1 - first).sqrt() * torch.randn(shape, generator=generator)
    ratio = now / first
    return before, ratio.sqrt() * before + (1 - ratio).sqrt() * torch.randn(shape, generator=generator)


def test_gradient_penalty_of_a_known_function():
    image = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    # The gradient of x^2 is 2 x: (4 + 16 + 36 + 0) / 2.
    assert float(gradient_penalty(image.square(), image).detach()) == 28
