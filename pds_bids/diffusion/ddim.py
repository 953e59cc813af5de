"""Discrete-time samplers: DDPM (ancestral) and DDIM."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pds_bids.diffusion.noise import standard_normal
from pds_bids.diffusion.schedules import trailing_steps
from pds_bids.exceptions import UsageError

__all__ = ["ddim_sample", "ddpm_sample"]


def ddim_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    alpha_bar: Tensor,
    n_steps: int,
    *,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """Sample with steps of any size.

    Parameters
    ----------
    denoise : callable
        ``(noisy, step) -> clean``: the expected image given a noisy one; `step` is ``(B,)`` int64 in 1..T.
        See `denoiser_of` for networks that predict noise or velocity.
    noise : Tensor
        ``(B, ...)``, white: the sample at step T.
    alpha_bar : Tensor
        ``(T + 1,)``, a schedule from `pds_bids.diffusion.schedules`.
    n_steps : int
        Evaluations of `denoise`, 1 to T.
    eta : float
        Share of fresh noise: 0 follows the deterministic ODE, 1 is the ancestral sampler (`ddpm_sample`).
    generators : sequence of Generator
        One per sample; needed where ``eta > 0``.

    Returns
    -------
    Tensor
        ``(B, ...)``, the sample at step 0.

    Raises
    ------
    UsageError
        If ``eta > 0`` and there are no generators, or `n_steps` does not fit the schedule.

    References
    ----------
    Song, Meng and Ermon 2021, arXiv:2010.02502, eqs. 12 and 16.
    """
    if eta and not generators:
        raise UsageError(f"eta {eta} draws fresh noise at every step; give one random generator per sample")
    sample = noise
    for step, following in pairwise(trailing_steps(len(alpha_bar) - 1, n_steps)):
        kept, next_kept = float(alpha_bar[step]), float(alpha_bar[following])
        clean = denoise(sample, torch.full((len(sample),), step, device=sample.device))
        estimated_noise = (sample - kept**0.5 * clean) / (1 - kept) ** 0.5
        fresh = eta**2 * (1 - next_kept) / (1 - kept) * (1 - kept / next_kept)
        # Rounding may leave -1e-17, whose root is complex.
        old = max(1 - next_kept - fresh, 0.0)
        sample = next_kept**0.5 * clean + old**0.5 * estimated_noise
        if fresh:
            sample = sample + fresh**0.5 * standard_normal(sample, generators)
    return sample


def ddpm_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    alpha_bar: Tensor,
    n_steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Sample from the chain of posteriors ``q(x_s | x_t, x0)`` with x0 replaced by its estimate.

    Its parameters are those of `ddim_sample`. The fresh noise has the variance that is exact for a single
    image (beta tilde of Ho et al.), so that with few steps the spread is too small, never too large.

    References
    ----------
    Ho, Jain and Abbeel 2020, arXiv:2006.11239, eqs. 6 and 7, for any two steps s < t.
    """
    return ddim_sample(denoise, noise, alpha_bar, n_steps, eta=1.0, generators=generators)
