"""U-Net for denoising and flows that sees the clean source at every one of its scales.

It works on blocks of 2 x 2 x 2 voxels, as `pds_bids.models.unet` does: whether the eight channels of a block are
its voxels or their Haar transform is for the caller to decide.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.models.unet import TEMPLATE_CHANNELS, ResidualBlock, double_resolution, voxels_to_blocks

__all__ = ["ConditionalDenoiser", "DenoiserConfig", "Guide"]

# Frequencies of the embedding of time cover 1 to this many radians over [0, 1].
TOP_FREQUENCY = 1000.0
N_FREQUENCIES = 32


@dataclass(frozen=True)
class DenoiserConfig:
    """Size of a `ConditionalDenoiser`.

    Parameters
    ----------
    widths : tuple of int
        Channels at 1/2, 1/4 and 1/8 of the resolution; multiples of 8.
    n_bottom : int
        Residual blocks at the lowest resolution.
    n_embed : int
        Width of the embedding of time, direction and of what is present.
    n_heads : int
        Heads of the self-attention at the lowest resolution; 0 for none.
    """

    widths: tuple[int, int, int] = (32, 48, 96)
    n_bottom: int = 2
    n_embed: int = 64
    n_heads: int = 4


@dataclass(frozen=True)
class Guide:
    """What a denoiser is told about a subject; see `Condition` in `pds_bids.methods` for the first five.

    Parameters
    ----------
    source, present, template, mask, direction : Tensor
        ``(B, C, D, H, W)``, ``(B, C)``, ``(B, 4, D, H, W)``, ``(B, 1, D, H, W)``, ``(B,)`` int64.
    atlas : Tensor
        ``(1, C, D, H, W)`` mean person; the network sees the source's difference from it.
    extra : Tensor, optional
        ``(B, E, D, H, W)`` further images, for example a posterior mean.
    """

    source: Tensor
    present: Tensor
    template: Tensor
    mask: Tensor
    direction: Tensor
    atlas: Tensor
    extra: Tensor | None = None

    def images(self) -> Tensor:
        """Return ``(B, 2 C + 5 + E, D, H, W)``: nothing of an absent contrast is left in it."""
        contrast = (self.source - self.atlas) * self.present[..., None, None, None] * self.mask
        atlas = (self.atlas * self.mask).expand(len(contrast), -1, -1, -1, -1)
        parts = [contrast, atlas, self.template, self.mask]
        return torch.cat(parts if self.extra is None else [*parts, self.extra], 1)

    def tokens(self) -> Tensor:
        """Return ``(B, 2 + C + 1)``: direction, contrasts that are present, whether there is a template."""
        one_hot = functional.one_hot(self.direction, len(Direction)).to(self.source)
        has_template = self.template.flatten(1).any(1, keepdim=True).to(self.source)
        return torch.cat([one_hot, self.present, has_template], 1)


class SelfAttention(nn.Module):
    """Attention of all places on all places, added to the features; starts as the identity.

    Parameters
    ----------
    n_channels : int
        Multiple of 8 and of `n_heads`.
    n_heads : int
        Number of heads.
    """

    def __init__(self, n_channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(n_channels // 8, n_channels)
        self.query_key_value = nn.Linear(n_channels, 3 * n_channels)
        self.out = nn.Linear(n_channels, n_channels)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, ``(B, C, d, h, w)``."""
        places = self.norm(features).flatten(2).transpose(1, 2)
        heads = self.query_key_value(places).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return features + self.out(mixed).transpose(1, 2).reshape(features.shape)


class ConditionalDenoiser(nn.Module):
    """Predict something about a noisy image, given the clean source at every scale.

    Parameters
    ----------
    config : DenoiserConfig
        Widths and depth.
    n_noisy : int
        Channels of the noisy image (and of the prediction) in voxels; eight times as many in blocks.
    n_extra : int
        Channels of `Guide.extra`.
    """

    def __init__(self, config: DenoiserConfig, n_noisy: int, n_extra: int = 0) -> None:
        super().__init__()
        top, middle, bottom = config.widths
        n_tokens = len(Direction) + len(CONTRASTS) + 1
        n_condition = 2 * len(CONTRASTS) + TEMPLATE_CHANNELS + 1 + n_extra
        self.embed = nn.Sequential(
            nn.Linear(2 * N_FREQUENCIES + n_tokens, config.n_embed),
            nn.SiLU(),
            nn.Linear(config.n_embed, config.n_embed),
            nn.SiLU(),
        )
        self.condition = nn.ModuleList(
            [
                nn.Conv3d(8 * n_condition, top, 1),
                nn.Conv3d(top, middle, 3, 2, padding=1),
                nn.Conv3d(middle, bottom, 3, 2, padding=1),
            ]
        )
        self.stem = nn.Conv3d(8 * n_noisy, top, 1)
        self.down = nn.ModuleList(
            [
                ResidualBlock(top, top, config.n_embed),
                ResidualBlock(top, middle, config.n_embed, stride=2),
                ResidualBlock(middle, bottom, config.n_embed, stride=2),
            ]
        )
        self.bottom = nn.ModuleList(
            ResidualBlock(bottom, bottom, config.n_embed) for _ in range(config.n_bottom)
        )
        self.attention = SelfAttention(bottom, config.n_heads) if config.n_heads else nn.Identity()
        self.lift = nn.ModuleList([nn.Conv3d(bottom, middle, 1), nn.Conv3d(middle, top, 1)])
        self.up = nn.ModuleList(
            [ResidualBlock(middle, middle, config.n_embed), ResidualBlock(top, top, config.n_embed)]
        )
        self.norm = nn.GroupNorm(top // 8, top)
        self.head = nn.Conv3d(top, 8 * n_noisy, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, time: Tensor, guide: Guide) -> Tensor:
        """Predict.

        Parameters
        ----------
        noisy : Tensor
            ``(B, 8 N, D/2, H/2, W/2)``, of unit variance.
        time : Tensor
            ``(B,)`` in [0, 1], how noisy.
        guide : Guide
            Clean source and what else is known.

        Returns
        -------
        Tensor
            As `noisy`; zero for an untrained network.
        """
        embedding = self.embed(torch.cat([embed_time(time).to(noisy), guide.tokens()], 1))
        clean = [self.condition[0](voxels_to_blocks(guide.images()))]
        for shrink in self.condition[1:]:
            clean.append(shrink(functional.silu(clean[-1])))
        skips = [self.down[0](self.stem(noisy) + clean[0], embedding)]
        for block, source in zip(self.down[1:], clean[1:], strict=True):
            skips.append(block(skips[-1], embedding) + source)
        features = skips.pop()
        for block in self.bottom:
            features = block(features, embedding)
        features = self.attention(features)
        for lift, block, source in zip(self.lift, self.up, (clean[1], clean[0]), strict=True):
            features = block(skips.pop() + double_resolution(lift(features)) + source, embedding)
        return self.head(functional.silu(self.norm(features)))


def embed_time(time: Tensor) -> Tensor:
    """Return ``(B, 64)`` float32 sines and cosines of a time in [0, 1]."""
    exponents = torch.linspace(0, math.log(TOP_FREQUENCY), N_FREQUENCIES, device=time.device)
    angles = time.float()[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], 1)
