"""LDM: diffusion between the latent images of an autoencoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.diffusion import (
    Prediction,
    add_noise,
    cosine_alpha_bar,
    ddim_sample,
    denoiser_of,
    draw_steps,
    standard_normal,
    training_target,
)
from pds_bids.methods.base import Batch, Condition
from pds_bids.methods.baseline import N_KNOWN, mean_over
from pds_bids.methods.ddim import N_TRAIN_STEPS
from pds_bids.methods.pgan import PerceptualMixin
from pds_bids.modalities import CONTRASTS
from pds_bids.models.autoencoder import Autoencoder, AutoencoderConfig, kl_to_standard_normal
from pds_bids.models.denoiser import Denoiser, DenoiserConfig
from pds_bids.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from pds_bids.models.unet import TEMPLATE_CHANNELS

__all__ = ["LDMConfig", "LDMMethod", "LatentConfig"]

# How fast the scale of the latent images follows the autoencoder, per update.
SCALE_RATE = 0.05


@dataclass(frozen=True)
class LatentConfig:
    """Sizes and weights that `LDMMethod` shares with `DiTMethod`.

    Parameters
    ----------
    autoencoder, discriminator
        Sizes of the networks of the first stage.
    kl_weight, adversarial_weight, perceptual_weight : float
        Beside an absolute error of weight 1. A perceptual loss needs `LDMMethod.set_perceptual`.
    prediction : Prediction
        What the network of the second stage predicts, see `DDIMConfig`.
    n_steps : int
        DDIM steps per draw, at most 1000.
    n_samples : int
        Draws whose mean is the image.
    """

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    kl_weight: float = 1e-6
    adversarial_weight: float = 0.05
    perceptual_weight: float = 0.0
    prediction: Prediction = Prediction.CLEAN
    n_steps: int = 50
    n_samples: int = 4


@dataclass(frozen=True)
class LDMConfig(LatentConfig):
    """`LatentConfig` and the size of the U-Net.

    Parameters
    ----------
    denoiser : DenoiserConfig
        Size of the network of the second stage.
    """

    denoiser: DenoiserConfig = field(
        default_factory=lambda: DenoiserConfig((64, 64), (False, True), has_voxel_blocks=False)
    )


class LDMMethod(PerceptualMixin):
    """Autoencoder with a patch discriminator, then diffusion of the target's latent image.

    The image is the mean over decoded draws from different noise, the standard deviation their spread. Every
    contrast passes through the same autoencoder alone; the latent source is concatenated.

    References
    ----------
    Rombach et al. 2022, arXiv:2112.10752; Pinaya et al. 2022, arXiv:2209.07162.
    """

    name: ClassVar[str] = "ldm"
    stages: ClassVar[tuple[str, ...]] = ("autoencoder", "diffusion")
    stage_shares: ClassVar[tuple[float, ...]] = (0.4, 0.6)
    learning_rate: ClassVar[float] = 5e-4
    sizes: ClassVar[dict[str, Any]] = {
        "reduced": LDMConfig(),
        "paper": LDMConfig(
            autoencoder=AutoencoderConfig((64, 128, 256), 4, 2, 32, has_voxel_blocks=False),
            discriminator=DiscriminatorConfig(64),
            perceptual_weight=0.1,
            prediction=Prediction.VELOCITY,
            denoiser=DenoiserConfig((128, 256, 512), (False, False, True), 2, 32, 64, has_voxel_blocks=False),
        ),
    }
    alpha_bar: Tensor
    latent_scale: Tensor

    def __init__(self, config: Any, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.discriminator = PatchDiscriminator(config.discriminator, 1)
        self.network = self.build_network()
        # One over the standard deviation of latent images; follows the autoencoder while that is trained.
        self.register_buffer("latent_scale", torch.ones(()))
        self.register_buffer("alpha_bar", cosine_alpha_bar(N_TRAIN_STEPS).float(), persistent=False)
        self.set_stage(self.stages[0])

    def build_network(self) -> nn.Module:
        """Return the network of the second stage, ``(latents, step, known) -> output``."""
        return Denoiser(self.config.denoiser, self.n_in, self.n_latent, N_KNOWN)

    @property
    def n_latent(self) -> int:
        """Latent channels of all contrasts together."""
        return int(self.config.autoencoder.n_latent) * len(CONTRASTS)

    @property
    def n_in(self) -> int:
        """Channels that the second stage sees: noisy target, source, template and mask."""
        return 2 * self.n_latent + TEMPLATE_CHANNELS + 1

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Voxels of a latent image."""
        depth, height, width = (size // self.config.autoencoder.factor for size in self.shape)
        return depth, height, width

    @property
    def sampler(self) -> str:
        """Name, and over how many draws."""
        return f"DDIM between latent images, mean of {self.config.n_samples}"

    @property
    def steps(self) -> int:
        """Passes of the network for all draws."""
        return int(self.config.n_steps * self.config.n_samples)

    def set_stage(self, name: str) -> None:
        """Train the autoencoder and its discriminator, or the diffusion alone."""
        super().set_stage(name)
        self.stage = name
        for part in (self.autoencoder, self.discriminator):
            part.requires_grad_(name == self.stages[0])
        self.network.requires_grad_(name == self.stages[1])

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return ``autoencoder`` and ``discriminator``, or ``diffusion``, by stage."""
        if self.stage == self.stages[1]:
            return {"diffusion": list(self.network.parameters())}
        return {
            "autoencoder": list(self.autoencoder.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the player, by default of the first one of the present stage."""
        if self.stage == self.stages[1]:
            return self.diffusion_losses(batch, generator)
        rows, images, brain = self.pool(batch)
        if player == "discriminator":
            with torch.no_grad():
                fake = self.reconstruct(images, generator)[0] * brain
            return {
                "real": 0.5 * (self.discriminator(images)[-1] - 1).square().mean(),
                "fake": 0.5 * self.discriminator(fake)[-1].square().mean(),
            }
        fake, mean, std = self.reconstruct(images, generator)
        with torch.no_grad():
            self.latent_scale.lerp_(1 / mean.std().clamp_min(1e-3), SCALE_RATE)
        verdict = self.discriminator(fake * brain)[-1]
        losses = {
            "l1": mean_over((fake - images).abs(), brain),
            "kl": self.config.kl_weight * kl_to_standard_normal(mean, std),
            "adversarial": self.config.adversarial_weight * (verdict - 1).square().mean(),
        }
        if self.config.perceptual_weight:
            made, true = (self.restore_rows(image, rows, batch) for image in (fake, images))
            distance = self.slice_distances(made, true, generator).mean()
            losses["perceptual"] = self.config.perceptual_weight * distance
        return losses

    def diffusion_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return ``diffusion``, the squared error of the prediction of the target's latent image."""
        is_target = batch.weights > 0
        clean = self.encode(self.standardise(batch), is_target)
        support = self.spread(is_target).to(clean)
        step = draw_steps(len(clean), N_TRAIN_STEPS, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        kept = self.alpha_bar[step]
        output = self.network_of(batch)(add_noise(clean, noise, kept), step)
        error = output - training_target(clean, noise, kept, Prediction(self.config.prediction))
        return {"diffusion": mean_over(error.square(), support.expand_as(error))}

    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one decoded image per subject."""
        is_target = condition.weights > 0
        support = self.spread(is_target).to(condition.source)
        like = condition.source.new_zeros(len(is_target), self.n_latent, *self.latent_shape)
        prediction = Prediction(self.config.prediction)
        denoise = denoiser_of(self.network_of(condition), self.alpha_bar, prediction)
        latent = ddim_sample(
            lambda noisy, step: denoise(noisy, step) * support,
            standard_normal(like, generators),
            self.alpha_bar,
            self.config.n_steps,
        )
        rows = latent.unflatten(1, (len(CONTRASTS), -1))[is_target] / self.latent_scale
        image = torch.zeros_like(condition.source)
        image[is_target] = self.autoencoder.decode(rows)[:, 0]
        return image * condition.mask

    def network_of(self, condition: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the network ``(noisy, step) -> output`` with the condition filled in."""
        source = self.inputs(condition)[:, : len(CONTRASTS)]
        place = torch.cat([condition.template, condition.mask], 1)
        seen = torch.cat(
            [
                self.encode(source, condition.present > 0),
                functional.adaptive_avg_pool3d(place, self.latent_shape),
            ],
            1,
        )
        known = self.known(condition)
        return lambda noisy, step: self.network(torch.cat([noisy, seen], 1), step, known)

    def pool(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return which ``(B, C)`` contrasts there are, these as ``(N, 1, D, H, W)`` and their masks."""
        rows = (batch.present > 0) | (batch.weights > 0)
        # Source and target never share a channel.
        images = self.inputs(batch)[:, : len(CONTRASTS)] + self.standardise(batch)
        brain = batch.mask.expand_as(images)
        return rows, images[rows][:, None], brain[rows][:, None]

    def restore_rows(self, images: Tensor, rows: Tensor, batch: Batch) -> Tensor:
        """Return ``(N, D, H, W)`` intensities of the ``(N, 1, D, H, W)`` images that `pool` gave."""
        whole = images.new_zeros(batch.source.shape)
        whole[rows] = images[:, 0]
        return self.restore(whole, batch)[rows]

    def reconstruct(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return decoded draws, and mean and standard deviation of their latent images."""
        mean, std = self.autoencoder.encode(images)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return self.autoencoder.decode(mean + std * noise), mean, std

    @torch.no_grad()
    def encode(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return scaled latent means ``(B, n_latent, ...)`` of the contrasts in `rows`, zeros elsewhere."""
        latents = images.new_zeros(*rows.shape, self.n_latent // len(CONTRASTS), *self.latent_shape)
        latents[rows] = self.autoencoder.encode(images[rows][:, None])[0] * self.latent_scale
        return latents.flatten(1, 2)

    def spread(self, rows: Tensor) -> Tensor:
        """Turn ``(B, C)`` into ``(B, n_latent, 1, 1, 1)``."""
        return rows.repeat_interleave(self.n_latent // len(CONTRASTS), 1)[..., None, None, None]
