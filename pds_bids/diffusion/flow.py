"""Rectified flow and Brownian bridge: from a start at time 0 to the image at time 1."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pds_bids.diffusion.noise import per_sample, standard_normal
from pds_bids.diffusion.ode import euler, heun

__all__ = ["bridge_point", "bridge_sample", "draw_times", "flow_point", "flow_sample", "velocity_towards"]

Predictor = Callable[[Tensor, Tensor], Tensor]


def draw_times(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``(n,)`` float32 times from [0, 1), stratified: one in each n-th of the interval, shuffled."""
    device = generator.device if generator is not None else None
    place = torch.rand(n, generator=generator, device=device)
    return (torch.randperm(n, generator=generator, device=device) + place) / n


def flow_point(start: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Return ``(1 - t) start + t end``; a network learns `end`, or the velocity ``end - start``, from it."""
    place = per_sample(time, start)
    return (1 - place) * start + place * end


def velocity_towards(predict: Predictor) -> Predictor:
    """Turn a predictor of the end, ``(x, t) -> end``, into a velocity ``(end - x) / (1 - t)``.

    One Euler step then is the prediction itself, and the last of several lands on one.
    """
    return lambda state, time: (predict(state, time) - state) / (1 - per_sample(time, state))


def flow_sample(velocity: Predictor, start: Tensor, n_steps: int, *, is_second_order: bool = False) -> Tensor:
    """Integrate a velocity from time 0 to 1.

    Parameters
    ----------
    velocity : callable
        ``(x, t) -> dx/dt``, `t` of shape ``(B,)``.
    start : Tensor
        ``(B, ...)``: noise (rectified flow), or a posterior mean with a little noise (PMRF).
    n_steps : int
        Intervals.
    is_second_order : bool
        Heun (``2 n - 1`` evaluations) instead of Euler.

    Returns
    -------
    Tensor
        ``(B, ...)``.

    References
    ----------
    Liu, Gong and Liu 2023, arXiv:2209.03003; Ohayon et al. 2024 (PMRF), arXiv:2410.00418.
    """
    times = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    return (heun if is_second_order else euler)(velocity, start, times)


def bridge_point(start: Tensor, end: Tensor, time: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Return a point of a Brownian bridge: ``(1 - t) start + t end + scale sqrt(t (1 - t)) noise``."""
    place = per_sample(time, start)
    return flow_point(start, end, time) + scale * (place * (1 - place)).sqrt() * noise


def bridge_sample(
    predict: Predictor, start: Tensor, n_steps: int, scale: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Walk a Brownian bridge from a source image to its target.

    Parameters
    ----------
    predict : callable
        ``(x, t) -> expected end``, `t` of shape ``(B,)``.
    start : Tensor
        ``(B, ...)``, the source image.
    n_steps : int
        Evaluations of `predict`; with one, the result is the prediction.
    scale : float
        Standard deviation of the bridge is ``scale / 2`` half way; as in training.
    generators : sequence of Generator
        One per sample.

    Returns
    -------
    Tensor
        ``(B, ...)``.

    References
    ----------
    Liu et al. 2023 (I2SB), arXiv:2302.05872; Li et al. 2023 (BBDM), arXiv:2205.07680.
    """
    state = start
    for now, then in pairwise(torch.linspace(0, 1, n_steps + 1, dtype=torch.float64).tolist()):
        end = predict(state, torch.full((len(state),), now, dtype=state.dtype, device=state.device))
        share = (then - now) / (1 - now)
        state = state + share * (end - state)
        fresh = scale * (share * (1 - then)) ** 0.5
        if fresh:
            state = state + fresh * standard_normal(state, generators)
    return state
