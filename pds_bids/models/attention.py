"""Self-attention over all voxels of a coarse level."""

import torch
from torch import Tensor, nn

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Add to every voxel a weighted mean over all voxels; starts as the identity.

    Parameters
    ----------
    n_channels : int
        Channels in and out; at least 8.

    References
    ----------
    Zhang et al. 2019, arXiv:1805.08318, eqs. 1 to 3.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        n_key = max(n_channels // 8, 1)
        self.query = nn.Conv3d(n_channels, n_key, 1)
        self.key = nn.Conv3d(n_channels, n_key, 1)
        self.value = nn.Conv3d(n_channels, n_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, C, D, H, W)``."""
        query, key, value = (layer(features).flatten(2) for layer in (self.query, self.key, self.value))
        # The paper does not divide by the root of the key's width.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)
        gathered = value @ weights.transpose(1, 2)
        return features + self.gamma * gathered.view_as(features)
