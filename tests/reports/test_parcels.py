"""The scatter of parcels: every parcel where it belongs, the worst named."""

import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.reports.parcels import parcel_figure

LABELS = [f"parcel {k}" for k in range(30)]


def draw(acquired, synthetic, labels=LABELS):
    return parcel_figure(acquired, synthetic, np.full(len(labels), 0.05), labels, name="mean DWI")


def points(figure):
    return np.concatenate([c.get_offsets() for c in figure.axes[0].collections if len(c.get_offsets()) > 1])


def test_parcels_lie_at_their_acquired_and_synthetic_means_and_the_worst_are_named():
    acquired = np.linspace(0.5, 1.5, 30)
    synthetic = acquired.copy()
    synthetic[7] += 0.4
    synthetic[3] -= 0.2
    figure = draw(acquired, synthetic)
    found = points(figure)
    assert sorted(map(tuple, found)) == sorted(zip(acquired, synthetic, strict=True))
    named = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert named[:2] == ["parcel 7", "parcel 3"]
    bars = [bar.get_width() for bar in figure.axes[1].patches]
    assert bars[:2] == pytest.approx([0.4, -0.2])
    said = figure.axes[0].texts[0].get_text()
    assert f"r = {np.corrcoef(acquired, synthetic)[0, 1]:.3f}" in said
    assert "mean difference +0.007" in said


def test_axes_have_one_scale_so_that_the_diagonal_is_equality():
    figure = draw(np.linspace(0.5, 1.5, 30), np.linspace(1.0, 3.0, 30))
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_parcels_outside_of_the_mask_are_left_out():
    acquired = np.linspace(0.5, 1.5, 30)
    acquired[:5] = np.nan
    figure = draw(acquired, np.linspace(0.5, 1.5, 30))
    assert len(points(figure)) == 25
    assert "25 parcels" in figure.axes[0].texts[0].get_text()
    with pytest.raises(GeometryError, match="no parcel"):
        draw(np.full(30, np.nan), acquired)


def test_lengths_must_agree():
    with pytest.raises(GeometryError, match="30 acquired, 29 synthetic"):
        draw(np.ones(30), np.ones(29))
