"""What the training stream's target shows: BOLD, DWI, b = 0, FA and MD of one canonical protocol."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pds_bids.phantom import contrast

__all__ = ["canonical_signals", "target_of", "within_physics"]

# Cosines of angles between gradient and fibres, squared: Gauss-Legendre nodes, which stand for all directions
# of the gradient, exact for polynomials in the squared cosine up to the fifth power.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_COSINES2, _SHARES = _NODES[3:] ** 2, _WEIGHTS[3:]
# 2 P2 at the nodes, and its mean square.
_P2 = 3 * _COSINES2 - 1
_P2_POWER = 4 / 5
_MAX_FA = 0.85
# Slowest and fastest diffusion along any direction, um^2/ms: across dense fibres, and of free water. The
# expansion in the latent fields leaves them where these are large.
_SLOWEST, _FASTEST = 0.2, 3.5
_B = contrast.CANONICAL_DWI.bval_s_mm2 / 1000  # ms/um^2
_LEAST, _MOST = float(np.exp(-_B * _FASTEST)), float(np.exp(-_B * _SLOWEST))


def canonical_signals() -> tuple[Callable[[np.ndarray], np.ndarray], ...]:
    """Return signal functions: BOLD, DWI at three angles between gradient and fibres, b = 0."""
    bold, _, b0 = contrast.signals(contrast.CANONICAL_BOLD, contrast.CANONICAL_DWI)
    flow = contrast.inflow_factors(contrast.CANONICAL_BOLD.inflow)
    along = (partial(contrast.dwi_signal, cosine2=cosine2) for cosine2 in _COSINES2)
    return (lambda p: bold(p * flow), *along, b0)


def within_physics(images: Tensor) -> Tensor:
    """Limit the decay of the diffusion-weighted ones of ``(5, N)`` images to what tissue and water can do."""
    bold, along, b0 = images[:1], images[1:-1], images[-1:]
    return torch.cat([bold, along.clamp(_LEAST * b0, _MOST * b0), b0])


def target_of(images: Tensor) -> Tensor:
    """Average DWI over directions, and fit a tensor.

    The logarithm is fitted by least squares over all directions of the gradient as if the fibres of a voxel
    had one direction: ``D(c) = MD (1 + k (3 c^2 - 1))`` at an angle of cosine c to them.

    Parameters
    ----------
    images : Tensor
        ``(5, N)``, `canonical_signals` after the point spread.

    Returns
    -------
    Tensor
        ``(5, N)``: BOLD, mean DWI, b = 0, FA, MD in um^2/ms.
    """
    bold, along, b0 = images[0], images[1:-1], images[-1]
    shares, moments = (torch.from_numpy(row).to(images) for row in (_SHARES, _SHARES * _P2 / _P2_POWER))
    diffusivity = -(along / b0.clamp(min=1e-6)).clamp(_LEAST, _MOST).log() / _B
    md = shares @ diffusivity
    k = (moments @ diffusivity / md.clamp(min=1e-3)).clamp(0, 1)
    fa = (3 * k**2 / (1 + 2 * k**2)).sqrt().clamp(max=_MAX_FA)
    return torch.stack([bold, shares @ along, b0, fa, md])
