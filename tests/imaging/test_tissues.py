"""Tissue signals of a scan, from an image painted with known ones."""

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.imaging.grid import Grid
from pds_bids.imaging.tissues import TISSUE_SIGNAL, Template, fit_signal, paint_epi
from pds_bids.modalities import Contrast


@pytest.fixture(scope="module")
def template() -> Template:
    grid = Grid((40, 44, 36), np.diag([3.0, 3, 3, 1]))
    x, y, z = np.moveaxis(grid.points() / 3 - np.array([19.5, 21.5, 17.5]), -1, 0)
    radius = np.sqrt((x / 17) ** 2 + (y / 19) ** 2 + (z / 15) ** 2)
    mask = radius < 1
    wm = ndimage.gaussian_filter((radius + 0.1 * np.sin(x) < 0.7).astype(np.float32), 0.7) * mask
    csf = ndimage.gaussian_filter((radius < 0.3).astype(np.float32), 0.7) * mask
    wm = wm * (1 - csf)
    gm = (1 - wm - csf) * mask
    none = np.zeros(grid.shape, np.int32)
    return Template(grid, gm, mask, gm, wm, csf, none, {}, "none", "painted for tests")


def _blurred(template: Template, signal: tuple[float, float, float]) -> np.ndarray:
    painted = 700 * paint_epi(template, Contrast.BOLD, signal)
    return ndimage.gaussian_filter(painted, 2.0 / np.asarray(template.grid.zooms))


def test_signals_are_recovered_whatever_the_unit(template: Template) -> None:
    found = fit_signal(template, Contrast.BOLD, _blurred(template, (1.0, 0.95, 1.15)), template.mask)
    assert found == pytest.approx((1.0, 0.95, 1.15), abs=0.01)


def test_signals_stay_near_the_table(template: Template) -> None:
    """An image of another contrast, or of nothing, must not turn the contrast of the template over."""
    gm, wm, csf = TISSUE_SIGNAL[Contrast.BOLD]
    found = fit_signal(template, Contrast.BOLD, _blurred(template, (1.0, 1.6, 0.2)), template.mask)
    assert found == pytest.approx((gm, 1.15 * wm, 0.75 * csf))
    nothing = np.zeros(template.grid.shape)
    assert fit_signal(template, Contrast.BOLD, nothing, template.mask) == (gm, wm, csf)
    assert fit_signal(template, Contrast.BOLD, nothing, template.mask & False) == (gm, wm, csf)
