import json
from dataclasses import replace

import pytest
import torch
from small_world import SHAPE, perturb

from pds_bids.exceptions import UsageError
from pds_bids.methods.base import target_weights
from pds_bids.methods.baseline import SPREAD_FLOOR
from pds_bids.methods.pds import PDSConfig, PDSMethod
from pds_bids.models.guided import GuidedConfig
from pds_bids.models.unet import UNetConfig

CONFIG = PDSConfig(
    GuidedConfig((16, 16, 16), 1, 16, 2), UNetConfig((16, 16, 16), 1, 16), n_steps=3, n_samples=2
)


@pytest.fixture
def make(parcels, perceptual):
    def build(**changes):
        return PDSMethod(replace(CONFIG, **changes), SHAPE, parcels=parcels, perceptual=perceptual)

    return build


def other_source(batch):
    return replace(batch, source=batch.source.flip(2) * batch.mask)


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_noise_estimator_alone_learns_one_batch(make, batch, fit, error, generators, prediction):
    method = make(has_refinement=False, prediction=prediction)
    first, last = fit(method, batch, 60, 8e-3)["diffusion"]
    assert last["estimate"] < 0.5 * first["estimate"]
    as_is = batch.source.sum(1, keepdim=True) / batch.present.sum(1).view(-1, 1, 1, 1, 1)
    assert error(method.sample(batch, generators(2)).mean, batch) < 0.6 * error(as_is, batch)


