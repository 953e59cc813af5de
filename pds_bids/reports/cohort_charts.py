"""Charts of a cohort: distributions with outliers, fidelity, agreement, scores of classifiers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.reports.canvas import BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "agreement_figure",
    "coverage_figure",
    "distribution_figure",
    "fidelity_figure",
    "forest_figure",
    "parcel_correlation_figure",
    "similarity_figure",
]

_INK = "#222222"
# Names beside points: more of them overlap.
_MOST_NAMES = 6


def distribution_figure(
    measures: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[str]]]], *, title: str
) -> "Figure":
    """Draw every value of several measures, by kind of image, with outliers marked and named.

    Parameters
    ----------
    measures : mapping
        Measure to kind (``BOLD``) to values ``(N,)``, outlier flags ``(N,)`` and names of participants.
    title : str
        Heading.

    Returns
    -------
    Figure
    """
    n = max(len(measures), 1)
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    figure = new_figure(11.5, 0.7 + 2.5 * n_rows)
    figure.text(0.01, 1 - 0.28 / (0.7 + 2.5 * n_rows), title, fontsize=13, weight="bold")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    figure.subplots_adjust(
        left=0.06, right=0.985, top=1 - 0.75 / (0.7 + 2.5 * n_rows), bottom=0.1, hspace=0.5, wspace=0.35
    )
    for axes in grid.ravel()[n:]:
        axes.axis("off")
    for axes, (name, kinds) in zip(grid.ravel(), measures.items(), strict=False):
        for place, (values, is_outlier, names) in enumerate(kinds.values()):
            _swarm(axes, place, values, is_outlier, names)
        axes.set_title(name, fontsize=9)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xticks(range(len(kinds)), list(kinds), fontsize=8)
        axes.set_xlim(-0.6, len(kinds) - 0.4)
    return figure


def fidelity_figure(scores: Mapping[str, Mapping[str, np.ndarray]], *, metric: str) -> "Figure":
    """Draw a score of the model beside that of every baseline, one dot per person.

    Parameters
    ----------
    scores : mapping
        Contrast to predictor to ``(N,)`` values; the model first.
    metric : str
        For the axis.

    Returns
    -------
    Figure
    """
    figure = new_figure(11.5, 4.2)
    figure.text(0.01, 0.94, f"Fidelity of synthetic images: {metric}", fontsize=13, weight="bold")
    figure.text(0.985, 0.94, "vermilion: the model, blue: baselines", fontsize=9, ha="right", color="#444444")
    grid = figure.subplots(1, max(len(scores), 1), squeeze=False)[0]
    figure.subplots_adjust(left=0.06, right=0.985, top=0.82, bottom=0.25, wspace=0.28)
    grid[0].set_ylabel(metric)
    for axes, (contrast, predictors) in zip(grid, scores.items(), strict=False):
        for place, (name, values) in enumerate(predictors.items()):
            colour = VERMILION if name == "model" else BLUE
            _swarm(axes, place, values, np.zeros(len(values), bool), [], colour=colour)
        axes.set_xticks(range(len(predictors)), list(predictors), rotation=35, ha="right", fontsize=8)
        axes.set_title(f"synthetic {contrast}", fontsize=9)
    return figure


def parcel_correlation_figure(
    correlations: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> "Figure":
    """Draw, parcel by parcel, how well differences between people are kept, by the model and by the source.

    Parameters
    ----------
    correlations : mapping
        Contrast to ``(P,)`` correlations of the synthetic image and of the source as it is.

    Returns
    -------
    Figure
    """
    figure = new_figure(11.5, 3.6)
    figure.text(0.01, 0.93, "Differences between people, parcel by parcel", fontsize=13, weight="bold")
    grid = figure.subplots(1, max(len(correlations), 1), squeeze=False, sharey=True)[0]
    figure.subplots_adjust(left=0.075, right=0.985, top=0.79, bottom=0.16, wspace=0.1)
    for axes, (contrast, (model, source)) in zip(grid, correlations.items(), strict=False):
        order = np.argsort(np.nan_to_num(model, nan=-2))[::-1]
        axes.axhline(0, color=GREY, lw=1)
        axes.plot(np.abs(source[order]), "o", ms=3, color=BLUE, label="|r| of the source as it is")
        axes.plot(model[order], "o", ms=3, color=VERMILION, label="r of the synthetic image")
        axes.set(xlabel="parcels", ylim=(-1.02, 1.02))
        axes.set_title(contrast, fontsize=9)
    grid[0].set_ylabel("correlation over people")
    note = "group mean removed; parcels in the order of the r of the synthetic image"
    figure.text(0.985, 0.93, note, fontsize=9, ha="right", color="#444444")
    grid[0].legend(loc="lower left", fontsize=8, frameon=False)
    return figure


def agreement_figure(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "Figure":
    """Draw differences between synthetic and acquired parcel means against their mean (Bland and Altman).

    Parameters
    ----------
    pairs : mapping
        Contrast to ``(N, P)`` acquired and synthetic parcel means.

    Returns
    -------
    Figure
    """
    figure = new_figure(11.5, 3.6)
    figure.text(0.01, 0.93, "Agreement of parcel means, all people", fontsize=13, weight="bold")
    grid = figure.subplots(1, max(len(pairs), 1), squeeze=False)[0]
    figure.subplots_adjust(left=0.075, right=0.985, top=0.79, bottom=0.16, wspace=0.55)
    for axes, (contrast, (acquired, synthetic)) in zip(grid, pairs.items(), strict=False):
        middle, difference = ((acquired + synthetic) / 2).ravel(), (synthetic - acquired).ravel()
        known = np.isfinite(difference)
        axes.scatter(middle[known], difference[known], s=3, color=BLUE, alpha=0.4, lw=0, rasterized=True)
        if known.any():
            bias, spread = difference[known].mean(), 1.96 * difference[known].std()
            for level, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
                axes.axhline(level, color=VERMILION, lw=1.2, ls=style)
        axes.set_xlabel("mean of both")
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=8)
        axes.set_title(contrast, fontsize=9)
    grid[0].set_ylabel("synthetic - acquired")
    return figure


def coverage_figure(shares: Mapping[str, Mapping[int, np.ndarray]]) -> "Figure":
    """Draw which share of voxels lies in the intervals that the model claims.

    Parameters
    ----------
    shares : mapping
        Contrast to level (50, 80, 95) to ``(N,)`` shares, one per person.

    Returns
    -------
    Figure
    """
    figure = new_figure(5.6, 3.6)
    figure.text(0.02, 0.93, "Is the claimed uncertainty honest?", fontsize=13, weight="bold")
    axes = figure.add_axes((0.13, 0.16, 0.84, 0.66))
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    colours, dashes = (VERMILION, BLUE, GREEN, ORANGE, _INK), ("-", "--", ":", "-.", "-")
    for place, (contrast, levels) in enumerate(shares.items()):
        nominal = np.array(list(levels)) / 100
        middle = np.array([np.mean(values) for values in levels.values()])
        low, high = (np.array([np.quantile(values, q) for values in levels.values()]) for q in (0.1, 0.9))
        colour, dash = colours[place % 5], dashes[place % 5]
        axes.errorbar(
            nominal,
            middle,
            [np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            color=colour,
            ls=dash,
            marker="o",
            ms=4,
            capsize=3,
            label=contrast,
        )
    axes.set(xlabel="claimed share", ylabel="share of voxels inside", xlim=(0.4, 1), ylim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def similarity_figure(matrices: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> "Figure":
    """Draw how alike everybody's synthetic pattern and everybody's acquired one are.

    Parameters
    ----------
    matrices : mapping
        Contrast to ``(N, N)`` correlations, synthetic by row, and names.

    Returns
    -------
    Figure
    """
    # Panels are square: five of them are less high than three.
    height = 1.1 + min(9.2 / max(len(matrices), 1), 3.2)
    figure = new_figure(11.5, height)
    figure.text(0.01, 1 - 0.3 / height, "Whose image is it?", fontsize=13, weight="bold")
    note = "one person per row (synthetic) and column (acquired): the diagonal should stand out"
    figure.text(0.985, 1 - 0.28 / height, note, fontsize=9, ha="right", color="#444444")
    grid = figure.subplots(1, max(len(matrices), 1), squeeze=False)[0]
    figure.subplots_adjust(left=0.04, right=0.89, top=1 - 0.7 / height, bottom=0.35 / height, wspace=0.15)
    shown = None
    for axes, (contrast, (matrix, _)) in zip(grid, matrices.items(), strict=False):
        shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(xlabel="acquired", xticks=[], yticks=[])
        axes.set_title(contrast, fontsize=9)
    grid[0].set_ylabel("synthetic")
    if shown is not None:
        figure.colorbar(shown, cax=figure.add_axes((0.91, 0.2, 0.012, 0.56)), label="correlation")
    return figure


def forest_figure(rows: Sequence[Mapping[str, float | str]], *, chance: float, title: str) -> "Figure":
    """Draw accuracies with intervals, and beside each that of the source-only classifier.

    Parameters
    ----------
    rows : sequence of mapping
        ``name``, ``accuracy``, ``low``, ``high``, ``n``; ``source``, ``source_low``, ``source_high`` where
        there is a source-only classifier, nan otherwise; ``kind``: ``acquired``,
        ``synthetic`` or ``control``; ``family``: a line is drawn where it changes.
    chance : float
        Drawn as a line.
    title : str
        Heading.

    Returns
    -------
    Figure
    """
    height = 1.5 + 0.3 * max(len(rows), 1)
    figure = new_figure(11.5, height)
    figure.text(0.01, 1 - 0.3 / height, title, fontsize=13, weight="bold")
    axes = figure.add_axes((0.36, 0.65 / height, 0.55, 1 - 1.3 / height))
    colours = {"acquired": _INK, "synthetic": VERMILION, "control": GREY}
    axes.axvline(chance, color=GREY, ls="--", lw=1)
    axes.text(chance, len(rows) - 0.05, "chance", color="#666666", fontsize=8, va="bottom", ha="center")
    families = [str(row["family"]) for row in reversed(rows)]
    for place in range(1, len(rows)):
        if families[place] != families[place - 1]:
            axes.axhline(place - 0.5, color="#dddddd", lw=0.8, zorder=0)
    for place, row in enumerate(reversed(rows)):
        for name, offset, marker, colour in (
            ("source", -0.17, "s", BLUE),
            ("accuracy", 0.12, "o", colours[str(row["kind"])]),
        ):
            value = float(row[name])
            if not np.isfinite(value):
                continue
            ends = ("low", "high") if name == "accuracy" else ("source_low", "source_high")
            low, high = (float(row[end]) for end in ends)
            axes.plot([low, high], [place + offset] * 2, color=colour, lw=1.4)
            axes.plot([value], [place + offset], marker, color=colour, ms=5)
        axes.text(1.02, place, f"n={row['n']}", fontsize=8, va="center", color="#555555")
    axes.set_yticks(range(len(rows)), [str(row["name"]) for row in reversed(rows)], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.1), xlabel="accuracy, 95% interval")
    note = "circles: the scheme (vermilion: synthetic images enter); blue squares: source only"
    figure.text(0.99, 0.12 / height, note, fontsize=8.5, ha="right", color="#444444")
    return figure


def _swarm(
    axes: "Axes",
    place: int,
    values: np.ndarray,
    is_outlier: np.ndarray,
    names: Sequence[str],
    *,
    colour: str = BLUE,
) -> None:
    """Draw a column of dots with median and quartiles; outliers as named crosses."""
    known = np.isfinite(values)
    if not known.any():
        axes.text(place, 0.5, "none", transform=axes.get_xaxis_transform(), ha="center", color="#666666")
        return
    # Fixed places: the same table gives the same picture.
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
    usual = known & ~is_outlier
    axes.scatter(place + jitter[usual], values[usual], s=9, color=colour, alpha=0.65, lw=0)
    far = known & is_outlier
    axes.scatter(place + jitter[far], values[far], s=34, marker="x", color=VERMILION, lw=1.6)
    low, middle, high = np.quantile(values[known], [0.25, 0.5, 0.75])
    axes.plot([place - 0.32, place + 0.32], [middle, middle], color=_INK, lw=1.6)
    axes.plot([place, place], [low, high], color=_INK, lw=1.2)
    worst = sorted(np.flatnonzero(far).tolist(), key=lambda k: -abs(values[k] - middle))[:_MOST_NAMES]
    written: list[float] = []
    reach = 0.05 * np.ptp(values[known])
    for k in worst if names else ():
        # Names on top of each other cannot be read; all of them are in the table.
        if any(abs(values[k] - other) < reach for other in written):
            continue
        written.append(float(values[k]))
        axes.annotate(
            names[k],
            (place + jitter[k], values[k]),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
            color=VERMILION,
        )
