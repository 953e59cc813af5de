import numpy as np
import pytest
import torch

from pds_bids.modalities import CONTRASTS, Contrast, Direction
from pds_bids.models.unet import (
    POLYNOMIAL_PAIRS,
    ConditionalUNet,
    UNetConfig,
    blocks_to_voxels,
    voxels_to_blocks,
)

SHAPE = (8, 16, 8)
BOLD, DWI, B0, FA, MD, T1W = (CONTRASTS.index(c) for c in Contrast)
N = len(CONTRASTS)


@pytest.fixture
def network():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ConditionalUNet(UNetConfig((8, 8, 16), 1, 8), SHAPE)


def inputs(seed=0, n=1):
    generator = torch.Generator().manual_seed(seed)

    def random(channels):
        return torch.rand(n, channels, *SHAPE, generator=generator)

    present = torch.zeros(n, N)
    present[:, BOLD] = 1
    source = random(N) * present[..., None, None, None]
    mask = (random(1) > 0.2).float()
    return source * mask, present, random(4), mask, torch.zeros(n, dtype=torch.long)


def test_blocks_hold_the_eight_neighbours():
    image = np.random.default_rng(0).random((1, 2, 4, 6, 8)).astype(np.float32)
    blocks = voxels_to_blocks(torch.from_numpy(image)).numpy()
    # Channel 1, block (1, 2, 3): offsets vary fastest along the last axis.
    expected = [image[0, 1, 2 + i, 4 + j, 6 + k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    np.testing.assert_array_equal(blocks[0, 8:, 1, 2, 3], expected)
    np.testing.assert_array_equal(blocks_to_voxels(torch.from_numpy(blocks)).numpy(), image)


def test_every_pair_of_the_polynomial_crosses_modalities():
    crossing = {(target, BOLD) for target in (DWI, B0, FA, MD)} | {(BOLD, DWI), (BOLD, B0)}
    anatomy = {(target, T1W) for target in (BOLD, DWI, B0, FA, MD)}
    assert set(POLYNOMIAL_PAIRS) == crossing | anatomy
    assert len(POLYNOMIAL_PAIRS) == 11


def test_untrained_network_is_the_local_polynomial_of_its_prior(network):
    """With a zero head, ``mean = atlas + b s + c s^2`` by hand, constant maps."""
    source, present, template, mask, direction = inputs()
    network.atlas.fill_(0.7)
    for target, (b, c) in {DWI: (0.5, -0.2), B0: (0.1, 0.3)}.items():
        pair = POLYNOMIAL_PAIRS.index((target, BOLD))
        network.prior[0, pair], network.prior[0, pair + len(POLYNOMIAL_PAIRS)] = b, c
    mean, log_scale = network(source, present, template, mask, direction)
    s = (source[:, BOLD] - 0.7) * mask[:, 0]
    expected = {(DWI): 0.7 + 0.5 * s - 0.2 * s**2, B0: 0.7 + 0.1 * s + 0.3 * s**2}
    for channel, values in expected.items():
        torch.testing.assert_close(mean[:, channel], values * mask[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(log_scale, torch.full_like(log_scale, -2.8))


def trained(network):
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("position", [0, 1, 2, 4])
def test_every_condition_changes_the_output(network, position):
    given = list(inputs())
    base = trained(network)(*given)[0]
    given[position] = given[position] + 1 if position == 4 else given[position].flip(1)
    assert (network(*given)[0] - base).abs().max() > 1e-3


def test_withheld_contrast_cannot_leak(network):
    """What lies in an absent channel must not matter."""
    source, *rest = inputs()
    other = source.clone()
    other[:, DWI] = 5.0
    torch.testing.assert_close(trained(network)(source, *rest), network(other, *rest))


def test_outside_the_mask_is_zero(network):
    given = inputs()
    assert not trained(network)(*given)[0][(given[3] == 0).expand(-1, N, -1, -1, -1)].any()


def test_gradient_reaches_every_parameter(network):
    network = trained(network)
    mean, log_scale = network(*inputs(n=2)[:4], torch.tensor([d.code for d in Direction]))
    (mean.square().sum() + log_scale.sum()).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
