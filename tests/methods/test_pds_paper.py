from dataclasses import replace

import pytest
import torch
from small_world import SHAPE, perturb

from pds_bids.methods.pds import PDSConfig, PDSMethod
from pds_bids.methods.pds_paper import PDSPaperConfig, PDSPaperMethod, Reading
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.models.guided import GuidedConfig
from pds_bids.models.unet import UNetConfig

SIZES = (GuidedConfig((16, 16, 16), 1, 16, 0), UNetConfig((16, 16, 16), 1, 16))
CONFIG = PDSPaperConfig(*SIZES, n_train_steps=20, n_steps=5)


@pytest.fixture
def make(parcels, perceptual):
    def build(reading, **changes):
        method = PDSPaperMethod(replace(CONFIG, reading=reading, **changes), SHAPE)
        method.set_parcels(parcels)
        method.set_perceptual(perceptual)
        return method

    return build


def changes_with_the_source(method, batch, generators):
    """Whether the diffusion stage makes another image for another source: true of every sound method."""
    other = replace(batch, source=batch.source.flip(2) * batch.mask)
    first, second = (method.sample(b, generators(2)).mean for b in (batch, other))
    return not torch.equal(first, second)


def test_released_sampler_never_sees_the_subject(make, batch, generators):
    """The paper's diffusion stage fails the test that every method has to pass; ours does not."""
    released = perturb(make(Reading.RELEASED, has_refinement=False)).eval()
    assert not changes_with_the_source(released, batch, generators)
    # Not even the random seed of the subject matters: one draw serves everybody.
    first, second = (released.sample(batch, generators(2, first=i)).mean for i in (0, 9))
    assert torch.equal(first, second)
    written = perturb(make(Reading.WRITTEN, has_refinement=False)).eval()
    assert changes_with_the_source(written, batch, generators)
    ours = perturb(PDSMethod(PDSConfig(*SIZES, n_steps=5, has_refinement=False), SHAPE)).eval()
    assert changes_with_the_source(ours, batch, generators)


def test_released_image_follows_the_source_through_the_refinement_only(make, batch, generators):
    released = perturb(make(Reading.RELEASED)).eval()
    assert changes_with_the_source(released, batch, generators)
    part = released._project(released.draw(batch, generators(2)), batch)
    made = [CONTRASTS.index(contrast) for contrast in Direction.BOLD2DWI.targets]
    assert batch.direction[0] == Direction.BOLD2DWI.code
    assert ((part[0, made] != 0) == (batch.mask[0] != 0)).all()
    u_net = released.refiner.sample(batch, generators(2)).mean
    torch.testing.assert_close(released.sample(batch, generators(2)).mean, (u_net + part) * batch.mask)


def test_noise_of_the_target_cannot_be_learned_from_a_noisy_source(make, batch, fit):
    """Eqs. 7, 8 and 17: the L1 error stays at that of saying nothing, E|z| = 0.798."""
    method = make(
        Reading.WRITTEN, has_refinement=False, has_pattern_loss=False, has_microstructure_loss=False
    )
    fit(method, batch, 40, 8e-3)
    method.eval()
    with torch.no_grad():
        errors = [
            float(method.losses(batch, None, torch.Generator().manual_seed(100 + i))["estimate"])
            for i in range(10)
        ]
    assert sum(errors) / 10 > 0.78


def test_written_sampling_by_hand(make, batch, generators):
    """Eq. 7 with an estimator that says nothing: scaled and refreshed noise, computed with the same draws."""
    method = make(Reading.WRITTEN, n_train_steps=3, has_refinement=False)
    result = method.draw(batch, generators(2))
    streams = generators(2)
    like = torch.zeros_like(batch.source)

    def noise():
        return torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in streams])

    noise()  # of the source
    expected = noise()
    for t in (3, 2, 1):
        alpha = method.alpha_bar[t] / method.alpha_bar[t - 1]
        expected = expected / alpha**0.5
        if t > 1:
            expected = expected + (1 - alpha) ** 0.5 * noise()
    torch.testing.assert_close(result, expected * method.support(batch))


def test_released_steps_lead(make, batch, monkeypatch):
    """5 of 20 steps: 16 (not 20) comes first although pure noise is given; each step asks both directions."""
    method = make(Reading.RELEASED)
    asked = []
    honest = method.estimate_noise

    def spy(source, target, step, direction):
        asked.append((int(step), int(direction)))
        return honest(source, target, step, direction)

    monkeypatch.setattr(method, "estimate_noise", spy)
    method.draw(batch, [])
    # The table starts with the clean image, so that step 17 is the released step 16.
    assert asked == [(step, way) for step in (17, 13, 9, 5, 1) for way in (0, 1)]


def test_released_draw_is_kept_until_the_estimator_changes(make, batch, monkeypatch):
    method = perturb(make(Reading.RELEASED))
    first = method.draw(batch, [])
    with torch.no_grad():
        monkeypatch.setattr(method, "estimate_noise", lambda *_: pytest.fail("drawn again"))
        assert torch.equal(method.draw(batch, []), first)
        monkeypatch.undo()
        next(method.estimator.parameters()).mul_(1.5)
    changed = method.draw(batch, [])
    assert not torch.equal(changed, first)
    other = make(Reading.RELEASED)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.draw(batch, []), changed)


def test_losses_of_each_reading(make, batch):
    expected = {
        Reading.WRITTEN: ({"estimate", "pattern", "microstructure"}, {"l1", "scale", "microstructure"}),
        Reading.RELEASED: (
            {"estimate", "pattern"},
            {"l1", "scale", "square", "adversarial", "microstructure"},
        ),
    }
    for reading, names in expected.items():
        method = make(reading)
        for stage, wanted in zip(method.stages, names, strict=True):
            method.set_stage(stage)
            assert set(method.losses(batch, None, torch.Generator().manual_seed(0))) == wanted
            trained = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
            parts = {"diffusion": {"estimator", "local"}, "refinement": {"refiner", "backbone"}}[stage]
            assert trained == parts & {name.split(".")[0] for name, _ in method.named_parameters()}


def test_adversarial_term_pulls_every_voxel_down(make, batch):
    """With the truth as the image, its gradient is positive everywhere in the brain."""
    method = make(Reading.RELEASED, has_microstructure_loss=False)
    method.set_stage("refinement")
    shift = torch.zeros_like(batch.target, requires_grad=True)
    method._refine = lambda condition: (
        batch.target + shift,
        torch.zeros_like(batch.target[..., ::2, ::2, ::2]),
    )
    method.losses(batch, None, torch.Generator())["adversarial"].backward()
    inside = method.support(batch) > 0
    assert bool((shift.grad[inside] > 0).all())


def test_saved_and_loaded_is_identical(make, batch, generators):
    for reading in Reading:
        method = perturb(make(reading)).eval()
        copy = PDSPaperMethod.from_architecture(method.architecture, SHAPE).eval()
        copy.load_state_dict(method.state_dict())
        assert torch.equal(method.sample(batch, generators(2)).mean, copy.sample(batch, generators(2)).mean)
