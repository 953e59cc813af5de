"""Posterior-mean regression with one small U-Net for both directions."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from pds_bids.methods.base import Batch, Condition, Method, SampleResult
from pds_bids.modalities import CONTRASTS
from pds_bids.models.unet import ConditionalUNet, UNetConfig, double_resolution

__all__ = ["UNetMethod"]

GRADIENT_WEIGHT = 0.5
# Large enough that the image is a mean rather than a median, as what it is judged by wants.
SQUARE_WEIGHT = 4.0
# The error head must not steer the trunk away from the image itself.
SCALE_WEIGHT = 0.02
LEFT_RIGHT = 2  # axis of a (B, C, D, H, W) tensor in RAS+


class UNetMethod(Method):
    """Regression of the target, trained with L1, squared and gradient errors in the brain.

    The standard deviation joins two parts: the spread over the passes (image and its left-right mirror;
    unless switched off, both also without the template channels) and the error that the network expects of
    itself (a Laplace scale, learned beside the image). Their root sum of squares is multiplied by one factor
    per contrast such that 68.27% of the voxels of held-out simulated people lie within one standard
    deviation.

    Parameters
    ----------
    config : UNetConfig
        Size of the network.
    shape : tuple of int
        ``(D, H, W)`` of the window.
    """

    name: ClassVar[str] = "unet"

    def __init__(self, config: UNetConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.network = ConditionalUNet(config, shape)
        # Convolutions on a CPU are about twice as fast with channels last.
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.register_buffer("calibration", torch.ones(len(CONTRASTS)))

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any], shape: tuple[int, int, int]) -> Self:
        """Build the untrained method."""
        sizes = {**architecture, "widths": tuple(architecture["widths"])}
        return cls(UNetConfig(**sizes), shape)

    @property
    def architecture(self) -> dict[str, Any]:
        """Fields of `UNetConfig`, lists for tuples."""
        return {**asdict(self.config), "widths": list(self.config.widths)}

    @property
    def sampler(self) -> str:
        """Which passes are averaged."""
        kinds = "mirrored and template-free" if self.config.has_template_free_passes else "mirrored"
        return f"posterior mean, {kinds} passes averaged"

    @property
    def steps(self) -> int:
        """Passes of the network."""
        return 4 if self.config.has_template_free_passes else 2

    def set_statistics(self, atlas: Tensor, prior: Tensor) -> None:
        """Start from the mean person and from a local regression."""
        self.network.atlas.copy_(atlas)
        self.network.prior.copy_(prior)

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return ``l1``, ``square``, ``gradient`` and ``scale``, averaged over the brain and the targets."""
        del player, generator
        mean, log_scale = self._predict(batch)
        weight = batch.mask * batch.weights[..., None, None, None]
        weight = weight / weight.sum((1, 2, 3, 4), keepdim=True).clamp_min(1e-6) / len(weight)
        error = mean - batch.target
        size = error.abs()
        gradient = sum(
            (weight.narrow(axis, 1, weight.shape[axis] - 1) * error.diff(dim=axis).abs()).sum()
            for axis in (2, 3, 4)
        )
        # Sums over blocks of two voxels: the error head gives one scale per block.
        weights, sizes = (8 * functional.avg_pool3d(image, 2) for image in (weight, weight * size.detach()))
        laplace = weights * log_scale + sizes * torch.exp(-log_scale)
        return {
            "l1": (weight * size).sum(),
            "square": SQUARE_WEIGHT * (weight * error.square()).sum(),
            "gradient": GRADIENT_WEIGHT / 3 * torch.as_tensor(gradient),
            "scale": SCALE_WEIGHT * laplace.sum(),
        }

    @torch.no_grad()
    def sample(self, condition: Condition, generators: Sequence[torch.Generator]) -> SampleResult:
        """Return the mean over the passes and its calibrated deviation; nothing is drawn at random."""
        del generators
        means, scales = [], []
        templates = [condition.template]
        if self.config.has_template_free_passes:
            templates.append(torch.zeros_like(condition.template))
        for template in templates:
            # Both mirror images go through in one call: a batch of one runs unoptimised convolutions.
            mean, log_scale = self._predict(_with_mirror(replace(condition, template=template)))
            means += _unmirror(mean)
            scales += _unmirror(double_resolution(log_scale.exp()))
        n = len(means)
        mean = torch.stack(means).sum(0) / n
        # By hand: torch.std over few large images takes ten times as long.
        spread = torch.stack([(each - mean).square() for each in means]).sum(0) / n
        expected = 2**0.5 * torch.stack(scales).sum(0) / n
        std = self.calibration.view(-1, 1, 1, 1) * torch.sqrt(spread + expected.square())
        return SampleResult(mean * condition.mask, std * condition.mask)

    def _predict(self, condition: Condition) -> tuple[Tensor, Tensor]:
        return self.network(
            condition.source, condition.present, condition.template, condition.mask, condition.direction
        )


def _with_mirror(condition: Condition) -> Condition:
    """Append the left-right mirror images of all subjects; the template stays as it is, as in training."""
    return Condition(
        source=torch.cat([condition.source, condition.source.flip(LEFT_RIGHT)]),
        present=condition.present.repeat(2, 1),
        template=condition.template.repeat(2, 1, 1, 1, 1),
        mask=torch.cat([condition.mask, condition.mask.flip(LEFT_RIGHT)]),
        direction=condition.direction.repeat(2),
    )


def _unmirror(images: Tensor) -> list[Tensor]:
    straight, mirrored = images.chunk(2)
    return [straight, mirrored.flip(LEFT_RIGHT)]
