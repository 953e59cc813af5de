"""People, parcels and a feature network on 16 x 16 x 16 voxels."""

import torch
from torch.nn import functional

from pds_bids.methods import Batch
from pds_bids.modalities import CONTRASTS, MODALITIES, Direction
from pds_bids.models.microstructure import LAYERS
from pds_bids.models.perceptual import Perceptual, vgg_features
from pds_bids.models.unet import TEMPLATE_CHANNELS

SHAPE = (16, 16, 16)


def make_batch(seed=0):
    """Return one person per direction: smooth images, target a function of the source and of place."""
    generator = torch.Generator().manual_seed(seed)
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


def make_octants():
    """Return an atlas of eight octants for every contrast."""
    half = (torch.arange(SHAPE[0]) >= SHAPE[0] // 2).long()
    octants = 1 + half[:, None, None] + 2 * half[:, None] + 4 * half
    return octants.expand(len(CONTRASTS), -1, -1, -1)


def make_perceptual():
    """Return a network of the layout; for tests its weights need not be good."""
    state = vgg_features((4, 4, None, 8, 8, None, 8, 8, 8), 1).state_dict()
    return Perceptual({f"features.{name}": value for name, value in state.items()}, LAYERS)


def make_generators(n, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def perturb(method):
    """Move every weight a little: what starts at zero takes part."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return method
