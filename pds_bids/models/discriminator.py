"""The patch discriminator of pix2pix in three dimensions, with the additions of its successors."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from pds_bids.models.attention import SelfAttention

__all__ = ["DiscriminatorConfig", "PatchDiscriminator", "with_spectral_norm"]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Size of a `PatchDiscriminator`.

    Parameters
    ----------
    width : int
        Channels of the first layer, a multiple of 8; each further layer doubles them, to 8 times at most.
    n_layers : int
        Layers after the first one; 3 see 70 voxels per axis, 2 see 34.
    has_attention : bool
        Whether the first layer after the last halving is followed by self-attention.
    is_spectral : bool
        Whether weights are divided by their largest singular value; there is no other norm then.
    """

    width: int = 16
    n_layers: int = 3
    has_attention: bool = False
    is_spectral: bool = False


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches: 4 x 4 x 4 convolutions, all but the last two with stride 2.

    Parameters
    ----------
    config : DiscriminatorConfig
        Size.
    n_in : int
        Channels of condition and image together.
    n_known : int
        Width of a vector (such as an embedded time) that shifts every layer; 0 for none.

    References
    ----------
    Isola et al. 2017, arXiv:1611.07004, section 6.1.2.
    """

    def __init__(self, config: DiscriminatorConfig, n_in: int, n_known: int = 0) -> None:
        super().__init__()
        n_layers = config.n_layers
        widths = [config.width * min(2**level, 8) for level in range(n_layers + 1)]
        strides = [2] * n_layers + [1]
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, 4, stride, 1)
            for before, after, stride in zip((n_in, *widths), widths, strides, strict=False)
        )
        self.norms = nn.ModuleList(
            nn.Identity() if not level or config.is_spectral else nn.GroupNorm(width // 8, width)
            for level, width in enumerate(widths)
        )
        self.shifts = nn.ModuleList(nn.Linear(n_known, width) for width in widths if n_known)
        self.attention_after = n_layers - 1
        self.attend = SelfAttention(widths[self.attention_after]) if config.has_attention else nn.Identity()
        self.verdict = nn.Conv3d(widths[-1], 1, 4, 1, 1)
        if config.is_spectral:
            with_spectral_norm(self)

    def forward(self, image: Tensor, known: Tensor | None = None) -> list[Tensor]:
        """Return the features of every layer, and last the verdicts ``(B, 1, d, h, w)``: high is real."""
        features = []
        for level, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            image = norm(layer(image))
            if len(self.shifts) and known is not None:
                image = image + self.shifts[level](known)[..., None, None, None]
            image = functional.leaky_relu(image, 0.2)
            if level == self.attention_after:
                image = self.attend(image)
            features.append(image)
        return [*features, self.verdict(image)]


def with_spectral_norm(module: nn.Module) -> nn.Module:
    """Divide the weight of every convolution in `module` by its largest singular value; changes `module`.

    References
    ----------
    Miyato et al. 2018, arXiv:1802.05957.
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)]
    for layer in convolutions:
        spectral_norm(layer)
    return module


def time_vector(step: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """Return ``(B, width)`` cosines and sines of a step in geometric frequencies.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    half = width // 2
    frequency = longest ** (-torch.arange(half, device=step.device) / half)
    angle = step[:, None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)
