"""pSAGAN: SAGAN with a perceptual loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pds_bids.methods.base import Batch
from pds_bids.methods.gan import GANConfig
from pds_bids.methods.pgan import PerceptualMixin
from pds_bids.methods.sagan import SAGANConfig, SAGANMethod
from pds_bids.models.discriminator import DiscriminatorConfig
from pds_bids.models.generator import GeneratorConfig

__all__ = ["PSAGANConfig", "PSAGANMethod"]


@dataclass(frozen=True)
class PSAGANConfig(SAGANConfig):
    """`SAGANConfig`, and the weight of the perceptual loss, as in pGAN."""

    perceptual_weight: float = 100.0


class PSAGANMethod(PerceptualMixin, SAGANMethod):
    """`SAGANMethod` with the perceptual loss of pGAN.

    The image is the mean over passes with different dropout, the standard deviation their spread.
    """

    name: ClassVar[str] = "psagan"
    sizes: ClassVar[dict[str, GANConfig]] = {
        "reduced": PSAGANConfig(),
        "paper": PSAGANConfig(
            GeneratorConfig((64, 128, 256, 512), attention_level=2),
            DiscriminatorConfig(64, has_attention=True, is_spectral=True),
        ),
    }

    def generator_losses(
        self, batch: Batch, fake: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return ``adversarial``, ``l1``, ``matching`` and ``perceptual``."""
        perceptual = self.perceptual_loss(batch, fake, generator)
        weight = self.config.perceptual_weight
        return super().generator_losses(batch, fake, generator) | {"perceptual": weight * perceptual}
