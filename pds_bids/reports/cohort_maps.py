"""Parcel profiles of diagnoses and people, and maps of everybody: acquired beside synthetic."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pds_bids.reports.canvas import BLUE, GREEN, GREY, ORANGE, VERMILION, YELLOW, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["embed", "map_figure", "person_profile_figure", "profile_figure"]

_ACQUIRED, _SYNTHETIC = "#222222", VERMILION
_GROUP_COLOURS = (GREEN, ORANGE, VERMILION, BLUE, YELLOW, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
# t-SNE wants a few neighbours per person, and fewer than there are people.
_PERPLEXITY = 15
FEWEST = 6

Profile = Mapping[tuple[str, str, str], np.ndarray]


def profile_figure(
    profiles: Profile, groups: Sequence[str], contrasts: Sequence[str], *, names: Sequence[str]
) -> "Figure":
    """Draw the mean parcel profile of every diagnosis, acquired and synthetic (as the paper's Fig. 5).

    Parameters
    ----------
    profiles : mapping
        (contrast, diagnosis, origin) to ``(N, P)`` parcel means of people.
    groups, contrasts : sequence of str
        Columns and rows of the figure.
    names : sequence of str
        Of the parcels.

    Returns
    -------
    Figure
    """
    height = 0.9 + 1.75 * len(contrasts)
    figure = new_figure(11.5, height)
    figure.text(0.01, 1 - 0.3 / height, "Parcel profiles by diagnosis", fontsize=13, weight="bold")
    grid = figure.subplots(len(contrasts), len(groups), squeeze=False, sharex=True, sharey="row")
    figure.subplots_adjust(
        left=0.085, right=0.985, top=1 - 0.75 / height, bottom=0.5 / height, hspace=0.25, wspace=0.08
    )
    for line, contrast in zip(grid, contrasts, strict=True):
        for axes, group in zip(line, groups, strict=True):
            counts = []
            for origin, colour, dash in (("acquired", _ACQUIRED, "-"), ("synthetic", _SYNTHETIC, "--")):
                rows = profiles.get((contrast, group, origin), np.zeros((0, len(names))))
                counts.append(f"{origin} n={len(rows)}")
                if len(rows):
                    _band(axes, rows, colour, dash)
            axes.set_title(f"{group}: {', '.join(counts)}", fontsize=8)
            axes.set_xlim(-0.5, len(names) - 0.5)
        line[0].set_ylabel(contrast)
    for axes in grid[-1]:
        axes.set_xlabel(f"{len(names)} parcels", fontsize=8)
    note = "black: acquired, vermilion dashes: synthetic; lines: mean, bands: standard deviation over people"
    figure.text(0.99, 1 - 0.28 / height, note, fontsize=8.5, ha="right", color="#444444")
    return figure


def person_profile_figure(
    people: Sequence[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]], *, n_parcels: int
) -> "Figure":
    """Draw people's own profiles, and what is left of them beyond the group mean (as the paper's Fig. 6).

    Parameters
    ----------
    people : sequence of tuple
        Contrast, name, acquired and synthetic ``(P,)`` profile, and the acquired mean of the group.
    n_parcels : int
        For the axis.

    Returns
    -------
    Figure
    """
    height = 0.9 + 1.45 * max(len(people), 1)
    figure = new_figure(11.5, height)
    figure.text(0.01, 1 - 0.3 / height, "Parcel profiles of single people", fontsize=13, weight="bold")
    grid = figure.subplots(max(len(people), 1), 2, squeeze=False, sharex=True)
    figure.subplots_adjust(
        left=0.06, right=0.985, top=1 - 0.75 / height, bottom=0.5 / height, hspace=0.35, wspace=0.2
    )
    for line, (contrast, name, acquired, synthetic, mean) in zip(grid, people, strict=False):
        for axes, shift in zip(line, (np.zeros_like(mean), mean), strict=True):
            axes.plot(acquired - shift, color=_ACQUIRED, lw=1.1)
            axes.plot(synthetic - shift, color=_SYNTHETIC, lw=1.1, ls="--")
        known = np.isfinite(acquired) & np.isfinite(synthetic) & np.isfinite(mean)
        with np.errstate(invalid="ignore"):
            plain = np.corrcoef(acquired[known], synthetic[known])[0, 1]
            left = np.corrcoef((acquired - mean)[known], (synthetic - mean)[known])[0, 1]
        line[0].set_title(f"{name}, {contrast}: r = {plain:.2f}", fontsize=8)
        line[1].set_title(f"less the acquired mean of the group: r = {left:.2f}", fontsize=8)
        line[1].axhline(0, color=GREY, lw=0.8)
        line[0].set_xlim(-0.5, len(mean) - 0.5)
    for axes in grid[-1]:
        axes.set_xlabel(f"{n_parcels} parcels", fontsize=8)
    note = "black: acquired, vermilion dashes: synthetic"
    figure.text(0.99, 1 - 0.28 / height, note, fontsize=8.5, ha="right", color="#444444")
    return figure


def embed(features: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Place rows in the plane by principal components and by t-SNE.

    Parameters
    ----------
    features : ndarray
        ``(N, F)``; columns with nan are left out.
    seed : int
        For t-SNE.

    Returns
    -------
    dict of str to ndarray
        ``PCA`` and ``t-SNE``: ``(N, 2)``; empty for fewer than six rows or no column without nan.

    References
    ----------
    van der Maaten and Hinton 2008, http://jmlr.org/papers/v9/vandermaaten08a.html
    """
    from sklearn.decomposition import PCA  # late: a second
    from sklearn.manifold import TSNE

    kept = np.isfinite(features).all(0) & (np.nan_to_num(features).std(0) > 0)
    if len(features) < FEWEST or kept.sum() < 2:
        return {}
    values = features[:, kept]
    values = (values - values.mean(0)) / values.std(0)
    components = PCA(min(20, len(values) - 1, int(kept.sum())), random_state=seed % 2**32).fit_transform(
        values
    )
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(components)
    return {"PCA": components[:, :2], "t-SNE": plane}


