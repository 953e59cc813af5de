import pytest
import torch

from pds_bids.models.guided import GuidedConfig, GuidedDenoiser, SelfAttention, embed_time
from pds_bids.models.unet import voxels_to_blocks


@pytest.fixture
def network():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return GuidedDenoiser(GuidedConfig((8, 8, 16), 1, 8, 2), n_noisy=2, n_inputs=3, n_known=4)


def given(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy, inputs = (torch.randn(n, c, 8, 16, 8, generator=generator) for c in (2, 3))
    return voxels_to_blocks(noisy), torch.linspace(0.2, 0.9, n), inputs, torch.eye(4)[:n]


def trained(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def test_untrained_network_says_zero(network):
    assert not network(*given()).any()


@pytest.mark.parametrize("position", range(4))
def test_everything_that_is_given_matters(network, position):
    changed = list(given())
    changed[position] = changed[position] * 0.5
    assert (trained(network)(*changed) - network(*given())).abs().max() > 1e-3


@pytest.mark.parametrize("level", [0, 1, 2])
def test_clean_source_reaches_every_scale(network, level):
    """The features of a scale change with the source even if no other way leads there."""
    trained(network)
    seen = []

    def output(inputs):
        with torch.no_grad():
            # Shut the way through the features; what is left is the source at this scale.
            if level:
                for block in network.down:
                    block.skip = torch.nn.Identity() if block is network.down[0] else block.skip
                    for parameter in block.parameters():
                        parameter.zero_()
            noisy, time, _, known = given()
            network(noisy, time, inputs, known)
        return seen.pop()

    target = (network.down[1], network.down[2], network.bottom[0])[level]
    handle = target.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    inputs = given()[2]
    assert (output(inputs) - output(inputs.flip(-1))).abs().max() > 1e-3
    handle.remove()


def test_gradient_reaches_every_parameter(network):
    trained(network)(*given()).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_batch_of_two_is_two_of_one(network):
    both = trained(network)(*given())
    for i in range(2):
        alone = network(*(tensor[i : i + 1] for tensor in given()))
        torch.testing.assert_close(alone[0], both[i], atol=1e-5, rtol=1e-4)


def test_attention_starts_as_nothing_and_then_mixes_all_places():
    attention = SelfAttention(16, 4)
    features = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attention(features), features)
    moved = features.clone()
    moved[..., 0, 0, 0] += 1
    change = (trained(attention)(moved) - attention(features)).abs().amax(1)
    assert bool((change > 0).all())


def test_times_can_be_told_apart():
    codes = embed_time(torch.linspace(0, 1, 1001))
    assert float((codes[1:] - codes[:-1]).norm(dim=1).min()) > 0.1
