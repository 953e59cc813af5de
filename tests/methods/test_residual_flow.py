from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import SHAPE, perturb

from pds_bids.exceptions import UsageError
from pds_bids.methods.baseline import SPREAD_FLOOR
from pds_bids.methods.residual_flow import ResidualFlowConfig, ResidualFlowMethod
from pds_bids.modalities import CONTRASTS
from pds_bids.models.guided import GuidedConfig
from pds_bids.models.unet import UNetConfig
from pds_bids.models.wavelet import haar_forward

CONFIG = ResidualFlowConfig(
    UNetConfig((16, 16, 16), 1, 16), GuidedConfig((16, 16, 16), 1, 16, 2), n_samples=2
)


@pytest.fixture
def make(parcels):
    return lambda **changes: ResidualFlowMethod(replace(CONFIG, **changes), SHAPE, parcels=parcels)


def test_flow_repairs_what_the_posterior_mean_leaves(make, batch, fit, error, generators):
    method = make()
    first, last = fit(method, batch, 40, 8e-3)["flow"]
    assert last["flow"] < 0.6 * first["flow"]
    repaired = error(method.sample(batch, generators(2)).mean, batch)
    assert repaired < 0.9 * error(method.mean.sample(batch, []).mean, batch)


def test_losses_of_each_stage(make, batch):
    method = make()
    assert set(method.losses(batch)) == {"l1", "structure", "gradient", "scale", "pattern"}
    method.set_stage("flow")
    assert set(method.losses(batch, None, torch.Generator())) == {"flow"}
    assert "pattern" not in make(has_pattern_loss=False).losses(batch)
    with pytest.raises(UsageError, match="set_parcels"):
        ResidualFlowMethod(CONFIG, SHAPE).losses(batch)


def test_each_stage_trains_its_own_part(make, batch):
    method = perturb(make())
    for stage in method.stages:
        method.zero_grad()
        method.set_stage(stage)
        torch.stack(list(method.losses(batch, None, torch.Generator()).values())).sum().backward()
        assert {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None} == {stage}


def test_bands_are_measured(make, batch):
    """After many equal batches each band is divided by its root mean square in the brain, by NumPy."""
    method = perturb(make())
    method.set_stage("flow")
    for i in range(100):
        method.losses(batch, None, torch.Generator().manual_seed(i))
    with torch.no_grad():
        mean, _ = method._predict_mean(batch)
    residual = haar_forward((batch.target - mean) / 0.2 * method.support(batch)).numpy()
    # The target contrast of the second person is BOLD: eight bands, whole blocks of the mask.
    inside = batch.mask[1, 0, ::2, ::2, ::2].numpy() * batch.mask[1, 0, ::2, ::2, 1::2].numpy() > 0
    half = batch.mask[1, 0].reshape(8, 2, 8, 2, 8, 2).mean((1, 3, 5)).numpy()
    expected = [np.sqrt(np.average(residual[1, band] ** 2, weights=half)) for band in range(8)]
    assert inside.any()
    np.testing.assert_allclose(method.bands.value.flatten()[:8].numpy(), expected, rtol=0.1)


def exact(method, mean, deviation):
    """Replace the network by the best predictor for residual coefficients ~ N(mean, deviation^2)."""

    def predictor(condition, _):
        def predict(state, time):
            t = time.view(-1, 1, 1, 1, 1)
            gain = t * deviation**2 / (t**2 * deviation**2 + (1 - t) ** 2)
            return mean + gain * (state - t * mean)

        return predict

    method._predictor = predictor


def test_samples_follow_an_exact_predictor(make, batch, generators):
    """The spread is right with many steps; the mean is exact from first predictions."""
    spreads, biases = {}, {}
    for is_of_samples in (False, True):
        method = make(n_steps=100, n_samples=30, has_mean_of_samples=is_of_samples)
        exact(method, 0.3, 0.7)
        result = method.sample(batch, generators(2))
        unit = 0.5 * 0.2  # first guess of the bands times the scale of images
        inside = method.support(batch) > 0
        residual = (result.mean - method.mean.sample(batch, []).mean)[inside]
        # Constant coefficients are no constant image; what matters is how much they vary between voxels.
        wanted = method._residual(torch.full((2, 8 * len(CONTRASTS), 8, 8, 8), 0.3), batch)[inside]
        biases[is_of_samples] = float((residual - wanted).std()) / unit
        spreads[is_of_samples] = float((result.std.square() - SPREAD_FLOOR**2)[inside].mean().sqrt()) / unit
    assert spreads[False] == pytest.approx(0.7, rel=0.03)
    assert biases[False] == pytest.approx(0, abs=1e-4)
    assert biases[True] == pytest.approx(0.7 / 30**0.5, rel=0.1)


def test_one_step_is_the_mean_and_has_no_spread(make, batch, generators):
    method = make(n_steps=1)
    exact(method, 0.3, 0.7)
    result = method.sample(batch, generators(2))
    inside = batch.mask.expand_as(result.std) > 0
    torch.testing.assert_close(result.std[inside], torch.full_like(result.std[inside], SPREAD_FLOOR))


def test_same_bits_and_a_batch_of_two_is_two_of_one(make, batch, generators):
    method = perturb(make()).eval()
    together, again = (method.sample(batch, generators(2)) for _ in range(2))
    assert torch.equal(together.mean, again.mean)
    assert not torch.equal(together.mean, method.sample(batch, generators(2, first=5)).mean)
    for i in range(2):
        one = type(batch)(**{name: getattr(batch, name)[i : i + 1] for name in batch.__dataclass_fields__})
        alone = method.sample(one, generators(1, first=i))
        torch.testing.assert_close(alone.mean[0], together.mean[i], atol=5e-5, rtol=0)
        torch.testing.assert_close(alone.std[0], together.std[i], atol=5e-5, rtol=0)


def test_draw_is_one_sample(make, batch, generators):
    method = perturb(make()).eval()
    drawn = method.restore(method.draw(batch, generators(2)), batch)
    assert bool(drawn.isfinite().all())
    other = method.restore(method.draw(batch, generators(2, first=5)), batch)
    assert not torch.equal(drawn, other)


def test_saved_and_loaded_is_identical(make, batch, generators):
    method = perturb(make()).eval()
    copy = ResidualFlowMethod.from_architecture(method.architecture, SHAPE).eval()
    copy.load_state_dict(method.state_dict())
    first, second = (m.sample(batch, generators(2)) for m in (method, copy))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.std, second.std)
    other = replace(batch, source=batch.source.flip(2) * batch.mask)
    assert not torch.equal(first.mean, method.sample(other, generators(2)).mean)
