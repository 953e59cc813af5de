"""DiT: latent diffusion by a transformer."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from pds_bids.diffusion import Prediction
from pds_bids.methods.baseline import N_KNOWN
from pds_bids.methods.ldm import LatentConfig, LDMMethod
from pds_bids.models.autoencoder import AutoencoderConfig
from pds_bids.models.discriminator import DiscriminatorConfig
from pds_bids.models.dit import DiT, DiTConfig

__all__ = ["DiTMethod", "DiTMethodConfig"]


@dataclass(frozen=True)
class DiTMethodConfig(LatentConfig):
    """`LatentConfig` and the size of the transformer.

    Parameters
    ----------
    transformer : DiTConfig
        Size of the network of the second stage.
    """

    transformer: DiTConfig = field(default_factory=DiTConfig)


class DiTMethod(LDMMethod):
    """The stages of `LDMMethod` with an adaLN-Zero transformer over patches in place of the U-Net.

    The image is the mean over decoded draws from different noise, the standard deviation their spread.

    References
    ----------
    Peebles and Xie 2023, arXiv:2212.09748.
    """

    name: ClassVar[str] = "dit"
    sizes: ClassVar[dict[str, Any]] = {
        "reduced": DiTMethodConfig(),
        # DiT-B of the paper.
        "paper": DiTMethodConfig(
            autoencoder=AutoencoderConfig((64, 128, 256), 4, 2, 32, has_voxel_blocks=False),
            discriminator=DiscriminatorConfig(64),
            perceptual_weight=0.1,
            prediction=Prediction.VELOCITY,
            transformer=DiTConfig(width=768, depth=12, n_heads=12),
        ),
    }

    def build_network(self) -> nn.Module:
        """Return the transformer."""
        return DiT(self.config.transformer, self.n_in, self.n_latent, N_KNOWN, self.latent_shape)
