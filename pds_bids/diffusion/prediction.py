"""What a network predicts (image, noise or velocity), and how to get from one to the other."""

from collections.abc import Callable
from enum import StrEnum

from torch import Tensor

from pds_bids.diffusion.noise import per_sample
from pds_bids.exceptions import UsageError

__all__ = ["Prediction", "add_noise", "denoiser_of", "estimate_clean", "training_target"]


class Prediction(StrEnum):
    """Meaning of a network's output.

    ``CLEAN`` is the image itself (x0), ``NOISE`` the noise in it (epsilon), ``VELOCITY`` is
    ``v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0`` (Salimans and Ho 2022, arXiv:2202.00512).
    """

    CLEAN = "clean"
    NOISE = "noise"
    VELOCITY = "velocity"


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) epsilon``; `alpha_bar` is ``(B,)``."""
    kept = per_sample(alpha_bar, clean)
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def training_target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Return what the network shall output for ``add_noise(clean, noise, alpha_bar)``."""
    if prediction is Prediction.CLEAN:
        return clean
    if prediction is Prediction.NOISE:
        return noise
    kept = per_sample(alpha_bar, clean)
    return kept.sqrt() * noise - (1 - kept).sqrt() * clean


def estimate_clean(output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Turn a network's output into its estimate of the clean image.

    Raises
    ------
    UsageError
        For a prediction of noise where no signal is left: the image cannot be had from it.

    Examples
    --------
    >>> import torch
    >>> clean, noise, kept = torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([0.36])
    >>> v = training_target(clean, noise, kept, Prediction.VELOCITY)
    >>> round(estimate_clean(v, add_noise(clean, noise, kept), kept, Prediction.VELOCITY).item(), 5)
    2.0
    """
    if prediction is Prediction.CLEAN:
        return output
    kept = per_sample(alpha_bar, noisy)
    if prediction is Prediction.VELOCITY:
        return kept.sqrt() * noisy - (1 - kept).sqrt() * output
    if not bool((alpha_bar > 0).all()):
        raise UsageError(
            "noise prediction at zero signal-to-noise ratio says nothing of the image; predict v or x0"
        )
    return (noisy - (1 - kept).sqrt() * output) / kept.sqrt()


def denoiser_of(
    network: Callable[[Tensor, Tensor], Tensor], alpha_bar: Tensor, prediction: Prediction
) -> Callable[[Tensor, Tensor], Tensor]:
    """Wrap a network ``(noisy, step) -> output`` into a denoiser ``(noisy, step) -> clean``."""

    def denoise(noisy: Tensor, step: Tensor) -> Tensor:
        kept = alpha_bar.to(step.device)[step]
        return estimate_clean(network(noisy, step), noisy, kept, prediction)

    return denoise
