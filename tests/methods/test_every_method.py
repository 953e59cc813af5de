"""What holds for every method of the registry."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from small_world import SHAPE, make_batch, make_generators, make_octants, make_perceptual

from pds_bids.imaging.grid import Grid
from pds_bids.inference.bundle import load_bundle, save_bundle
from pds_bids.inference.prepare import Window
from pds_bids.methods import METHODS, Batch, Condition, target_weights
from pds_bids.modalities import CONTRASTS

GENERATOR = {"widths": [8, 16, 16], "dropout": 0.1}
DISCRIMINATOR = {"width": 8, "n_layers": 1}
DENOISER = {"widths": [16, 16], "attention": [False, False], "head_width": 8}
GAN = {"generator": GENERATOR, "discriminator": DISCRIMINATOR, "n_samples": 2}
SAGAN = {
    **GAN,
    "generator": {**GENERATOR, "attention_level": 1},
    "discriminator": {**DISCRIMINATOR, "has_attention": True, "is_spectral": True},
}
LATENT = {
    "autoencoder": {"widths": [16], "n_latent": 4},
    "discriminator": DISCRIMINATOR,
    "n_samples": 2,
    "n_steps": 5,
}
UNET = {"widths": [16, 16, 16], "n_bottom": 1, "n_embed": 16}
GUIDED = {"widths": [16, 16, 16], "n_bottom": 1, "n_embed": 16, "n_heads": 2}
PDS = {"estimator": GUIDED, "refiner": UNET, "n_steps": 3, "n_samples": 2}
#: Sizes that a core trains in seconds.
TINY = {
    "unet": UNET,
    "gan": GAN,
    "pgan": GAN,
    "sagan": SAGAN,
    "psagan": SAGAN,
    "ddim": {"denoiser": DENOISER, "n_samples": 2, "n_steps": 10},
    "sa-ddpm": {"denoiser": {**DENOISER, "attention": [False, True]}, "n_samples": 2, "n_steps": 10},
    "ldm": {**LATENT, "denoiser": {**DENOISER, "has_voxel_blocks": False}},
    "dit": {**LATENT, "transformer": {"width": 48, "depth": 2, "n_heads": 3, "patch": 2}},
    "adm": {
        "denoiser": DENOISER,
        "discriminator": DISCRIMINATOR,
        "n_noise": 8,
        "n_samples": 2,
    },
    "pds": PDS,
    "pds-paper": {**PDS, "n_train_steps": 5, "has_microstructure_loss": False},
    "residual-flow": {"mean": UNET, "flow": GUIDED, "n_samples": 2},
}
#: Updates per stage and learning rate with which one batch is learned.
EFFORT = {
    "unet": (200, 1e-2),
    "gan": (40, 6e-3),
    "pgan": (40, 6e-3),
    "sagan": (30, 6e-3),
    "psagan": (30, 6e-3),
    "ddim": (100, 6e-3),
    "sa-ddpm": (80, 6e-3),
    "ldm": (50, 6e-3),
    "dit": (60, 4e-3),
    "adm": (30, 4e-3),
    "pds": (140, 6e-3),
    "pds-paper": (80, 1e-2),
    "residual-flow": (150, 6e-3),
}
#: The source as it is, compared with the target, is at 1; the image after training must be nearer than this.
OVERFIT = 0.35
#: The estimator of the paper as written has nothing to learn from; its U-Net is trained by L1 alone.
OVERFIT_PAPER = 0.8


def make_method(name):
    torch.manual_seed(0)
    method = METHODS[name].from_architecture(TINY[name], SHAPE)
    if hasattr(method, "set_perceptual"):
        method.set_perceptual(make_perceptual())
    if hasattr(method, "set_parcels"):
        method.set_parcels(make_octants())
    return method


def train(method, batch, n_updates, rate):
    """Return losses of the first and of the last update of each stage."""
    history = []
    for stage in method.stages:
        method.set_stage(stage)
        optimizers = {
            name: torch.optim.Adam(parameters, rate * method.rate_factors.get(name, 1), betas=method.betas)
            for name, parameters in method.players().items()
        }
        generator = torch.Generator().manual_seed(1)
        for update in range(n_updates):
            record = {}
            for player, optimizer in optimizers.items():
                for group in optimizer.param_groups:
                    group["lr"] = (
                        rate * method.rate_factors.get(player, 1) * min(1, 2 - 2 * update / n_updates)
                    )
                losses = method.losses(batch, player, generator)
                optimizer.zero_grad()
                parameters = optimizer.param_groups[0]["params"]
                torch.stack(list(losses.values())).sum().backward(inputs=parameters)
                torch.nn.utils.clip_grad_norm_(parameters, 10.0)
                optimizer.step()
                assert not record.keys() & losses.keys()
                record |= {key: float(value.detach()) for key, value in losses.items()}
            history.append(record)
    return history


def error(image, batch):
    """Return the root mean square error over the target contrasts in the brain."""
    weight = target_weights(batch.direction)[..., None, None, None] * batch.mask
    return float(((image - batch.target).square() * weight).sum() / weight.sum()) ** 0.5


def source_as_is(batch):
    return (batch.source.sum(1, keepdim=True) / batch.present.sum(1).view(-1, 1, 1, 1, 1)).expand_as(
        batch.source
    )


def one_of(batch, index):
    return Batch(**{item.name: getattr(batch, item.name)[index : index + 1] for item in fields(batch)})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=sorted(TINY))
def trained(request):
    """Return a method that has learned one batch, and that batch."""
    method, batch = make_method(request.param), make_batch()
    method.history = train(method, batch, *EFFORT[request.param])
    return method, batch


def test_every_method_has_a_tiny_size():
    assert set(METHODS) == set(TINY)


def test_learns_one_batch(trained):
    method, batch = trained
    before, after = (
        error(source_as_is(batch), batch),
        error(method.sample(batch, make_generators(2)).mean, batch),
    )
    assert after < (OVERFIT_PAPER if method.name == "pds-paper" else OVERFIT) * before


def test_same_seed_same_bits(trained):
    method, batch = trained
    first, second = (method.sample(batch, make_generators(2)) for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.std, second.std)
    player = next(iter(method.players()))
    # Copies, because losses move spectral norms and running scales.
    one, other = (
        copy.deepcopy(method).losses(batch, player, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_random_methods_depend_on_the_seed(trained):
    method, batch = trained
    if method.name == "unet":
        pytest.skip("nothing is drawn at random")
    first, second = (
        method.sample(batch, make_generators(2)),
        method.sample(batch, make_generators(2, first=7)),
    )
    assert not torch.equal(first.mean, second.mean)


def test_batch_of_two_is_two_of_one(trained):
    method, batch = trained
    together = method.sample(batch, make_generators(2))
    for index in range(2):
        alone = method.sample(one_of(batch, index), make_generators(1, first=index))
        # Other batch sizes may take other convolution kernels: float32 rounding only.
        torch.testing.assert_close(alone.mean[0], together.mean[index], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.std[0], together.std[index], atol=1e-4, rtol=0)


def test_image_changes_with_the_source(trained):
    method, batch = trained
    # The person of another seed, in the same brain.
    changed = replace(batch, source=make_batch(seed=5).source)
    first, second = (method.sample(item, make_generators(2)).mean for item in (batch, changed))
    moved = error(second, replace(batch, target=first))
    difference = error(source_as_is(changed), replace(batch, target=source_as_is(batch)))
    assert moved > 0.1 * difference


def test_saved_and_loaded_it_is_the_same(trained):
    method, batch = trained
    twin = METHODS[method.name].from_architecture(method.architecture, SHAPE)
    twin.load_state_dict(method.state_dict())
    mine, theirs = method.sample(batch, make_generators(2)), twin.sample(batch, make_generators(2))
    assert torch.equal(mine.mean, theirs.mean)
    assert torch.equal(mine.std, theirs.std)
    assert twin.architecture == method.architecture


def test_bundle_holds_all_that_sampling_needs(trained, tmp_path):
    method, batch = trained
    grid, window = Grid(SHAPE, np.eye(4)), Window((0, 0, 0), SHAPE)
    ranges = dict.fromkeys(CONTRASTS, 2.0)
    save_bundle(tmp_path, method, {}, grid=grid, window=window, data_range=ranges)
    twin = load_bundle(tmp_path).method
    mine, theirs = method.sample(batch, make_generators(2)), twin.sample(batch, make_generators(2))
    # Weights are stored in half precision.
    assert error(theirs.mean, replace(batch, target=mine.mean)) < 0.02


def test_nothing_outside_the_brain_and_spread_in_it(trained):
    method, batch = trained
    result = method.sample(batch, make_generators(2))
    assert not result.mean[(batch.mask == 0).expand_as(result.mean)].any()
    assert not result.std[(batch.mask == 0).expand_as(result.std)].any()
    is_target = (target_weights(batch.direction) > 0)[..., None, None, None] & (batch.mask > 0)
    assert (result.std[is_target] > 0).all()


def test_sampling_needs_no_truth(trained):
    method, batch = trained
    condition = Condition(**{item.name: getattr(batch, item.name) for item in fields(Condition)})
    assert torch.isfinite(method.sample(condition, make_generators(2)).mean).all()
