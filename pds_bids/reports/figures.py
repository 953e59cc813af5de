"""Pictures of volumes that let a reader reject a bad result; the charts are re-exported from `charts`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.reports.canvas import BLUE, GREEN, ORANGE, VERMILION, YELLOW, Series, save_figure
from pds_bids.reports.charts import gradient_figure, motion_figure
from pds_bids.reports.slices import AXIAL, CORONAL, SAGITTAL, Contour, Cut, Row, View, draw_mosaic
from pds_bids.reports.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "STD_SHARE",
    "Verdict",
    "gradient_figure",
    "mask_figure",
    "motion_figure",
    "registration_figure",
    "registration_pair",
    "save_figure",
    "synthetic_figure",
    "upper_limit",
]

_MASK = Series("brain mask of this image", ORANGE)
_TEMPLATE_COLOURS = (BLUE, YELLOW, GREEN)
# Planes as shares of the way through the brain; single sagittal planes lie just off the midline.
_SEVEN = (0.1, 0.24, 0.37, 0.5, 0.63, 0.76, 0.9)
_FOUR = (0.2, 0.4, 0.6, 0.8)
_THREE = (0.3, 0.53, 0.75)
# Fixed shares of the common window: a bad synthesis must not look good because its map was rescaled.
_DIFFERENCE_SHARE, STD_SHARE = 0.5, 0.25


def mask_figure(image: np.ndarray, grid: Grid, mask: np.ndarray, *, title: str) -> "Figure":
    """Draw an image with the outline of its brain mask: seven axial, coronal and sagittal planes.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)`` on `grid`, any unit.
    grid : Grid
        Any orientation.
    mask : ndarray
        ``(X, Y, Z)`` bool.
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
    view = View(grid, mask, margin_mm=18.0)
    outline = (Contour(mask, _MASK),)
    window = (0.0, upper_limit(image, mask))
    rows = [
        Row(name, image, view.cuts(axis, _SEVEN), window, contours=outline)
        for axis, name in ((AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal"))
    ]
    return draw_mosaic(view, rows, title=title)


def registration_figure(
    template_image: np.ndarray,
    warped_image: np.ndarray,
    grid: Grid,
    template_contours: Mapping[str, np.ndarray],
    warped_mask: np.ndarray,
    *,
    title: str,
    verdict: Verdict | None = None,
) -> "Figure":
    """Draw the template above the registered image in the same planes.

    Both carry the outlines of the template and of the image's own mask, so that a ventricle or a sulcus that
    misses its outline is seen at once.

    Parameters
    ----------
    template_image : ndarray
        ``(X, Y, Z)`` on `grid`.
    warped_image : ndarray
        ``(X, Y, Z)`` on `grid`, the image in template space.
    grid : Grid
        Grid in template space.
    template_contours : mapping of str to ndarray
        Name in the legend to mask or probability of the template; the first should be its brain mask.
    warped_mask : ndarray
        ``(X, Y, Z)``, brain mask of the image in template space.
    title : str
        Heading.
    verdict : Verdict, optional
        What the registration gate said, shown as a badge.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If an array is not on `grid`.
    """
    view, pairs = _registration_rows(template_image, warped_image, grid, template_contours, warped_mask)
    rows = [row for pair in pairs for row in pair]
    return draw_mosaic(view, rows, title=title, badge=_badge(verdict))


def registration_pair(
    template_image: np.ndarray,
    warped_image: np.ndarray,
    grid: Grid,
    template_contours: Mapping[str, np.ndarray],
    warped_mask: np.ndarray,
    *,
    title: str,
    verdict: Verdict | None = None,
) -> "tuple[Figure, Figure]":
    """Draw template and registered image as two figures of one layout, to be shown one over the other.

    Parameters and errors are those of `registration_figure`.

    Returns
    -------
    template, image : Figure
        Of the same size, with the same planes and outlines at the same places.
    """
    view, pairs = _registration_rows(template_image, warped_image, grid, template_contours, warped_mask)
    one, other = (
        draw_mosaic(view, [pair[k] for pair in pairs], title=title, badge=_badge(verdict)) for k in (0, 1)
    )
    return one, other


def _registration_rows(
    template_image: np.ndarray,
    warped_image: np.ndarray,
    grid: Grid,
    template_contours: Mapping[str, np.ndarray],
    warped_mask: np.ndarray,
) -> tuple[View, list[tuple[Row, Row]]]:
    """Return rows of the template, each with the same planes of the registered image."""
    brain = next(iter(template_contours.values()), warped_mask)
    view = View(grid, np.maximum(brain > 0.5, warped_mask > 0.5))
    outlines = [
        Contour(volume, Series(f"template: {name}", colour))
        for (name, volume), colour in zip(template_contours.items(), _TEMPLATE_COLOURS, strict=False)
    ]
    outlines.append(Contour(warped_mask, Series("mask of the registered image", VERMILION)))
    blocks = (
        ("axial", view.cuts(AXIAL, _SEVEN)),
        ("coronal and sagittal", view.cuts(CORONAL, _FOUR) + view.cuts(SAGITTAL, (0.3, 0.48, 0.7))),
    )
    windows = (0.0, upper_limit(template_image, brain)), (0.0, upper_limit(warped_image, warped_mask))
    return view, [
        (
            Row(f"template, {name}", template_image, cuts, windows[0], contours=outlines),
            Row(f"registered image, {name}", warped_image, cuts, windows[1], contours=outlines),
        )
        for name, cuts in blocks
    ]


def _badge(verdict: Verdict | None) -> tuple[str, str] | None:
    if verdict is None:
        return None
    return f"{verdict.status.symbol} registration {verdict.status}", verdict.status.colour


def synthetic_figure(
    source: np.ndarray,
    synthetic: np.ndarray,
    std: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    *,
    names: tuple[str, str],
    acquired: np.ndarray | None = None,
    unit: str = "× in-brain mean",
) -> "Figure":
    """Draw source, synthetic volume and uncertainty; acquired volume and difference where there is one.

    Synthetic panels carry a watermark; everything the model made has a coloured frame. Synthetic and acquired
    share one intensity scale, which also fixes the scales of difference and uncertainty.

    Parameters
    ----------
    source : ndarray
        ``(X, Y, Z)`` acquired image of the other modality.
    synthetic : ndarray
        ``(X, Y, Z)`` prediction, in units of the in-brain mean.
    std : ndarray
        ``(X, Y, Z)`` standard deviation of the prediction, same unit.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain.
    grid : Grid
        Grid of all arrays.
    names : tuple of str
        What source and target are, for example ``("mean BOLD", "mean DWI")``.
    acquired : ndarray, optional
        ``(X, Y, Z)`` acquired target, same unit as `synthetic`.
    unit : str
        Of the target; the source is in units of its in-brain mean.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If an array is not on `grid`.
    """
    source_name, target_name = names
    view = View(grid, mask)
    cuts = view.cuts(AXIAL, _THREE) + view.cuts(CORONAL, (0.4, 0.62)) + view.cuts(SAGITTAL, (0.3, 0.48))
    upper = upper_limit(synthetic if acquired is None else acquired, mask)
    common = (0.0, upper)
    own = (0.0, upper_limit(source, mask))
    rows = [
        Row(f"source: acquired {source_name}", source, cuts, own, unit="× in-brain mean"),
        Row(
            f"SYNTHETIC {target_name}: predicted by the model, not measured",
            synthetic,
            cuts,
            common,
            unit=unit,
            is_synthetic=True,
        ),
    ]
    if acquired is not None:
        rows += _comparison_rows(synthetic, acquired, mask, cuts, target_name, unit)
    rows.append(
        Row(
            f"uncertainty of the synthetic {target_name} (standard deviation)",
            std,
            cuts,
            (0.0, STD_SHARE * upper),
            "inferno",
            unit,
            is_model_output=True,
            visible=mask,
        )
    )
    return draw_mosaic(view, rows, title=f"Synthetic {target_name} from {source_name}")


def _comparison_rows(
    synthetic: np.ndarray, acquired: np.ndarray, mask: np.ndarray, cuts: list[Cut], name: str, unit: str
) -> list[Row]:
    upper = upper_limit(acquired, mask)
    reach = _DIFFERENCE_SHARE * upper
    difference = np.asarray(synthetic, float) - acquired
    return [
        Row(f"acquired {name}, same scale", acquired, cuts, (0.0, upper), unit=unit),
        Row(
            f"difference, synthetic minus acquired {name} (blue: too dark, red: too bright)",
            difference,
            cuts,
            (-reach, reach),
            "berlin",
            unit,
            is_model_output=True,
            visible=mask,
        ),
    ]


def upper_limit(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the top of the grey scale: the 99.5th percentile in the mask, 1 where that means nothing."""
    if np.shape(image) != np.shape(mask):
        raise GeometryError(f"figure: volume {np.shape(image)} is not on grid {np.shape(mask)} of its mask")
    inside = np.asarray(image, dtype=float)[np.asarray(mask) > 0.5]
    inside = inside[np.isfinite(inside)]
    top = float(np.percentile(inside, 99.5)) if inside.size else 0.0
    return top if top > 0 else 1.0
