"""A diffusion transformer over the patches of a volume."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.models.discriminator import time_vector

__all__ = ["DiT", "DiTConfig"]

# Width of the sines and cosines of the time.
N_TIME = 128


@dataclass(frozen=True)
class DiTConfig:
    """Size of a `DiT`.

    Parameters
    ----------
    width : int
        Of every token; a multiple of 6 and of `n_heads`.
    depth : int
        Blocks.
    n_heads : int
        Of every attention.
    patch : int
        Voxels per token and axis.
    """

    width: int = 192
    depth: int = 6
    n_heads: int = 6
    patch: int = 2


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated by the condition; starts as the identity."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Return ``(B, N, width)`` tokens; `condition` is ``(B, width)``."""
        modulation = self.modulate(functional.silu(condition))[:, None].chunk(6, dim=2)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        tokens = tokens + gate1 * self._attend(self.norm1(tokens) * (1 + scale1) + shift1)
        return tokens + gate2 * self.perceptron(self.norm2(tokens) * (1 + scale2) + shift2)

    def _attend(self, tokens: Tensor) -> Tensor:
        b, n, width = tokens.shape
        heads = self.qkv(tokens).view(b, n, 3, self.n_heads, width // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        gathered = functional.scaled_dot_product_attention(query, key, value)
        return self.mix(gathered.transpose(1, 2).reshape(b, n, width))


class DiT(nn.Module):
    """``(image, step, known) -> image`` by a transformer with adaLN-Zero blocks.

    Parameters
    ----------
    config : DiTConfig
        Size.
    n_in, n_out : int
        Channels.
    n_known : int
        Width of the vector that is embedded and added to the embedding of the time.
    shape : tuple of int
        ``(D, H, W)`` of the image; multiples of the patch.

    References
    ----------
    Peebles and Xie 2023, arXiv:2212.09748.
    """

    position: Tensor

    def __init__(
        self, config: DiTConfig, n_in: int, n_out: int, n_known: int, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        width, patch = config.width, config.patch
        self.config = config
        self.n_out = n_out
        self.embed = nn.Conv3d(n_in, width, patch, patch)
        grid = tuple(size // patch for size in shape)
        # Computed from the sizes: no need to save it.
        self.register_buffer("position", sine_positions(grid, width)[None], persistent=False)
        self.time = nn.Sequential(nn.Linear(N_TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.known = nn.Sequential(nn.Linear(n_known, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, config.n_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulate = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, n_out * patch**3)
        for layer in (self.modulate, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, step: Tensor, known: Tensor) -> Tensor:
        """Run the network: image ``(B, n_in, D, H, W)``, step ``(B,)`` and known ``(B, n_known)``."""
        features = self.embed(image)
        tokens = features.flatten(2).transpose(1, 2) + self.position
        condition = self.time(time_vector(step, N_TIME)) + self.known(known)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulate(functional.silu(condition))[:, None].chunk(2, dim=2)
        tokens = self.head(self.norm(tokens) * (1 + scale) + shift)
        return self._assemble(tokens, features.shape[2:])

    def _assemble(self, tokens: Tensor, grid: torch.Size) -> Tensor:
        p, (d, h, w) = self.config.patch, grid
        cubes = tokens.view(len(tokens), d, h, w, self.n_out, p, p, p)
        return cubes.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(tokens), self.n_out, d * p, h * p, w * p)


def sine_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Return ``(N, width)``: a third of the channels tells the place along each axis.

    Examples
    --------
    >>> sine_positions((2, 1, 1), 6)[:, 0]
    tensor([1.0000, 0.5403])
    """
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(grid))
    return torch.cat([time_vector(places[:, axis], width // len(grid)) for axis in range(len(grid))], 1)
