"""Charts of a cohort: what is written on them can be read."""

from itertools import pairwise

import numpy as np

from pds_bids.reports.cohort_charts import fidelity_figure


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
