"""Orientation of fibres: left-right in the callosum, upright in the capsules, smooth elsewhere."""

from typing import TYPE_CHECKING

import numpy as np

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom.fields import random_field
from pds_bids.phantom.sampling import gather
from pds_bids.phantom.tissue import Tissue

if TYPE_CHECKING:
    from pds_bids.phantom.person import Scan

__all__ = ["fibre_axes"]

# In template space, so that one person has the same fibres on every grid.
_LATTICE = Grid(
    (26, 31, 26), np.array([[8.0, 0, 0, -100], [0, 8.0, 0, -136], [0, 0, 8.0, -82], [0, 0, 0, 1]])
)


def fibre_axes(rng: np.random.Generator, seen: "Scan") -> np.ndarray:
    """Return the axis of the tensor in every voxel.

    Parameters
    ----------
    rng : Generator
        Source of randomness; the same seed gives the same fibres on every grid.
    seen : Scan
        A person on a grid.

    Returns
    -------
    ndarray
        ``(X, Y, Z, 3)`` float64, unit vectors along the axes of the scanner (RAS+).
    """
    shape = seen.grid.shape
    x, y, z = (seen.template_points[:, k].reshape(shape).astype(float) for k in range(3))
    wild = np.ascontiguousarray(
        np.moveaxis(random_field(rng, _LATTICE.shape, _LATTICE.zooms, 18.0, 3), 0, -1)
    )
    index = apply_affine(_LATTICE.ras2vox, seen.template_points)
    axes = 0.5 * gather(wild, index).reshape(*shape, 3).astype(float)
    callosum = np.exp(-((x / 14) ** 2)) * (z > -8)
    # Along the callosum's arch fibres fan out: forward in the forceps minor, backward in the major.
    axes[..., 0] += 4 * callosum
    axes[..., 1] += 1.5 * callosum * np.sign(x) * (y + 18) / 60
    upright = np.exp(-(((np.abs(x) - 24) / 8) ** 2) - ((y + 12) / 25) ** 2) * (z > -15)
    upright = upright + 2 * seen.share(Tissue.BRAINSTEM)
    axes[..., 2] += 3 * upright
    axes[..., 0] += 0.6 * upright * np.sign(x) * np.clip((z - 20) / 30, -1, 1)
    axes[..., 1] += 1.0 * np.exp(-(((np.abs(x) - 36) / 8) ** 2))
    return axes / np.maximum(np.linalg.norm(axes, axis=-1, keepdims=True), 1e-9)
