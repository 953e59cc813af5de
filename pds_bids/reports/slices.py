"""Cuts through a volume, and mosaics of them with letters, contours, frames and watermarks.

The view is neurological: the left side of a picture is the left side of the person. Arrays of any orientation
are brought to RAS+ first, so the letters are right whatever comes in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid, to_ras
from pds_bids.reports.canvas import GREY, VERMILION, Series, legend_line, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["CONVENTION", "WATERMARK", "Contour", "Cut", "Row", "View", "draw_mosaic"]

WATERMARK = "SYNTHETIC"
CONVENTION = "Neurological view: the left of a picture (L) is the left of the person. Positions in mm, RAS+."
SAGITTAL, CORONAL, AXIAL = 0, 1, 2
# Not a grey and not a colour of any map in use: a voxel that is not a number must be seen.
_NOT_FINITE_COLOUR = "#FF00FF"
_LETTERS = {SAGITTAL: ("P", "A"), CORONAL: ("L", "R"), AXIAL: ("L", "R")}
_WIDTH_IN, _LEFT_IN, _RIGHT_IN, _GAP_IN, _HEADING_IN, _TITLE_IN = 11.5, 0.12, 0.85, 0.04, 0.3, 0.42


@dataclass(frozen=True)
class Cut:
    """One plane: the axis it is perpendicular to (0 sagittal, 1 coronal, 2 axial) and the voxel index."""

    axis: int
    index: int


@dataclass(frozen=True, eq=False)
class Contour:
    """An outline: the 0.5 level of `volume` (a mask or a probability), its name in the legend, its look."""

    volume: np.ndarray
    series: Series


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a mosaic: one volume through some cuts.

    Parameters
    ----------
    label : str
        Heading of the row.
    volume : ndarray
        ``(X, Y, Z)`` on the grid of the view, in the orientation it was given.
    cuts : sequence of Cut
        The panels, left to right.
    window : tuple of float
        Values of the darkest and the brightest colour.
    colour_map : str
        Name of a Matplotlib map.
    unit : str
        Text of the colour bar; empty for none.
    contours : sequence of Contour
        Outlines on every panel.
    is_synthetic : bool
        Whether panels carry the watermark.
    is_model_output : bool
        Whether panels have the coloured frame; implied by `is_synthetic`.
    visible : ndarray, optional
        ``(X, Y, Z)`` bool, where the volume is drawn; everywhere if not given.
    """

    label: str
    volume: np.ndarray
    cuts: Sequence[Cut]
    window: tuple[float, float]
    colour_map: str = "gray"
    unit: str = ""
    contours: Sequence[Contour] = field(default=())
    is_synthetic: bool = False
    is_model_output: bool = False
    visible: np.ndarray | None = None


class View:
    """A field of view on a grid: brings volumes to RAS+ and cuts them.

    Parameters
    ----------
    grid : Grid
        Grid of all volumes that will be cut.
    mask : ndarray
        ``(X, Y, Z)``; the field of view is its box plus `margin_mm`, the whole grid when it is empty.
    margin_mm : float
        Room around the box.

    Raises
    ------
    GeometryError
        If `mask` does not fit `grid`.
    """

    def __init__(self, grid: Grid, mask: np.ndarray, *, margin_mm: float = 6.0) -> None:
        self._shape = grid.shape
        if mask.shape != grid.shape:
            raise GeometryError(f"figure: mask {mask.shape} is not on grid {grid.shape}")
        inside, self.vox2ras, _ = to_ras(np.asarray(mask) > 0, grid.vox2ras)
        self._given_vox2ras = grid.vox2ras
        self.zooms = np.sqrt((self.vox2ras[:3, :3] ** 2).sum(0))
        where = np.argwhere(inside)
        size = np.asarray(inside.shape)
        self.mask_box = (where.min(0), where.max(0) + 1) if where.size else (np.zeros(3, int), size)
        margin = np.ceil(margin_mm / self.zooms).astype(int)
        self.start = np.maximum(self.mask_box[0] - margin, 0)
        self.stop = np.minimum(self.mask_box[1] + margin, size)

    def cuts(self, axis: int, shares: Iterable[float]) -> list[Cut]:
        """Return planes at shares of the way through the mask: 0 is its first plane, 1 its last."""
        first, last = self.mask_box[0][axis], self.mask_box[1][axis] - 1
        return [Cut(axis, round(first + share * (last - first))) for share in shares]

    def position_mm(self, cut: Cut) -> float:
        """Return the RAS+ coordinate of a plane at the centre of the field of view."""
        centre = (self.start + self.stop - 1) / 2
        centre[cut.axis] = cut.index
        return float(self.vox2ras[cut.axis, :3] @ centre + self.vox2ras[cut.axis, 3])

    def slice(self, volume: np.ndarray, cut: Cut) -> np.ndarray:
        """Return the picture of one plane, ``(rows, columns)``: first row lowest, first column leftmost.

        Raises
        ------
        GeometryError
            If `volume` is not on the grid of the view.
        """
        if volume.shape != self._shape:
            raise GeometryError(f"figure: volume {volume.shape} is not on grid {self._shape}")
        data, _, _ = to_ras(np.asarray(volume), self._given_vox2ras)
        window: list[slice | int] = [slice(a, b) for a, b in zip(self.start, self.stop, strict=True)]
        window[cut.axis] = cut.index
        return data[tuple(window)].T

    def size_mm(self, axis: int) -> tuple[float, float]:
        """Return width and height of the pictures of one kind of plane."""
        extent = (self.stop - self.start) * self.zooms
        across, up = [k for k in range(3) if k != axis]
        return float(extent[across]), float(extent[up])


