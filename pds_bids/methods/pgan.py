"""pGAN: pix2pix with a perceptual loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pds_bids.exceptions import UsageError
from pds_bids.methods.base import Batch
from pds_bids.methods.baseline import Baseline
from pds_bids.methods.gan import GANConfig, GANMethod
from pds_bids.models.discriminator import DiscriminatorConfig
from pds_bids.models.generator import GeneratorConfig
from pds_bids.models.perceptual import Perceptual, slices

__all__ = ["PGANConfig", "PGANMethod", "PerceptualMixin"]


@dataclass(frozen=True)
class PGANConfig(GANConfig):
    """`GANConfig`, and the weight of the perceptual loss.

    Parameters
    ----------
    perceptual_weight : float
        Of the difference of features, beside an adversarial loss of weight 1.
    """

    perceptual_weight: float = 100.0


class PerceptualMixin(Baseline):
    """A loss on the features of one slice per axis, from a network that has to be given before training."""

    # In a tuple, so that its weights are neither trained nor saved with the method.
    _perceptual: tuple[Perceptual, ...] = ()

    def set_perceptual(self, network: Perceptual) -> None:
        """Take the frozen network whose features are compared; sampling does not need it."""
        self._perceptual = (network,)

    def perceptual_loss(self, batch: Batch, fake: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the distance between three slices, drawn at random within the middle half of each axis.

        Parameters
        ----------
        batch : Batch
            Truth.
        fake : Tensor
            ``(B, C, D, H, W)`` standardised prediction.
        generator : torch.Generator, optional
            Draws the slices.

        Raises
        ------
        UsageError
            If `set_perceptual` was not called: a network with random weights would be a silent failure.
        """
        is_target = batch.weights > 0
        support = self.support(batch)
        images = [
            (self.restore(image, batch) * support)[is_target] for image in (fake, self.standardise(batch))
        ]
        # Every subject counts once, whatever the number of its target contrasts.
        weights = batch.weights[is_target] / len(batch.direction)
        return (weights * self.slice_distances(images[0], images[1], generator)).sum()

    def slice_distances(self, first: Tensor, second: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return ``(N,)`` distances of ``(N, D, H, W)`` intensities, averaged over a slice per axis.

        Raises
        ------
        UsageError
            If `set_perceptual` was not called.
        """
        if not self._perceptual:
            raise UsageError(
                f"method {self.name!r} needs a trained feature network: load one with Perceptual.load(FILE) "
                "(VGG16 or an encoder trained on projections of brains) and give it to set_perceptual"
            )
        network = self._perceptual[0].to(first.device)
        depth, height, width = (
            int(torch.randint(size // 4, size - size // 4, (), generator=generator)) for size in self.shape
        )
        pairs = zip(*(slices(image, (depth, height, width)) for image in (first, second)), strict=True)
        return torch.stack([network.distance(*pair) for pair in pairs]).mean(0)


class PGANMethod(PerceptualMixin, GANMethod):
    """`GANMethod` with 100 times the difference of VGG16 features before the second halving.

    The image is the mean over passes with different dropout, the standard deviation their spread.

    References
    ----------
    Dar et al. 2019, doi:10.1109/TMI.2019.2901750.
    """

    name: ClassVar[str] = "pgan"
    sizes: ClassVar[dict[str, GANConfig]] = {
        "reduced": PGANConfig(),
        "paper": PGANConfig(GeneratorConfig((64, 128, 256, 512)), DiscriminatorConfig(64)),
    }

    def generator_losses(
        self, batch: Batch, fake: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return ``adversarial``, ``l1`` and ``perceptual``."""
        perceptual = self.perceptual_loss(batch, fake, generator)
        weight = self.config.perceptual_weight
        return super().generator_losses(batch, fake, generator) | {"perceptual": weight * perceptual}
