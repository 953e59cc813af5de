"""A small world in which the methods of this folder are tested."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pds_bids.methods import target_weights

sys.path.insert(0, str(Path(__file__).parent))

from small_world import make_batch, make_generators, make_octants, make_perceptual


@pytest.fixture(autouse=True)
def one_thread():
    # Two OpenMP threads on a busy machine are many times slower than one.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture
def parcels():
    """Return an atlas of eight octants for every contrast; none at the edge."""
    octants = make_octants().clone()
    octants[:, 0] = 0
    return octants


@pytest.fixture
def perceptual():
    return make_perceptual()


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
    return make_generators
