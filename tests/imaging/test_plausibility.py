"""Series that are not what their name says are refused or named; brains of all kinds are not."""

import numpy as np
import pytest

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.dwi import check_gradients
from pds_bids.imaging.plausibility import judge_bold, judge_weighting, volume_levels

DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0.6, 0.8], [0.8, 0, 0.6]])


def table(*bvals):
    return check_gradients(len(bvals), bvals, np.resize(DIRECTIONS, (len(bvals), 3)))


def signal(bvals, diffusivity=0.8e-3, floor=0.03):
    """Return the mean of a brain at some b-values, a sixth of it fluid, over a floor of noise."""
    bvals = np.array(bvals, float)
    return 900 * np.hypot(0.75 * np.exp(-bvals * diffusivity) + 0.25 * np.exp(-bvals * 3e-3), floor)


@pytest.mark.parametrize("bval", [500, 700, 1000, 3000, 10000])
@pytest.mark.parametrize("diffusivity", [0.6e-3, 1.2e-3])
@pytest.mark.parametrize("floor", [0.03, 0.45])
def test_a_brain_is_weighted(bval, diffusivity, floor):
    """From newborns to slow adult tissue, and with a noise floor of half of the signal."""
    bvals = [0, *[bval] * 6]
    verdict = judge_weighting(signal(bvals, diffusivity, floor), table(*bvals))
    assert not verdict.doubts
    assert verdict.weighted_to_b0 == pytest.approx(
        float(np.divide(*signal([bval, 0], diffusivity, floor))), abs=1e-4
    )


@pytest.mark.parametrize("bval", [500, 1000, 3000])
def test_an_image_without_weighting_is_refused(bval):
    """A T1w or BOLD image under DWI's name: every volume as bright as the first."""
    levels = 800 * np.random.default_rng(0).normal(1, 0.03, 7)
    with pytest.raises(DataError, match=r"sub-01_dwi: 6 of 6 volumes .* not diffusion-weighted"):
        judge_weighting(levels, table(0, *[bval] * 6), name="sub-01_dwi")


def test_a_table_in_another_order_is_refused():
    """The b0s come last, the table says first: what it calls weighted is as bright as what it calls b0."""
    with pytest.raises(DataError, match="b-values belong to another series or order"):
        judge_weighting(signal([1000] * 6 + [0]), table(0, *[1000] * 6))


def test_a_single_b0_among_weighted_volumes_is_named():
    verdict = judge_weighting(signal([0, 1000, 1000, 0, 1000, 1000, 1000]), table(0, *[1000] * 6))
    (doubt,) = verdict.doubts
    assert "volumes 3, counted from 0" in doubt


def test_weak_weighting_is_not_judged():
    """Perfusion shells lose little, and nothing is said of them; the strong shell beside them is judged."""
    assert judge_weighting(np.array([100.0, 99, 99]), table(0, 200, 200)).weighted_to_b0 is None
    both = np.array([100.0, 97, 97, 97, 40, 40, 40])
    assert judge_weighting(both, table(0, 200, 200, 200, 1000, 1000, 1000)).weighted_to_b0 == 0.4


def test_volumes_left_out_do_not_count():
    levels = signal([0, 1000, 1000, 1000, 0])
    judged = judge_weighting(levels, table(0, 1000, 1000, 1000, 1000).without([4]))
    assert not judged.doubts


def test_a_bold_series_is_steady():
    """Drift, breathing and one jerk of the head, after bright volumes before the steady state."""
    rng = np.random.default_rng(0)
    levels = 500 * (1 + 0.03 * np.linspace(-1, 1, 60) + rng.normal(0, 0.01, 60))
    levels[20] *= 0.75
    levels[:2] *= 1.9
    assert not judge_bold(levels, [0, 1]).doubts
    (doubt,) = judge_bold(levels, []).doubts
    assert "volumes 0, 1, counted from 0" in doubt


@pytest.mark.parametrize("what", ["b-values", "echoes"])
def test_jumps_from_volume_to_volume_are_no_bold(what):
    levels = signal([0, 1000, 2000] * 5) if what == "b-values" else np.resize([500.0, 260, 130], 15)
    assert judge_bold(levels, []).doubts


def test_levels_are_the_means_in_the_mask():
    rng = np.random.default_rng(0)
    series = rng.uniform(1, 2, (5, 6, 7, 40)).astype(np.float32)
    mask = rng.uniform(size=series.shape[:3]) > 0.5
    expected = [series[..., k][mask].mean(dtype=float) for k in range(40)]
    np.testing.assert_allclose(volume_levels(series, mask), expected, rtol=1e-6)
    with pytest.raises(GeometryError, match="of 0 voxels"):
        volume_levels(series, ~(mask | True))
