"""What a disease changes in a person (stub of the shared interface)."""

from dataclasses import dataclass

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.phantom.tissue import LATENTS

__all__ = ["Effects", "no_effects"]


@dataclass(frozen=True, eq=False)
class Effects:
    """What differs from a healthy person; see `no_effects`.

    Parameters
    ----------
    grid : Grid
        Lattice of `latents` in template space.
    latents : ndarray
        ``(X, Y, Z, 5)`` float32, added to the latent fields.
    ventricle_mm : float
        Outward shift of the walls of the ventricles.
    hippocampus, cortex : float
        Share of tissue turned into fluid.
    parcels : ndarray
        ``(X, Y, Z)`` int32 atlas indices on `parcel_grid`, 0 none.
    parcel_grid : Grid
        Lattice of `parcels`.
    level, amplitude : ndarray
        ``(P + 1,)`` float32, multiply the mean and the fluctuation of a parcel's grey matter.
    network : ndarray
        ``(P + 1,)`` int, network of each parcel, 0 none.
    coupling : ndarray
        ``(n_networks + 1,)`` float32, share of a parcel's fluctuation that its network shares.
    """

    grid: Grid
    latents: np.ndarray
    ventricle_mm: float
    hippocampus: float
    cortex: float
    parcels: np.ndarray
    parcel_grid: Grid
    level: np.ndarray
    amplitude: np.ndarray
    network: np.ndarray
    coupling: np.ndarray


def no_effects() -> Effects:
    """Return effects that change nothing, without parcels."""
    grid = Grid((2, 2, 2), np.diag([100.0, 100.0, 100.0, 1.0]))
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return Effects(
        grid,
        np.zeros((2, 2, 2, len(LATENTS)), np.float32),
        0.0,
        0.0,
        0.0,
        np.zeros((2, 2, 2), np.int32),
        grid,
        one,
        one,
        np.zeros(1, int),
        zero,
    )
