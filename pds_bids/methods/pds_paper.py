"""PDS as it was published: the equations as written, and what the released code does. For the ablation only.

``written`` follows eqs. 5 to 20 to the letter. The estimator sees a noisy source (eqs. 7 and 8); since the
noise of the target is independent of it, the best it can say is nothing. PA (eq. 11) compares an image with
noise, and the microstructure loss of stage 1 (eq. 18) noise with noise.

``released`` follows the behaviour of the authors' repository. Both volumes are noisy, the target passes
through one convolution; PA is an L1 error of the noise inside the parcels. Sampling starts both volumes from
noise of seed 0, starts below the end of the chain (leading steps), adds fresh noise (eta 1), and **never sees
the subject**: one draw serves everybody. Refinement adds an adversarial term without a discriminator, which
pulls every voxel down.

Kept from `PDSMethod`: intensities in units between people instead of the range of each volume, one grid, our
U-Nets (a small fraction of the size), our optimiser. Not kept: bugs that stop the released code from running
at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_bids.diffusion import add_noise, cosine_alpha_bar, draw_steps, standard_normal
from pds_bids.methods.base import Batch, Condition, target_weights
from pds_bids.methods.baseline import mean_over
from pds_bids.methods.pds import PDSConfig, PDSMethod
from pds_bids.methods.unet import SCALE_WEIGHT
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.models.guided import GuidedConfig, GuidedDenoiser
from pds_bids.models.objectives import laplace_error, voxel_weights
from pds_bids.models.unet import UNetConfig, blocks_to_voxels, voxels_to_blocks

__all__ = ["PDSPaperConfig", "PDSPaperMethod", "Reading"]

# Variance added by one step is clipped there (Nichol and Dhariwal), in both readings.
LARGEST_BETA = 0.999
# Of the draw that serves everybody.
RELEASED_SEED = 0


class Reading(StrEnum):
    """The equations of the paper, or the behaviour of the released code."""

    WRITTEN = "written"
    RELEASED = "released"


@dataclass(frozen=True)
class PDSPaperConfig(PDSConfig):
    """Sizes and parts of `PDSPaperMethod`; see `PDSConfig` for those not named here.

    Parameters
    ----------
    reading : Reading
        What to follow.
    n_train_steps : int
        T. Sampling as written visits all steps; as released, `n_steps` of them.
    """

    n_steps: int = 50
    n_samples: int = 1
    reading: Reading = Reading.WRITTEN
    n_train_steps: int = 1000


class PDSPaperMethod(PDSMethod):
    """PDS by the letter of the paper, or as released; an ablation, not for use.

    The image is one draw, refined where refinement is on; its standard deviation is that of the refinement
    U-Net, or a constant where there is none.

    References
    ----------
    Pattern-aware diffusion synthesis, arXiv:2511.04963; github.com/SXR3015/PDS at commit a09c1c8 for
    behaviour.
    """

    name: ClassVar[str] = "pds-paper"
    sizes: ClassVar[dict[str, PDSConfig]] = {
        "reduced": PDSPaperConfig(),
        "released": PDSPaperConfig(reading=Reading.RELEASED),
        "paper": PDSPaperConfig(
            GuidedConfig((128, 256, 512), 2, 256, 4), UNetConfig((64, 128, 256), 2, 128), n_train_steps=1000
        ),
    }
    config: PDSPaperConfig
    # State of the estimator, and the draw that it makes for everybody.
    _everybody: tuple[Any, ...] = ()

    def __init__(self, config: PDSPaperConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        clipped = cosine_alpha_bar(config.n_train_steps).float()
        alpha = (clipped[1:] / clipped[:-1]).clamp_min(1 - LARGEST_BETA)
        self.alpha_bar = torch.cat([torch.ones(1), alpha.cumprod(0)])
        if self.is_released and config.has_estimator:
            # All that the noisy target passes through before it joins the last features.
            self.local = nn.Conv3d(len(CONTRASTS), len(CONTRASTS), 3, padding=1)

    def build_estimator(self) -> nn.Module:
        """Return an estimator that is told the time and the direction, and shown one noisy volume."""
        # One empty image: the network of `PDSMethod` without what is known of the subject.
        return GuidedDenoiser(self.config.estimator, len(CONTRASTS), 1, len(Direction))

    @property
    def is_released(self) -> bool:
        """Whether the released code is followed."""
        return self.config.reading == Reading.RELEASED

    @property
    def sampler(self) -> str:
        """Name, and what the draw becomes."""
        chain = (
            "unconditional DDIM, eta 1, seed 0" if self.is_released else "ancestral DDPM with a noisy source"
        )
        return chain + ", tissue refinement" * self.config.has_refinement

    @property
    def steps(self) -> int:
        """Passes of the networks."""
        passes = len(Direction) * self.config.n_steps if self.is_released else self.config.n_train_steps
        return passes * self.config.has_estimator + (self.refiner.steps if self.config.has_refinement else 0)

    def estimate_noise(self, source: Tensor, target: Tensor, step: Tensor, direction: Tensor) -> Tensor:
        """Return the noise of the target as estimated from the noisy source (as released: also from it)."""
        empty = torch.zeros_like(source[:, :1])
        known = functional.one_hot(direction, len(Direction)).to(source)
        time = step / self.config.n_train_steps
        noise = blocks_to_voxels(self.estimator(voxels_to_blocks(source), time, empty, known))
        return noise + self.local(target) if self.is_released else noise

    def diffusion_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return ``estimate`` (17), ``microstructure`` (18) and ``pattern`` (11)."""
        clean, support = self.standardise(batch), self.support(batch)
        source = self._standard_source(batch)
        step = draw_steps(len(clean), self.config.n_train_steps, generator).to(clean.device)
        kept = self.alpha_bar[step]
        noise, other = (torch.randn(clean.shape, generator=generator).to(clean) for _ in range(2))
        noisy = add_noise(clean, noise, kept)
        estimate = self.estimate_noise(add_noise(source, other, kept), noisy, step, batch.direction)
        losses = {"estimate": mean_over((estimate - noise).abs(), support)}
        if self.config.has_pattern_loss:
            pattern = self._aid(self._pattern_loss, "the pattern-aware loss", "set_parcels")
            inside = (pattern.parcels > 0).view(1, *clean.shape[1:]).to(support) * support
            # As written, an image is compared with an estimate of noise.
            wanted = noise if self.is_released else noisy
            losses["pattern"] = self.config.pattern_weight * mean_over(
                (estimate - wanted).abs() * inside, support
            )
        # The released code leaves it off in this stage.
        if self.config.has_microstructure_loss and not self.is_released:
            network = self._aid(self._microstructure_loss, "the microstructure loss", "set_perceptual")
            weights = batch.weights
            value = network.to(clean.device)(estimate * support, noise * support, weights)
            losses["microstructure"] = self.config.microstructure_weight * value
        return losses

    def refinement_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return L1 and MR of ``B(x_gen) + U(x_src)`` (12, 13, 20); as released, also square and "GAN"."""
        draw = self.draw(batch, self._children(len(batch.source), generator))
        mean, log_scale = self._refine(batch)
        image = mean + self._project(draw, batch)
        weight = voxel_weights(batch.mask, batch.weights)
        size = (image - batch.target).abs()
        losses = {
            "l1": (weight * size).sum(),
            # Ours: it gives the standard deviation and does not move the image.
            "scale": SCALE_WEIGHT * laplace_error(log_scale, size, weight),
        }
        if self.is_released:
            losses["square"] = (weight * size.square()).sum()
            # Binary cross entropy of the image itself, taken for the logits of a discriminator that is not
            # there.
            losses["adversarial"] = (weight * functional.softplus(image)).sum()
        if self.config.has_microstructure_loss:
            network = self._aid(self._microstructure_loss, "the microstructure loss", "set_perceptual")
            value = network.to(image.device)(image, batch.target * batch.mask, batch.weights)
            losses["microstructure"] = self.config.microstructure_weight * value
        return losses

    @torch.no_grad()
    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return x_gen, one standardised image per subject."""
        if not self.config.has_estimator:
            return torch.zeros_like(condition.source)
        if self.is_released:
            return self._kept_draw(condition).expand_as(condition.source) * self.support(condition)
        return self._draw_as_written(condition, generators) * self.support(condition)

    def _draw_as_written(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Run eqs. 7 and 8 over all steps; the noisy source of step t is that of eqs. 5 and 6."""
        source = self._standard_source(condition)
        source_noise = standard_normal(source, generators)
        sample = standard_normal(source, generators)
        for t in range(self.config.n_train_steps, 0, -1):
            kept, alpha = float(self.alpha_bar[t]), float(self.alpha_bar[t] / self.alpha_bar[t - 1])
            step = torch.full((len(sample),), t, device=sample.device)
            noisy = add_noise(source, source_noise, self.alpha_bar[step])
            noise = self.estimate_noise(noisy, sample, step, condition.direction)
            sample = (sample - (1 - alpha) / (1 - kept) ** 0.5 * noise) / alpha**0.5
            if t > 1:
                sample = sample + (1 - alpha) ** 0.5 * standard_normal(sample, generators)
        return sample

    def _kept_draw(self, condition: Condition) -> Tensor:
        """Return the draw for everybody; made again only when the estimator has changed."""
        parameters = [*self.estimator.parameters(), *self.local.parameters()]
        state = [(id(parameter), parameter._version) for parameter in parameters]
        if not self._everybody or self._everybody[0] != state:
            self._everybody = (state, self._draw_for_everybody(condition))
        drawn: Tensor = self._everybody[1]
        return drawn.to(condition.source)

    def _draw_for_everybody(self, condition: Condition) -> Tensor:
        """Sample all contrasts from noise of seed 0; nothing of the subjects but their directions is used."""
        generator = [torch.Generator().manual_seed(RELEASED_SEED)]
        sample = standard_normal(torch.zeros_like(condition.source[:1]), generator)
        stride = self.config.n_train_steps // self.config.n_steps
        # Leading steps: counted from 0, the first is T - stride; in the table of this class one more.
        for t in range(self.config.n_train_steps - stride + 1, 0, -stride):
            kept, following = float(self.alpha_bar[t]), float(self.alpha_bar[max(t - stride, 0)])
            step = torch.full((1,), t, device=sample.device)
            noise = torch.zeros_like(sample)
            for direction in Direction:
                code = torch.tensor([direction.code], device=sample.device)
                is_target = (target_weights(code) > 0).to(sample)[..., None, None, None]
                noisy_source = sample * (1 - is_target)
                noise = noise + is_target * self.estimate_noise(noisy_source, sample * is_target, step, code)
            clean = (sample - (1 - kept) ** 0.5 * noise) / kept**0.5
            fresh = (1 - following) / (1 - kept) * (1 - kept / following)
            old = max(1 - following - fresh, 0.0)
            sample = following**0.5 * clean + old**0.5 * noise
            sample = sample + fresh**0.5 * standard_normal(sample, generator)
        return sample

    def _standard_source(self, condition: Condition) -> Tensor:
        present = condition.present[..., None, None, None] * condition.mask
        return (condition.source - self.atlas) / self._scale * present