#: Table IV: what is on, the stages that are left, and the losses of each.
ROWS = {
    "NE": (
        {"has_pattern_loss": False, "has_refinement": False, "has_microstructure_loss": False},
        {"diffusion": set()},
    ),
    "NE PA": ({"has_refinement": False, "has_microstructure_loss": False}, {"diffusion": {"pattern"}}),
    "NE PA TR": (
        {"has_microstructure_loss": False},
        {"diffusion": {"pattern"}, "refinement": {"pattern"}},
    ),
    "NE PA TR MR": (
        {},
        {"diffusion": {"pattern", "microstructure"}, "refinement": {"pattern", "microstructure"}},
    ),
    "TR MR": (
        {"has_estimator": False, "has_pattern_loss": False},
        {"refinement": {"microstructure"}},
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_part_can_be_switched_off(make, batch, generators, row):
    off, stages = ROWS[row]
    method = make(**off)
    assert set(method.stages) == set(stages)
    assert sum(method.stage_shares) == pytest.approx(1)
    basic = {"diffusion": {"estimate"}, "refinement": {"l1", "square", "gradient", "scale"}}
    for stage, extra in stages.items():
        method.set_stage(stage)
        losses = method.losses(batch, None, torch.Generator().manual_seed(0))
        assert set(losses) == basic[stage] | extra
        assert all(bool(loss.isfinite()) for loss in losses.values())
    result = method.sample(batch, generators(2))
    assert bool(result.mean.isfinite().all())
    assert not result.mean[(batch.mask == 0).expand_as(result.mean)].any()


def test_one_stage_trains_everything_at_once(make, batch, generators):
    method = perturb(make(has_two_stages=False))
    assert (method.stages, method.stage_shares) == (("joint",), (1.0,))
    method.set_stage("joint")
    losses = method.losses(batch, None, torch.Generator().manual_seed(0))
    assert {"l1", "microstructure", "diffusion_estimate", "diffusion_microstructure"} < set(losses)
    torch.stack(list(losses.values())).sum().backward()
    trained = {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"estimator", "refiner", "backbone"}


def test_without_its_source_the_estimator_sees_no_subject(make, batch, generators):
    method = perturb(make(has_source=False))
    first, second = (method.draw(b, generators(2)) for b in (batch, other_source(batch)))
    assert torch.equal(first, second)
    refined, other = (method.sample(b, generators(2)).mean for b in (batch, other_source(batch)))
    assert not torch.equal(refined, other)


def test_without_zero_terminal_signal_some_is_left(make):
    assert float(make().alpha_bar[-1]) == 0
    # Products of 1 - beta by hand: 4.04e-5 (Ho et al. 2020, section 4).
    assert float(make(has_zero_terminal_snr=False).alpha_bar[-1]) == pytest.approx(4.04e-5, rel=0.01)


def test_nothing_left_is_an_error():
    with pytest.raises(UsageError, match="nothing is left"):
        PDSConfig(has_estimator=False, has_refinement=False)
    with pytest.raises(UsageError, match="noise prediction"):
        PDSConfig(prediction="noise")


@pytest.mark.parametrize(
    ("off", "setter"), [("has_microstructure_loss", "set_parcels"), ("has_pattern_loss", "set_perceptual")]
)
@pytest.mark.parametrize("stage", ["diffusion", "refinement"])
def test_losses_without_what_they_need_are_refused(batch, off, setter, stage):
    method = PDSMethod(replace(CONFIG, **{off: False}), SHAPE)
    method.set_stage(stage)
    with pytest.raises(UsageError, match=setter):
        method.losses(batch)


def test_each_stage_trains_its_own_part(make, batch):
    method = perturb(make())
    parts = {"diffusion": {"estimator"}, "refinement": {"refiner", "backbone"}}
    for stage, expected in parts.items():
        method.zero_grad()
        method.set_stage(stage)
        torch.stack(list(method.losses(batch, None, torch.Generator()).values())).sum().backward()
        trained = {
            n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert trained == expected
        listed = {id(p) for p in method.players()["model"]}
        assert listed == {id(p) for n, p in method.named_parameters() if n.split(".")[0] in expected}


def test_draws_see_the_subject(make, batch, generators):
    """What the released sampler fails, see test_pds_paper.py."""
    method = perturb(make())
    first, second = (method.draw(b, generators(2)) for b in (batch, other_source(batch)))
    targets = target_weights(batch.direction) > 0
    assert bool(((first - second).abs().amax((2, 3, 4)) > 1e-3)[targets].all())


def test_draws_follow_the_distribution_of_an_exact_estimator(make, batch, generators):
    """The estimator replaced by the exact one for x ~ N(source, 0.5^2): mean and deviation come out right."""
    method = make(has_refinement=False, n_steps=200, n_samples=40)
    method.atlas.fill_(1.2)
    standard = (batch.source.sum(1, keepdim=True) - 1.2).expand_as(batch.source) / 0.2
    mean = standard * method.support(batch)

    def network_of(condition):
        def network(noisy, step):
            kept = method.alpha_bar[step].view(-1, 1, 1, 1, 1)
            gain = kept.sqrt() * 0.25 / (kept * 0.25 + 1 - kept)
            return mean + gain * (noisy - kept.sqrt() * mean)

        return network

    method.network_of = network_of
    result = method.sample(batch, generators(2))
    inside = method.support(batch) > 0
    deviation = (result.std.square() - SPREAD_FLOOR**2).sqrt()
    # Units of the in-brain mean: 0.5 times the scale of 0.2.
    assert float(deviation[inside].mean()) == pytest.approx(0.1, abs=0.004)
    expected = batch.source.sum(1, keepdim=True).expand_as(result.mean)
    bias = (result.mean - expected)[inside]
    assert float(bias.mean()) == pytest.approx(0, abs=0.002)
    assert float(bias.std()) == pytest.approx(0.1 / 40**0.5, rel=0.1)


def test_refined_image_is_the_sum_of_the_two_branches(make, batch, generators):
    """B(x_gen) + U(x_src), and the deviation, put together by hand."""
    method = perturb(make()).eval()
    method.calibration.copy_(torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 1.0]))
    result = method.sample(batch, generators(2))
    streams = generators(2)
    branch_u = method.refiner.sample(batch, streams)
    with torch.no_grad():
        draws = [method.backbone(method.draw(batch, streams)) * 0.2 for _ in range(2)]
    targets = method.support(batch)
    expected = branch_u.mean + (draws[0] + draws[1]) / 2 * targets
    torch.testing.assert_close(result.mean, expected * batch.mask, atol=1e-5, rtol=0)
    spread = ((draws[0] - draws[1]) * targets).square() / 2
    factor = method.calibration.view(-1, 1, 1, 1)
    torch.testing.assert_close(result.std, factor * (spread + branch_u.std**2).sqrt(), atol=1e-5, rtol=0)


def test_no_microstructure_is_asked_of_pure_noise(make, batch):
    method = make()
    image = batch.target + 0.1 * batch.mask
    some = method.image_losses(image, batch, torch.tensor([1.0, 0.5]))
    none = method.image_losses(image, batch, torch.zeros(2))
    assert float(some["microstructure"]) > 0
    assert float(none["microstructure"]) == 0
    assert float(none["pattern"]) == pytest.approx(0.5 * 0.1, abs=1e-5)


def test_same_bits_and_a_batch_of_two_is_two_of_one(make, batch, generators):
    method = perturb(make(eta=1.0)).eval()
    together, again = (method.sample(batch, generators(2)) for _ in range(2))
    assert torch.equal(together.mean, again.mean)
    assert torch.equal(together.std, again.std)
    for i in range(2):
        one = type(batch)(**{name: getattr(batch, name)[i : i + 1] for name in batch.__dataclass_fields__})
        alone = method.sample(one, generators(1, first=i))
        torch.testing.assert_close(alone.mean[0], together.mean[i], atol=5e-5, rtol=0)
    losses = [method.losses(batch, None, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_saved_and_loaded_is_identical(make, batch, generators):
    method = perturb(make()).eval()
    architecture = json.loads(json.dumps(method.architecture))
    copy = PDSMethod.from_architecture(architecture, SHAPE).eval()
    state = method.state_dict()
    assert not [name for name in state if "parcel" in name or "loss" in name or "features" in name]
    copy.load_state_dict(state)
    first, second = (m.sample(batch, generators(2)) for m in (method, copy))
    assert torch.equal(first.mean, second.mean)
    assert copy.sampler == "DDIM, 3 steps, eta 0, tissue refinement, mean of 2"
    assert copy.steps == 3 * 2 + 4
