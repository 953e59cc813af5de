"""ADM: adversarial diffusion in four large steps, the paired form of SynDiff in three dimensions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.diffusion import add_noise, ddpm_sample, draw_steps, standard_normal
from pds_bids.methods.base import Batch, Condition
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, Baseline, mean_over
from pds_bids.modalities import CONTRASTS
from pds_bids.models.denoiser import Denoiser, DenoiserConfig
from pds_bids.models.discriminator import DiscriminatorConfig, PatchDiscriminator, time_vector

__all__ = ["ADMConfig", "ADMMethod", "adversarial_alpha_bar"]

# Smallest and largest rate of the variance-preserving process (those of DDGAN, which SynDiff keeps).
BETA_MIN, BETA_MAX = 0.1, 20.0
# Width of the sines and cosines that tell the discriminator the step.
N_TIME = 32


@dataclass(frozen=True)
class ADMConfig:
    """Sizes and weights of `ADMMethod`.

    Parameters
    ----------
    denoiser, discriminator
        Sizes of the two networks.
    n_steps : int
        Steps of the chain, in training as in sampling.
    n_noise : int
        Width of the noise vector of the generator.
    l1_weight : float
        Of the absolute error, beside an adversarial loss of weight 1.
    r1_weight : float
        Of half the squared gradient of the discriminator at real images.
    n_samples : int
        Draws whose mean is the image.
    """

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    n_steps: int = 4
    n_noise: int = 32
    l1_weight: float = 0.5
    r1_weight: float = 1.0
    n_samples: int = 4


class ADMMethod(Baseline):
    """Generator of the clean image from a noisy one, and a discriminator of one large denoising step.

    The image is the mean over draws from different noise, the standard deviation their spread.

    References
    ----------
    Ozbey et al. 2023 (SynDiff), doi:10.1109/TMI.2023.3290149; Xiao et al. 2022 (DDGAN), arXiv:2112.07804.
    """

    name: ClassVar[str] = "adm"
    learning_rate: ClassVar[float] = 2e-4
    betas: ClassVar[tuple[float, float]] = (0.5, 0.9)
    sizes: ClassVar[dict[str, ADMConfig]] = {
        "reduced": ADMConfig(),
        "paper": ADMConfig(
            DenoiserConfig(
                (64, 64, 128, 256), (False, False, True, False), 2, 32, 64, has_voxel_blocks=False
            ),
            DiscriminatorConfig(64),
            n_noise=100,
        ),
    }
    alpha_bar: Tensor

    def __init__(self, config: ADMConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        n = len(CONTRASTS)
        self.network = Denoiser(config.denoiser, N_INPUTS + n, n, N_KNOWN + config.n_noise)
        self.discriminator = PatchDiscriminator(config.discriminator, N_INPUTS + 2 * n, N_TIME)
        self.register_buffer("alpha_bar", adversarial_alpha_bar(config.n_steps), persistent=False)

    @property
    def sampler(self) -> str:
        """Name, and over how many draws."""
        return f"adversarial diffusion, posterior steps, mean of {self.config.n_samples}"

    @property
    def steps(self) -> int:
        """Passes of the network for all draws."""
        return int(self.config.n_steps * self.config.n_samples)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of ``generator`` and ``discriminator``."""
        return {
            "generator": list(self.network.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the generator, or of the discriminator against it as it is now."""
        seeds = [generator] * len(batch.direction)
        clean, support = self.standardise(batch), self.support(batch)
        step = draw_steps(len(clean), self.config.n_steps, generator).to(clean.device)
        before, noisy = self.noise_twice(clean, step, seeds)
        if player == "discriminator":
            with torch.no_grad():
                fake = self.step_back(self.generator_of(batch, seeds)(noisy, step), noisy, step, seeds)
            before.requires_grad_()
            real_verdict = self.judge(batch, before, noisy, step)
            penalty = gradient_penalty(real_verdict, before)
            return {
                "real": functional.softplus(-real_verdict).mean(),
                "fake": functional.softplus(self.judge(batch, fake, noisy, step)).mean(),
                "r1": self.config.r1_weight / 2 * penalty,
            }
        guess = self.generator_of(batch, seeds)(noisy, step)
        verdict = self.judge(batch, self.step_back(guess, noisy, step, seeds), noisy, step)
        return {
            "adversarial": functional.softplus(-verdict).mean(),
            "l1": self.config.l1_weight * mean_over((guess - clean).abs(), support),
        }

    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one standardised image per subject, from white noise."""
        noise = standard_normal(torch.zeros_like(condition.source), generators)
        denoise = self.generator_of(condition, generators)
        return ddpm_sample(denoise, noise, self.alpha_bar, self.config.n_steps, generators)

    def generator_of(
        self, condition: Condition, seeds: Sequence[torch.Generator | None]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return ``(noisy, step) -> clean`` with the condition filled in and a new noise vector per call."""
        inputs, known, support = self.inputs(condition), self.known(condition), self.support(condition)
        unit = 1000 / self.config.n_steps

        def generate(noisy: Tensor, step: Tensor) -> Tensor:
            vector = _normal((self.config.n_noise,), seeds).to(known)
            image = self.network(torch.cat([noisy, inputs], 1), unit * step, torch.cat([known, vector], 1))
            return image * support

        return generate

    def noise_twice(
        self, clean: Tensor, step: Tensor, seeds: Sequence[torch.Generator | None]
    ) -> tuple[Tensor, Tensor]:
        """Return ``x_{t-1}`` and ``x_t`` of one chain."""
        before = add_noise(clean, _normal(clean.shape[1:], seeds).to(clean), self.alpha_bar[step - 1])
        kept = self.alpha_bar[step] / self.alpha_bar[step - 1]
        return before, add_noise(before, _normal(clean.shape[1:], seeds).to(clean), kept)

    def step_back(
        self, clean: Tensor, noisy: Tensor, step: Tensor, seeds: Sequence[torch.Generator | None]
    ) -> Tensor:
        """Draw ``x_{t-1}`` from the posterior given ``x_t`` and ``x_0`` (Ho et al. 2020, eqs. 6 and 7)."""
        now, before = (self.alpha_bar[index].view(-1, 1, 1, 1, 1) for index in (step, step - 1))
        kept = now / before
        mean = before.sqrt() * (1 - kept) / (1 - now) * clean + kept.sqrt() * (1 - before) / (1 - now) * noisy
        variance = (1 - kept) * (1 - before) / (1 - now)
        return mean + variance.sqrt() * _normal(clean.shape[1:], seeds).to(clean)

    def judge(self, condition: Condition, before: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        """Return verdicts on one step back."""
        images = torch.cat([self.inputs(condition), before, noisy], 1)
        verdict: Tensor = self.discriminator(images, time_vector(step, N_TIME))[-1]
        return verdict


def adversarial_alpha_bar(n_steps: int) -> Tensor:
    """Return ``(T + 1,)``: the share of signal after each of T large steps, from 1 to 4e-5.

    Examples
    --------
    >>> [round(value, 4) for value in adversarial_alpha_bar(4).tolist()]
    [1.0, 0.5237, 0.0791, 0.0034, 0.0]
    """
    time = torch.linspace(0, 1, n_steps + 1)
    return torch.exp(-0.5 * (BETA_MAX - BETA_MIN) * time.square() - BETA_MIN * time)


def gradient_penalty(verdict: Tensor, image: Tensor) -> Tensor:
    """Return the squared gradient of the verdicts by the image, summed per image and averaged over images.

    References
    ----------
    Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, eq. 9.
    """
    (gradient,) = torch.autograd.grad(verdict.sum(), image, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def _normal(shape: Sequence[int], seeds: Sequence[torch.Generator | None]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=seed) for seed in seeds])
