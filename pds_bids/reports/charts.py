"""Curves and schemes: head motion, gradient directions, segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.reports.canvas import BLUE, GREY, VERMILION, Series, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Signals", "gradient_figure", "motion_figure"]

# One look per axis, the same for translations and rotations; dashes serve print and colour blindness.
_AXES = (Series("x", BLUE, "-"), Series("y", VERMILION, "--"), Series("z", "#222222", ":"))
_B0_BELOW_S_MM2 = 50.0


# Standard deviations of a voxel's signal over time; what lies beyond is drawn like the limit.
_CARPET_REACH = 2.0


@dataclass(frozen=True, eq=False)
class Signals:
    """What a BOLD series looks like over time.

    Parameters
    ----------
    carpet : mapping of str to ndarray
        Tissue to ``(rows, N)`` signals in standard deviations, from `pds_bids.imaging.carpet.carpet_rows`.
    std_dvars, global_signal : ndarray
        ``(N,)``; the first may begin with nan.
    """

    carpet: Mapping[str, np.ndarray]
    std_dvars: np.ndarray
    global_signal: np.ndarray


def motion_figure(
    parameters: np.ndarray,
    framewise_displacement: np.ndarray,
    censored: Sequence[int] | np.ndarray = (),
    *,
    tr_s: float | None = None,
    threshold_mm: float | None = None,
    segments: Sequence[Sequence[int]] = (),
    signals: Signals | None = None,
    title: str = "Head motion",
) -> "Figure":
    """Draw translations, rotations and framewise displacement of a series, and below them its signals.

    Parameters
    ----------
    parameters : ndarray
        ``(N, 6)``: translations along x, y, z in mm, then rotations about x, y, z in radians.
    framewise_displacement : ndarray
        ``(N,)`` mm; the first may be nan.
    censored : sequence of int or of bool
        Indices of the volumes that were left out, or a mask of length N.
    tr_s : float, optional
        Repetition time; without it the axis counts volumes.
    threshold_mm : float, optional
        Censoring threshold, drawn as a line.
    segments : sequence of sequences of int
        0-based volumes of each segment, drawn as numbered bands.
    signals : Signals, optional
        Standardised DVARS, global signal and carpet.
    title : str
        Heading.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If the lengths differ.
    """
    parameters = np.asarray(parameters, dtype=float)
    displacement = np.asarray(framewise_displacement, dtype=float)
    if parameters.shape != (len(displacement), 6):
        raise GeometryError(
            f"motion figure: parameters {parameters.shape}, {len(displacement)} displacements"
        )
    left_out = _indices(censored, len(displacement))
    step, unit = (tr_s, "time (s)") if tr_s else (1.0, "volume")
    time = np.arange(len(displacement)) * step
    ratios = (1, 1, 1) if signals is None else (1, 1, 1, 0.7, 2.2)
    height_in = 0.7 + 1.55 * sum(ratios)
    figure = new_figure(11.5, height_in)
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    margins = {"top": 1 - 0.54 / height_in, "bottom": 0.54 / height_in}
    figure.subplots_adjust(left=0.075, right=0.985, hspace=0.16, **margins)
    figure.text(0.01, 1 - 0.25 / height_in, title, fontsize=13, weight="bold")
    quantities = (parameters[:, :3], np.degrees(parameters[:, 3:]))
    for axes, values, name in zip(panels, quantities, ("translation (mm)", "rotation (°)"), strict=False):
        for series, value in zip(_AXES, values.T, strict=True):
            axes.plot(time, value, color=series.colour, linestyle=series.dashes, lw=1.2, label=series.name)
        # A still head must look still: noise of a few micrometres is not blown up to full height.
        reach = max(0.5, 1.1 * float(np.nanmax(np.abs(values))))
        axes.set(ylabel=name, ylim=(-reach, reach))
    panels[0].legend(loc="upper right", ncols=3, frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    _draw_displacement(panels[2], time, displacement, left_out, threshold_mm)
    edges = (time[0] - step / 2, time[-1] + step / 2)
    if signals is not None:
        _draw_signals(panels[3], time, signals)
        _draw_carpet(panels[4], signals.carpet, edges)
    panels[-1].set(xlabel=unit, xlim=edges)
    for axes in panels[:4]:
        for index in left_out:
            axes.axvspan(time[index] - step / 2, time[index] + step / 2, color=VERMILION, alpha=0.22, lw=0)
        _draw_bands(axes, time, step, segments, is_labelled=axes is panels[0])
    return figure


def gradient_figure(
    bvals: np.ndarray,
    bvecs: np.ndarray,
    segments: Sequence[Sequence[int]] = (),
    *,
    title: str = "Gradient scheme",
) -> "Figure":
    """Draw the directions of a diffusion series on both hemispheres and the b-value of every volume.

    A diffusion gradient and its opposite measure the same, so each direction is drawn twice: filled where it
    was acquired, hollow at its antipode. Hollow and filled together should cover both discs evenly.

    Parameters
    ----------
    bvals : ndarray
        ``(N,)`` s/mm^2.
    bvecs : ndarray
        ``(N, 3)`` unit vectors, RAS+.
    segments : sequence of sequences of int
        0-based volumes of each segment; volumes in none are grey.
    title : str
        Heading.

    Returns
    -------
    Figure

    Raises
    ------
    GeometryError
        If the lengths differ or `bvecs` is not ``(N, 3)``.
    """
    bvals, bvecs = np.asarray(bvals, dtype=float), np.asarray(bvecs, dtype=float)
    if bvecs.shape != (len(bvals), 3):
        raise GeometryError(f"gradient figure: bvecs {bvecs.shape}, expected ({len(bvals)}, 3)")
    labels = np.zeros(len(bvals), int) if len(segments) else np.ones(len(bvals), int)
    for number, volumes in enumerate(segments, 1):
        labels[np.asarray(volumes, int)] = number
    colours = _segment_colours(labels)
    figure = new_figure(11.5, 3.9)
    figure.text(0.01, 0.945, title, fontsize=13, weight="bold")
    names = ("upper hemisphere, seen from above", "lower hemisphere, seen from above")
    for left, sign, name in zip((0.015, 0.275), (1, -1), names, strict=True):
        axes = figure.add_axes((left, 0.1, 0.25, 0.74))
        _draw_disc(axes, bvals, bvecs, colours, sign=sign)
        axes.set_title(name, fontsize=9)
    _draw_bvalues(figure, bvals, labels, colours)
    count = int((bvals < _B0_BELOW_S_MM2).sum())
    note = f"{len(bvals)} volumes, {count} with b < {_B0_BELOW_S_MM2:.0f} s/mm². RAS+ axes. "
    note += "Filled: as acquired; hollow: the opposite direction, which measures the same."
    figure.text(0.01, 0.025, note, fontsize=8.5, color="#444444")
    return figure


def _indices(censored: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Accept a boolean mask or indices."""
    values = np.asarray(censored)
    if values.dtype == bool:
        if values.shape != (count,):
            raise GeometryError(f"motion figure: {values.size} censoring flags for {count} volumes")
        return np.flatnonzero(values)
    return values.astype(int)