def draw_mosaic(
    view: View,
    rows: Sequence[Row],
    *,
    title: str,
    badge: tuple[str, str] | None = None,
    footer: str = CONVENTION,
) -> "Figure":
    """Draw rows of cuts on black, all at one scale.

    Parameters
    ----------
    view : View
        Field of view and grid of all volumes.
    rows : sequence of Row
        Top to bottom.
    title : str
        Heading of the figure.
    badge : tuple of str, optional
        Text and colour of a box on the right of the title.
    footer : str
        Line below.

    Returns
    -------
    Figure
    """
    mm_per_in = max(_row_width_mm(view, row) / _room_in(row) for row in rows)
    heights = [max(view.size_mm(cut.axis)[1] for cut in row.cuts) / mm_per_in for row in rows]
    legend = list({c.series.name: c.series for row in rows for c in row.contours}.values())
    below_in = 0.3 + (0.26 if legend else 0.0)
    total_in = _TITLE_IN + sum(heights) + _HEADING_IN * len(rows) + below_in
    figure = new_figure(_WIDTH_IN, total_in, background="black")
    figure.text(_LEFT_IN / _WIDTH_IN, 1 - 0.26 / total_in, title, color="white", fontsize=13, weight="bold")
    if badge:
        _draw_badge(figure, badge, 1 - 0.26 / total_in)
    top_in = total_in - _TITLE_IN
    for row, height_in in zip(rows, heights, strict=True):
        _draw_row(figure, view, row, top_in=top_in, height_in=height_in, mm_per_in=mm_per_in)
        top_in -= _HEADING_IN + height_in
    if legend:
        legend_line(figure, legend, y_in=0.42, colour="white")
    figure.text(_LEFT_IN / _WIDTH_IN, 0.1 / total_in, footer, color=GREY, fontsize=8)
    return figure


def _room_in(row: Row) -> float:
    return _WIDTH_IN - _LEFT_IN - _RIGHT_IN - _GAP_IN * (len(row.cuts) - 1)


def _row_width_mm(view: View, row: Row) -> float:
    return sum(view.size_mm(cut.axis)[0] for cut in row.cuts)


def _draw_badge(figure: "Figure", badge: tuple[str, str], y: float) -> None:
    text, colour = badge
    box = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "white", "linewidth": 0.8}
    x = 1 - _LEFT_IN / _WIDTH_IN - 0.005
    figure.text(x, y, text, color="black", fontsize=11, weight="bold", ha="right", bbox=box)


