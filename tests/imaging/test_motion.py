import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import PointMap, resample
from pds_bids.imaging.motion import (
    estimate_motion,
    matrices_to_parameters,
    parameters_to_matrices,
    realigned_mean,
    realigned_timeseries,
    segment_means,
)
from pds_bids.imaging.series import RasSeries

# mm, mean over the head and the volumes.
GOAL_MM = 0.05
# Coarse voxels and 2% noise: the best unbiased estimate against one noisy reference has 0.05 to 0.07 mm.
GOAL_COARSE_MM = 0.1
GOAL_SPIKES_MM = 0.10


def random_walk(n, seed=1, mm=2.0, deg=2.0):
    """A walk that starts at rest and reaches `mm` and `deg`."""
    walk = np.cumsum(np.random.default_rng(seed).normal(size=(n, 6)), axis=0)
    walk = (walk - walk[0]) / np.abs(walk - walk[0]).max(0)
    return walk * [mm] * 1 * np.repeat([1, np.deg2rad(deg) / mm], 3)


def test_known_motion_with_noise_and_drift(make_grid, make_series, displacement):
    grid = make_grid(zooms=(4, 4, 4))
    series, truth = make_series(grid, random_walk(20), noise=0.01, gains=np.linspace(1, 0.85, 20))
    motion = estimate_motion(series, grid.vox2ras, series[..., 0])
    error = displacement(motion.ref2volume, truth)
    assert error.mean() < GOAL_MM
    assert displacement(np.tile(np.eye(4), (20, 1, 1)), truth).mean() > 1


def test_spikes_of_motion(make_grid, make_series, displacement):
    parameters = random_walk(20, seed=2)
    parameters[[4, 5, 11], :3] += [[3, -3, 2.6], [-4, 3, 0], [0, 0, 5]]
    grid = make_grid()
    series, truth = make_series(grid, parameters, noise=0.02)
    error = displacement(estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume, truth)
    assert error[[4, 5, 11]].mean() < GOAL_SPIKES_MM
    assert error.mean() < GOAL_SPIKES_MM


def test_spoilt_slices_are_discounted(make_grid, make_series, displacement):
    grid = make_grid()
    series, truth = make_series(grid, random_walk(6, seed=3), noise=0.01)
    series[:, :, 18:22, 3] *= 0.3
    error = displacement(estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume, truth)
    assert error[3] < GOAL_SPIKES_MM


def test_large_steady_displacement_is_followed(make_grid, make_series, displacement, monkeypatch):
    """Beyond the capture range from rest, the block starts from the volume before."""
    parameters = np.zeros((24, 6))
    parameters[:, 2], parameters[:, 3] = np.linspace(0, 18, 24), np.deg2rad(np.linspace(0, 14, 24))
    grid = make_grid()
    monkeypatch.setattr("pds_bids.imaging.series.BLOCK_VOLUMES", 4)
    series, truth = make_series(grid, parameters, noise=0.01)
    error = displacement(estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume, truth)
    assert error.max() < 0.3


@pytest.mark.parametrize(
    ("codes", "zooms", "turn"),
    [("LAS", (4, 4, 4), (0, 0, 0)), ("PSL", (3, 5, 4), (0, 0, 0)), ("LPS", (3.5, 3.5, 6), (25, -10, 15))],
)
def test_any_grid(codes, zooms, turn, make_grid, make_series, displacement):
    grid = make_grid(codes, zooms, turn_deg=turn)
    assert nib.aff2axcodes(grid.vox2ras) == tuple(codes)
    series, truth = make_series(grid, random_walk(5, seed=4))
    error = displacement(estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume, truth)
    assert error.mean() < GOAL_COARSE_MM


@pytest.mark.parametrize("codes", ["LAS", "PSL", "SRA"])
def test_copies_in_other_orders_agree(codes, make_grid, make_series, displacement):
    grid = make_grid(turn_deg=(10, 5, -20))
    series, _ = make_series(grid, random_walk(4, seed=5), noise=0.02)
    expected = estimate_motion(series, grid.vox2ras, series[..., 0])
    order = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), order)
    stored = nib.orientations.apply_orientation(series, change)
    stored2ras = grid.vox2ras @ nib.orientations.inv_ornt_aff(change, grid.shape)
    copy = RasSeries(stored, stored2ras)
    motion = estimate_motion(copy, copy.grid.vox2ras, copy[..., 0])
    np.testing.assert_allclose(motion.ref2volume, expected.ref2volume, atol=1e-5)
    # As stored, without reorientation: another lattice is thinned, so equal only within the error.
    raw = estimate_motion(stored, stored2ras, stored[..., 0])
    assert displacement(raw.ref2volume, expected.ref2volume).max() < GOAL_COARSE_MM


