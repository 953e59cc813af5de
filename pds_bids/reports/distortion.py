"""Before and after distortion correction, and the field that makes the difference."""

from typing import TYPE_CHECKING

import numpy as np

from pds_bids.imaging.grid import Grid
from pds_bids.reports.canvas import BLUE, ORANGE, Series
from pds_bids.reports.slices import AXIAL, CORONAL, SAGITTAL, Contour, Row, View, draw_mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["distortion_figure"]

_BRAIN = Series("brain of the corrected image", ORANGE)
_T1W = Series("brain of the T1w image", BLUE)
# Low planes show frontal pole, temporal poles and brainstem, where air distorts most.
_AXIAL, _SAGITTAL = (0.12, 0.22, 0.33, 0.5, 0.75), (0.32, 0.5)
_CORONAL = (0.62,)


def distortion_figure(
    before: np.ndarray,
    after: np.ndarray,
    hz: np.ndarray,
    grid: Grid,
    mask: np.ndarray,
    *,
    title: str,
    is_used: bool = True,
    t1w: np.ndarray | None = None,
    t1w_mask: np.ndarray | None = None,
) -> "Figure":
    """Draw an echo-planar image before and after, in the same planes, with the field.

    Parameters
    ----------
    before, after : ndarray
        ``(X, Y, Z)`` on `grid`, any unit: distorted mean and the same undone.
    hz : ndarray
        ``(X, Y, Z)`` off-resonance, Hz.
    grid : Grid
        Grid of all arrays.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain of `after`.
    title : str
        Heading.
    is_used : bool
        Whether the field passed its checks, shown as a badge.
    t1w, t1w_mask : ndarray, optional
        ``(X, Y, Z)`` T1w image and its brain mask, registered to `after` and on `grid`.

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
    has_t1w = t1w is not None and t1w_mask is not None
    outline = Contour(t1w_mask, _T1W) if t1w_mask is not None else Contour(mask, _BRAIN)
    window = (0.0, float(np.percentile(after[mask], 99.5)))
    reach = max(20.0, float(np.percentile(np.abs(hz[mask]), 99)))
    rows = [
        Row("before", before, cuts, window, contours=[outline]),
        Row("after", after, cuts, window, contours=[outline]),
    ]
    if t1w is not None and t1w_mask is not None:
        top = float(np.percentile(t1w[t1w_mask > 0.5], 99.5)) if (t1w_mask > 0.5).any() else 1.0
        rows.append(Row("T1w image", t1w, cuts, (0.0, top), contours=[outline]))
    rows.append(Row("field (off-resonance)", hz, cuts, (-reach, reach), "berlin", "Hz", visible=_wide(mask)))
    badge = ("corrected", "#009E73") if is_used else ("NOT corrected", "#D55E00")
    note = "Neurological view. Outline: brain of the T1w image." if has_t1w else None
    return draw_mosaic(view, rows, title=title, badge=badge, **({"footer": note} if note else {}))


def _wide(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=2)