def _draw_row(
    figure: "Figure", view: View, row: Row, *, top_in: float, height_in: float, mm_per_in: float
) -> None:
    from matplotlib import colormaps

    total_in = figure.get_size_inches()[1]
    colour = VERMILION if row.is_synthetic or row.is_model_output else "white"
    weight = "bold" if row.is_synthetic else "normal"
    figure.text(
        _LEFT_IN / _WIDTH_IN,
        (top_in - 0.2) / total_in,
        row.label,
        color=colour,
        fontsize=10.5,
        weight=weight,
    )
    colours = colormaps[row.colour_map].with_extremes(bad=_NOT_FINITE_COLOUR)
    bottom_in = top_in - _HEADING_IN - height_in
    x_in, drawn = _LEFT_IN, None
    for cut in row.cuts:
        width_in, own_in = (mm / mm_per_in for mm in view.size_mm(cut.axis))
        place = _fractions(figure, x_in, bottom_in + (height_in - own_in) / 2, width_in, own_in)
        axes = figure.add_axes(place, facecolor="black")
        drawn = _draw_panel(axes, view, row, cut, colours)
        x_in += width_in + _GAP_IN
    if row.unit and drawn is not None:
        place = _fractions(figure, x_in + 0.06, bottom_in + 0.1 * height_in, 0.09, 0.8 * height_in)
        _draw_colour_bar(figure, drawn, place, row.unit)


def _fractions(
    figure: "Figure", x: float, y: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Inches to fractions of the figure."""
    full_width, full_height = figure.get_size_inches()
    return x / full_width, y / full_height, width / full_width, height / full_height


def _draw_panel(axes: "Axes", view: View, row: Row, cut: Cut, colours: "Colormap") -> "AxesImage":
    width_mm, height_mm = view.size_mm(cut.axis)
    extent = (0.0, width_mm, 0.0, height_mm)
    picture = np.ma.masked_invalid(view.slice(row.volume, cut).astype(float))
    shown = 1.0 if row.visible is None else view.slice(row.visible, cut).astype(float)
    drawn = axes.imshow(
        picture,
        alpha=shown,
        cmap=colours,
        vmin=row.window[0],
        vmax=row.window[1],
        origin="lower",
        extent=extent,
        aspect="auto",
        # Smoothing would spread a voxel that is not a number over its neighbours.
        interpolation="nearest" if picture.mask.any() or row.visible is not None else "bilinear",
    )
    for contour in row.contours:
        outline = view.slice(contour.volume, cut).astype(float)
        if outline.min() < 0.5 <= outline.max():
            x = (np.arange(outline.shape[1]) + 0.5) * width_mm / outline.shape[1]
            y = (np.arange(outline.shape[0]) + 0.5) * height_mm / outline.shape[0]
            axes.contour(x, y, outline, levels=[0.5], colors=contour.series.colour, linewidths=0.9)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    _annotate(axes, view, row, cut)
    return drawn


def _annotate(axes: "Axes", view: View, row: Row, cut: Cut) -> None:
    # A dark ground keeps letters readable where the head fills the panel.
    ground = {"facecolor": "black", "alpha": 0.55, "pad": 0.8, "linewidth": 0}
    write = partial(axes.text, transform=axes.transAxes, color="#E8E8E8", fontsize=7.5, bbox=ground)
    left, right = _LETTERS[cut.axis]
    write(0.02, 0.98, left, ha="left", va="top").set_gid("left-letter")
    write(0.98, 0.98, right, ha="right", va="top").set_gid("right-letter")
    write(0.02, 0.02, f"{'xyz'[cut.axis]} {round(view.position_mm(cut)):+d}", ha="left", va="bottom")
    is_framed = row.is_synthetic or row.is_model_output
    for spine in axes.spines.values():
        spine.set(visible=is_framed, color=VERMILION, linewidth=2.0)
    if row.is_synthetic:
        place: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "rotation": 32,
            "alpha": 0.5,
            "weight": "bold",
        }
        mark = axes.text(0.5, 0.5, WATERMARK, transform=axes.transAxes, color=VERMILION, fontsize=15, **place)
        mark.set_gid("watermark")


def _draw_colour_bar(
    figure: "Figure", drawn: "AxesImage", place: tuple[float, float, float, float], unit: str
) -> None:
    axes = figure.add_axes(place)
    bar = figure.colorbar(drawn, cax=axes)
    bar.ax.tick_params(colors="white", labelsize=7.5, length=2)
    bar.outline.set_edgecolor(GREY)
    bar.set_label(unit, color="white", fontsize=7.5, labelpad=2)
