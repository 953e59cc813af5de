"""The autoencoder of latent diffusion, for images of one channel."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pds_bids.models.unet import blocks_to_voxels, voxels_to_blocks

__all__ = ["Autoencoder", "AutoencoderConfig"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of an `Autoencoder`.

    Parameters
    ----------
    widths : tuple of int
        Channels per level; each level halves the resolution of the one before.
    n_latent : int
        Channels of the latent image.
    n_blocks : int
        Residual blocks per level.
    n_groups : int
        Of the group norms; divides every width.
    has_voxel_blocks : bool
        Whether the first level is the blocks of 2 x 2 x 2 voxels, which halves the resolution once more.
    """

    widths: tuple[int, ...] = (32, 64)
    n_latent: int = 4
    n_blocks: int = 1
    n_groups: int = 8
    has_voxel_blocks: bool = True

    @property
    def factor(self) -> int:
        """Voxels per latent voxel and axis."""
        return int(2 ** (len(self.widths) - 1 + self.has_voxel_blocks))


class Autoencoder(nn.Module):
    """Variational autoencoder with a weak prior.

    Parameters
    ----------
    config : AutoencoderConfig
        Size.

    References
    ----------
    Rombach et al. 2022, arXiv:2112.10752; Pinaya et al. 2022, arXiv:2209.07162.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        # Its import takes seconds.
        from monai.networks.nets import AutoencoderKL

        super().__init__()
        self.config = config
        n_channels = 8 if config.has_voxel_blocks else 1
        self.network = AutoencoderKL(
            spatial_dims=3,
            in_channels=n_channels,
            out_channels=n_channels,
            num_res_blocks=(config.n_blocks,) * len(config.widths),
            channels=config.widths,
            attention_levels=(False,) * len(config.widths),
            latent_channels=config.n_latent,
            norm_num_groups=config.n_groups,
            # Attention over all voxels of a volume would cost more than the rest.
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation ``(N, n_latent, D/f, H/f, W/f)`` of the latent image."""
        blocks = voxels_to_blocks(image) if self.config.has_voxel_blocks else image
        mean, std = self.network.encode(blocks)
        return mean, std

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image ``(N, 1, D, H, W)``."""
        blocks: Tensor = self.network.decode(latent)
        return blocks_to_voxels(blocks) if self.config.has_voxel_blocks else blocks


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    """Return the divergence of ``N(mean, std^2)`` from ``N(0, 1)``: sum over an image, mean over images.

    Examples
    --------
    >>> float(kl_to_standard_normal(torch.ones(1, 2), torch.ones(1, 2)))
    1.0
    """
    each = 0.5 * (mean.square() + std.square() - 1) - torch.log(std)
    return each.flatten(1).sum(1).mean()
