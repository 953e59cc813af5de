"""U-Net for denoising and flows that sees the clean source at every one of its scales.

It works on blocks of 2 x 2 x 2 voxels, as `pds_bids.models.unet` does: whether the eight channels of a block
are its voxels or their Haar transform is for the caller to decide.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.models.unet import ResidualBlock, double_resolution, voxels_to_blocks

__all__ = ["GuidedConfig", "GuidedDenoiser"]

# Frequencies of the embedding of time cover 1 to this many radians over [0, 1].
TOP_FREQUENCY = 1000.0
N_FREQUENCIES = 32


@dataclass(frozen=True)
class GuidedConfig:
    """Size of a `GuidedDenoiser`.

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


class GuidedDenoiser(nn.Module):
    """Predict something about a noisy image, given the clean source at every scale.

    Parameters
    ----------
    config : GuidedConfig
        Widths and depth.
    n_noisy : int
        Channels of the noisy image (and of the prediction) in voxels; eight times as many in blocks.
    n_inputs : int
        Channels of what is known in images.
    n_known : int
        Width of what is known in numbers.
    """

    def __init__(self, config: GuidedConfig, n_noisy: int, n_inputs: int, n_known: int) -> None:
        super().__init__()
        top, middle, bottom = config.widths
        self.embed = nn.Sequential(
            nn.Linear(2 * N_FREQUENCIES + n_known, config.n_embed),
            nn.SiLU(),
            nn.Linear(config.n_embed, config.n_embed),
            nn.SiLU(),
        )
        self.condition = nn.ModuleList(
            [
                nn.Conv3d(8 * n_inputs, top, 1),
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
        # White noise cannot be compressed: what the output needs of it goes past the trunk.
        self.gain = nn.Linear(config.n_embed, 8 * n_noisy)
        for parameter in (*self.head.parameters(), *self.gain.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, time: Tensor, inputs: Tensor, known: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        noisy : Tensor
            ``(B, 8 N, D/2, H/2, W/2)``, of unit variance.
        time : Tensor
            ``(B,)`` in [0, 1], how noisy.
        inputs : Tensor
            ``(B, n_inputs, D, H, W)``, clean source first of all.
        known : Tensor
            ``(B, n_known)``, direction first of all.

        Returns
        -------
        Tensor
            As `noisy`; zero for an untrained network.
        """
        embedding = self.embed(torch.cat([embed_time(time).to(noisy), known], 1))
        clean = [self.condition[0](voxels_to_blocks(inputs))]
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
        passed = self.gain(embedding)[..., None, None, None] * noisy
        return self.head(functional.silu(self.norm(features))) + passed


def embed_time(time: Tensor) -> Tensor:
    """Return ``(B, 64)`` float32 sines and cosines of a time in [0, 1]."""
    exponents = torch.linspace(0, math.log(TOP_FREQUENCY), N_FREQUENCIES, device=time.device)
    angles = time.float()[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], 1)
