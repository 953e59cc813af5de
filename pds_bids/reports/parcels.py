"""Parcels of a synthetic volume against those of the acquired one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.reports.canvas import BLUE, GREY, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["parcel_figure"]

_NAMED = 10


def parcel_figure(
    acquired: np.ndarray,
    synthetic: np.ndarray,
    std: np.ndarray,
    labels: Sequence[str],
    *,
    name: str,
) -> "Figure":
    """Draw the parcels of a synthetic volume over those of the acquired one, and name the worst.

    Parameters
    ----------
    acquired, synthetic : ndarray
        ``(P,)`` means of parcels in units of the in-brain mean; nan for a parcel outside of the mask.
    std : ndarray
        ``(P,)`` mean standard deviation of the prediction in each parcel, same unit.
    labels : sequence of str
        Names of the parcels.
    name : str
        What was predicted, for example ``"mean DWI"``.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If the lengths differ, or no parcel has a value in both.
    """
    if not len(acquired) == len(synthetic) == len(std) == len(labels):
        raise GeometryError(
            f"parcel figure: {len(acquired)} acquired, {len(synthetic)} synthetic, {len(std)} deviations and "
            f"{len(labels)} names"
        )
    there = np.isfinite(acquired) & np.isfinite(synthetic)
    if not there.any():
        raise GeometryError("parcel figure: no parcel has an acquired and a synthetic mean")
    acquired, synthetic, std = (np.asarray(values, float)[there] for values in (acquired, synthetic, std))
    labels = [label for label, is_there in zip(labels, there, strict=True) if is_there]
    difference = synthetic - acquired
    worst = np.argsort(-np.abs(difference))[:_NAMED]
    figure = new_figure(11.5, 4.8)
    title = f"Parcels of the SYNTHETIC {name} against the acquired one"
    figure.text(0.01, 0.95, title, fontsize=13, weight="bold")
    scatter, bars = figure.add_axes((0.07, 0.12, 0.36, 0.76)), figure.add_axes((0.68, 0.12, 0.3, 0.76))
    _draw_scatter(scatter, acquired, synthetic, std, worst, name)
    _draw_worst(bars, difference[worst], std[worst], [labels[k] for k in worst])
    return figure


def _draw_scatter(
    axes: "Axes", acquired: np.ndarray, synthetic: np.ndarray, std: np.ndarray, worst: np.ndarray, name: str
) -> None:
    is_worst = np.isin(np.arange(len(acquired)), worst)
    reach = (min(acquired.min(), synthetic.min()), max(acquired.max(), synthetic.max()))
    room = 0.06 * max(reach[1] - reach[0], 0.1)
    limits = (reach[0] - room, reach[1] + room)
    axes.plot(limits, limits, color=GREY, lw=1, ls="--")
    axes.errorbar(acquired, synthetic, std, fmt="none", ecolor=GREY, alpha=0.5, elinewidth=0.7)
    axes.scatter(acquired[~is_worst], synthetic[~is_worst], s=18, color=BLUE, edgecolors="#222222", lw=0.4)
    # Another shape beside another colour.
    axes.scatter(
        acquired[is_worst],
        synthetic[is_worst],
        s=30,
        color=VERMILION,
        edgecolors="#222222",
        lw=0.4,
        marker="D",
    )
    axes.set(xlim=limits, ylim=limits, xlabel=f"acquired {name} (× in-brain mean)", aspect="equal")
    axes.set_ylabel("synthetic, ± mean standard deviation")
    text = (
        f"{len(acquired)} parcels\nr = {_correlation(acquired, synthetic):.3f}\n"
        f"mean difference {np.mean(synthetic - acquired):+.3f}\n"
        f"mean |difference| {np.mean(np.abs(synthetic - acquired)):.3f}"
    )
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5)


def _draw_worst(axes: "Axes", difference: np.ndarray, std: np.ndarray, labels: Sequence[str]) -> None:
    places = np.arange(len(difference))[::-1]
    axes.barh(
        places, difference, xerr=std, color=VERMILION, ecolor="#222222", height=0.65, error_kw={"lw": 0.8}
    )
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set(yticks=places, xlabel="synthetic minus acquired (× in-brain mean)")
    axes.set_yticklabels(labels, fontsize=8)
    axes.set_title("farthest from the acquired volume", fontsize=9)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r; nan where one of them does not vary."""
    if len(one) < 2 or min(one.std(), other.std()) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
