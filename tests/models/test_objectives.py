import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from pds_bids.exceptions import DataError
from pds_bids.imaging.parcels import parcel_means
from pds_bids.models.objectives import (
    ParcelLoss,
    effect_sizes,
    gradient_error,
    laplace_error,
    structural_error,
    voxel_weights,
)

SHAPE = (8, 10, 12)
WEIGHTS = torch.tensor([[1.0, 0.0], [0.0, 0.5]])


def images(n, c=2, seed=0):
    return torch.rand(n, c, *SHAPE, generator=torch.Generator().manual_seed(seed))


def random_mask(n):
    return (images(n, 1, 5) > 0.3).float()


def test_every_person_counts_the_same():
    mask = torch.ones(2, 1, *SHAPE)
    mask[1, ..., :6] = 0
    weight = voxel_weights(mask, WEIGHTS)
    torch.testing.assert_close(weight.sum((1, 2, 3, 4)), torch.tensor([0.5, 0.5]))
    assert not weight[0, 1].any()
    assert not weight[1, :, ..., :6].any()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_parcel_loss_against_the_parcel_means_of_the_imaging_layer(is_weighted):
    generator = torch.Generator().manual_seed(3)
    parcels = torch.randint(0, 5, (2, *SHAPE), generator=generator)
    importance = torch.rand(2, 4, generator=generator)
    first, second, mask = images(2), images(2, seed=1), random_mask(2)
    loss = ParcelLoss(parcels, importance if is_weighted else None)
    expected = 0.0
    for person, contrast, share in ((0, 0, 1.0), (1, 1, 0.5)):
        inside = mask[person, 0].numpy() > 0
        means = [
            parcel_means(
                v[person, contrast].numpy()[..., None], parcels[contrast].numpy(), inside, [1, 2, 3, 4]
            )
            for v in (first, second)
        ]
        weights = importance[contrast].numpy() if is_weighted else None
        expected += share / 2 * np.average(np.abs(means[0] - means[1])[0], weights=weights)
    assert float(loss(first, second, mask, WEIGHTS)) == pytest.approx(expected, rel=1e-4)


def test_parcel_loss_sees_patterns_not_voxels():
    parcels = torch.ones(1, *SHAPE, dtype=torch.long)
    parcels[:, 4:] = 2
    truth, mask, weights = images(1, 1), torch.ones(1, 1, *SHAPE), torch.ones(1, 1)
    shuffled = truth.clone()
    shuffled[..., :4, :, :] = truth[..., :4, :, :].flip(2, 3, 4)
    loss = ParcelLoss(parcels)
    assert float(loss(shuffled, truth, mask, weights)) == pytest.approx(0, abs=1e-6)
    shuffled[..., :4, :, :] += 0.3
    assert float(loss(shuffled, truth, mask, weights)) == pytest.approx(0.15, abs=1e-5)


def test_parcel_outside_of_the_brain_does_not_count():
    parcels = torch.ones(1, *SHAPE, dtype=torch.long)
    parcels[:, 4:] = 2
    mask = torch.ones(1, 1, *SHAPE)
    mask[..., 4:, :, :] = 0
    error = torch.full((1, 1, *SHAPE), 0.2)
    value = ParcelLoss(parcels)(error, torch.zeros_like(error), mask, torch.ones(1, 1))
    assert float(value) == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(
    ("parcels", "weights", "message"),
    [
        (torch.zeros(2, *SHAPE), None, "no parcel in the window"),
        (torch.ones(2, *SHAPE), torch.ones(2, 3), "weights of shape"),
        (torch.ones(2, *SHAPE), -torch.ones(2, 1), "none negative"),
    ],
)
def test_unusable_atlases(parcels, weights, message):
    with pytest.raises(DataError, match=message):
        ParcelLoss(parcels, weights)


def test_effect_sizes_against_the_f_statistic():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    groups = torch.arange(30) % 3
    means[groups == 1, 0] += 2
    parts = [means[groups == g].numpy() for g in range(3)]
    f_statistic = stats.f_oneway(*parts).statistic
    # F = (between / 2) / (within / 27) and Cohen's f^2 = between / within.
    np.testing.assert_allclose(effect_sizes(means, groups).numpy() ** 2 * 27 / 2, f_statistic)


def test_structural_error_against_scikit_image():
    first, second = images(1, 1).double(), images(1, 1, seed=1).double()
    # The borders of the two differ: windows are cut there, or mirrored.
    weight = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    weight[..., 3:-3, 3:-3, 3:-3] = 1
    weight = weight / weight.sum()
    result = structural_error(first, second, weight, 1.5)
    _, full = structural_similarity(
        first[0, 0].numpy(),
        second[0, 0].numpy(),
        win_size=7,
        data_range=1.5,
        full=True,
        use_sample_covariance=False,
    )
    assert float(result) == pytest.approx(1 - full[3:-3, 3:-3, 3:-3].mean(), abs=1e-6)


def test_gradient_error_of_a_step():
    error = torch.zeros(1, 1, *SHAPE)
    error[..., 4:, :, :] = 0.6
    weight = voxel_weights(torch.ones(1, 1, *SHAPE), torch.ones(1, 1))
    assert float(gradient_error(error, weight)) == pytest.approx(0.6 / 8 / 3, abs=1e-6)
    assert float(gradient_error(torch.ones_like(error), weight)) == 0


def test_laplace_error_against_scipy():
    generator = torch.Generator().manual_seed(0)
    log_scale = torch.randn(1, 1, 4, 5, 6, generator=generator)
    size = images(1, 1)
    weight = voxel_weights(torch.ones(1, 1, *SHAPE), torch.ones(1, 1))
    scale = log_scale.exp().numpy().repeat(2, 2).repeat(2, 3).repeat(2, 4)
    expected = -stats.laplace.logpdf(size.numpy(), scale=scale).mean() - np.log(2)
    assert float(laplace_error(log_scale, size, weight)) == pytest.approx(expected, abs=1e-4)
