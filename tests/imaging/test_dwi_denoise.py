import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LinearRegression

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging import dwi_denoise
from pds_bids.imaging.dwi import check_gradients
from pds_bids.imaging.dwi_denoise import (
    denoise,
    denoise_caution,
    denoise_problem,
    remove_gibbs_ringing,
    slice_axis_ras,
)
from pds_bids.imaging.dwi_maps import tensor_maps
from pds_bids.options import DenoiseMethod
from pds_bids.phantom.gradients import spread_directions

SIGMA = 25.0
VOX2RAS = np.diag([3.0, 3, 3, 1])


@pytest.fixture(scope="module")
def scan():
    """A ball with three fibre directions and a ventricle: truth, noisy scan, b-values, b-vectors."""
    n = 24
    x, y, z = np.indices((22, 22, 20)) - np.array([10.5, 10.5, 9.5])[:, None, None, None]
    radius = np.sqrt(x**2 + y**2 + (1.1 * z) ** 2)
    tensor = np.zeros((*radius.shape, 3, 3)) + 0.6e-3 * np.eye(3)
    for axis, where in enumerate((x > 2, y > 2, z > 2)):
        tensor[where, axis, axis] = 1.5e-3
    tensor[radius < 3.5] = 3e-3 * np.eye(3)
    bvals = np.concatenate([np.zeros(6), np.full(n, 1000.0)])
    bvecs = np.vstack([np.zeros((6, 3)), spread_directions(n)])
    attenuation = np.exp(-bvals * np.einsum("ni,xyzij,nj->xyzn", bvecs, tensor, bvecs))
    truth = np.where(radius < 9.5, 500 + 200 * (radius < 3.5), 0)[..., None] * attenuation
    rng = np.random.default_rng(0)
    noise = rng.normal(0, SIGMA, (2, *truth.shape))
    noisy = np.hypot(truth + noise[0], noise[1]).astype(np.float32)
    return truth, noisy, bvals, bvecs, radius < 8.5


@pytest.mark.parametrize(("method", "share"), [(DenoiseMethod.MPPCA, 0.6), (DenoiseMethod.PATCH2SELF, 0.8)])
def test_noise_falls_and_the_truth_comes_nearer(method, share, scan):
    truth, noisy, bvals, bvecs, inside = scan
    found = denoise(noisy, VOX2RAS, method, bvals)
    weighted = bvals > 50
    before, after = (
        np.sqrt(((data - truth)[inside][:, weighted] ** 2).mean()) for data in (noisy, found.data)
    )
    assert after < share * before
    assert found.data.dtype == np.float32
    assert found.data.min() >= 0
    # What was removed has the size of the noise and nothing of the anatomy: no bias within a tissue.
    removed = (noisy - found.data)[inside][:, weighted]
    assert 0.6 * SIGMA < removed.std() < 1.15 * SIGMA
    assert abs(removed.mean()) < 0.15 * SIGMA
    gradients = check_gradients(len(bvals), bvals, bvecs)
    maps = [tensor_maps(data[inside], gradients).fa for data in (truth, noisy, found.data)]
    assert np.abs(maps[2] - maps[0]).mean() < 0.9 * np.abs(maps[1] - maps[0]).mean()


def test_the_noise_map_shows_the_noise(scan):
    _, noisy, bvals, _, inside = scan
    noise = denoise(noisy, VOX2RAS, DenoiseMethod.MPPCA, bvals).noise_sd
    assert noise.shape == noisy.shape[:3]
    assert np.median(noise[inside]) == pytest.approx(SIGMA, rel=0.15)


