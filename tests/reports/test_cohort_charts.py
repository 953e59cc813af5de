"""Charts of a cohort: what is written on them can be read."""

from itertools import pairwise

import numpy as np
import pytest

from pds_bids.reports.cohort_charts import (
    agreement_figure,
    distribution_figure,
    fidelity_figure,
    parcel_correlation_figure,
    similarity_figure,
)
from pds_bids.reports.cohort_maps import person_profile_figure

CONTRASTS = ("b0", "bold", "dwi", "fa", "md (µm²/ms)")


def test_five_contrasts_do_not_write_over_each_other():
    predictors = {name: np.arange(2.0) for name in ("model", "atlas", "cubic", "source-bold", "source-t1w")}
    figure = fidelity_figure(dict.fromkeys(("b0", "bold", "dwi", "fa", "md"), predictors), metric="PSNR (dB)")
    figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert figure.axes[0].get_title() == "synthetic b0"
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    # Ticks and labels of an axis stay clear of the frame on their left.
    assert all(
        left.get_window_extent().x1 < box.x0 for left, box in zip(figure.axes, boxes[1:], strict=False)
    )
    head, key = figure.texts
    assert head.get_window_extent().x1 < key.get_window_extent().x0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _overlapping(figure):
    """Return pairs of texts that cover each other, and texts that lie on the frame of another panel."""
    figure.draw_without_rendering()
    texts, crossing = list(figure.texts), []
    for axes in figure.axes:
        first = len(texts)
        texts += [axes.title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, axis.get_offset_text()]
            # Ticks beyond the frame are there, but not drawn.
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        frames = [other.get_window_extent() for other in figure.axes if other is not axes]
        own = [text for text in texts[first:] if text.get_visible() and text.get_text().strip()]
        crossing += [t.get_text() for t in own for f in frames if f.overlaps(t.get_window_extent())]
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    return crossing + [
        (one, other)
        for k, (one, a) in enumerate(boxes)
        for other, b in boxes[:k]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


def _tables(rng):
    return {name: (rng.normal(size=(8, 120)), rng.normal(size=(8, 120))) for name in CONTRASTS}


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: parcel_correlation_figure({n: (a[0], b[0]) for n, (a, b) in _tables(rng).items()}),
        lambda rng: agreement_figure(_tables(rng)),
        lambda rng: agreement_figure({n: (1e-3 * a, 1e-3 * b) for n, (a, b) in _tables(rng).items()}),
        lambda rng: similarity_figure(
            {n: (np.corrcoef(a), list("abcdefgh")) for n, (a, _) in _tables(rng).items()}
        ),
        lambda rng: person_profile_figure(
            [(n, "sub-01", 1e-3 * a[0], 1e-3 * b[0], 1e-3 * a.mean(0)) for n, (a, b) in _tables(rng).items()],
            n_parcels=120,
        ),
    ],
    ids=["correlation", "agreement", "agreement of small numbers", "similarity", "people"],
)
def test_no_text_lies_on_another_with_five_contrasts(draw, rng):
    assert not _overlapping(draw(rng))


def test_shares_that_hardly_differ_are_not_written_as_an_offset():
    values = np.array([0.99996, 1.0, 0.99998])
    kinds = {"BOLD": (values, np.zeros(3, bool), ["sub-01", "sub-02", "sub-03"])}
    figure = distribution_figure({"share of brain acquired": kinds}, title="Quality")
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""
    assert not _overlapping(figure)
