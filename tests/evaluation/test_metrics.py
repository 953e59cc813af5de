import numpy as np
import pytest
from skimage import metrics as oracle

from pds_bids.evaluation.metrics import SSIMKernel, fit_smooth_gain, mae, psnr, ssim, ssim_map
from pds_bids.exceptions import GeometryError

RANGE = 1.7


@pytest.fixture
def images():
    rng = np.random.default_rng(3)
    truth = np.cumsum(rng.normal(size=(20, 24, 22)), 0) * 0.1 + 1
    mask = np.zeros(truth.shape, bool)
    mask[4:17, 3:20, 5:18] = True
    return truth + 0.1 * rng.normal(size=truth.shape), truth, mask


def test_psnr_equals_scikit_image(images):
    image, truth, mask = images
    expected = oracle.peak_signal_noise_ratio(truth, image, data_range=RANGE)
    assert psnr(image, truth, data_range=RANGE) == pytest.approx(expected, abs=1e-9)
    expected = oracle.peak_signal_noise_ratio(truth[mask], image[mask], data_range=RANGE)
    assert psnr(image, truth, data_range=RANGE, mask=mask) == pytest.approx(expected, abs=1e-9)
    assert expected != pytest.approx(psnr(image, truth, data_range=RANGE), abs=1e-3)


@pytest.mark.parametrize("kernel", list(SSIMKernel))
def test_ssim_equals_scikit_image(images, kernel):
    image, truth, mask = images
    options = {"gaussian_weights": True, "sigma": 1.5} if kernel is SSIMKernel.GAUSSIAN else {"win_size": 7}
    expected, full = oracle.structural_similarity(
        truth, image, data_range=RANGE, full=True, use_sample_covariance=False, **options
    )
    assert ssim(image, truth, data_range=RANGE, kernel=kernel) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(ssim_map(image, truth, data_range=RANGE, kernel=kernel), full, atol=1e-9)
    in_brain = ssim(image, truth, data_range=RANGE, kernel=kernel, mask=mask)
    assert in_brain == pytest.approx(full[mask].mean(), abs=1e-9)


def test_mae_in_mask():
    truth = np.arange(8.0).reshape(2, 2, 2)
    mask = truth < 2
    assert mae(truth + np.where(mask, 0.25, 9), truth, mask=mask) == 0.25


def test_equal_images():
    image = np.ones((12, 12, 12))
    assert psnr(image, image, data_range=1) == float("inf")
    assert ssim(image, image, data_range=1) == pytest.approx(1)


@pytest.mark.parametrize("spoil", ["empty mask", "nan"])
def test_undefined_is_nan_with_a_warning(images, spoil):
    image, truth, mask = images
    if spoil == "nan":
        image[5, 5, 6] = np.nan
    else:
        mask = mask & False
    for metric in (psnr, ssim):
        with pytest.warns(RuntimeWarning, match="undefined"):
            assert np.isnan(metric(image, truth, data_range=1.0, mask=mask))
    with pytest.warns(RuntimeWarning, match="undefined"):
        assert np.isnan(mae(image, truth, mask=mask))


def test_nan_outside_the_mask_does_not_matter_to_psnr(images):
    image, truth, mask = images
    expected = psnr(image, truth, data_range=1.0, mask=mask)
    image[~mask] = np.nan
    assert psnr(image, truth, data_range=1.0, mask=mask) == expected


def test_shapes_must_match(images):
    image, truth, _ = images
    with pytest.raises(GeometryError, match="differ in shape"):
        psnr(image[1:], truth, data_range=1.0)


def test_smooth_gain_undoes_a_smooth_bias_but_not_detail(images):
    _, truth, mask = images
    truth = np.where(mask, truth + 2, 0)
    ramp = np.linspace(0.7, 1.4, truth.shape[0])[:, None, None]
    plain = psnr(truth * ramp, truth, data_range=1.0, mask=mask)
    tolerant = psnr(
        fit_smooth_gain(truth * ramp, truth, mask, sigma_voxels=3), truth, data_range=1.0, mask=mask
    )
    assert tolerant > plain + 10
    checker = 1 + 0.2 * (np.indices(truth.shape).sum(0) % 2)
    fine = fit_smooth_gain(truth * checker, truth, mask, sigma_voxels=3)
    # Detail of 10% about its mean stays: sd 0.1 / 1.1 of the image.
    expected = 20 * np.log10(1 / np.sqrt(np.mean((truth[mask] * 0.1 / 1.1) ** 2)))
    assert psnr(fine, truth, data_range=1.0, mask=mask) == pytest.approx(expected, abs=1)