def test_slabs_do_not_matter(scan, monkeypatch):
    _, noisy, bvals, _, _ = scan
    noisy, bvals = noisy[5:17, 5:17, :, ::2], bvals[::2]
    monkeypatch.setattr(dwi_denoise, "SLAB", 100)
    whole = denoise(noisy, VOX2RAS, DenoiseMethod.MPPCA, bvals)
    for slab in (3, 19):
        monkeypatch.setattr(dwi_denoise, "SLAB", slab)
        parts = denoise(noisy, VOX2RAS, DenoiseMethod.MPPCA, bvals)
        np.testing.assert_allclose(parts.data, whole.data, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(parts.noise_sd, whole.noise_sd, rtol=1e-4, atol=1e-3)


def test_same_result_twice(scan):
    _, noisy, bvals, _, _ = scan
    noisy, bvals = noisy[5:17, 5:17, :, ::2], bvals[::2]
    for method in (DenoiseMethod.PATCH2SELF, DenoiseMethod.MPPCA):
        one, two = (denoise(noisy, VOX2RAS, method, bvals).data for _ in range(2))
        np.testing.assert_array_equal(one, two)


def test_patch2self_is_the_regression_of_each_volume_on_the_others(scan, monkeypatch):
    """Against scikit-learn, volume by volume; also that b0s and weighted volumes do not mix."""
    _, noisy, bvals, _, _ = scan
    head = np.zeros(noisy.shape[:3], bool)
    head[3:19, 4:18, 3:17] = True
    monkeypatch.setattr(dwi_denoise, "_head", lambda *_: head)
    found = denoise(noisy, VOX2RAS, DenoiseMethod.PATCH2SELF, bvals)
    for volume in (0, 4, 6, 29):
        others = [k for k in range(30) if (k < 6) == (volume < 6) and k != volume]
        model = LinearRegression().fit(noisy[head][:, others], noisy[head][:, volume])
        expected = model.predict(noisy.reshape(-1, 30)[:, others]).reshape(head.shape).clip(0)
        np.testing.assert_allclose(found.data[..., volume], expected, atol=0.05)


def test_few_b0s_are_left_alone(scan):
    _, noisy, bvals, _, _ = scan
    found = denoise(noisy[..., 3:], VOX2RAS, DenoiseMethod.PATCH2SELF, bvals[3:])
    np.testing.assert_array_equal(found.data[..., :3], noisy[..., 3:6])


def test_none_is_the_series(scan):
    _, noisy, bvals, _, _ = scan
    np.testing.assert_array_equal(denoise(noisy, VOX2RAS, DenoiseMethod.NONE, bvals).data, noisy)


@pytest.mark.parametrize(
    ("method", "shape", "problem"),
    [
        (DenoiseMethod.PATCH2SELF, (9, 9, 9, 9), "9 volumes, at least 10"),
        (DenoiseMethod.MPPCA, (9, 9, 9, 9), "9 volumes, at least 10"),
        (DenoiseMethod.MPPCA, (9, 9, 4, 20), "5 x 5 x 5 voxels do not fit"),
        (DenoiseMethod.MPPCA, (9, 9, 6, 200), "7 x 7 x 7 voxels do not fit"),
        (DenoiseMethod.MPPCA, (9, 9, 9, 800), "fewer than the 729 voxels"),
    ],
)
def test_unsuitable_series_are_refused(method, shape, problem):
    assert problem in denoise_problem(method, shape)
    with pytest.raises(DataError, match="leave denoising out"):
        denoise(np.ones(shape, np.float32), VOX2RAS, method, np.zeros(shape[3]))


def test_few_directions_call_for_caution_with_patch2self():
    few, many = ([0] + [1000] * n for n in (20, 60))
    assert "20 weighted volumes" in denoise_caution(DenoiseMethod.PATCH2SELF, few)
    assert denoise_caution(DenoiseMethod.PATCH2SELF, many) == ""
    assert denoise_caution(DenoiseMethod.MPPCA, few) == ""


def test_wrong_length():
    with pytest.raises(GeometryError, match="12 volumes != 11"):
        denoise(np.ones((6, 6, 6, 12), np.float32), VOX2RAS, DenoiseMethod.MPPCA, np.zeros(11))


def ringing_disc(n=64, fine=576):
    """A disc sampled by a truncated k-space, and by ideal voxels without truncation."""
    x, y = (np.indices((fine, fine)) - (fine - 1) / 2) / fine
    disc = 100 * (np.hypot(x, y) < 0.3) + 20 * (np.hypot(x - 0.02, y) < 0.45)
    k = np.fft.fftshift(np.fft.fft2(disc))
    low = slice((fine - n) // 2, (fine + n) // 2)
    ringing = np.abs(np.fft.ifft2(np.fft.ifftshift(k[low, low]))) * (n / fine) ** 2
    # Samples lie on every ninth point; voxels are centred there.
    blocks = np.roll(disc, 4, (0, 1)).reshape(n, fine // n, n, fine // n)
    return ringing, blocks.mean((1, 3))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_gibbs_ringing_falls(slice_axis):
    ringing, ideal = ringing_disc()
    stack = np.moveaxis(np.stack([ringing] * 3, -1), 2, slice_axis)[..., None].astype(np.float32)
    before = stack.copy()
    cleaned = remove_gibbs_ringing(stack, slice_axis)
    np.testing.assert_array_equal(stack, before)
    cleaned = np.moveaxis(cleaned[..., 0], slice_axis, 2)[..., 1]
    flat = ndimage.binary_erosion(ideal == ideal[32, 32])
    assert ringing[flat].std() > 1.5
    # Ringing in the plateau, and the distance from ideal voxels, edges included.
    assert cleaned[flat].std() < 0.5 * ringing[flat].std()
    assert np.abs(cleaned - ideal).mean() < np.abs(ringing - ideal).mean()


def test_gibbs_wants_an_axis():
    with pytest.raises(GeometryError, match="slice axis 3"):
        remove_gibbs_ringing(np.ones((4, 4, 4), np.float32), 3)


@pytest.mark.parametrize(("codes", "axis"), [("RAS", 2), ("LPS", 2), ("PSR", 0), ("LSA", 1)])
def test_slices_are_found_after_reorientation(codes, axis, make_grid):
    grid = make_grid(codes, zooms=(3.0, 3.0, 5.0), turn_deg=(10, 5, 0))
    assert slice_axis_ras(grid.vox2ras) == axis
