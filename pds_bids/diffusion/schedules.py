r"""How much of the image is left at every step: ``alpha_bar`` of steps 0 (the image) to T (noise).

``alpha_bar`` has T + 1 entries. Step 0 is the clean image, ``alpha_bar[0] == 1``, so that "the step before t"
is always an entry of the same table and no sampler needs a special case for its end.
"""

import math

import torch
from torch import Tensor

from pds_bids.exceptions import UsageError

__all__ = ["cosine_alpha_bar", "draw_steps", "linear_alpha_bar", "trailing_steps", "with_zero_terminal_snr"]

# Keeps the first steps from being too small to matter (s of Nichol & Dhariwal 2021, eq. 17).
COSINE_OFFSET = 0.008


def cosine_alpha_bar(n_train_steps: int = 1000) -> Tensor:
    r"""Return the cosine schedule; it ends at pure noise, because its betas are not clipped.

    Parameters
    ----------
    n_train_steps : int
        T.

    Returns
    -------
    Tensor
        ``(T + 1,)`` float64, from 1 at step 0 to exactly 0 at step T (zero terminal signal-to-noise ratio).

    References
    ----------
    Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17; Lin et al. 2023, arXiv:2305.08891.

    Examples
    --------
    >>> cosine_alpha_bar(4)[[0, 4]].tolist()
    [1.0, 0.0]
    """
    time = torch.linspace(0, 1, n_train_steps + 1, dtype=torch.float64)
    angle = (time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
    alpha_bar = (torch.cos(angle) / torch.cos(angle[0])).square()
    alpha_bar[-1] = 0
    return alpha_bar


def linear_alpha_bar(n_train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return the schedule of Ho et al. with linear betas; 0.004% of the variance is still signal at its end.

    Parameters
    ----------
    n_train_steps : int
        T.
    first, last : float
        Variance added at step 1 and at step T.

    Returns
    -------
    Tensor
        ``(T + 1,)`` float64. Pass it through `with_zero_terminal_snr` before sampling from pure noise.

    References
    ----------
    Ho, Jain and Abbeel 2020, arXiv:2006.11239, section 4.
    """
    kept = 1 - torch.linspace(first, last, n_train_steps, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), kept.cumprod(0)])


def with_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and stretch the square root of a schedule such that it ends at 0 and still starts at 1.

    References
    ----------
    Lin et al. 2023, arXiv:2305.08891, algorithm 1.

    Examples
    --------
    >>> with_zero_terminal_snr(torch.tensor([1.0, 0.25, 0.04])).tolist()
    [1.0, 0.140625, 0.0]
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) / (root[0] - root[-1])).square()


def trailing_steps(n_train_steps: int, n_steps: int) -> list[int]:
    """Return the steps that a sampler visits, from T down to 0, as evenly spaced as integers allow.

    Sampling starts at T, where training ended in pure noise, and each step's successor is the one before it
    in the list. ("Leading" spacing starts below T and finds an image where it was given noise.)

    Raises
    ------
    UsageError
        If `n_steps` is not in 1..T.

    Examples
    --------
    >>> trailing_steps(1000, 4)
    [1000, 750, 500, 250, 0]
    >>> trailing_steps(10, 3)
    [10, 7, 3, 0]
    """
    if not 1 <= n_steps <= n_train_steps:
        raise UsageError(f"{n_steps} sampling steps, expected 1 to {n_train_steps} (the steps of training)")
    return [(n_train_steps * i + n_steps // 2) // n_steps for i in range(n_steps, -1, -1)]


def draw_steps(n: int, n_train_steps: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``(n,)`` int64 steps from 1..T for training: one in each n-th of the range, shuffled."""
    device = generator.device if generator is not None else None
    place = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
    order = torch.randperm(n, generator=generator, device=device)
    return 1 + ((order + place) / n * n_train_steps).long().clamp_max(n_train_steps - 1)
