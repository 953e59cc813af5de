"""Mathematics of diffusion and flow models: schedules, training targets and samplers over any callable.

Nothing here knows a network, a brain or a device. Samplers take the estimate as a function, so that they can
be tested with exact ones. Randomness comes from one generator per sample, so that a batch of two equals two
of one.
"""

from pds_bids.diffusion.ddim import ddim_sample, ddpm_sample
from pds_bids.diffusion.edm import (
    draw_sigmas,
    edm_weight,
    euler_sample,
    heun_sample,
    karras_sigmas,
    precondition,
)
from pds_bids.diffusion.flow import (
    bridge_point,
    bridge_sample,
    draw_times,
    flow_point,
    flow_sample,
    velocity_towards,
)
from pds_bids.diffusion.noise import standard_normal
from pds_bids.diffusion.ode import euler, heun
from pds_bids.diffusion.prediction import Prediction, add_noise, denoiser_of, estimate_clean, training_target
from pds_bids.diffusion.schedules import (
    cosine_alpha_bar,
    draw_steps,
    linear_alpha_bar,
    trailing_steps,
    with_zero_terminal_snr,
)

__all__ = [
    "Prediction",
    "add_noise",
    "bridge_point",
    "bridge_sample",
    "cosine_alpha_bar",
    "ddim_sample",
    "ddpm_sample",
    "denoiser_of",
    "draw_sigmas",
    "draw_steps",
    "draw_times",
    "edm_weight",
    "estimate_clean",
    "euler",
    "euler_sample",
    "flow_point",
    "flow_sample",
    "heun",
    "heun_sample",
    "karras_sigmas",
    "linear_alpha_bar",
    "precondition",
    "standard_normal",
    "trailing_steps",
    "training_target",
    "velocity_towards",
    "with_zero_terminal_snr",
]
