"""The diffusion U-Nets of the paper's released code, rebuilt from a description of their layers.

For counting and timing only; nothing of the authors' code is used. Three stages down (voxels to channels
twice, the last one keeps its size), two residual blocks of two convolutions each per stage, attention over
the channels of every head, and three stages up by nearest neighbours. The other, noisy volume passes through
one convolution and joins before the last residual block.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

#: ``(X, Y, Z)`` of the volumes that the released code works on.
BOLD_SHAPE, DWI_SHAPE = (64, 64, 36), (96, 96, 60)
#: Published and measured before on the authors' own code: parameters, and operations of both directions.
PUBLISHED_PARAMETERS, PUBLISHED_FLOP = 191.9e6, 5.81e12
WIDTHS = (64, 128, 256, 512)
N_GROUPS, N_HEADS, HEAD_WIDTH, N_TIME = 8, 4, 32, 256


class Block(nn.Module):
    """Two normalised 3 x 3 x 3 convolutions beside a skip; the time scales and shifts."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.time = nn.Linear(N_TIME, 2 * n_out)
        self.first, self.second = nn.Conv3d(n_in, n_out, 3, padding=1), nn.Conv3d(n_out, n_out, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(N_GROUPS, n_out), nn.GroupNorm(N_GROUPS, n_out)
        self.skip = nn.Conv3d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Return ``(B, n_out, ...)``."""
        scale, shift = self.time(functional.silu(time))[..., None, None, None].chunk(2, 1)
        hidden = functional.silu(self.norm1(self.first(image)) * (1 + scale) + shift)
        return functional.silu(self.norm2(self.second(hidden))) + self.skip(image)


class ChannelAttention(nn.Module):
    """Attention of the 32 channels of a head on each other, as the released code has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.qkv = nn.Conv3d(width, 3 * N_HEADS * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Conv3d(N_HEADS * HEAD_WIDTH, width, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return features of the same shape."""
        query, key, value = self.qkv(self.norm(image)).flatten(2).unflatten(1, (3, N_HEADS, -1)).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return image + self.out(mixed.flatten(1, 2).unflatten(2, image.shape[2:]))


class ReleasedUNet(nn.Module):
    """From a noisy source and a noisy target to the noise of the target.

    Parameters
    ----------
    source_shape, target_shape : sequence of int
        ``(X, Y, Z)`` of the two volumes.
    """

    def __init__(self, source_shape: Sequence[int], target_shape: Sequence[int]) -> None:
        super().__init__()
        self.target_shape = tuple(target_shape)
        # Nearest neighbours by 2, 2 and 1.5 for diffusion MRI, by 1.39 three times for BOLD.
        self.factors = (2, 2, 1.5) if target_shape[0] > source_shape[0] else (1.39,) * 3
        pairs = list(pairwise(WIDTHS))
        self.time = nn.Sequential(nn.Linear(WIDTHS[0], N_TIME), nn.SiLU(), nn.Linear(N_TIME, N_TIME))
        self.stem, self.target = nn.Conv3d(1, WIDTHS[0], 7, padding=3), nn.Conv3d(1, WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, (n_in, n_out) in enumerate(pairs):
            is_last = level == len(pairs) - 1
            shrink = nn.Conv3d(n_in, n_out, 3, padding=1) if is_last else nn.Conv3d(8 * n_in, n_out, 1)
            self.down.append(
                nn.ModuleList([Block(n_in, n_in), Block(n_in, n_in), ChannelAttention(n_in), shrink])
            )
        bottom = WIDTHS[-1]
        self.middle = nn.ModuleList([Block(bottom, bottom), ChannelAttention(bottom), Block(bottom, bottom)])
        self.up = nn.ModuleList()
        for n_in, n_out in reversed(pairs):
            blocks = [Block(n_out + n_in, n_out), Block(n_out + n_in, n_out), ChannelAttention(n_out)]
            self.up.append(nn.ModuleList([*blocks, nn.Conv3d(n_out, n_in, 3, padding=1)]))
        self.final, self.head = Block(3 * WIDTHS[0], WIDTHS[0]), nn.Conv3d(WIDTHS[0], 1, 1)

    def forward(self, source: Tensor, target: Tensor, step: Tensor) -> Tensor:
        """Return ``(B, 1, X, Y, Z)`` on the grid of the target."""
        time = self.time(step[:, None].float().expand(-1, WIDTHS[0]))
        features = stem = self.stem(source)
        skips = []
        for level, (first, second, attend, shrink) in enumerate(self.down):
            skips.append(features := first(features, time))
            skips.append(features := attend(second(features, time)))
            is_last = level == len(self.down) - 1
            features = shrink(features if is_last else voxels_to_channels(features))
        first, attend, second = self.middle
        features = second(attend(first(features, time)), time)
        for (first, second, attend, conv), factor in zip(self.up, self.factors, strict=True):
            for block in (first, second):
                features = block(torch.cat([features, _resize(skips.pop(), features.shape[2:])], 1), time)
            features = conv(functional.interpolate(attend(features), scale_factor=factor, mode="nearest"))
        shape = self.target_shape
        joined = [_resize(features, shape), _resize(stem, shape), self.target(target)]
        return self.head(self.final(torch.cat(joined, 1), time))


class ReleasedNetworks(nn.Module):
    """Both directions, which every step of the released sampler evaluates."""

    def __init__(self) -> None:
        super().__init__()
        self.to_dwi = ReleasedUNet(BOLD_SHAPE, DWI_SHAPE)
        self.to_bold = ReleasedUNet(DWI_SHAPE, BOLD_SHAPE)

    def forward(self, bold: Tensor, dwi: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of BOLD and of diffusion MRI."""
        return self.to_bold(dwi, bold, step), self.to_dwi(bold, dwi, step)


def voxels_to_channels(image: Tensor) -> Tensor:
    """Move 2 x 2 x 2 neighbourhoods into channels; an odd last plane is left out."""
    x, y, z = (size // 2 * 2 for size in image.shape[2:])
    split = image[:, :, :x, :y, :z].unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).unflatten(6, (-1, 2))
    return split.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def _resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    return functional.interpolate(image, size=tuple(shape), mode="nearest")
