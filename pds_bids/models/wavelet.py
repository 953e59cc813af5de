"""Three-dimensional Haar wavelets of one level, orthonormal, on blocks of 2 x 2 x 2 voxels."""

import functools

import torch
from torch import Tensor

from pds_bids.models.unet import blocks_to_voxels, voxels_to_blocks

__all__ = ["haar_forward", "haar_inverse"]


def haar_forward(image: Tensor) -> Tensor:
    """Transform ``(B, C, D, H, W)`` to ``(B, 8 C, D/2, H/2, W/2)``.

    Channels ``8 c`` to ``8 c + 7`` belong to contrast `c`: low pass on all axes first, then LLH, LHL, LHH,
    HLL, HLH, HHL, HHH, the last letter for the last axis. White noise stays white.

    Examples
    --------
    >>> [round(value, 4) for value in haar_forward(torch.ones(1, 1, 2, 2, 2)).flatten().tolist()[:2]]
    [2.8284, 0.0]
    """
    return _mix(voxels_to_blocks(image), _matrix())


def haar_inverse(coefficients: Tensor) -> Tensor:
    """Undo `haar_forward`."""
    return blocks_to_voxels(_mix(coefficients, _matrix().T))


def _mix(blocks: Tensor, matrix: Tensor) -> Tensor:
    by_contrast = blocks.unflatten(1, (-1, 8))
    return torch.einsum("ij,bcjdhw->bcidhw", matrix.to(blocks), by_contrast).flatten(1, 2)


@functools.cache
def _matrix() -> Tensor:
    """Sum and difference along each of three axes: the Kronecker cube of [[1, 1], [1, -1]] / sqrt(2)."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    return torch.kron(torch.kron(pair, pair), pair)
