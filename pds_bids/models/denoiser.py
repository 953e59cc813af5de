"""The diffusion U-Net of MONAI, with a vector of what is known beside the time."""

from dataclasses import dataclass

from torch import Tensor, nn

from pds_bids.models.padding import crop_to, pad_to_multiple
from pds_bids.models.unet import blocks_to_voxels, voxels_to_blocks

__all__ = ["Denoiser", "DenoiserConfig"]


@dataclass(frozen=True)
class DenoiserConfig:
    """Size of a `Denoiser`.

    Parameters
    ----------
    widths : tuple of int
        Channels per level; each level halves the resolution of the one before.
    attention : tuple of bool
        Levels with self-attention; there is always some at the very bottom.
    n_blocks : int
        Residual blocks per level.
    n_groups : int
        Of the group norms; divides every width.
    head_width : int
        Channels per attention head; divides the widths of levels with attention and the last one.
    has_voxel_blocks : bool
        Whether the network works on blocks of 2 x 2 x 2 voxels, an eighth of the cost.
    """

    widths: tuple[int, ...] = (32, 64, 64)
    attention: tuple[bool, ...] = (False, False, False)
    n_blocks: int = 1
    n_groups: int = 8
    head_width: int = 32
    has_voxel_blocks: bool = True


class Denoiser(nn.Module):
    """``(image, step, known) -> image``.

    Parameters
    ----------
    config : DenoiserConfig
        Size.
    n_in, n_out : int
        Channels.
    n_known : int
        Width of the vector that is embedded and added to the embedding of the time.

    References
    ----------
    Ho et al. 2020, arXiv:2006.11239; Rombach et al. 2022, arXiv:2112.10752.
    """

    def __init__(self, config: DenoiserConfig, n_in: int, n_out: int, n_known: int) -> None:
        # Its import takes seconds.
        from monai.networks.nets import DiffusionModelUNet

        super().__init__()
        self.config = config
        factor = 8 if config.has_voxel_blocks else 1
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=factor * n_in,
            out_channels=factor * n_out,
            num_res_blocks=config.n_blocks,
            channels=config.widths,
            attention_levels=config.attention,
            norm_num_groups=config.n_groups,
            num_head_channels=config.head_width,
            num_class_embeds=1,
            use_flash_attention=True,
        )
        n_embed = 4 * config.widths[0]
        # Where MONAI looks up a class, a vector passes through two layers.
        self.network.add_module(
            "class_embedding",
            nn.Sequential(nn.Linear(n_known, n_embed), nn.SiLU(), nn.Linear(n_embed, n_embed)),
        )

    def forward(self, image: Tensor, step: Tensor, known: Tensor) -> Tensor:
        """Run the network.

        Parameters
        ----------
        image : Tensor
            ``(B, n_in, D, H, W)``; zeros are appended where a size does not halve evenly.
        step : Tensor
            ``(B,)`` time, in units of about 0 to 1000.
        known : Tensor
            ``(B, n_known)``.

        Returns
        -------
        Tensor
            ``(B, n_out, D, H, W)``; zero before training.
        """
        has_blocks = self.config.has_voxel_blocks
        padded = pad_to_multiple(image, 2 ** (len(self.config.widths) - 1 + has_blocks))
        if has_blocks:
            padded = voxels_to_blocks(padded)
        output: Tensor = self.network(padded, step, class_labels=known)
        return crop_to(blocks_to_voxels(output) if has_blocks else output, image)
