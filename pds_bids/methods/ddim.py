"""U-DDIM: a diffusion U-Net that sees the clean source, sampled by DDIM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

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
from pds_bids.methods.baseline import N_INPUTS, N_KNOWN, Baseline, mean_over
from pds_bids.modalities import CONTRASTS
from pds_bids.models.denoiser import Denoiser, DenoiserConfig

__all__ = ["DDIMConfig", "DDIMMethod"]

#: Steps of the chain that is trained.
N_TRAIN_STEPS = 1000


@dataclass(frozen=True)
class DDIMConfig:
    """Sizes of `DDIMMethod` and its descendants.

    Parameters
    ----------
    denoiser : DenoiserConfig
        Size of the network.
    n_steps : int
        Steps per draw, at most 1000.
    eta : float
        Share of fresh noise per step: 0 is DDIM, 1 is DDPM.
    prediction : Prediction
        What the network predicts. A network that is trained for minutes learns the clean image ten times
        sooner than the velocity, of which the noise is a part.
    n_samples : int
        Draws whose mean is the image.
    """

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    n_steps: int = 50
    eta: float = 0.0
    prediction: Prediction = Prediction.CLEAN
    n_samples: int = 4


class DDIMMethod(Baseline):
    """Diffusion with the source concatenated: 50 deterministic steps from noise.

    The image is the mean over draws from different noise, the standard deviation their spread.

    References
    ----------
    Song, Meng and Ermon 2021, arXiv:2010.02502; Salimans and Ho 2022, arXiv:2202.00512.
    """

    name: ClassVar[str] = "ddim"
    learning_rate: ClassVar[float] = 5e-4
    sizes: ClassVar[dict[str, DDIMConfig]] = {
        "reduced": DDIMConfig(),
        "paper": DDIMConfig(
            DenoiserConfig((64, 128, 256, 512), (False,) * 4, 2, 32, 64, has_voxel_blocks=False),
            prediction=Prediction.VELOCITY,
        ),
    }
    alpha_bar: Tensor

    def __init__(self, config: DDIMConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config, shape)
        n = len(CONTRASTS)
        self.network = Denoiser(config.denoiser, N_INPUTS + n, n, N_KNOWN)
        # A formula: no need to save it. Its last entry is 0, there is no signal left where sampling starts.
        self.register_buffer("alpha_bar", cosine_alpha_bar(N_TRAIN_STEPS).float(), persistent=False)

    @property
    def sampler(self) -> str:
        """Name, and over how many draws."""
        eta = self.config.eta
        kind = "DDIM" if eta == 0 else "DDPM" if eta == 1 else f"DDIM with eta {eta:g}"
        return f"{kind}, mean of {self.config.n_samples}"

    @property
    def steps(self) -> int:
        """Passes of the network for all draws."""
        return int(self.config.n_steps * self.config.n_samples)

    def losses(
        self, batch: Batch, player: str | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return ``diffusion``, the squared error of the prediction at random steps."""
        del player
        clean, support = self.standardise(batch), self.support(batch)
        step = draw_steps(len(clean), N_TRAIN_STEPS, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        kept = self.alpha_bar[step]
        prediction = Prediction(self.config.prediction)
        output = self.network_of(batch)(add_noise(clean, noise, kept), step)
        error = output - training_target(clean, noise, kept, prediction)
        return {"diffusion": mean_over(error.square(), support)}

    def draw(self, condition: Condition, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one standardised image per subject, from white noise."""
        noise = standard_normal(torch.zeros_like(condition.source), generators)
        prediction = Prediction(self.config.prediction)
        denoise = denoiser_of(self.network_of(condition), self.alpha_bar, prediction)
        support = self.support(condition)
        return ddim_sample(
            # Where nothing is learned the truth is known: it is zero, as in training.
            lambda noisy, step: denoise(noisy, step) * support,
            noise,
            self.alpha_bar,
            self.config.n_steps,
            eta=self.config.eta,
            generators=generators,
        )

    def network_of(self, condition: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the network ``(noisy, step) -> output`` with the condition filled in."""
        inputs, known = self.inputs(condition), self.known(condition)
        return lambda noisy, step: self.network(torch.cat([noisy, inputs], 1), step, known)
