"""GAN: pix2pix in three dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from pds_bids.methods.base import Batch, Condition
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, Baseline, mean_over
from pds_bids.modalities import CONTRASTS
from pds_bids.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from pds_bids.models.generator import Generator, GeneratorConfig

__all__ = ["GANConfig", "GANMethod"]


@dataclass(frozen=True)
class GANConfig:
    """Sizes and weights of `GANMethod` and its descendants.

    Parameters
    ----------
    generator, discriminator
        Sizes of the two networks.
    l1_weight : float
        Of the absolute error, beside an adversarial loss of weight 1.
    n_samples : int
        Passes with different dropout whose mean is the image.
    """

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    l1_weight: float = 100.0
    n_samples: int = 4


class GANMethod(Baseline):
    """Least-squares patch GAN on source and image, plus 100 times the absolute error.

    The image is the mean over passes with different dropout, the standard deviation their spread.

    References
    ----------
    Isola et al. 2017, arXiv:1611.07004; Mao et al. 2017, arXiv:1611.04076.
    """

    name: ClassVar[str] = "gan"
    sampler = "generator with dropout, passes averaged"
    learning_rate: ClassVar[float] = 2e-4
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)
    sizes: ClassVar[dict[str, GANConfig]] = {
        "reduced": GANConfig(),
        "paper": GANConfig(GeneratorConfig((64, 128, 256, 512)), DiscriminatorConfig(64)),
    }

    def __init__(self, config: GANConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.generator = Generator(config.generator, N_INPUTS, len(CONTRASTS), N_KNOWN)
        self.discriminator = PatchDiscriminator(config.discriminator, N_INPUTS + len(CONTRASTS))

    @property
    def steps(self) -> int:
        """Passes of the generator."""
        return int(self.config.n_samples)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of ``generator`` and ``discriminator``."""
        return {
            "generator": list(self.generator.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the generator, or of the discriminator against it as it is now."""
        seeds = [generator] * len(batch.direction)
        if player == "discriminator":
            with torch.no_grad():
                fake = self.translate(batch, seeds)
            return self.discriminator_losses(batch, fake)
        return self.generator_losses(batch, self.translate(batch, seeds), generator)

    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one pass of the generator."""
        return self.translate(condition, generators)

    def translate(self, condition: Condition, generators: Sequence[torch.Generator | None]) -> Tensor:
        """Return the standardised image, zero where nothing is learned."""
        image = self.generator(self.inputs(condition), self.known(condition), generators)
        return image * self.support(condition)

    def generator_losses(
        self, batch: Batch, fake: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return ``adversarial`` and ``l1``."""
        del generator
        return {
            "adversarial": (self.judge(batch, fake)[-1] - 1).square().mean(),
            "l1": self.l1_loss(batch, fake),
        }

    def l1_loss(self, batch: Batch, fake: Tensor) -> Tensor:
        """Return the weighted absolute error of the standardised image."""
        error = mean_over((fake - self.standardise(batch)).abs(), self.support(batch))
        return self.config.l1_weight * error

    def discriminator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return ``real`` and ``fake``, half the squared distance to 1 and to 0."""
        return {
            "real": 0.5 * (self.judge(batch, self.standardise(batch))[-1] - 1).square().mean(),
            "fake": 0.5 * self.judge(batch, fake)[-1].square().mean(),
        }

    def judge(self, condition: Condition, image: Tensor) -> list[Tensor]:
        """Return features and verdicts of the discriminator."""
        features: list[Tensor] = self.discriminator(torch.cat([self.inputs(condition), image], 1))
        return features
