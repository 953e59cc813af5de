"""PDS: pattern-aware diffusion from the clean source, then tissue and microstructure refinement.

Parts, by the names of the paper's Table IV, each of which can be switched off: NE, the dual-modal noise
estimator; PA, the pattern-aware loss; TR, the tissue refinement ``B(x_gen) + U(x_src)``; MR, the
microstructure loss.

Where the equations cannot work as printed, this file departs from them (`pds_paper.py` keeps them):

- The estimator sees the clean source at every scale and the noisy target, not a noisy source (eqs. 7 and 8):
  the noise of the target is independent of the source, so that no function of the source can estimate it.
- It predicts the velocity, or the image, with a squared error, of which the best estimate is the mean that
  samplers need; L1 (eq. 17) has its best estimate elsewhere. At step T there is no signal left, as at the
  start of sampling.
- PA (eq. 11) and the microstructure loss of stage 1 (eq. 18) compare images; noise holds neither patterns nor
  tissue.
- Stage 2 also has PA, and what the `unet` baseline has beside L1: otherwise U would be the weaker of the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pds_bids.diffusion import (
    Prediction,
    add_noise,
    cosine_alpha_bar,
    ddim_sample,
    denoiser_of,
    draw_steps,
    estimate_clean,
    linear_alpha_bar,
    standard_normal,
    training_target,
)
from pds_bids.exceptions import UsageError
from pds_bids.methods.base import Batch, Condition, SampleResult
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, Baseline, mean_over, repeat_condition
from pds_bids.methods.unet import GRADIENT_WEIGHT, SCALE_WEIGHT, UNetMethod
from pds_bids.modalities import CONTRASTS
from pds_bids.models.guided import GuidedConfig, GuidedDenoiser
from pds_bids.models.microstructure import MicrostructureLoss
from pds_bids.models.objectives import ParcelLoss, gradient_error, laplace_error, voxel_weights
from pds_bids.models.perceptual import Perceptual
from pds_bids.models.unet import UNetConfig, blocks_to_voxels, voxels_to_blocks

__all__ = ["PDSConfig", "PDSMethod"]

#: Steps of the chain that is trained (T in the paper).
N_TRAIN_STEPS = 1000
DIFFUSION, REFINEMENT, JOINT = "diffusion", "refinement", "joint"
# Attributes that each stage trains, where they are there; "local" is of the released network only.
ESTIMATOR_PARTS, REFINEMENT_PARTS = ("estimator", "local"), ("refiner", "backbone")
SQUARE_WEIGHT = 0.5
# Channels between the two convolutions of the backbone B.
BACKBONE_WIDTH = 16


@dataclass(frozen=True)
class PDSConfig:
    """Sizes and parts of `PDSMethod`.

    Parameters
    ----------
    estimator : GuidedConfig
        Size of the noise estimator.
    refiner : UNetConfig
        Size of U.
    prediction : Prediction
        What the estimator predicts: the image, or the velocity, for which the noise itself has to fit through
        the network. Not noise, since there is no signal at step T.
    n_steps : int
        Steps per draw, at most 1000.
    eta : float
        Share of fresh noise per step: 0 is DDIM, 1 is DDPM.
    n_samples : int
        Draws per subject; their refined images are averaged.
    has_estimator, has_pattern_loss, has_refinement, has_microstructure_loss : bool
        NE, PA, TR, MR. Without NE, the method is U alone with the losses of PDS.
    has_source : bool
        Whether the estimator sees the source; U always does.
    has_zero_terminal_snr : bool
        Whether no signal is left at step T. Otherwise the schedule is that of Ho et al., which leaves 0.004%
        of the variance, and sampling starts from noise that training never showed.
    has_two_stages : bool
        Whether the estimator is trained first and then frozen, or everything at once.
    pattern_weight, microstructure_weight : float
        Weights of PA and MR beside the error of voxels.
    microstructure_depth : int, optional
        How many of the depths of the network, the finest first, MR compares, without deeper layers; default:
        all.
    """

    estimator: GuidedConfig = field(default_factory=GuidedConfig)
    refiner: UNetConfig = field(default_factory=UNetConfig)
    prediction: Prediction = Prediction.CLEAN
    n_steps: int = 2
    eta: float = 0.0
    n_samples: int = 2
    has_estimator: bool = True
    has_pattern_loss: bool = True
    has_refinement: bool = True
    has_microstructure_loss: bool = True
    has_source: bool = True
    has_zero_terminal_snr: bool = True
    has_two_stages: bool = True
    pattern_weight: float = 0.5
    microstructure_weight: float = 0.05
    microstructure_depth: int | None = None

    def __post_init__(self) -> None:
        if not (self.has_estimator or self.has_refinement):
            raise UsageError(
                "pds: without noise estimator and tissue refinement nothing is left that makes an image"
            )
        if self.prediction == Prediction.NOISE:
            raise UsageError(
                "pds: noise prediction says nothing of the image at step T; use velocity or clean"
            )


class PDSMethod(Baseline):
    """Diffusion from the clean source, refined by two convolutions of the draw plus a U-Net of the source.

    The image is the mean over refined draws. The standard deviation joins their spread and the one that the
    U-Net gives (error that it expects of itself, spread over mirrored and template-free passes), as root sum
    of squares, times one factor per contrast from held-out people. Without refinement it is the spread of the
    draws alone.

    Parameters
    ----------
    config : PDSConfig
        Sizes and parts.
    shape : tuple of int
        ``(D, H, W)`` of the window; multiples of 8.
    parcels : Tensor, optional
        ``(C, D, H, W)`` integers: A_f for BOLD, A_d for the diffusion contrasts. Training with PA needs it.
    parcel_weights : Tensor, optional
        ``(C, P)``, for example `effect_sizes` on the training split; uniform by default.
    perceptual : Perceptual, optional
        Trained network. Training with MR needs it.

    References
    ----------
    Pattern-aware diffusion synthesis, arXiv:2511.04963.
    """

    name: ClassVar[str] = "pds"
    learning_rate: ClassVar[float] = 1e-3
    sizes: ClassVar[dict[str, PDSConfig]] = {
        "reduced": PDSConfig(),
        "paper": PDSConfig(
            GuidedConfig((128, 256, 512), 2, 256, 4), UNetConfig((64, 128, 256), 2, 128), n_steps=50
        ),
    }
    config: PDSConfig
    alpha_bar: Tensor
    # In tuples: needed for training only, neither trained nor saved with the method.
    _pattern_loss: tuple[ParcelLoss, ...] = ()
    _microstructure_loss: tuple[MicrostructureLoss, ...] = ()

    def __init__(
        self,
        config: PDSConfig,
        shape: tuple[int, int, int],
        *,
        parcels: Tensor | None = None,
        parcel_weights: Tensor | None = None,
        perceptual: Perceptual | None = None,
    ) -> None:
        super().__init__(config, shape)
        n = len(CONTRASTS)
        schedule = cosine_alpha_bar if config.has_zero_terminal_snr else linear_alpha_bar
        # A formula: no need to save it.
        self.register_buffer("alpha_bar", schedule(N_TRAIN_STEPS).float(), persistent=False)
        if config.has_estimator:
            self.estimator = self.build_estimator()
            # Convolutions on a CPU are faster with channels last.
            self.estimator.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if config.has_refinement:
            self.refiner = UNetMethod(config.refiner, shape)
            self.backbone = nn.Sequential(
                nn.Conv3d(n, BACKBONE_WIDTH, 3, padding=1),
                nn.SiLU(),
                nn.Conv3d(BACKBONE_WIDTH, n, 3, padding=1),
            )
            # The refined image starts as U alone, which starts as the local regression.
            for parameter in self.backbone[-1].parameters():
                nn.init.zeros_(parameter)
        parts = ((DIFFUSION, config.has_estimator), (REFINEMENT, config.has_refinement))
        stages = tuple(stage for stage, is_on in parts if is_on)
        self.stages = stages if config.has_two_stages or len(stages) == 1 else (JOINT,)  # type: ignore[misc]
        self.stage_shares = (1 / len(self.stages),) * len(self.stages)  # type: ignore[misc]
        self.stage = self.stages[0]
        if parcels is not None:
            self.set_parcels(parcels, parcel_weights)
        if perceptual is not None:
            self.set_perceptual(perceptual)

    def build_estimator(self) -> nn.Module:
        """Return the noise estimator, which sees the source at every scale."""
        return GuidedDenoiser(self.config.estimator, len(CONTRASTS), N_INPUTS, N_KNOWN)

    @property
    def sampler(self) -> str:
        """Name, and what the draws become."""
        config = self.config
        chain = [f"DDIM, {config.n_steps} steps, eta {config.eta:g}"] * config.has_estimator
        refinement = ["tissue refinement"] * config.has_refinement
        return ", ".join([*chain, *refinement, f"mean of {self._n_draws}"])

    @property
    def steps(self) -> int:
        """Passes of the networks for all draws."""
        passes = self.config.n_steps * self._n_draws * self.config.has_estimator
        return passes + (self.refiner.steps if self.config.has_refinement else 0)

    @property
    def _n_draws(self) -> int:
        return self.config.n_samples if self.config.has_estimator else 1

    def set_parcels(self, parcels: Tensor, weights: Tensor | None = None) -> None:
        """Take the atlases, and the importance of their parcels, for PA; see `ParcelLoss`."""
        self._pattern_loss = (ParcelLoss(parcels, weights),)

    def set_perceptual(self, network: Perceptual) -> None:
        """Take the trained network for MR."""
        self._microstructure_loss = (MicrostructureLoss(network, self.config.microstructure_depth),)

    def set_statistics(self, atlas: Tensor, prior: Tensor) -> None:
        """Keep the mean person; U starts from the local regression as well."""
        super().set_statistics(atlas, prior)
        if self.config.has_refinement:
            self.refiner.set_statistics(atlas, prior)

    def set_stage(self, name: str) -> None:
        """Train the estimator, or with it frozen B and U, or all of them."""
        super().set_stage(name)
        self.stage = name
        for stage, parts in ((DIFFUSION, ESTIMATOR_PARTS), (REFINEMENT, REFINEMENT_PARTS)):
            for part in parts:
                if hasattr(self, part):
                    getattr(self, part).requires_grad_(name in (stage, JOINT))

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the present stage: eqs. 17 to 19, or eqs. 12, 13 and 20.

        Raises
        ------
        UsageError
            If PA or MR is on and `set_parcels` or `set_perceptual` was not called.
        """
        del player
        if self.stage == DIFFUSION:
            return self.diffusion_losses(batch, generator)
        refinement = self.refinement_losses(batch, generator)
        if self.stage == REFINEMENT:
            return refinement
        diffusion = self.diffusion_losses(batch, generator)
        return refinement | {f"{DIFFUSION}_{name}": loss for name, loss in diffusion.items()}

    def diffusion_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return ``estimate`` (17), ``microstructure`` (18) and ``pattern`` (11), which eq. 19 adds up."""
        clean, support = self.standardise(batch), self.support(batch)
        step = draw_steps(len(clean), N_TRAIN_STEPS, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean) * support
        kept = self.alpha_bar[step]
        noisy = add_noise(clean, noise, kept)
        prediction = Prediction(self.config.prediction)
        output = self.network_of(batch)(noisy, step)
        wanted = training_target(clean, noise, kept, prediction)
        losses = {"estimate": mean_over((output - wanted).square(), support)}
        image = self.restore(estimate_clean(output, noisy, kept, prediction), batch)
        # From pure noise only a mean can be had, and a mean is smooth: no microstructure is asked of it.
        return losses | self.image_losses(image, batch, kept)

    def refinement_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return the errors of ``B(x_gen) + U(x_src)``, eqs. 12 and 13, whose sum is eq. 20."""
        draw = self.draw(batch, self._children(len(batch.source), generator))
        mean, log_scale = self._refine(batch)
        image = mean + self._project(draw, batch)
        weight = voxel_weights(batch.mask, batch.weights)
        error = image - batch.target
        losses = {
            "l1": (weight * error.abs()).sum(),
            "square": SQUARE_WEIGHT * (weight * error.square()).sum(),
            "gradient": GRADIENT_WEIGHT * gradient_error(error, weight),
            "scale": SCALE_WEIGHT * laplace_error(log_scale, error.abs(), weight),
        }
        return losses | self.image_losses(image, batch, torch.ones_like(batch.mask[:, 0, 0, 0, 0]))

    def image_losses(self, image: Tensor, batch: Batch, importance: Tensor) -> dict[str, Tensor]:
        """Return PA and MR of an image, those that are on; `importance` is ``(B,)``, a weight on MR."""
        weights = batch.weights
        losses = {}
        if self.config.has_pattern_loss:
            pattern = self._aid(self._pattern_loss, "the pattern-aware loss", "set_parcels").to(image.device)
            value = pattern(image, batch.target, batch.mask, weights)
            losses["pattern"] = self.config.pattern_weight * value
        if self.config.has_microstructure_loss:
            network = self._aid(self._microstructure_loss, "the microstructure loss", "set_perceptual")
            truth = batch.target * batch.mask
            value = network.to(image.device)(image, truth, weights * importance[:, None])
            losses["microstructure"] = self.config.microstructure_weight * value
        return losses

    @torch.no_grad()
    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return x_gen, one standardised image per subject; zeros where NE is switched off."""
        support = self.support(condition)
        if not self.config.has_estimator:
            return torch.zeros_like(support)
        noise = standard_normal(support, generators) * support
        network = self.network_of(condition)
        denoise = denoiser_of(network, self.alpha_bar, Prediction(self.config.prediction))
        return ddim_sample(
            lambda noisy, step: denoise(noisy, step) * support,
            noise,
            self.alpha_bar,
            self.config.n_steps,
            eta=self.config.eta,
            generators=generators,
        )

    def network_of(self, condition: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the estimator ``(noisy, step) -> output`` with the condition filled in."""
        seen = condition if self.config.has_source else _without_source(condition)
        inputs, known, support = self.inputs(seen), self.known(seen), self.support(condition)

        def network(noisy: Tensor, step: Tensor) -> Tensor:
            blocks = voxels_to_blocks(noisy * support)
            return blocks_to_voxels(self.estimator(blocks, step / N_TRAIN_STEPS, inputs, known)) * support

        return network

    @torch.no_grad()
    def sample(self, condition: Condition, generators: Sequence[torch.Generator]) -> SampleResult:
        """Return mean and calibrated standard deviation over refined draws."""
        if not self.config.has_refinement:
            return super().sample(condition, generators)
        refined = self.refiner.sample(condition, generators)
        n_draws = self._n_draws
        many = repeat_condition(condition, n_draws)
        added = self._project(self.draw(many, list(generators) * n_draws), many)
        added = added.unflatten(0, (n_draws, -1))
        spread = added.std(0, correction=min(n_draws - 1, 1))
        std = self.calibration.view(-1, 1, 1, 1) * torch.sqrt(refined.std.square() + spread.square())
        return SampleResult((refined.mean + added.mean(0)) * condition.mask, std * condition.mask)

    def _refine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return U(x_src), units of the in-brain mean, and the logarithm of the error that it expects."""
        return self.refiner.network(
            condition.source, condition.present, condition.template, condition.mask, condition.direction
        )

    def _project(self, draw: Tensor, condition: Condition) -> Tensor:
        """Return B(x_gen) in units of the in-brain mean; nothing where there is no estimator."""
        if not self.config.has_estimator:
            return torch.zeros_like(draw)
        return self.backbone(draw) * self._scale * self.support(condition)

    def _aid(self, given: tuple[Any, ...], loss: str, setter: str) -> Any:
        if not given:
            raise UsageError(
                f"method {self.name!r}: {loss} is on, but what it compares with was not given; call {setter} "
                "before training, or switch the loss off in the configuration"
            )
        return given[0]

    @staticmethod
    def _children(n: int, generator: torch.Generator | None) -> list[torch.Generator]:
        seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]


def _without_source(condition: Condition) -> Condition:
    return replace(
        condition,
        source=torch.zeros_like(condition.source),
        present=torch.zeros_like(condition.present),
    )
