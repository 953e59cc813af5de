"""Local regression of the target on the source over simulated people: where a network starts from.

Around every block of voxels the difference of the target from the atlas is regressed on the differences of
the sources and on their squares. It costs seconds, is a strong predictor by itself, and spares the network
the minutes that it would need to find it by gradient descent.
"""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.models.unet import POLYNOMIAL_PAIRS

__all__ = ["local_regression"]

# Reach of the neighbourhood, in blocks of two voxels; 9 mm on a 3 mm grid.
SIGMA_BLOCKS = 1.5
RIDGE = 0.02


def local_regression(
    pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], atlas: np.ndarray
) -> np.ndarray:
    """Fit the maps b and c of ``target - atlas = b s + c s^2``, ``s = source - atlas``, in every block.

    The anatomy, which may be missing, is left out: its maps are 0.

    Parameters
    ----------
    pairs : iterable of (ndarray, ndarray, ndarray, ndarray)
        Source and target, ``(C, D, H, W)``, mask, ``(D, H, W)`` bool, and which targets there are, ``(C,)``
        bool, of many people. A target that somebody lacks is taken for the mean.
    atlas : ndarray
        ``(C, D, H, W)``.

    Returns
    -------
    ndarray
        ``(2 P, D/2, H/2, W/2)`` float32: b, then c, of the P target-source pairs of the network's polynomial.
    """
    channels = {
        way: tuple(
            [CONTRASTS.index(c) for c in group] for group in (MODALITIES[way.source].sources, way.targets)
        )
        for way in Direction
    }
    gram: dict[Direction, np.ndarray] = {}
    cross: dict[Direction, np.ndarray] = {}
    for source, target, mask, given in pairs:
        for way, (sources, targets) in channels.items():
            s = (source[sources] - atlas[sources]) * mask
            design = np.concatenate([s, s**2])
            residual = (target[targets] - atlas[targets]) * mask * given[targets, None, None, None]
            gram[way] = gram.get(way, 0) + _pool(design[:, None] * design[None])
            cross[way] = cross.get(way, 0) + _pool(design[:, None] * residual[None])
    maps = np.zeros((2 * len(POLYNOMIAL_PAIRS), *(n // 2 for n in atlas.shape[1:])), np.float32)
    for way, (sources, targets) in channels.items():
        coefficients = _solve(_smooth(gram[way]), _smooth(cross[way]))
        for j, target_channel in enumerate(targets):
            for i, source_channel in enumerate(sources):
                pair = POLYNOMIAL_PAIRS.index((target_channel, source_channel))
                maps[pair] = coefficients[..., i, j]
                maps[pair + len(POLYNOMIAL_PAIRS)] = coefficients[..., i + len(sources), j]
    return maps


def _pool(images: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 x 2 voxels of ``(F, G, D, H, W)``."""
    f, g, d, h, w = images.shape
    return images.reshape(f, g, d // 2, 2, h // 2, 2, w // 2, 2).mean((3, 5, 7))


def _smooth(moments: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(moments, (0, 0, *[SIGMA_BLOCKS] * 3), mode="nearest")


def _solve(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Solve the ridge regression of every block; a block without brain gets zeros."""
    a, b = (np.moveaxis(moments, (0, 1), (-2, -1)) for moments in (gram, cross))
    strength = np.diagonal(a, axis1=-2, axis2=-1)
    typical = strength[strength[..., 0] > 0].mean(0)
    return np.linalg.solve(a + RIDGE * np.diag(typical), b)
