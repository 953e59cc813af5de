"""Figures with a fixed look, written atomically and with the same bytes each time.

Matplotlib is used through `Figure` alone: no pyplot, hence no global state, no display and no limit of open
figures. It is imported late, because graph building must stay quick.
"""

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.bids.write import replacing
from pds_bids.exceptions import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "VERMILION", "YELLOW", "Series", "new_figure", "save_figure"]

# Colours of Okabe and Ito, distinguishable with every kind of colour blindness.
ORANGE, BLUE, GREEN, YELLOW, VERMILION = "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00"
GREY = "#9A9A9A"

# Text stays text in SVG: smaller, searchable, readable by a screen reader.
_STYLE: Mapping[str, object] = {
    "svg.hashsalt": "pds-bids",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}
_DPI = 105
# Of the 256 palette entries of a PNG, greys; pixels whose channels differ less than the tolerance are grey.
_GREY_LEVELS = 104
_GREY_TOLERANCE = 8


@dataclass(frozen=True)
class Series:
    """One curve of a chart: its name, colour and dash pattern (colour is never the only cue)."""

    name: str
    colour: str
    dashes: str = "-"


def new_figure(width_in: float, height_in: float, *, background: str = "white") -> "Figure":
    """Return an empty figure that is drawn by Agg.

    Parameters
    ----------
    width_in, height_in : float
        Size in inches.
    background : str
        Colour of the canvas.

    Returns
    -------
    Figure
    """
    # Without a home folder Matplotlib warns and makes a folder of its own; the choice is ours to make.
    if "MPLCONFIGDIR" not in os.environ and not os.access(Path(os.path.expanduser("~")), os.W_OK):
        os.environ["MPLCONFIGDIR"] = str(Path(tempfile.gettempdir()) / f"pds-bids-matplotlib-{os.getuid()}")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(dict(_STYLE)):
        figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor=background)
        FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as SVG or compressed PNG, by the ending of `path`.

    The file appears under its final name only when it is complete, and holds no date and no version: the
    same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : Path
        Ends in ``.svg`` or ``.png``; its folder is made.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If `path` has another ending.
    """
    from matplotlib import rc_context

    with rc_context(dict(_STYLE)):
        if path.suffix == ".svg":
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="auto")
            content = buffer.getvalue()
        elif path.suffix == ".png":
            content = _compressed_png(figure)
        else:
            raise UsageError(f"figure {path.name}: expected .svg or .png")
    with replacing(path) as scratch:
        scratch.write_bytes(content)
    return path


def _compressed_png(figure: "Figure") -> bytes:
    """Return a PNG with a palette: even greys for anatomy, the remaining entries for the colours in use.

    General quantisers either tint and posterise the greys or paint rare colours, such as those of an
    uncertainty map, up to 77 of 255 levels off.
    """
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="auto")
    rgb = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    is_grey = np.ptp(rgb, axis=-1) <= _GREY_TOLERANCE
    step = 255 / (_GREY_LEVELS - 1)
    index = np.round(rgb.mean(-1) / step).astype(np.uint8)
    palette = [round(level * step) for level in range(_GREY_LEVELS) for _ in range(3)]
    if not is_grey.all():
        # The coloured pixels as a picture of their own, one pixel high.
        coloured = Image.fromarray(rgb[~is_grey][None].astype(np.uint8))
        reduced = coloured.quantize(256 - _GREY_LEVELS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        index[~is_grey] = np.asarray(reduced)[0] + _GREY_LEVELS
        palette += (reduced.getpalette() or [])[: 3 * (256 - _GREY_LEVELS)]
    image = Image.fromarray(index)
    image.putpalette(palette)
    compressed = io.BytesIO()
    image.save(compressed, format="png", optimize=True)
    return compressed.getvalue()


def legend_line(figure: "Figure", series: Sequence[Series], *, y_in: float, colour: str) -> None:
    """Write the names of curves or contours, each beside a stroke of its colour, in one line."""
    from matplotlib.lines import Line2D

    width_in, height_in = figure.get_size_inches()
    x_in = 0.15
    y = y_in / height_in
    for item in series:
        figure.add_artist(
            Line2D(
                [x_in / width_in, (x_in + 0.3) / width_in],
                [y, y],
                color=item.colour,
                linestyle=item.dashes,
                linewidth=2,
            )
        )
        figure.text((x_in + 0.38) / width_in, y, item.name, color=colour, va="center", fontsize=9)
        x_in += 0.38 + 0.072 * len(item.name) + 0.35
