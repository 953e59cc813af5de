"""Sizes that halve evenly."""

from torch import Tensor
from torch.nn import functional

__all__ = ["crop_to", "pad_to_multiple"]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Append zeros to the end of each axis of ``(B, C, D, H, W)`` until its size is a multiple.

    Examples
    --------
    >>> import torch
    >>> tuple(pad_to_multiple(torch.ones(1, 1, 7, 8, 9), 4).shape[2:])
    (8, 8, 12)
    """
    missing = [-size % multiple for size in image.shape[2:]]
    if not any(missing):
        return image
    return functional.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]))


def crop_to(image: Tensor, like: Tensor) -> Tensor:
    """Undo `pad_to_multiple`: return the part of `image` that is as large as `like`."""
    depth, height, width = like.shape[2:]
    return image[..., :depth, :height, :width]
