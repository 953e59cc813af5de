"""The generator of pix2pix in three dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.models.attention import SelfAttention
from pds_bids.models.padding import crop_to, pad_to_multiple

__all__ = ["Generator", "GeneratorConfig", "drop_out"]


@dataclass(frozen=True)
class GeneratorConfig:
    """Size of a `Generator`.

    Parameters
    ----------
    widths : tuple of int
        Channels at 1/2, 1/4, ... of the resolution; multiples of 8.
    dropout : float
        Rate in the inner half of the decoder. It is the only noise of the generator.
    attention_level : int or None
        Index into `widths` of the level whose encoder and decoder get self-attention.
    """

    widths: tuple[int, ...] = (32, 64, 64, 64)
    dropout: float = 0.5
    attention_level: int | None = None


class Generator(nn.Module):
    """U-Net of strided and transposed 4 x 4 x 4 convolutions, skips concatenated.

    Parameters
    ----------
    config : GeneratorConfig
        Widths and dropout.
    n_in, n_out : int
        Channels of the input and of the output.
    n_known : int
        Width of the vector that scales and shifts every normalised layer.

    References
    ----------
    Isola et al. 2017, arXiv:1611.07004, section 6.1.1.
    """

    def __init__(self, config: GeneratorConfig, n_in: int, n_out: int, n_known: int) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(
            nn.Conv3d(before, after, 4, 2, 1) for before, after in zip((n_in, *widths), widths, strict=False)
        )
        # The innermost level has no skip beside it.
        inner = [widths[-1], *(2 * width for width in widths[-2::-1])]
        outer = [*widths[-2::-1], n_out]
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(before, after, 4, 2, 1) for before, after in zip(inner, outer, strict=True)
        )
        normalised = [*widths[1:], *outer[:-1]]
        self.norms = nn.ModuleList(nn.GroupNorm(width // 8, width) for width in normalised)
        self.films = nn.ModuleList(nn.Linear(n_known, 2 * width) for width in normalised)
        for film in self.films:
            nn.init.zeros_(film.get_parameter("bias"))
        level = config.attention_level
        self.attend = nn.ModuleList(
            [] if level is None else [SelfAttention(widths[level]), SelfAttention(widths[level])]
        )

    def forward(
        self, image: Tensor, known: Tensor, generators: Sequence[torch.Generator | None] = ()
    ) -> Tensor:
        """Translate.

        Parameters
        ----------
        image : Tensor
            ``(B, n_in, D, H, W)``; zeros are appended where a size does not halve evenly.
        known : Tensor
            ``(B, n_known)``.
        generators : sequence of Generator
            One per sample, for the dropout; without them nothing is dropped.

        Returns
        -------
        Tensor
            ``(B, n_out, D, H, W)``.
        """
        depth = len(self.down)
        whole = image
        image = pad_to_multiple(image, 2**depth)
        skips = []
        for level, layer in enumerate(self.down):
            image = layer(image)
            if level:
                image = self._normalise(image, known, level - 1)
            if level == self.config.attention_level:
                image = self.attend[0](image)
            skips.append(image)
            image = functional.leaky_relu(image, 0.2)
        image = functional.relu(skips.pop())
        for index, layer in enumerate(self.up):
            image = layer(image)
            if index == depth - 1:
                break
            image = self._normalise(image, known, depth - 1 + index)
            if index < depth // 2:
                image = drop_out(image, self.config.dropout, generators)
            if depth - 2 - index == self.config.attention_level:
                image = self.attend[1](image)
            image = functional.relu(torch.cat([image, skips.pop()], 1))
        return crop_to(image, whole)

    def _normalise(self, image: Tensor, known: Tensor, index: int) -> Tensor:
        scale, shift = self.films[index](known)[..., None, None, None].chunk(2, dim=1)
        return self.norms[index](image) * (1 + scale) + shift


def drop_out(features: Tensor, rate: float, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Zero a share `rate` of the values, sample i by generator i, and scale the rest up.

    Examples
    --------
    >>> ones = torch.ones(1, 1, 100, 1, 1)
    >>> dropped = drop_out(ones, 0.5, [torch.Generator().manual_seed(0)])
    >>> sorted(set(dropped.flatten().tolist()))
    [0.0, 2.0]
    """
    if not rate or not generators:
        return features
    shape = features.shape[1:]
    kept = torch.stack([torch.rand(shape, generator=generator) >= rate for generator in generators])
    return features * kept.to(features) / (1 - rate)
