"""A template as arrays on one grid, and EPI-like images painted from its tissue maps."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.modalities import Contrast

__all__ = ["TISSUE_SIGNAL", "Template", "paint_epi"]

# Signal of grey matter, white matter and cerebrospinal fluid, grey matter = 1. BOLD and b0: medians of eight
# real scans registered to the template; DWI: b = 1000 s/mm^2, where free water has lost 95% of its signal.
TISSUE_SIGNAL: dict[Contrast, tuple[float, float, float]] = {
    Contrast.BOLD: (1.0, 0.88, 1.3),
    Contrast.B0: (1.0, 0.8, 1.9),
    Contrast.DWI: (1.0, 0.8, 0.45),
}


@dataclass(frozen=True, eq=False)
class Template:
    """A template head and its parcels, all arrays on one grid.

    Parameters
    ----------
    grid : Grid
        Lattice in template space.
    t1w : ndarray
        ``(X, Y, Z)`` float32; T1-weighted image, any unit; with or without the skull, see `origin`.
    mask : ndarray
        ``(X, Y, Z)`` bool; brain.
    gm, wm, csf : ndarray
        ``(X, Y, Z)`` float32 in [0, 1]; tissue probabilities, zero outside `mask`.
    atlas : ndarray
        ``(X, Y, Z)`` int32; parcel indices, 0 for none.
    atlas_labels : dict of int to str
        Name of every index.
    atlas_name : str
        Name for file names, for example ``AAL2``.
    origin : str
        Where the template came from, in words.

    Raises
    ------
    GeometryError
        If an array does not fit the grid.
    """

    grid: Grid
    t1w: np.ndarray
    mask: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    atlas: np.ndarray
    atlas_labels: dict[int, str]
    atlas_name: str
    origin: str

    def __post_init__(self) -> None:
        for name in ("t1w", "mask", "gm", "wm", "csf", "atlas"):
            if getattr(self, name).shape != self.grid.shape:
                raise GeometryError(
                    f"template {name} {getattr(self, name).shape} does not fit grid {self.grid.shape}"
                )


def paint_epi(template: Template, contrast: Contrast) -> np.ndarray:
    """Paint an image of the given contrast from the tissue maps, so that like can be registered with like.

    Parameters
    ----------
    template : Template
        Tissue maps.
    contrast : Contrast
        Which image to imitate.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, zero outside the brain, grey matter near 1.

    Examples
    --------
    Cerebrospinal fluid is bright without and dark with diffusion weighting:

    >>> TISSUE_SIGNAL[Contrast.B0][2] > 1 > TISSUE_SIGNAL[Contrast.DWI][2]
    True
    """
    gm, wm, csf = TISSUE_SIGNAL[contrast]
    painted = gm * template.gm + wm * template.wm + csf * template.csf
    return (painted * template.mask).astype(np.float32)