def test_agrees_with_mean_squares_of_simpleitk(make_grid, make_series, displacement):
    grid = make_grid()
    series, truth = make_series(grid, random_walk(3, seed=6), noise=0.005)
    ours = estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume

    def image(volume):
        out = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
        out.SetSpacing(grid.zooms)
        out.SetOrigin((grid.vox2ras[:3, 3] * [-1, -1, 1]).tolist())
        out.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        return out

    for k in (1, 2):
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMeanSquares()
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 300, 0.6, 1e-8)
        # With scales from physical shift the oracle itself stops 0.3 to 0.7 mm from the truth.
        method.SetOptimizerScales([625.0] * 3 + [1.0] * 3)
        method.SetSmoothingSigmasPerLevel([1])
        method.SetShrinkFactorsPerLevel([1])
        method.SetInterpolator(sitk.sitkLinear)
        method.SetNumberOfThreads(1)
        transform = sitk.Euler3DTransform()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(image(series[..., 0]), image(series[..., k]))
        theirs = np.eye(4)
        origin = np.array(transform.TransformPoint((0, 0, 0)))
        theirs[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
        theirs[:3, 3] = origin
        flip = np.diag([-1, -1, 1, 1])
        theirs = flip @ theirs @ flip
        assert displacement([ours[k]], [theirs])[0] < 0.1
        assert displacement([theirs], truth[k : k + 1])[0] < 0.12


def test_same_bits_twice_and_input_untouched(make_grid, make_series):
    grid = make_grid()
    series, _ = make_series(grid, random_walk(4, seed=7), noise=0.02)
    before = series.copy()
    one, two = (estimate_motion(series, grid.vox2ras, series[..., 0]).ref2volume for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(series, before)


def test_nothing_to_align_to(make_grid, make_series):
    grid = make_grid()
    series, _ = make_series(grid, np.zeros((2, 6)))
    with pytest.raises(DataError, match="have structure to align to"):
        estimate_motion(series, grid.vox2ras, np.zeros(grid.shape))
    with pytest.raises(GeometryError, match="reference"):
        estimate_motion(series, grid.vox2ras, np.zeros((3, 3, 3)))


def test_parameters_round_trip_and_sign():
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(20, 6)) * np.repeat([5, 0.3], 3)
    centre = np.array([3.0, -20, 15])
    matrices = parameters_to_matrices(parameters, centre)
    np.testing.assert_allclose(matrices_to_parameters(matrices, centre), parameters, atol=1e-12)
    np.testing.assert_allclose(matrices[:, :3] @ [*centre, 1], centre + parameters[:, :3], atol=1e-12)
    # A nod of 0.1 rad about R lifts a point in front of the centre: (0, 100, 0) -> z = +9.98.
    nod = parameters_to_matrices([[0, 0, 0, 0.1, 0, 0]], np.zeros(3))[0]
    np.testing.assert_allclose(nod @ [0, 100, 0, 1], [0, 99.5004, 9.9833, 1], atol=1e-3)


def test_streaming_means_equal_naive_means(make_grid, make_series):
    grid = make_grid(turn_deg=(5, 0, 10))
    series, truth = make_series(grid, random_walk(7, seed=9))
    bias = (1 + 0.3 * np.linspace(-1, 1, grid.shape[1])[None, :, None] * np.ones(grid.shape)).astype(
        np.float32
    )
    target = make_grid(zooms=(9, 9, 9), extent=(120, 150, 90))
    warp = PointMap.from_affine(target, parameters_to_matrices([[4, 2, -3, 0.05, 0, 0.1]], np.zeros(3))[0])
    segments = [range(7), [0, 2], [5]]
    means = segment_means(series, grid.vox2ras, truth, segments, warp.points, bias)
    assert means.shape == (3, *target.shape)
    single = [
        resample(series[..., k] / bias, grid.vox2ras, warp.then(truth[k]).points, order=3) for k in range(7)
    ]
    for mean, segment in zip(means, segments, strict=True):
        np.testing.assert_allclose(mean, np.mean([single[k] for k in segment], axis=0), atol=0.5)


def test_realigned_mean_is_the_head_at_rest(make_grid, make_series, head):
    grid = make_grid()
    series, truth = make_series(grid, random_walk(6, seed=10))
    rest = 1000 * head(grid.points())
    inner = (slice(6, -6),) * 3
    still = realigned_mean(series, grid.vox2ras, truth)[inner] - rest[inner]
    moved = series.mean(3)[inner] - rest[inner]
    assert np.sqrt((still**2).mean()) < 0.15 * np.sqrt((moved**2).mean())
    only = realigned_mean(series, grid.vox2ras, truth, [0])
    np.testing.assert_allclose(only, series[..., 0], atol=0.1)


def test_mean_counts_only_volumes_in_view(make_grid, make_series):
    grid = make_grid()
    series, truth = make_series(grid, np.array([[0, 0, 0, 0, 0, 0], [0, 0, -30.0, 0, 0, 0]]))
    series[:] = 500
    points = np.array([[0, 0, grid.vox2ras[2, 3] + 8], [0, 0, 0.0], [0, 0, 500.0]])
    means = segment_means(series, grid.vox2ras, truth, [[0, 1], [1]], points)
    np.testing.assert_allclose(means, [[500, 500, 0], [0, 500, 0]], rtol=1e-5)


def test_timeseries_follow_points(make_grid, make_series):
    grid = make_grid()
    series, truth = make_series(grid, random_walk(5, seed=11))
    points = np.array([[0, 0, 0], [20.0, 30, 10], [-30, -40, 0]])
    followed = realigned_timeseries(series, grid.vox2ras, truth, points)
    assert followed.shape == (3, 5)
    np.testing.assert_allclose(followed, followed[:, :1] * np.ones(5), rtol=0.01)
    assert np.ptp(realigned_timeseries(series, grid.vox2ras, np.tile(np.eye(4), (5, 1, 1)), points)) > 20


def test_means_refuse_what_does_not_fit(make_grid, make_series):
    grid = make_grid(zooms=(12, 12, 12))
    series, truth = make_series(grid, np.zeros((2, 6)))
    with pytest.raises(DataError, match="a segment has no volume"):
        segment_means(series, grid.vox2ras, truth, [[0], []], np.zeros((1, 3)))
    with pytest.raises(GeometryError, match="expected one 4 x 4 matrix each"):
        realigned_mean(series, grid.vox2ras, truth[:1])
    with pytest.raises(GeometryError, match="bias field"):
        realigned_mean(series, grid.vox2ras, truth, bias=np.ones((2, 2, 2)))
