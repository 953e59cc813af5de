"""Maps of the diffusion tensor, in which a wrong gradient table or a failed fit shows at once."""

from typing import TYPE_CHECKING

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.reports.slices import AXIAL, CORONAL, SAGITTAL, Row, View, draw_mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["tensor_figure"]

# Fixed windows: pictures of different people can be compared. Free water diffuses at 3e-3 mm2/s at 37 C.
FA_WINDOW = (0.0, 0.8)
MD_WINDOW = (0.0, 3.0)
_AXIAL, _CORONAL, _SAGITTAL = (0.3, 0.45, 0.6, 0.75), (0.4, 0.6), (0.53,)


def tensor_figure(fa: np.ndarray, md: np.ndarray, grid: Grid, mask: np.ndarray, *, title: str) -> "Figure":
    """Draw fractional anisotropy above mean diffusivity, in the same planes.

    Parameters
    ----------
    fa : ndarray
        ``(X, Y, Z)`` on `grid`.
    md : ndarray
        ``(X, Y, Z)`` on `grid`, mm2/s.
    grid : Grid
        Any orientation.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain.
    title : str
        Heading.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If an array is not on `grid`.
    """
    view = View(grid, mask)
    cuts = view.cuts(AXIAL, _AXIAL) + view.cuts(CORONAL, _CORONAL) + view.cuts(SAGITTAL, _SAGITTAL)
    rows = [
        Row("fractional anisotropy", fa, cuts, FA_WINDOW, "gray"),
        Row("mean diffusivity", 1000 * md, cuts, MD_WINDOW, "gray", "1e-3 mm²/s"),
    ]
    return draw_mosaic(view, rows, title=title)
