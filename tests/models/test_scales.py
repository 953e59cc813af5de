import pytest
import torch

from pds_bids.models.scales import N_MEASURED, MeasuredScale


def batches(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.tensor([0.1, 2.0, 5.0]).view(1, 3, 1, 1, 1)
    return [deviations * torch.randn(2, 3, 4, 4, 4, generator=generator) for _ in range(n)]


def test_deviation_is_measured_where_there_is_weight_then_fixed():
    scale = MeasuredScale(3, 0.5)
    weight = torch.ones(2, 3, 4, 4, 4)
    weight[:, 2] = 0
    for images in batches(N_MEASURED):
        images[..., 0] = 100
        scale.measure(images, weight * (torch.arange(4) > 0))
    first = scale.value.flatten().tolist()
    # One guess among a hundred batches: 0.5^2 / 101 is added to the mean square.
    assert first[0] == pytest.approx((0.01 + 0.25 / 101) ** 0.5, rel=0.02)
    assert first[1] == pytest.approx(2, rel=0.02)
    assert first[2] == 0.5
    scale.measure(batches(1)[0] * 100, torch.ones_like(weight))
    assert scale.value.flatten().tolist() == first


def test_nothing_is_measured_in_evaluation():
    scale = MeasuredScale(3, 0.5).eval()
    scale.measure(batches(1)[0], torch.ones(2, 3, 4, 4, 4))
    assert scale.value.flatten().tolist() == [0.5] * 3
