"""Two integrators: Euler (first order) and Heun (second order)."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

__all__ = ["euler", "heun"]

Velocity = Callable[[Tensor, Tensor], Tensor]


def euler(velocity: Velocity, start: Tensor, times: Tensor) -> Tensor:
    """Integrate ``dx/dt = velocity(x, t)`` through `times`, one evaluation per interval.

    Parameters
    ----------
    velocity : callable
        ``(x, t) -> dx/dt`` with `t` of shape ``(B,)``.
    start : Tensor
        ``(B, ...)`` at ``times[0]``.
    times : Tensor
        ``(N + 1,)``, rising or falling.

    Returns
    -------
    Tensor
        ``(B, ...)`` at ``times[-1]``; the error falls as 1/N.

    Examples
    --------
    >>> import torch
    >>> euler(lambda x, t: 0 * x + 2, torch.zeros(1), torch.tensor([0.0, 1.0]))
    tensor([2.])
    """
    state = start
    for now, then in pairwise(times):
        state = state + float(then - now) * velocity(state, _spread(now, state))
    return state


def heun(velocity: Velocity, start: Tensor, times: Tensor) -> Tensor:
    """Integrate as `euler`, averaging the velocities at both ends of every interval but the last.

    The last interval is a Euler step, since denoisers and endpoint predictors divide by zero at the very end.
    It costs ``2 N - 1`` evaluations, and the error falls as 1/N^2.
    """
    state = start
    for index, (now, then) in enumerate(pairwise(times)):
        width = float(then - now)
        slope = velocity(state, _spread(now, state))
        if index < len(times) - 2:
            end = velocity(state + width * slope, _spread(then, state))
            slope = (slope + end) / 2
        state = state + width * slope
    return state


def _spread(time: Tensor, state: Tensor) -> Tensor:
    return time.to(state).expand(len(state))
