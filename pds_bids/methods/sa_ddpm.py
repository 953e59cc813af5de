"""SA-DDPM: a diffusion U-Net with self-attention at its two lowest levels, sampled step by step."""

from dataclasses import dataclass, field
from typing import ClassVar

from pds_bids.diffusion import Prediction
from pds_bids.methods.ddim import N_TRAIN_STEPS, DDIMConfig, DDIMMethod
from pds_bids.models.denoiser import DenoiserConfig

__all__ = ["SADDPMConfig", "SADDPMMethod"]


@dataclass(frozen=True)
class SADDPMConfig(DDIMConfig):
    """`DDIMConfig` with attention and the full chain of ancestral steps."""

    denoiser: DenoiserConfig = field(default_factory=lambda: DenoiserConfig(attention=(False, True, True)))
    n_steps: int = N_TRAIN_STEPS
    eta: float = 1.0


class SADDPMMethod(DDIMMethod):
    """Diffusion with attention, source concatenated: ancestral steps from noise.

    The image is the mean over draws from different noise, the standard deviation their spread.

    References
    ----------
    Ho, Jain and Abbeel 2020, arXiv:2006.11239; Saharia et al. 2022 (Palette), arXiv:2111.05826.
    """

    name: ClassVar[str] = "sa-ddpm"
    sizes: ClassVar[dict[str, DDIMConfig]] = {
        # A thousand steps take an hour per subject on a CPU; the posterior variance is exact for any spacing.
        "reduced": SADDPMConfig(n_steps=50),
        "paper": SADDPMConfig(
            DenoiserConfig(
                (64, 128, 256, 512), (False, False, True, True), 2, 32, 64, has_voxel_blocks=False
            ),
            prediction=Prediction.VELOCITY,
        ),
    }
