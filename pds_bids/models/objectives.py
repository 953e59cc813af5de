"""Errors that methods are trained with, in the brain and on the target contrasts of each person only.

`channel_weights` is ``(B, C)``, for example `pds_bids.methods.target_weights`: it sums to 1 over the target
contrasts of a person and is 0 elsewhere. Every error is an average over voxels, contrasts and persons.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.exceptions import DataError

__all__ = [
    "ParcelLoss",
    "effect_sizes",
    "gradient_error",
    "laplace_error",
    "structural_error",
    "voxel_weights",
]

# Stabilisers of SSIM for a data range of 1 (Wang et al. 2004: K1 = 0.01, K2 = 0.03).
SSIM_STABILISERS = (0.01**2, 0.03**2)
SSIM_WINDOW = 7


def voxel_weights(mask: Tensor, channel_weights: Tensor) -> Tensor:
    """Return ``(B, C, D, H, W)`` weights that sum to 1; every person counts the same."""
    weight = mask * channel_weights[..., None, None, None]
    return weight / weight.sum((1, 2, 3, 4), keepdim=True).clamp_min(1e-6) / len(weight)


def gradient_error(error: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted L1 norm of the differences between neighbours of `error`, averaged over axes."""
    parts = [
        (weight.narrow(axis, 1, weight.shape[axis] - 1) * error.diff(dim=axis).abs()).sum()
        for axis in (2, 3, 4)
    ]
    return torch.stack(parts).mean()


def laplace_error(log_scale: Tensor, size: Tensor, weight: Tensor) -> Tensor:
    """Return the negative Laplace log-likelihood of absolute errors, without its constant.

    Parameters
    ----------
    log_scale : Tensor
        ``(B, C, D/2, H/2, W/2)`` logarithm of the expected absolute error, one for each block of two voxels.
    size, weight : Tensor
        ``(B, C, D, H, W)`` absolute errors, through which no gradient flows, and `voxel_weights`.
    """
    weights, sizes = (8 * functional.avg_pool3d(image, 2) for image in (weight, weight * size.detach()))
    return (weights * log_scale + sizes * torch.exp(-log_scale)).sum()


def structural_error(image: Tensor, truth: Tensor, weight: Tensor, data_range: float) -> Tensor:
    """Return 1 - SSIM with a uniform window of 7 voxels, averaged with `weight`.

    References
    ----------
    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861
    """

    def local(volume: Tensor) -> Tensor:
        padding = SSIM_WINDOW // 2
        return functional.avg_pool3d(volume, SSIM_WINDOW, 1, padding, count_include_pad=False)

    x, y = image / data_range, truth / data_range
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = SSIM_STABILISERS
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    shape = (2 * covariance + c2) / (var_x + var_y + c2)
    return (weight * (1 - light * shape)).sum()


class ParcelLoss(nn.Module):
    """L1 distance between the parcel means of two images: the pattern-aware loss, on images.

    Parameters
    ----------
    parcels : Tensor
        ``(C, D, H, W)`` integers, 0 for none: for every contrast the atlas of its modality (A_f for BOLD, A_d
        for the diffusion contrasts), on the window.
    weights : Tensor, optional
        ``(C, P)`` float32, importance of parcels 1..P, for example `effect_sizes` on the training split.
        Uniform by default.

    Raises
    ------
    DataError
        If there is no parcel, or the weights do not fit.
    """

    parcels: Tensor
    weights: Tensor

    def __init__(self, parcels: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        n_parcels = int(parcels.max())
        if n_parcels < 1:
            raise DataError("pattern-aware loss: the atlas has no parcel in the window; check its grid")
        if weights is None:
            weights = torch.ones(len(parcels), n_parcels)
        if weights.shape != (len(parcels), n_parcels) or bool((weights < 0).any()):
            raise DataError(
                f"pattern-aware loss: weights of shape {tuple(weights.shape)}, expected "
                f"{(len(parcels), n_parcels)}, none negative"
            )
        # The atlas is needed for training only and does not belong into a file of weights.
        self.register_buffer("parcels", parcels.long().flatten(1), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, image: Tensor, truth: Tensor, mask: Tensor, channel_weights: Tensor) -> Tensor:
        """Return the weighted mean over parcels of ``|mean(image) - mean(truth)|``."""
        n_parcels = self.weights.shape[1]
        # The mean is linear: the difference of means is the mean of the difference.
        error = ((image - truth) * mask).flatten(2)
        inside = mask[:, 0].flatten(1)
        total = error.new_zeros(())
        for contrast, (labels, weights) in enumerate(zip(self.parcels, self.weights, strict=True)):
            empty = error.new_zeros(len(error), n_parcels + 1)
            sums = empty.index_add(1, labels, error[:, contrast])[:, 1:]
            counts = empty.index_add(1, labels, inside)[:, 1:]
            used = weights * (counts > 0)
            distance = (used * (sums / counts.clamp_min(1)).abs()).sum(1) / used.sum(1).clamp_min(1e-6)
            total = total + (channel_weights[:, contrast] * distance).sum() / len(error)
        return total


def effect_sizes(means: Tensor, groups: Tensor) -> Tensor:
    """Return how strongly parcel means differ between groups of the training split (Cohen's f).

    Parameters
    ----------
    means : Tensor
        ``(N, P)`` parcel means of N people.
    groups : Tensor
        ``(N,)`` integers, for example diagnosis.

    Returns
    -------
    Tensor
        ``(P,)``: square root of the variance between over the variance within groups.

    Examples
    --------
    >>> effect_sizes(torch.tensor([[0.0], [2.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1]))
    tensor([1.5000])
    """
    between, within = torch.zeros_like(means[0]), torch.zeros_like(means[0])
    for group in groups.unique():
        members = means[groups == group]
        between = between + len(members) * (members.mean(0) - means.mean(0)).square()
        within = within + (members - members.mean(0)).square().sum(0)
    return (between / within.clamp_min(1e-12)).sqrt()
