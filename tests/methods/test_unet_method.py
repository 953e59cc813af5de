import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pds_bids.methods import METHODS, Batch, UNetMethod, target_weights
from pds_bids.methods.unet import LEFT_RIGHT
from pds_bids.modalities import CONTRASTS, MODALITIES, Contrast, Direction
from pds_bids.models.unet import UNetConfig

N = len(CONTRASTS)
SHAPE = (16, 8, 8)
CONFIG = UNetConfig((16, 16, 16), 1, 16)


@pytest.fixture
def method():
    # Two OpenMP threads on a busy machine are many times slower than one.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return UNetMethod(CONFIG, SHAPE)


def make_batch(seed=0):
    """Return one person per direction; the target is a smooth function of place and of the source."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand(2, N, *SHAPE, generator=generator)
    present = torch.zeros(2, N)
    for direction in Direction:
        present[direction.code, [CONTRASTS.index(c) for c in MODALITIES[direction.source].sources]] = 1
    source = source * present[..., None, None, None]
    place = torch.linspace(0, 1, SHAPE[1]).view(1, 1, 1, -1, 1)
    target = 1.5 - 0.8 * source.sum(1, keepdim=True) / present.sum(1).view(-1, 1, 1, 1, 1) + place
    mask = torch.ones(2, 1, *SHAPE)
    mask[..., 0] = 0
    template = torch.rand(2, 4, *SHAPE, generator=generator)
    return Batch(
        source, present, template, mask, torch.tensor([0, 1]), target.expand(-1, N, -1, -1, -1) * mask
    )


def generators(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


def perturb(method):
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return method


def test_losses_by_hand(method):
    """A network that says 0.5 everywhere against a target of 0.8, and a step of 1 across one plane."""
    batch = make_batch()
    target = torch.full_like(batch.target, 0.8)
    batch = replace(
        batch, target=target, mask=torch.ones_like(batch.mask), source=torch.zeros_like(batch.source)
    )
    batch = replace(batch, present=torch.zeros_like(batch.present))
    method.network.atlas.fill_(0.5)
    losses = {name: value.detach() for name, value in method.losses(batch).items()}
    assert float(losses["l1"]) == pytest.approx(0.3, abs=1e-5)
    assert float(losses["square"]) == pytest.approx(4 * 0.09, abs=1e-5)
    assert float(losses["gradient"]) == pytest.approx(0, abs=1e-5)
    # Laplace: log b + |e| / b with b = exp(-2.8).
    assert float(losses["scale"]) == pytest.approx(0.02 * (-2.8 + 0.3 * math.exp(2.8)), abs=1e-4)
    # A step in the middle of the first axis.
    target[:, :, 8:] += 1
    stepped = {k: v.detach() for k, v in method.losses(replace(batch, target=target)).items()}
    # One plane of differences is 1; the weight of 1 is spread over 16 planes and over three axes.
    assert float(stepped["gradient"]) == pytest.approx(0.5 / 3 / 16, abs=1e-5)


def test_only_target_contrasts_in_the_brain_are_learned(method):
    batch = make_batch()
    base = method.losses(batch)
    changed = batch.target.clone()
    changed[0, 0] += 3
    changed[1, 1:] += 3
    changed[0, -1] += 3
    changed[..., 0] += 3
    new = method.losses(replace(batch, target=changed))
    # The gradient term looks one voxel beyond the mask on its upper side, so it is left out.
    for name in ("l1", "square", "scale"):
        assert abs((new[name] - base[name]).item()) < 1e-6, name


def test_absent_truth_is_not_learned(method):
    """Without FA and MD the loss is that of the other contrasts, whatever stands in their channels."""
    batch = make_batch()
    given = torch.ones(2, N)
    given[0, [CONTRASTS.index(Contrast.FA), CONTRASTS.index(Contrast.MD)]] = 0
    known = replace(batch, given=given)
    assert known.weights[0].tolist() == [0, 0.5, 0.5, 0, 0, 0]
    changed = batch.target.clone()
    changed[0, [CONTRASTS.index(Contrast.FA), CONTRASTS.index(Contrast.MD)]] += 3
    other = method.losses(replace(known, target=changed))
    for name, loss in method.losses(known).items():
        assert float(loss) == pytest.approx(float(other[name]), abs=1e-6), name
    assert method.losses(replace(batch, target=changed))["l1"] > 1.3 * other["l1"]


def test_overfits_one_batch(method):
    batch = make_batch()
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    first = float(method.losses(batch)["l1"].detach())
    for _ in range(150):
        optimizer.zero_grad()
        losses = method.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert losses["l1"].item() < 0.1 * first


def test_same_bits_twice_and_batch_equals_singles(method):
    batch = make_batch()
    method = perturb(method).eval()
    together, again = (method.sample(batch, generators(2)) for _ in range(2))
    assert torch.equal(together.mean, again.mean)
    assert torch.equal(together.std, again.std)
    for i in range(2):
        one = {name: getattr(batch, name)[i : i + 1] for name in batch.__dataclass_fields__}
        single = method.sample(Batch(**one), generators(1))
        # Other batch sizes may take other convolution kernels: float32 rounding only.
        torch.testing.assert_close(single.mean[0], together.mean[i], atol=2e-5, rtol=0)
        torch.testing.assert_close(single.std[0], together.std[i], atol=2e-5, rtol=0)


def test_sample_of_the_mirror_image_is_the_mirrored_sample(method):
    method = perturb(method).eval()
    batch = make_batch()
    names = ("source", "mask", "target")
    mirrored = replace(batch, **{name: getattr(batch, name).flip(LEFT_RIGHT) for name in names})
    straight, back = method.sample(batch, generators(2)), method.sample(mirrored, generators(2))
    torch.testing.assert_close(back.mean.flip(LEFT_RIGHT), straight.mean, atol=2e-5, rtol=0)


def test_std_follows_its_formula(method):
    """Spread over the four passes and learned error, joined and calibrated, recomputed with NumPy."""
    method = perturb(method).eval()
    factors = torch.arange(1.0, N + 1) / 2
    method.calibration.copy_(factors)
    batch = make_batch()
    result = method.sample(batch, generators(2))
    means, scales = [], []
    for template in (batch.template, 0 * batch.template):
        for flips in ((), (LEFT_RIGHT,)):
            source, mask = (image.flip(flips) for image in (batch.source, batch.mask))
            with torch.no_grad():
                mean, log = method.network(source, batch.present, template, mask, batch.direction)
            means.append(mean.flip(flips).numpy())
            scale = functional.interpolate(log.exp(), scale_factor=2, mode="trilinear")
            scales.append(scale.flip(flips).numpy())
    expected = np.sqrt(np.var(means, 0) + 2 * np.mean(scales, 0) ** 2)
    expected *= factors.numpy()[:, None, None, None]
    np.testing.assert_allclose(result.std.numpy(), expected * batch.mask.numpy(), atol=1e-4)
    np.testing.assert_allclose(result.mean.numpy(), np.mean(means, 0) * batch.mask.numpy(), atol=1e-4)


def test_architecture_builds_the_same_method(method):
    copy = METHODS["unet"].from_architecture(method.architecture, SHAPE)
    copy.load_state_dict(method.state_dict())
    assert isinstance(copy, UNetMethod)
    assert copy.config == CONFIG


def test_target_weights_sum_to_one():
    weights = target_weights(torch.tensor([1, 0, 1]))
    assert weights.sum(1).tolist() == [1, 1, 1]
    assert weights[1].tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0]


def test_error_head_does_not_move_the_image(method):
    """The loss of the error head has no gradient for the maps that make the image."""
    perturb(method).losses(make_batch())["scale"].backward()
    gradient = method.network.head.get_parameter("weight").grad
    assert not gradient[:-N].any()
    assert gradient[-N:].any()