def map_figure(
    maps: Mapping[str, Mapping[str, np.ndarray]],
    origins: Mapping[str, Sequence[str]],
    groups: Mapping[str, Sequence[str]],
) -> "Figure":
    """Draw everybody in the plane: colour and shape by diagnosis, filled if acquired, hollow if synthetic.

    Parameters
    ----------
    maps : mapping
        Feature set (``BOLD``) to method to ``(N, 2)``.
    origins, groups : mapping
        Feature set to ``(N,)`` origin and diagnosis.

    Returns
    -------
    Figure
    """
    methods = list(next(iter(maps.values()), {"PCA": None}))
    height = 0.9 + 3.4 * max(len(maps), 1)
    figure = new_figure(11.5, height)
    figure.text(0.01, 1 - 0.3 / height, "Maps of everybody by parcel means", fontsize=13, weight="bold")
    grid = figure.subplots(max(len(maps), 1), len(methods), squeeze=False)
    figure.subplots_adjust(
        left=0.05, right=0.86, top=1 - 0.75 / height, bottom=0.3 / height, hspace=0.2, wspace=0.1
    )
    everybody = sorted({group for own in groups.values() for group in own})
    for line, (name, planes) in zip(grid, maps.items(), strict=False):
        for axes, method in zip(line, methods, strict=True):
            points = planes[method]
            for place, group in enumerate(everybody):
                colour, marker = _GROUP_COLOURS[place % 6], _MARKERS[place % 6]
                for origin in ("acquired", "synthetic"):
                    own = np.array(
                        [g == group and o == origin for g, o in zip(groups[name], origins[name], strict=True)]
                    )
                    face = colour if origin == "acquired" else "none"
                    axes.scatter(
                        *points[own].T, s=26, marker=marker, facecolors=face, edgecolors=colour, lw=1.2,
                        label=f"{group}, {origin}" if own.any() else None,
                    )  # fmt: skip
            axes.set_title(f"{name}, {method}", fontsize=9)
            axes.set(xticks=[], yticks=[])
        # Beside the maps: a corner that is free in one cohort holds people in the next.
        line[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _band(axes: "Axes", rows: np.ndarray, colour: str, dash: str) -> None:
    n = np.isfinite(rows).sum(0)
    blank = np.full(rows.shape[1], np.nan)
    mean = np.divide(np.nansum(rows, 0), n, out=blank.copy(), where=n > 0)
    spread = np.sqrt(np.divide(np.nansum((rows - mean) ** 2, 0), n, out=blank, where=n > 0))
    places = np.arange(rows.shape[1])
    axes.fill_between(places, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.plot(places, mean, color=colour, lw=1.1, ls=dash)
