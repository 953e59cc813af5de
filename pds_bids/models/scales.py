"""Standard deviations that are measured during the first updates of a training."""

import torch
from torch import Tensor, nn

__all__ = ["MeasuredScale"]

# Later the scale stands still, so that what the network has learned keeps its unit.
N_MEASURED = 100


class MeasuredScale(nn.Module):
    """Root mean square per channel over the first 100 batches of a training; then fixed.

    Parameters
    ----------
    n_channels : int
        Number of channels.
    first : float
        Scale before anything is measured.
    """

    mean_square: Tensor
    count: Tensor

    def __init__(self, n_channels: int, first: float) -> None:
        super().__init__()
        self.register_buffer("mean_square", torch.full((n_channels,), first**2))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def measure(self, images: Tensor, weight: Tensor) -> None:
        """Take ``(B, C, D, H, W)`` images into account where `weight`, of the same shape, is not zero.

        Does nothing in evaluation mode, after 100 calls, and for channels that no one in the batch has.
        """
        if not self.training or self.count >= N_MEASURED:
            return
        total = weight.sum((0, 2, 3, 4))
        found = (weight * images.square()).sum((0, 2, 3, 4)) / total.clamp_min(1e-12)
        # The first value is a guess and counts like one batch.
        share = (total > 0) / (self.count + 2)
        self.mean_square.lerp_(found.to(self.mean_square), share.to(self.mean_square))
        self.count += 1

    @property
    def value(self) -> Tensor:
        """``(1, C, 1, 1, 1)`` float32 standard deviations."""
        return self.mean_square.sqrt().view(1, -1, 1, 1, 1)
