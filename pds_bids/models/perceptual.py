"""Distances between images in the features of a frozen network of the VGG layout."""

import hashlib
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from pds_bids.exceptions import UsageError, WeightsError

__all__ = ["VGG16_WIDTHS", "Perceptual", "projections", "slices", "vgg_features"]

#: Channels of the convolutions of VGG16; ``None`` halves the resolution.
VGG16_WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
# Mean and standard deviation of the photographs that ImageNet weights were trained on.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Intensity, in units of the in-brain mean, that becomes the white of a photograph.
WHITE = 3.0
# Index of the rectifier before the second halving.
RELU2_2 = 8


class Perceptual(nn.Module):
    """Mean absolute difference of features; frozen, in evaluation mode, never initialised at random.

    Parameters
    ----------
    state : dict of str to Tensor
        Weights by the names of torchvision's VGG16, ``features.0.weight`` and so on; what else it holds is
        ignored. Widths may differ from VGG16's, and the first layer may have one input channel: such an
        encoder sees intensities as they are, one with three sees them as a grey photograph.
    layers : tuple of int
        Indices into the layout whose outputs are compared. 8 is the rectifier before the second halving.

    Attributes
    ----------
    sha256 : str
        Checksum of the tensors that are used, for the model card.

    Raises
    ------
    WeightsError
        If the weights do not have the layout or end before the last of `layers`.

    References
    ----------
    Simonyan and Zisserman 2015, arXiv:1409.1556; Johnson et al. 2016, arXiv:1603.08155.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: dict[str, Tensor], layers: tuple[int, ...] = (RELU2_2,)) -> None:
        super().__init__()
        self.layers = layers
        self.features = _build(state, max(layers) + 1)
        used = {name: value.float() for name, value in state.items() if name in self.state_dict()}
        self.load_state_dict(used)
        self.is_photographic = self.features[0].in_channels == 3
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        digest = hashlib.sha256()
        for name in sorted(used):
            digest.update(name.encode() + used[name].contiguous().numpy().tobytes())
        self.sha256 = digest.hexdigest()
        self.requires_grad_(False)
        super().train(False)

    @classmethod
    def load(cls, path: Path, layers: tuple[int, ...] = (RELU2_2,)) -> Self:
        """Read weights from a ``.safetensors`` file, or from a ``.pth`` file of tensors only.

        Raises
        ------
        WeightsError
            If the file is missing, unsafe or of another network.
        """
        path = Path(path)
        try:
            if path.suffix == ".safetensors":
                state = safetensors_torch.load(path.read_bytes())
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
            raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
        except Exception as error:  # the unpickler of torch has no common base for what it refuses
            if type(error).__name__ != "UnpicklingError":
                raise
            raise WeightsError(f"{path}: holds more than tensors; convert it to safetensors") from error
        return cls(state, layers)

    def until(self, depth: int) -> Self:
        """Return the network up to the `depth`-th of its compared layers, with the same weights.

        Raises
        ------
        UsageError
            If it compares fewer.
        """
        if not 1 <= depth <= len(self.layers):
            raise UsageError(f"feature network: depth {depth}, expected 1 to {len(self.layers)}")
        state = {f"features.{name}": value for name, value in self.features.state_dict().items()}
        return type(self)(state, self.layers[:depth])

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        del mode
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Frozen: copies of a method share it.
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of two-dimensional images.

        Parameters
        ----------
        image : Tensor
            ``(N, 1, H, W)``, units of the in-brain mean.

        Returns
        -------
        list of Tensor
            One ``(N, C, h, w)`` per entry of `layers`.
        """
        if self.is_photographic:
            image = (image / WHITE).clamp(0, 1).expand(-1, 3, -1, -1)
            image = (image - self.mean) / self.std
        outputs = []
        for index, layer in enumerate(self.features):
            image = layer(image)
            if index in self.layers:
                outputs.append(image)
        return outputs

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return ``(N,)`` mean absolute differences of features, averaged over `layers`."""
        pairs = zip(self(first), self(second), strict=True)
        return torch.stack([(one - other).abs().mean((1, 2, 3)) for one, other in pairs]).mean(0)


def projections(volumes: Tensor) -> list[Tensor]:
    """Average ``(N, D, H, W)`` volumes along each axis: three ``(N, 1, ., .)`` images.

    Examples
    --------
    >>> [tuple(image.shape) for image in projections(torch.zeros(2, 4, 5, 6))]
    [(2, 1, 5, 6), (2, 1, 4, 6), (2, 1, 4, 5)]
    """
    return [volumes.mean(axis, keepdim=True).movedim(axis, 1) for axis in (1, 2, 3)]


def slices(volumes: Tensor, indices: tuple[int, int, int]) -> list[Tensor]:
    """Cut one slice across each axis of ``(N, D, H, W)`` volumes: three ``(N, 1, ., .)`` images."""
    return [
        volumes.narrow(axis, index, 1).movedim(axis, 1)
        for axis, index in zip((1, 2, 3), indices, strict=True)
    ]


def vgg_features(widths: tuple[int | None, ...] = VGG16_WIDTHS, n_in: int = 3) -> nn.Sequential:
    """Return untrained layers of the VGG layout: 3 x 3 convolutions with rectifiers, and halvings."""
    layers: list[nn.Module] = []
    for width in widths:
        if width is None:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU()]
            n_in = width
    return nn.Sequential(*layers)


def _build(state: dict[str, Tensor], n_layers: int) -> nn.Sequential:
    """Return the first layers of the VGG16 layout with the widths that `state` has."""
    layers: list[nn.Module] = []
    for width in VGG16_WIDTHS:
        if width is None:
            layers.append(nn.MaxPool2d(2))
            continue
        weight = state.get(f"features.{len(layers)}.weight")
        if len(layers) >= n_layers:
            break
        if weight is None or weight.ndim != 4 or weight.shape[2:] != (3, 3):
            raise WeightsError(
                f"weights of a VGG16 layout need 'features.{len(layers)}.weight' of shape (out, in, 3, 3), "
                f"got {'nothing' if weight is None else tuple(weight.shape)}"
            )
        layers += [nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1), nn.ReLU()]
    if len(layers) < n_layers:
        raise WeightsError(f"the VGG16 layout has {len(layers)} layers, layer {n_layers - 1} was asked for")
    return nn.Sequential(*layers[:n_layers])