def _draw_displacement(
    axes: "Axes", time: np.ndarray, displacement: np.ndarray, left_out: np.ndarray, threshold_mm: float | None
) -> None:
    axes.plot(time, displacement, color="#222222", lw=1.2)
    mean = float(np.nanmean(displacement)) if np.isfinite(displacement).any() else float("nan")
    text = f"mean {mean:.2f} mm, {len(left_out)} of {len(time)} volumes left out"
    axes.text(0.995, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=9)
    peak = float(np.nanmax(displacement)) if np.isfinite(displacement).any() else 0.0
    if threshold_mm is not None:
        axes.axhline(threshold_mm, color=VERMILION, lw=1, ls="--")
    axes.set(ylabel="FD (mm)", ylim=(0, 1.25 * max(peak, threshold_mm or 0.0, 0.4)))


def _draw_signals(axes: "Axes", time: np.ndarray, signals: Signals) -> None:
    if signals.std_dvars.shape != time.shape or signals.global_signal.shape != time.shape:
        raise GeometryError(
            f"motion figure: {len(signals.std_dvars)} values of DVARS for {len(time)} volumes"
        )
    axes.plot(time, signals.std_dvars, color=VERMILION, lw=1.2)
    change = signals.global_signal / np.nanmean(signals.global_signal) - 1
    axes.set(ylabel="DVARS", ylim=(0, 1.3 * max(2.0, float(np.nanmax(signals.std_dvars, initial=0.0)))))
    twin = axes.twinx()
    twin.plot(time, 100 * change, color="#222222", lw=1.0, ls=":")
    reach = max(1.0, 130 * float(np.nanmax(np.abs(change), initial=0.0)))
    twin.set(ylim=(-reach, reach), yticks=[])
    lines = [*axes.get_lines(), *twin.get_lines()]
    text = f"global signal within {100 * float(np.nanmax(np.abs(change), initial=0.0)):.1f} % of its mean"
    axes.legend(
        lines,
        ["standardised DVARS", text],
        loc="upper right",
        ncols=2,
        framealpha=0.9,
        edgecolor="none",
        fontsize=8,
    )


