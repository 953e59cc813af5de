"""Microstructure loss: three mean projections of two volumes, compared by a frozen network (PDS, eqs. 14-16).

The network is a `Perceptual`, which exists only with weights that were trained: those of VGG16 on ImageNet,
or those of an encoder of the same layout that was trained here, on the projections themselves.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.exceptions import DataError, UsageError, WeightsError
from pds_bids.models.perceptual import Perceptual, projections, vgg_features

__all__ = ["LAYERS", "MicrostructureLoss", "load_vgg16", "train_projection_encoder"]

# Its name ends in the first eight digits of its SHA-256, which torch checks.
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
#: Rectifiers before the first three halvings: fine, middle and coarse structure.
LAYERS = (3, 8, 15)
# Three halvings must leave something of the image.
SMALLEST = 8
ENCODER_WIDTHS = (16, 16, None, 32, 32, None, 64, 64, 64)
# At LAYERS.
DECODED_WIDTHS = (16, 32, 64)
# Deviation of the noise in units of the deviation of the projections.
NOISE = 0.3
# Restored projections must have less than this share of the error of the spoilt ones.
LARGEST_ERROR = 0.7


class MicrostructureLoss(nn.Module):
    """Relative L1 distance between features of the mean projections of two volumes.

    Parameters
    ----------
    network : Perceptual
        Trained and frozen, see `load_vgg16` and `train_projection_encoder`.
    depth : int, optional
        How many of the network's compared layers are used, the finest first; default: all.

    Raises
    ------
    UsageError
        If the network has fewer layers.
    WeightsError
        If there is no network: random weights are never put in its place.
    """

    def __init__(self, network: Perceptual | None, depth: int | None = None) -> None:
        super().__init__()
        if not isinstance(network, Perceptual):
            raise WeightsError(
                f"microstructure loss: got {type(network).__name__} for the network; give Perceptual with "
                "trained weights (load_vgg16 or train_projection_encoder), or switch the loss off"
            )
        self.network = network if depth is None else network.until(depth)

    def forward(self, image: Tensor, truth: Tensor, channel_weights: Tensor) -> Tensor:
        """Compare ``(B, C, D, H, W)`` images.

        Parameters
        ----------
        image, truth : Tensor
            Units of the in-brain mean, zero outside of the brain.
        channel_weights : Tensor
            ``(B, C)``; contrasts of weight 0 are not looked at. May include a weight per person.

        Returns
        -------
        Tensor
            Scalar: 0 for equal images, of the order of 1 for unrelated ones, averaged over persons and views.

        Raises
        ------
        UsageError
            If the volumes are too small for the network.
        """
        if min(image.shape[2:]) < SMALLEST:
            raise UsageError(
                f"microstructure loss: volumes of {tuple(image.shape[2:])}, expected {SMALLEST} or more"
            )
        person, contrast = channel_weights.nonzero(as_tuple=True)
        weight = channel_weights[person, contrast] / len(image)
        views = (projections(volumes[person, contrast]) for volumes in (image, truth))
        return torch.stack(
            [(weight * self._distance(*pair)).sum() for pair in zip(*views, strict=True)]
        ).mean()

    def _distance(self, image: Tensor, truth: Tensor) -> Tensor:
        """Return ``(N,)`` L1 distances in units of the features, whose sizes differ tenfold by layer."""
        with torch.no_grad():
            wanted = self.network(truth)
        layers = [
            (mine - theirs).abs().mean((1, 2, 3)) / theirs.abs().mean((1, 2, 3)).clamp_min(1e-6)
            for mine, theirs in zip(self.network(image), wanted, strict=True)
        ]
        return torch.stack(layers).mean(0)


def load_vgg16(weights: Path | None = None, *, is_download_allowed: bool = False) -> Perceptual:
    """Load VGG16 with trained weights.

    Parameters
    ----------
    weights : Path, optional
        ``.pth`` as torchvision publishes it, or ``.safetensors`` with the same names.
    is_download_allowed : bool
        Whether torchvision's ImageNet weights (528 MB) may be fetched where no file is given.

    Returns
    -------
    Perceptual
        Frozen.

    Raises
    ------
    WeightsError
        If there is neither a file nor leave to download, the file is no weights, or the download fails.
    """
    if weights is not None:
        return Perceptual.load(weights, LAYERS)
    if not is_download_allowed:
        raise WeightsError(
            "microstructure loss: no VGG16 weights; name a file, allow the download of torchvision's "
            "ImageNet weights, or train an encoder (train_projection_encoder)"
        )
    try:
        state = torch.hub.load_state_dict_from_url(
            VGG16_URL, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{VGG16_URL}: download failed: {error}; name a local file instead") from error
    return Perceptual(state, LAYERS)


def train_projection_encoder(
    volumes: Tensor, *, n_updates: int = 400, batch_size: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """Train an encoder of the VGG16 layout on the mean projections of people of the training split.

    The encoder and a small decoder restore projections that were blurred and overlaid with noise, which takes
    features that tell structure from noise.

    Parameters
    ----------
    volumes : Tensor
        ``(N, D, H, W)`` float32 acquired or simulated images of any contrast, units of the in-brain mean,
        zero outside of the brain.
    n_updates, batch_size : int
        Updates, and projections in each of them, all of one view.
    seed : int
        Of the first weights and of all draws; the state of the global generator is left as it was.

    Returns
    -------
    dict of str to Tensor
        Weights for ``Perceptual(weights, LAYERS)``; save them with `safetensors`.

    Raises
    ------
    DataError
        If the volumes are constant, not finite or too small.
    WeightsError
        If the encoder has not learned to restore projections: an untrained one is never returned.
    """
    views = projections(volumes.float())
    spread = float(torch.cat([view.flatten() for view in views]).std())
    if not spread > 0 or min(volumes.shape[1:]) < SMALLEST:
        raise DataError(
            f"encoder of projections: volumes of {tuple(volumes.shape)} with deviation {spread:.3g} of their "
            f"projections; expected finite, varied ones of at least {SMALLEST} voxels"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = _Autoencoder()
    optimizer = torch.optim.Adam(autoencoder.parameters(), 2e-3)
    for update in range(n_updates):
        view = views[update % len(views)]
        clean = view[torch.randint(len(view), (batch_size,), generator=generator)]
        spoilt = _spoil(clean, NOISE * spread, generator)
        loss = (autoencoder(spoilt) - clean).square().mean() / spread**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = _errors(autoencoder, views, NOISE * spread, generator)
    if not after < LARGEST_ERROR * before:
        raise WeightsError(
            f"encoder of projections: mean square error {after:.3g} after {n_updates} updates, {before:.3g} "
            "without restoration; train longer or on more volumes"
        )
    return {name: value.detach() for name, value in autoencoder.state_dict().items() if "features" in name}


class _Autoencoder(nn.Module):
    """Layers that become the encoder, and a decoder that adds a correction to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg_features(ENCODER_WIDTHS, 1)
        self.mix = nn.Conv2d(sum(DECODED_WIDTHS), DECODED_WIDTHS[0], 1)
        self.out = nn.Conv2d(DECODED_WIDTHS[0], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images as decoded from their features, same shape."""
        hidden, found = images, []
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in LAYERS:
                found.append(
                    functional.interpolate(hidden, images.shape[2:], mode="bilinear", align_corners=False)
                )
        return images + self.out(functional.relu(self.mix(torch.cat(found, 1))))


def _spoil(clean: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    blurred = functional.avg_pool2d(clean, 3, 1, 1, count_include_pad=False)
    return blurred + noise * torch.randn(clean.shape, generator=generator)


@torch.no_grad()
def _errors(
    autoencoder: nn.Module, views: list[Tensor], noise: float, generator: torch.Generator
) -> tuple[float, float]:
    """Return the mean square errors of spoilt and of restored projections."""
    errors = []
    for view in views:
        spoilt = _spoil(view, noise, generator)
        errors.append([(image - view).square().mean() for image in (spoilt, autoencoder(spoilt))])
    before, after = torch.tensor(errors).mean(0).tolist()
    return before, after
