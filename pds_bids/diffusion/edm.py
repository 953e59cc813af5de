"""Continuous noise levels: preconditioning, noise levels of training and sampling, samplers.

A noisy image is ``x = x0 + sigma * noise``; a denoiser is ``(x, sigma) -> expected x0`` with `sigma`
``(B,)``. Written from Karras et al. 2022, arXiv:2206.00364; its symbols are named where they appear.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pds_bids.diffusion.noise import per_sample
from pds_bids.diffusion.ode import euler, heun

__all__ = ["draw_sigmas", "edm_weight", "euler_sample", "heun_sample", "karras_sigmas", "precondition"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


def precondition(network: Denoiser, sigma_data: float) -> Denoiser:
    """Turn a network into a denoiser; its inputs and targets have unit variance at every noise level.

    Parameters
    ----------
    network : callable
        ``(scaled image, noise code) -> output``, both of the order of 1.
    sigma_data : float
        Standard deviation of the images; measure it, do not leave it at the 0.5 of the paper.

    Returns
    -------
    callable
        ``(noisy, sigma) -> clean``.

    References
    ----------
    Karras et al. 2022, table 1: c_skip, c_out, c_in and c_noise.
    """

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma, noisy)
        total = (level.square() + sigma_data**2).sqrt()
        skip, scale = (sigma_data / total).square(), level * sigma_data / total
        return skip * noisy + scale * network(noisy / total, sigma.log() / 4)

    return denoise


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """Return lambda(sigma), ``(B,)``, with which squared errors of all noise levels count the same."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def draw_sigmas(
    n: int, generator: torch.Generator | None = None, *, log_mean: float = -1.2, log_std: float = 1.2
) -> Tensor:
    """Draw ``(n,)`` float32 noise levels for training, log-normal (P_mean and P_std of the paper)."""
    device = generator.device if generator is not None else None
    return (log_mean + log_std * torch.randn(n, generator=generator, device=device)).exp()


def karras_sigmas(
    n_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Return the falling noise levels of sampling, ``(n_steps + 1,)`` float64, the last of them 0 (eq. 5).

    Examples
    --------
    >>> [round(sigma, 3) for sigma in karras_sigmas(3).tolist()]
    [80.0, 2.515, 0.002, 0.0]
    """
    ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (ends[0] + ramp * (ends[1] - ends[0])) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def euler_sample(denoise: Denoiser, start: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the probability-flow ODE ``dx/dsigma = (x - D(x, sigma)) / sigma`` with Euler steps.

    Parameters
    ----------
    denoise : callable
        ``(noisy, sigma) -> clean``.
    start : Tensor
        ``(B, ...)``: white noise times ``sigmas[0]`` (plus a known image, to start from one).
    sigmas : Tensor
        ``(N + 1,)``, falling, the last 0.

    Returns
    -------
    Tensor
        ``(B, ...)``.
    """
    return euler(_flow_of(denoise), start, sigmas)


def heun_sample(denoise: Denoiser, start: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the same ODE as `euler_sample` with Heun steps: second order for about twice the evaluations.

    References
    ----------
    Karras et al. 2022, algorithm 1.
    """
    return heun(_flow_of(denoise), start, sigmas)


def _flow_of(denoise: Denoiser) -> Denoiser:
    return lambda noisy, sigma: (noisy - denoise(noisy, sigma)) / per_sample(sigma, noisy)