def _draw_carpet(axes: "Axes", carpet: Mapping[str, np.ndarray], edges: tuple[float, float]) -> None:
    rows = np.concatenate(list(carpet.values()))
    axes.imshow(
        rows,
        cmap="gray",
        vmin=-_CARPET_REACH,
        vmax=_CARPET_REACH,
        extent=(*edges, len(rows), 0),
        aspect="auto",
        interpolation="nearest",
    )
    ends = np.cumsum([len(part) for part in carpet.values()])
    for end in ends[:-1]:
        axes.axhline(end, color=BLUE, lw=1.5)
    axes.set_yticks([end - len(part) / 2 for end, part in zip(ends, carpet.values(), strict=True)])
    axes.set_yticklabels([name.replace(" ", "\n") for name in carpet], fontsize=8)


def _draw_bands(
    axes: "Axes", time: np.ndarray, step: float, segments: Sequence[Sequence[int]], *, is_labelled: bool
) -> None:
    place: dict[str, Any] = {
        "transform": axes.get_xaxis_transform(),
        "ha": "center",
        "va": "bottom",
        "fontsize": 8,
    }
    for number, volumes in enumerate(segments, 1):
        own = time[np.asarray(volumes, int)]
        if number % 2:
            axes.axvspan(own.min() - step / 2, own.max() + step / 2, color=GREY, alpha=0.16, lw=0, zorder=0)
        if is_labelled:
            axes.text(own.mean(), 1.01, str(number), color="#555555", **place)


def _segment_colours(labels: np.ndarray) -> np.ndarray:
    """One colour of viridis per segment; volumes in no segment are grey."""
    from matplotlib import colormaps

    last = max(int(labels.max(initial=1)), 1)
    colours = colormaps["viridis"](0.95 * (np.maximum(labels, 1) - 1) / max(last - 1, 1))
    colours[labels < 1] = (0.7, 0.7, 0.7, 1.0)
    return colours


def _draw_disc(axes: "Axes", bvals: np.ndarray, bvecs: np.ndarray, colours: np.ndarray, *, sign: int) -> None:
    """Draw one hemisphere in Lambert's equal-area projection, so that even coverage looks even."""
    from matplotlib.patches import Circle

    is_weighted = (bvals >= _B0_BELOW_S_MM2) & (np.linalg.norm(bvecs, axis=1) > 0.5)
    size = 14 + 40 * bvals / max(float(bvals.max(initial=1.0)), 1.0)
    axes.add_patch(Circle((0, 0), 1, facecolor="#F4F4F4", edgecolor=GREY, lw=1))
    for is_antipode in (True, False):
        vectors = -bvecs if is_antipode else bvecs
        chosen = is_weighted & (vectors[:, 2] * sign >= 0)
        x, y, z = (vectors[chosen] / np.linalg.norm(vectors[chosen], axis=1, keepdims=True)).T
        # Equal area: radius sqrt(1 - |z|); the disc of one hemisphere has radius 1.
        scale = np.sqrt(1 - np.abs(z)) / np.maximum(np.hypot(x, y), 1e-9)
        face = "none" if is_antipode else colours[chosen]
        axes.scatter(x * scale, y * scale, s=size[chosen], facecolors=face, edgecolors=colours[chosen], lw=1)
    for x, y, letter in ((-1.1, 0, "L"), (1.1, 0, "R"), (0, 1.1, "A"), (0, -1.1, "P")):
        axes.text(x, y, letter, ha="center", va="center", fontsize=9)
    axes.set(xlim=(-1.18, 1.18), ylim=(-1.18, 1.18), aspect="equal")
    axes.axis("off")


def _draw_bvalues(figure: "Figure", bvals: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> None:
    axes = figure.add_axes((0.6, 0.2, 0.385, 0.62))
    # A b = 0 volume needs a visible bar too.
    height = np.maximum(bvals, 0.015 * max(float(bvals.max(initial=1.0)), 1.0))
    axes.bar(np.arange(len(bvals)), height, width=0.9, color=colours)
    axes.set(xlabel="volume", ylabel="b (s/mm²)", xlim=(-0.7, len(bvals) - 0.3))
    axes.set_title("b-value of each volume, colour by segment", fontsize=9)
    present = np.unique(labels[labels > 0])
    for place, label in enumerate(present):
        index = int(np.flatnonzero(labels == label)[0])
        x = 0.6 + 0.385 * (place + 0.5) / len(present)
        text = f"{label}"
        box = {"boxstyle": "round,pad=0.25", "facecolor": colours[index], "edgecolor": "none"}
        is_dark = float(colours[index][:3] @ [0.3, 0.59, 0.11]) < 0.5
        figure.text(x, 0.9, text, ha="center", fontsize=8.5, bbox=box, color="white" if is_dark else "black")
