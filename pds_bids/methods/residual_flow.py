"""The challenger of PDS: a posterior mean first, then a flow of what it misses, on a grid of Haar wavelets.

Stage 1 trains ``mu = U(x_src)`` with L1, SSIM, gradients, and parcel means. Stage 2 trains a rectified flow
from white noise to the residual ``target - mu`` in wavelet coefficients, each of the eight bands divided by
its own deviation. Since the noise at time 0 knows nothing of the residual, the network's very first
prediction is the residual's mean given the source: the limit of the mean over many samples, for one
evaluation. The samples themselves serve for the spread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pds_bids.diffusion import draw_times, flow_point, flow_sample, standard_normal, velocity_towards
from pds_bids.exceptions import UsageError
from pds_bids.methods.base import Batch, Condition, SampleResult
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, SPREAD_FLOOR, Baseline, repeat_condition
from pds_bids.methods.unet import GRADIENT_WEIGHT, SCALE_WEIGHT, UNetMethod
from pds_bids.modalities import CONTRASTS
from pds_bids.models.guided import GuidedConfig, GuidedDenoiser
from pds_bids.models.objectives import (
    ParcelLoss,
    gradient_error,
    laplace_error,
    structural_error,
    voxel_weights,
)
from pds_bids.models.scales import MeasuredScale
from pds_bids.models.unet import UNetConfig
from pds_bids.models.wavelet import haar_forward, haar_inverse

__all__ = ["ResidualFlowConfig", "ResidualFlowMethod"]

MEAN, FLOW = "mean", "flow"
# Dynamic range of images with an in-brain mean of 1, for SSIM.
DATA_RANGE = 3.0
# Standardised residuals before they are measured.
FIRST_SCALE = 0.5


@dataclass(frozen=True)
class ResidualFlowConfig:
    """Sizes of `ResidualFlowMethod`.

    Parameters
    ----------
    mean : UNetConfig
        Size of U.
    flow : GuidedConfig
        Size of the network of the flow.
    n_steps : int
        Euler steps per sample, 1 to 4 or more. With one, all samples are the mean and there is no spread.
    n_samples : int
        Samples per subject.
    has_mean_of_samples : bool
        Whether the image is the mean over samples instead of the mean over first predictions.
    has_pattern_loss : bool
        Whether parcel means count in stage 1; `set_parcels` has to be called then.
    structure_weight, pattern_weight : float
        Weights of 1 - SSIM and of parcel means beside L1.
    """

    mean: UNetConfig = field(default_factory=UNetConfig)
    flow: GuidedConfig = field(default_factory=GuidedConfig)
    n_steps: int = 4
    n_samples: int = 4
    has_mean_of_samples: bool = False
    has_pattern_loss: bool = True
    structure_weight: float = 0.1
    pattern_weight: float = 0.5


class ResidualFlowMethod(Baseline):
    """Posterior mean by a U-Net, its residual by a conditional rectified flow in wavelet coefficients.

    The image is the U-Net's plus the mean residual. The standard deviation is the spread of sampled
    residuals, averaged in variance over 3 x 3 x 3 voxels, times one factor per contrast from held-out people.

    Parameters
    ----------
    config : ResidualFlowConfig
        Sizes.
    shape : tuple of int
        ``(D, H, W)`` of the window; multiples of 8.
    parcels, parcel_weights : Tensor, optional
        See `ParcelLoss`.

    References
    ----------
    Ohayon et al. 2024 (PMRF), arXiv:2410.00418; Friedrich et al. 2024 (wavelet diffusion), arXiv:2402.19043;
    Mardani et al. 2023 (residual diffusion), arXiv:2309.15214.
    """

    name: ClassVar[str] = "residual-flow"
    learning_rate: ClassVar[float] = 1e-3
    stages: ClassVar[tuple[str, ...]] = (MEAN, FLOW)
    stage_shares: ClassVar[tuple[float, ...]] = (0.6, 0.4)
    sizes: ClassVar[dict[str, ResidualFlowConfig]] = {
        "reduced": ResidualFlowConfig(),
        "paper": ResidualFlowConfig(
            UNetConfig((64, 128, 256), 2, 128), GuidedConfig((64, 128, 256), 2, 128), n_samples=8
        ),
    }
    config: ResidualFlowConfig
    _pattern_loss: tuple[ParcelLoss, ...] = ()

    def __init__(
        self,
        config: ResidualFlowConfig,
        shape: tuple[int, int, int],
        *,
        parcels: Tensor | None = None,
        parcel_weights: Tensor | None = None,
    ) -> None:
        super().__init__(config, shape)
        n = len(CONTRASTS)
        self.mean = UNetMethod(config.mean, shape)
        # The posterior mean is one more image that is known.
        self.flow = GuidedDenoiser(config.flow, n, N_INPUTS + n, N_KNOWN)
        # Convolutions on a CPU are faster with channels last.
        self.flow.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.bands = MeasuredScale(8 * n, FIRST_SCALE)
        self.stage = MEAN
        if parcels is not None:
            self.set_parcels(parcels, parcel_weights)

    @property
    def sampler(self) -> str:
        """Name and numbers."""
        source = "samples" if self.config.has_mean_of_samples else "first predictions"
        return (
            f"posterior mean, residual flow of {self.config.n_steps} Euler steps, "
            f"mean of {self.config.n_samples} {source}"
        )

    @property
    def steps(self) -> int:
        """Passes of the networks for all samples."""
        return self.mean.steps + 1 + self.config.n_steps * self.config.n_samples

    def set_parcels(self, parcels: Tensor, weights: Tensor | None = None) -> None:
        """Take the atlases, and the importance of their parcels; see `ParcelLoss`."""
        self._pattern_loss = (ParcelLoss(parcels, weights),)

    def set_statistics(self, atlas: Tensor, prior: Tensor) -> None:
        """Keep the mean person; U starts from the local regression as well."""
        super().set_statistics(atlas, prior)
        self.mean.set_statistics(atlas, prior)

    def set_stage(self, name: str) -> None:
        """Train U, or with U frozen the flow."""
        super().set_stage(name)
        self.stage = name
        self.mean.requires_grad_(name == MEAN)
        self.flow.requires_grad_(name == FLOW)

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the present stage.

        Raises
        ------
        UsageError
            If parcel means count and `set_parcels` was not called.
        """
        del player
        return self._mean_losses(batch) if self.stage == MEAN else self._flow_losses(batch, generator)

    def _mean_losses(self, batch: Batch) -> dict[str, Tensor]:
        mean, log_scale = self._predict_mean(batch)
        weights = batch.weights
        weight = voxel_weights(batch.mask, weights)
        error = mean - batch.target
        structure = structural_error(mean, batch.target * batch.mask, weight, DATA_RANGE)
        losses = {
            "l1": (weight * error.abs()).sum(),
            "structure": self.config.structure_weight * structure,
            "gradient": GRADIENT_WEIGHT * gradient_error(error, weight),
            "scale": SCALE_WEIGHT * laplace_error(log_scale, error.abs(), weight),
        }
        if self.config.has_pattern_loss:
            if not self._pattern_loss:
                raise UsageError(
                    f"method {self.name!r}: parcel means count, but no atlas was given; call set_parcels "
                    "before training, or switch has_pattern_loss off"
                )
            pattern = self._pattern_loss[0].to(mean.device)
            value = pattern(mean, batch.target, batch.mask, weights)
            losses["pattern"] = self.config.pattern_weight * value
        return losses

    def _flow_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return ``flow``: squared error of the predicted residual, in units of each band."""
        with torch.no_grad():
            mean, _ = self._predict_mean(batch)
        support = self.support(batch)
        residual = haar_forward((batch.target - mean) / self._scale * support)
        # A block counts by the share of its voxels that are in the brain.
        weight = functional.avg_pool3d(support, 2).repeat_interleave(8, 1)
        self.bands.measure(residual, weight)
        end = residual / self.bands.value
        start = torch.randn(end.shape, generator=generator).to(end) * (weight > 0)
        time = draw_times(len(end), generator).to(end)
        predicted = self._predictor(batch, mean)(flow_point(start, end, time), time)
        each = (weight * (predicted - end).square()).sum((1, 2, 3, 4)) / weight.sum((1, 2, 3, 4)).clamp_min(
            1e-6
        )
        return {"flow": each.mean()}

    @torch.no_grad()
    def sample(self, condition: Condition, generators: Sequence[torch.Generator]) -> SampleResult:
        """Return mean and calibrated spread over ``config.n_samples`` residuals."""
        n = self.config.n_samples
        mean, _ = self._predict_mean(condition)
        many, means = repeat_condition(condition, n), mean.repeat(n, 1, 1, 1, 1)
        predict = self._predictor(many, means)
        seen: list[Tensor] = []

        def predict_and_note(state: Tensor, time: Tensor) -> Tensor:
            seen.append(predict(state, time))
            return seen[-1]

        start = standard_normal(haar_forward(means), list(generators) * n)
        ends = flow_sample(velocity_towards(predict_and_note), start, self.config.n_steps)
        chosen = ends if self.config.has_mean_of_samples else seen[0]
        residual = self._residual(chosen, many).unflatten(0, (n, -1)).mean(0)
        samples = self._residual(ends, many).unflatten(0, (n, -1))
        variance = samples.var(0, correction=min(n - 1, 1))
        # Outside of the brain there is no spread; it must not lower that of the rim.
        support = self.support(condition)
        around, inside = (functional.avg_pool3d(image, 3, 1, 1) for image in (variance, support))
        variance = around / inside.clamp_min(1e-6) * support + SPREAD_FLOOR**2
        std = self.calibration.view(-1, 1, 1, 1) * variance.sqrt() * condition.mask
        # U's own sample averages mirrored passes; the flow is conditioned on a plain one, as in training.
        image = self.mean.sample(condition, generators).mean + residual
        return SampleResult(image * condition.mask, std)

    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one realistic standardised image per subject: mean plus one sampled residual."""
        with torch.no_grad():
            mean, _ = self._predict_mean(condition)
            predict = self._predictor(condition, mean)
            start = standard_normal(haar_forward(mean), generators)
            end = flow_sample(velocity_towards(predict), start, self.config.n_steps)
            image = mean + self._residual(end, condition)
        return (image - self.atlas) / self._scale * self.support(condition)

    def _predict_mean(self, condition: Condition) -> tuple[Tensor, Tensor]:
        return self.mean.network(
            condition.source, condition.present, condition.template, condition.mask, condition.direction
        )

    def _predictor(self, condition: Condition, mean: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return ``(coefficients, time) -> residual`` in units of each band."""
        support = self.support(condition)
        inside = (functional.avg_pool3d(support, 2) > 0).repeat_interleave(8, 1)
        guess = (mean - self.atlas) / self._scale * support
        inputs, known = torch.cat([self.inputs(condition), guess], 1), self.known(condition)
        return lambda state, time: self.flow(state * inside, time, inputs, known) * inside

    def _residual(self, coefficients: Tensor, condition: Condition) -> Tensor:
        """Return a residual image in units of the in-brain mean."""
        return haar_inverse(coefficients * self.bands.value) * self._scale * self.support(condition)
