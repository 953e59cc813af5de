"""Charts: units, positions and counts against numbers worked out by hand."""

import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.reports.charts import gradient_figure, motion_figure


def lines(axes):
    return [np.asarray(line.get_ydata(), float) for line in axes.lines]


def test_motion_is_drawn_in_mm_and_degrees():
    parameters = np.zeros((6, 6))
    parameters[:, 1] = np.arange(6) * 0.1
    parameters[3, 5] = np.pi / 180
    displacement = np.array([np.nan, 0.1, 0.1, 0.9, 0.1, 0.1])
    figure = motion_figure(parameters, displacement, [3], tr_s=2.5, threshold_mm=0.5)
    translation, rotation, fd = figure.axes
    np.testing.assert_allclose(lines(translation)[1], np.arange(6) * 0.1)
    assert lines(rotation)[2][3] == pytest.approx(1.0)
    np.testing.assert_allclose(translation.lines[0].get_xdata(), np.arange(6) * 2.5)
    assert fd.get_xlabel() == "time (s)"
    assert "mean 0.26 mm, 1 of 6 volumes left out" in [text.get_text() for text in fd.texts]
    # The threshold is a line of its own at its height.
    assert [0.5, 0.5] in [list(values) for values in lines(fd)]


@pytest.mark.parametrize("censored", [[1, 4], np.array([0, 1, 0, 0, 1, 0], bool)])
def test_left_out_volumes_are_marked(censored):
    figure = motion_figure(np.zeros((6, 6)), np.zeros(6), censored)
    spans = [patch.get_x() + patch.get_width() / 2 for patch in figure.axes[1].patches]
    assert spans == [1, 4]
    assert figure.axes[2].get_xlabel() == "volume"


def test_segments_are_numbered_over_their_middle():
    figure = motion_figure(np.zeros((6, 6)), np.zeros(6), segments=[[0, 1, 2], [3, 4, 5]])
    told = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert told == {"1": 1.0, "2": 4.0}


def test_a_still_head_looks_still():
    noise = np.full((5, 6), 0.002)
    low, high = motion_figure(noise, np.zeros(5)).axes[0].get_ylim()
    assert high - low >= 1


def test_motion_of_another_length_is_an_error():
    with pytest.raises(GeometryError, match="4 displacements"):
        motion_figure(np.zeros((5, 6)), np.zeros(4))
    with pytest.raises(GeometryError, match="3 censoring flags for 5 volumes"):
        motion_figure(np.zeros((5, 6)), np.zeros(5), np.zeros(3, bool))


def discs(figure):
    """Filled and hollow points of the upper and the lower hemisphere."""
    found = []
    for axes in figure.axes[:2]:
        hollow, filled = axes.collections
        assert len(hollow.get_facecolor()) == 0
        found.append((np.asarray(filled.get_offsets()), np.asarray(hollow.get_offsets())))
    return found


def test_directions_lie_where_equal_area_puts_them():
    # +x; 60 degrees from the vertical towards the front; straight down.
    vectors = np.array([[1.0, 0, 0], [0, np.sqrt(0.75), 0.5], [0, 0, -1]])
    (up, up_hollow), (down, down_hollow) = discs(gradient_figure(np.full(3, 1000.0), vectors))
    np.testing.assert_allclose(up, [[1, 0], [0, np.sqrt(0.5)]], atol=1e-9)
    # The antipode of the one that points down is straight up; that of +x is at -x.
    np.testing.assert_allclose(up_hollow, [[-1, 0], [0, 0]], atol=1e-9)
    assert [0, 0] in np.round(down, 9).tolist()
    np.testing.assert_allclose(sorted(down_hollow.tolist()), [[-1, 0], [0, -np.sqrt(0.5)]], atol=1e-9)


def test_right_is_drawn_on_the_side_of_its_letter():
    figure = gradient_figure(np.array([1000.0]), np.array([[0.8, 0, 0.6]]))
    (up, _), _ = discs(figure)
    letters = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert up[0, 0] * letters["R"][0] > 0 > up[0, 0] * letters["L"][0]


def test_b0_is_not_a_direction_and_colours_follow_segments():
    bvals = np.array([0, 1000, 1000, 2000.0])
    vectors = np.array([[0, 0, 1.0], [0, 0, 1], [0, 0.6, 0.8], [1, 0, 0]])
    figure = gradient_figure(bvals, vectors, [[1, 3], [2]])
    (up, _), _ = discs(figure)
    assert len(up) == 3
    bars = figure.axes[2].patches
    assert [bar.get_height() for bar in bars[1:]] == [1000, 1000, 2000]
    assert bars[1].get_facecolor() == bars[3].get_facecolor() != bars[2].get_facecolor()
    assert bars[0].get_facecolor()[:3] == (0.7, 0.7, 0.7)
    assert "4 volumes, 1 with b < 50" in " ".join(text.get_text() for text in figure.texts)


def test_transposed_vectors_are_an_error():
    with pytest.raises(GeometryError, match=r"expected \(5, 3\)"):
        gradient_figure(np.zeros(5), np.zeros((3, 5)))
