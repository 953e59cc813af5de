"""A small residual 3-D U-Net that a CPU can train: it predicts a correction of an atlas and of the source.

The trunk works on blocks of two voxels (space to depth), where most of its capacity costs an eighth. What
must stay sharp does not pass through the trunk alone: the head multiplies the source image itself with
smooth predicted maps (a local polynomial), which is the tissue refinement ``B(x_gen) + U(x_src)`` of PDS with
a quadratic for ``U``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.modalities import CONTRASTS, Direction

__all__ = [
    "POLYNOMIAL_PAIRS",
    "TEMPLATE_CHANNELS",
    "ConditionalUNet",
    "UNetConfig",
    "blocks_to_voxels",
    "double_resolution",
    "voxels_to_blocks",
]

#: Grey matter, white matter, cerebrospinal fluid, T1w of the template.
TEMPLATE_CHANNELS = 4
# Smallest and largest log-scale of the error head: 0.2% and 270% of the in-brain mean.
LOG_SCALE_RANGE = (-6.0, 1.0)
# Edges (voxels) of the cubes over which the voxel head averages; about a sigma of 1 and of 2.
BLURS = (3, 7)
# Where the error head starts: 6% of the in-brain mean.
FIRST_LOG_SCALE = -2.8
#: (target, source) channels of the polynomial: a contrast is only ever predicted from the other modality and
#: the anatomy.
POLYNOMIAL_PAIRS = tuple(
    (CONTRASTS.index(target), CONTRASTS.index(source))
    for direction in Direction
    for target in direction.targets
    for source in direction.sources
)
# Which of them belong to each direction.
PAIRS_OF = {
    direction.code: [
        number
        for number, (target, _) in enumerate(POLYNOMIAL_PAIRS)
        if CONTRASTS[target] in direction.targets
    ]
    for direction in Direction
}


@dataclass(frozen=True)
class UNetConfig:
    """Size of a `ConditionalUNet`.

    Parameters
    ----------
    widths : tuple of int
        Channels at 1/2, 1/4 and 1/8 of the resolution; multiples of 8.
    n_bottom : int
        Residual blocks at the lowest resolution.
    n_embed : int
        Width of the embedding of direction and of what is present.
    n_voxel : int
        Width of the head that looks at single voxels and their blurred surroundings at full resolution; 0
        leaves it out.
    has_template_free_passes : bool
        Whether an image is also the mean over passes that do not see the template, which doubles the time.
    """

    widths: tuple[int, int, int] = (16, 48, 96)
    n_bottom: int = 2
    n_embed: int = 64
    n_voxel: int = 0
    has_template_free_passes: bool = True


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions whose normalised input the embedding scales and shifts (FiLM).

    Parameters
    ----------
    n_in, n_out : int
        Channels; multiples of 8.
    n_embed : int
        Width of the embedding.
    stride : int
        2 halves the resolution.
    """

    def __init__(self, n_in: int, n_out: int, n_embed: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(n_in // 8, n_in)
        self.conv1 = nn.Conv3d(n_in, n_out, 3, stride, padding=1)
        self.film = nn.Linear(n_embed, 2 * n_out)
        self.norm2 = nn.GroupNorm(n_out // 8, n_out)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, padding=1)
        self.skip = nn.Identity() if (n_in, stride) == (n_out, 1) else nn.Conv3d(n_in, n_out, stride, stride)
        # A block that starts as its own skip keeps the early gradient well scaled.
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Return ``(B, n_out, ...)`` features."""
        hidden = self.conv1(functional.silu(self.norm1(features)))
        scale, shift = self.film(embedding)[..., None, None, None].chunk(2, dim=1)
        hidden = self.norm2(hidden) * (1 + scale) + shift
        return self.skip(features) + self.conv2(functional.silu(hidden))


class VoxelHead(nn.Module):
    """A correction from what is known of a voxel: prediction, sources and their blurs, atlas, tissues, place.

    What boosted trees on hand features find, as a function that is smooth and trained with all the rest.

    Parameters
    ----------
    n_contrast : int
        Contrasts.
    width : int
        Hidden channels.
    n_embed : int
        Width of the embedding, which scales and shifts (FiLM).
    """

    def __init__(self, n_contrast: int, width: int, n_embed: int) -> None:
        super().__init__()
        n_known = (4 + len(BLURS)) * n_contrast + TEMPLATE_CHANNELS + 3
        self.first = nn.Conv3d(n_known, width, 1)
        self.film = nn.Linear(n_embed, 2 * width)
        self.second = nn.Conv3d(width, width, 1)
        self.last = nn.Conv3d(width, n_contrast, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, mean: Tensor, contrast: Tensor, atlas: Tensor, template: Tensor, mask: Tensor, embedding: Tensor
    ) -> Tensor:
        """Return ``(B, C, D, H, W)`` to add to the prediction; arguments as in `ConditionalUNet`."""
        around = [_mean_around(contrast, mask, size) for size in BLURS]
        axes = [torch.linspace(-1, 1, n, device=mean.device, dtype=mean.dtype) for n in mask.shape[2:]]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(mask), -1, -1, -1, -1)
        size = (contrast - around[0]).abs()
        known = [mean * mask, contrast, *around, size, atlas * mask, template, place * mask]
        scale, shift = self.film(embedding)[..., None, None, None].chunk(2, dim=1)
        hidden = functional.silu(self.first(torch.cat(known, 1)) * (1 + scale) + shift)
        return self.last(functional.silu(self.second(hidden)))


def _mean_around(image: Tensor, mask: Tensor, size: int) -> Tensor:
    """Average over the voxels of the mask in a cube."""
    sums = torch.cat([image * mask, mask], 1)
    for axis in (2, 3, 4):
        # Shifted sums take a third of the time of average pooling on a CPU.
        margins = [0, 0] * (4 - axis) + [size // 2] * 2
        padded = functional.pad(sums, margins)
        n = sums.shape[axis]
        sums = sum((padded.narrow(axis, k, n) for k in range(1, size)), padded.narrow(axis, 0, n))
    return sums[:, :-1] / sums[:, -1:].clamp_min(1e-3 * size**3) * mask


class ConditionalUNet(nn.Module):
    """Predict every contrast, and the size of its own error, from whatever contrasts are present.

    Parameters
    ----------
    config : UNetConfig
        Widths and depth.
    shape : tuple of int
        ``(D, H, W)`` of the window; multiples of 8.

    Attributes
    ----------
    atlas : Tensor
        ``(1, C, D, H, W)`` buffer, mean of each contrast over simulated people; zeros until training sets it.
    prior : Tensor
        ``(1, 2 P, D/2, H/2, W/2)`` buffer, what the maps b and c start from, see `POLYNOMIAL_PAIRS`.
    """

    atlas: Tensor
    prior: Tensor

    def __init__(self, config: UNetConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        n_contrast = len(CONTRASTS)
        top, middle, bottom = config.widths
        n_input = 2 * n_contrast + TEMPLATE_CHANNELS + 1
        self.register_buffer("atlas", torch.zeros(1, n_contrast, *shape))
        blocks = tuple(n // 2 for n in shape)
        self.register_buffer("prior", torch.zeros(1, 2 * len(POLYNOMIAL_PAIRS), *blocks))
        self.embed = nn.Sequential(
            nn.Linear(len(Direction) + n_contrast + 1, config.n_embed),
            nn.SiLU(),
            nn.Linear(config.n_embed, config.n_embed),
            nn.SiLU(),
        )
        self.stem = nn.Conv3d(8 * n_input, top, 1)
        self.down0 = ResidualBlock(top, top, config.n_embed)
        self.down1 = ResidualBlock(top, middle, config.n_embed, stride=2)
        self.down2 = ResidualBlock(middle, bottom, config.n_embed, stride=2)
        self.bottom = nn.ModuleList(
            ResidualBlock(bottom, bottom, config.n_embed) for _ in range(config.n_bottom)
        )
        self.lift2 = nn.Conv3d(bottom, middle, 1)
        self.up1 = ResidualBlock(middle, middle, config.n_embed)
        self.lift1 = nn.Conv3d(middle, top, 1)
        self.up0 = ResidualBlock(top, top, config.n_embed)
        # Per target: 8 voxels of `a`; per target and source: `b` and `c`; per target: the log of the error.
        self.head = nn.Conv3d(top, 8 * n_contrast + 2 * len(POLYNOMIAL_PAIRS) + n_contrast, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(self.head.get_parameter("bias")[-n_contrast:], FIRST_LOG_SCALE)
        self.voxel = VoxelHead(n_contrast, config.n_voxel, config.n_embed) if config.n_voxel else None

    def forward(
        self, source: Tensor, present: Tensor, template: Tensor, mask: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the target contrasts.

        Parameters
        ----------
        source : Tensor
            ``(B, C, D, H, W)`` float32, in-brain mean 1, zeros for absent contrasts.
        present : Tensor
            ``(B, C)`` float32, 1 for the contrasts that `source` holds.
        template : Tensor
            ``(B, 4, D, H, W)`` float32; all zeros where it is withheld.
        mask : Tensor
            ``(B, 1, D, H, W)`` float32, 1 in the brain.
        direction : Tensor
            ``(B,)`` int64, `Direction.code`.

        Returns
        -------
        mean : Tensor
            ``(B, C, D, H, W)`` prediction of every contrast, zero outside the mask.
        log_scale : Tensor
            ``(B, C, D/2, H/2, W/2)`` natural logarithm of the expected absolute error in every block.
        """
        batch = len(source)
        atlas = self.atlas.expand(batch, -1, -1, -1, -1)
        has_template = template.flatten(1).any(1, keepdim=True).to(source.dtype)
        one_hot = functional.one_hot(direction, len(Direction)).to(source.dtype)
        embedding = self.embed(torch.cat([one_hot, present, has_template], 1))
        # What differs from the atlas is what the subject tells; an absent contrast differs nowhere.
        contrast = (source - atlas) * present[..., None, None, None] * mask
        inputs = torch.cat([contrast, atlas * mask, template, mask], 1)
        features = self._trunk(self.stem(voxels_to_blocks(inputs)), embedding)
        mean, log_scale = self._combine(self.head(features), contrast, atlas, mask, direction)
        if self.voxel is not None:
            mean = mean + mask * self.voxel(mean, contrast, atlas, template, mask, embedding)
        return mean, log_scale

    def _trunk(self, stem: Tensor, embedding: Tensor) -> Tensor:
        """Run the U on blocks; skips are added, which halves the cost of concatenating them."""
        level0 = self.down0(stem, embedding)
        level1 = self.down1(level0, embedding)
        features = self.down2(level1, embedding)
        for block in self.bottom:
            features = block(features, embedding)
        features = self.up1(level1 + double_resolution(self.lift2(features)), embedding)
        return self.up0(level0 + double_resolution(self.lift1(features)), embedding)

    def _combine(
        self, maps: Tensor, contrast: Tensor, atlas: Tensor, mask: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Form ``atlas + a + b s + c s^2`` with the maps of the head; `s` is the source minus the atlas."""
        n, n_pairs = len(CONTRASTS), len(POLYNOMIAL_PAIRS)
        sharp, smooth, log_scale = maps.split([8 * n, 2 * n_pairs, n], dim=1)
        smooth = smooth + self.prior
        mean = atlas + blocks_to_voxels(sharp)
        polynomials = []
        for person, code in enumerate(direction.tolist()):
            # Only the pairs of this person's direction are formed: the others would be thrown away.
            pairs = PAIRS_OF[code]
            targets, sources = zip(*(POLYNOMIAL_PAIRS[pair] for pair in pairs), strict=True)
            used = smooth[person : person + 1, [*pairs, *(pair + n_pairs for pair in pairs)]]
            linear, quadratic = double_resolution(used)[0].chunk(2)
            guide = contrast[person, list(sources)]
            empty = torch.zeros_like(contrast[person])
            row = torch.tensor(targets, device=maps.device)
            polynomials.append(
                empty.index_add(0, row, ((linear + quadratic * guide) * guide).to(empty.dtype))
            )
        mean = mean + torch.stack(polynomials)
        return mean * mask, log_scale.clamp(*LOG_SCALE_RANGE)


def voxels_to_blocks(image: Tensor) -> Tensor:
    """Move 2 x 2 x 2 neighbourhoods into channels: ``(B, C, D, H, W)`` to ``(B, 8 C, D/2, H/2, W/2)``."""
    b, c, d, h, w = image.shape
    blocks = image.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(b, 8 * c, d // 2, h // 2, w // 2)


def blocks_to_voxels(blocks: Tensor) -> Tensor:
    """Undo `voxels_to_blocks`.

    Examples
    --------
    >>> image = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    >>> bool((blocks_to_voxels(voxels_to_blocks(image)) == image).all())
    True
    """
    b, c, d, h, w = blocks.shape
    image = blocks.reshape(b, c // 8, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return image.reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


def double_resolution(features: Tensor) -> Tensor:
    """Double the resolution, trilinearly."""
    return functional.interpolate(features, scale_factor=2, mode="trilinear", align_corners=False)
