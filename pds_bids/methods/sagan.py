"""SAGAN: a translation GAN with self-attention, spectral norm and feature matching, in three dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pds_bids.methods.base import Batch
from pds_bids.methods.gan import GANConfig, GANMethod
from pds_bids.models.discriminator import DiscriminatorConfig, with_spectral_norm
from pds_bids.models.generator import GeneratorConfig

__all__ = ["SAGANConfig", "SAGANMethod"]


@dataclass(frozen=True)
class SAGANConfig(GANConfig):
    """`GANConfig` with attention, and the weight of feature matching.

    Parameters
    ----------
    matching_weight : float
        Of the difference of the discriminator's features, beside an adversarial loss of weight 1.
    """

    generator: GeneratorConfig = field(default_factory=lambda: GeneratorConfig(attention_level=2))
    discriminator: DiscriminatorConfig = field(
        default_factory=lambda: DiscriminatorConfig(has_attention=True, is_spectral=True)
    )
    l1_weight: float = 200.0
    matching_weight: float = 10.0


class SAGANMethod(GANMethod):
    """Hinge GAN with self-attention in both networks, spectral norms, feature matching and 200 times L1.

    The image is the mean over passes with different dropout, the standard deviation their spread.

    References
    ----------
    Zhang et al. 2019, arXiv:1805.08318; Lan et al. 2021 (SC-GAN), doi:10.1101/2020.06.09.143297.
    """

    name: ClassVar[str] = "sagan"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.9)
    # The discriminator learns four times as fast (section 3 of Zhang et al.).
    learning_rate: ClassVar[float] = 1e-4
    rate_factors: ClassVar[Mapping[str, float]] = {"discriminator": 4.0}
    sizes: ClassVar[dict[str, GANConfig]] = {
        "reduced": SAGANConfig(),
        "paper": SAGANConfig(
            GeneratorConfig((64, 128, 256, 512), attention_level=2),
            DiscriminatorConfig(64, has_attention=True, is_spectral=True),
        ),
    }

    def __init__(self, config: SAGANConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        with_spectral_norm(self.generator)

    def generator_losses(
        self, batch: Batch, fake: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return ``adversarial``, ``l1`` and ``matching``."""
        del generator
        *features, verdict = self.judge(batch, fake)
        with torch.no_grad():
            truths = self.judge(batch, self.standardise(batch))[:-1]
        matching = torch.stack(
            [(one - other).abs().mean() for one, other in zip(features, truths, strict=True)]
        ).mean()
        return {
            "adversarial": -verdict.mean(),
            "l1": self.l1_loss(batch, fake),
            "matching": self.config.matching_weight * matching,
        }

    def discriminator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Return ``real`` and ``fake``, hinges at 1 and -1."""
        real_verdict = self.judge(batch, self.standardise(batch))[-1]
        return {
            "real": functional.relu(1 - real_verdict).mean(),
            "fake": functional.relu(1 + self.judge(batch, fake)[-1]).mean(),
        }
