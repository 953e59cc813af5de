"""A small world in which the methods of this folder are tested."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pds_bids.methods import Batch, target_weights
from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.models.microstructure import LAYERS
from pds_bids.models.perceptual import Perceptual, vgg_features
from pds_bids.models.unet import TEMPLATE_CHANNELS

SHAPE = (16, 16, 16)


@pytest.fixture(autouse=True)
def one_thread():
    # Two OpenMP threads on a busy machine are many times slower than one.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def batch():
    """Return one person per direction; the target is a function of the source and of place."""
    generator = torch.Generator().manual_seed(0)
    n = len(CONTRASTS)
    coarse = torch.randn(2, n, 4, 4, 4, generator=generator)
    source = 1 + 0.3 * functional.interpolate(coarse, SHAPE, mode="trilinear")
    present = torch.zeros(2, n)
    for direction in Direction:
        present[direction.code, [CONTRASTS.index(c) for c in MODALITIES[direction.source].sources]] = 1
    mask = torch.zeros(2, 1, *SHAPE)
    mask[..., 2:14, 2:14, 1:15] = 1
    source = source * present[..., None, None, None] * mask
    mean = source.sum(1, keepdim=True) / present.sum(1).view(-1, 1, 1, 1, 1)
    place = torch.linspace(-0.2, 0.2, SHAPE[1]).view(1, 1, 1, -1, 1)
    target = (2 - mean + place).expand(-1, n, -1, -1, -1) * mask
    template = torch.rand(2, TEMPLATE_CHANNELS, *SHAPE, generator=generator)
    return Batch(source, present, template, mask, torch.tensor([0, 1]), target)


@pytest.fixture
def parcels():
    """Return an atlas of eight octants for every contrast; none at the edge."""
    half = (torch.arange(16) >= 8).long()
    octants = 1 + half[:, None, None] + 2 * half[:, None] + 4 * half
    octants[0] = 0
    return octants.expand(len(CONTRASTS), -1, -1, -1)


@pytest.fixture
def perceptual():
    """Return a network of the layout; for tests its weights need not be good."""
    state = vgg_features((4, 4, None, 8, 8, None, 8, 8, 8), 1).state_dict()
    return Perceptual({f"features.{name}": value for name, value in state.items()}, LAYERS)


@pytest.fixture
def fit():
    """Train a method on a batch, stage after stage; gives the losses of the first and last update of each.

    As in real training, the template is withheld at times and people are mirrored.
    """

    def train(method, batch, n_updates, rate=4e-3):
        names = ("source", "mask", "target")
        mirrored = replace(batch, **{name: getattr(batch, name).flip(2) for name in names})
        versions = [batch, mirrored]
        versions += [replace(version, template=0 * batch.template) for version in versions]
        history = {}
        for stage in method.stages:
            method.set_stage(stage)
            (parameters,) = method.players().values()
            optimizer = torch.optim.Adam(parameters, rate)
            generator = torch.Generator().manual_seed(1)
            records = []
            for update in range(n_updates):
                optimizer.param_groups[0]["lr"] = rate * min(1, 2 - 2 * update / n_updates)
                losses = method.losses(versions[update % 4], None, generator)
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward(inputs=parameters)
                optimizer.step()
                records.append({name: float(loss.detach()) for name, loss in losses.items()})
            history[stage] = (records[0], records[-1])
        return history

    return train


@pytest.fixture
def error():
    """Root mean square error over target contrasts in the brain."""

    def measure(image, batch):
        weight = target_weights(batch.direction)[..., None, None, None] * batch.mask
        return float(((image - batch.target).square() * weight).sum() / weight.sum()) ** 0.5

    return measure


@pytest.fixture
def generators():
    """Make n generators."""
    return lambda n, first=0: [torch.Generator().manual_seed(first + i) for i in range(n)]
