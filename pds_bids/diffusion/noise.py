"""White noise from one generator per sample, and factors that broadcast over a sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_bids.exceptions import UsageError

__all__ = ["per_sample", "standard_normal"]


def standard_normal(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw white noise of the shape of `like`, sample i from generator i only.

    Parameters
    ----------
    like : Tensor
        ``(B, ...)``; gives shape, dtype and device.
    generators : sequence of Generator
        One per sample; they advance. The same generators give the same numbers on every device, because the
        noise is drawn where the generator lives.

    Returns
    -------
    Tensor
        ``(B, ...)``.

    Raises
    ------
    UsageError
        If there is not exactly one generator per sample.

    Examples
    --------
    >>> both = standard_normal(torch.zeros(2, 3), [torch.Generator().manual_seed(i) for i in (5, 6)])
    >>> alone = standard_normal(torch.zeros(1, 3), [torch.Generator().manual_seed(6)])
    >>> torch.equal(both[1:], alone)
    True
    """
    if len(generators) != len(like):
        raise UsageError(f"{len(like)} samples need as many random generators, got {len(generators)}")
    shape = like.shape[1:]
    drawn = [torch.randn(shape, generator=g, device=g.device, dtype=like.dtype) for g in generators]
    return torch.stack([noise.to(like.device) for noise in drawn])


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``(B,)`` to ``(B, 1, ..., 1)`` so that it multiplies `like`, in the dtype of `like`."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
