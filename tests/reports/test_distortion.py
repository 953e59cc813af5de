"""The figure of distortion correction says what was done."""

import numpy as np
import pytest

from pds_bids.imaging.grid import Grid
from pds_bids.reports.distortion import distortion_figure


@pytest.fixture
def volumes():
    grid = Grid((20, 24, 18), np.diag([5.0, 5.0, 5.0, 1.0]))
    x, y, z = np.indices(grid.shape)
    mask = (x - 10) ** 2 + (y - 12) ** 2 + (z - 9) ** 2 < 49
    image = np.where(mask, 100.0 + x, 0.0)
    return image, np.roll(image, 1, 1), np.where(mask, 30.0, 0.0), grid, mask


def texts(figure):
    return {text.get_text() for text in figure.texts}


def test_rows_and_badge(volumes):
    image, moved, hz, grid, mask = volumes
    figure = distortion_figure(image, moved, hz, grid, mask, title="BOLD")
    assert {"before", "after", "field (off-resonance)", "corrected", "BOLD"} <= texts(figure)
    assert "T1w image" not in texts(figure)


def test_a_refused_field_is_marked(volumes):
    image, moved, hz, grid, mask = volumes
    figure = distortion_figure(
        image, moved, hz, grid, mask, title="b0", is_used=False, t1w=image, t1w_mask=mask.astype(float)
    )
    assert {"NOT corrected", "T1w image", "brain of the T1w image"} <= texts(figure)
