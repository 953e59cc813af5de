"""People whose DWI is a known function of BOLD, and small methods; also for processes that tests start."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy import ndimage

from pds_bids.inference.prepare import Window
from pds_bids.methods import METHODS
from pds_bids.modalities import CONTRASTS, Contrast
from pds_bids.models.microstructure import LAYERS
from pds_bids.models.perceptual import Perceptual, vgg_features
from pds_bids.training.data import Augmentation, ExampleStream

GRID_SHAPE = (18, 9, 10)
WINDOW = Window((1, 1, 0), (16, 8, 8))
BOLD, DWI, B0 = (CONTRASTS.index(c) for c in (Contrast.BOLD, Contrast.DWI, Contrast.B0))


class ToyPairs:
    """A stream whose DWI is a known function of BOLD."""

    def __init__(self, noise=0.02):
        self.noise = noise

    def pair(self, index):
        rng = np.random.default_rng(index)
        mask = np.zeros(GRID_SHAPE, bool)
        mask[2:16, 2:8, 1:8] = True
        base = 1 + 3 * ndimage.gaussian_filter(rng.normal(size=GRID_SHAPE), 2)
        target = np.stack([base, 2 - base, base**2, base / 2, 1.5 - base / 2, base**3]) * mask
        target /= target[:, mask].mean(1)[:, None, None, None]
        source = target + self.noise * rng.normal(size=target.shape) * mask
        template = np.ones((4, *GRID_SHAPE))
        return SimpleNamespace(
            source=source.astype("f4"),
            target=target.astype("f4"),
            mask=mask,
            template=template,
            name="toy",
            has_source={Contrast.BOLD, Contrast.DWI, Contrast.B0, Contrast.T1W},
            has_target=set(Contrast),
        )


UNET = {"widths": [8, 8, 8], "n_bottom": 1, "n_embed": 8}
GUIDED = {"widths": [8, 8, 8], "n_bottom": 1, "n_embed": 8, "n_heads": 1}
DISCRIMINATOR = {"width": 8, "n_layers": 1}
GAN = {"generator": {"widths": [8, 8]}, "discriminator": DISCRIMINATOR, "n_samples": 2}
SAGAN = {
    "generator": {"widths": [8, 8], "attention_level": 1},
    "discriminator": {**DISCRIMINATOR, "has_attention": True, "is_spectral": True},
    "n_samples": 2,
}
DENOISER = {"widths": [8], "attention": [False], "head_width": 8}
LATENT = {"autoencoder": {"widths": [8]}, "discriminator": DISCRIMINATOR, "n_steps": 2, "n_samples": 2}
PDS = {"estimator": GUIDED, "refiner": UNET, "n_steps": 2, "n_samples": 2}
#: Sizes with which an update takes milliseconds.
TINY = {
    "unet": UNET,
    "gan": GAN,
    "pgan": GAN,
    "sagan": SAGAN,
    "psagan": SAGAN,
    "ddim": {"denoiser": DENOISER, "n_samples": 2, "n_steps": 2},
    "sa-ddpm": {"denoiser": DENOISER, "n_samples": 2, "n_steps": 2},
    "ldm": {**LATENT, "denoiser": {**DENOISER, "has_voxel_blocks": False}},
    "dit": {**LATENT, "transformer": {"width": 24, "depth": 1, "n_heads": 3, "patch": 2}},
    "adm": {"denoiser": DENOISER, "discriminator": DISCRIMINATOR, "n_noise": 8, "n_samples": 2},
    "pds": PDS,
    "pds-paper": {**PDS, "n_train_steps": 5},
    "residual-flow": {"mean": UNET, "flow": GUIDED, "n_samples": 2},
}


def make_method(name="unet", seed=0):
    torch.manual_seed(seed)
    method = METHODS[name].from_architecture(TINY[name], WINDOW.shape)
    if hasattr(method, "set_perceptual"):
        torch.manual_seed(0)  # a given network, whatever the seed of the method
        state = vgg_features((4, 4, None, 8, 8, None, 8, 8, 8), 1).state_dict()
        method.set_perceptual(Perceptual({f"features.{key}": value for key, value in state.items()}, LAYERS))
    if hasattr(method, "set_parcels"):
        halves = 1 + (torch.arange(WINDOW.shape[0]) >= WINDOW.shape[0] // 2).long()
        method.set_parcels(halves[:, None, None].expand(len(CONTRASTS), *WINDOW.shape))
    return method


def stream(**options):
    return ExampleStream(ToyPairs(), WINDOW, Augmentation(**options), 7)
