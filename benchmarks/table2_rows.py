"""Rows of `table2.py`: every method, PDS without each of its parts, and sizes of equal budget."""

from dataclasses import dataclass, field
from typing import Any

from pds_bids.methods import METHODS

#: Parameters of all networks that make the image, for every row of the reduced setting, and how far off.
BUDGET, TOLERANCE = 2.0e6, 0.25

UNET = {"widths": [16, 40, 72]}
GUIDED = {"widths": [24, 40, 64]}
PLAIN = {"widths": [32, 48, 56], "attention": [False] * 3, "head_width": 8}
ATTENTIVE = PLAIN | {"attention": [False, True, True]}
SPECTRAL = {"width": 16, "n_layers": 3, "has_attention": True, "is_spectral": True}
LATENT = {"widths": [48, 48], "attention": [False, True], "head_width": 24, "has_voxel_blocks": False}
# Few steps and draws, so that scoring does not take longer than training.
FEW = {"n_steps": 5, "n_samples": 2}
PDS = {"estimator": GUIDED, "refiner": UNET, "n_steps": 2, "n_samples": 2}

#: Sizes of the networks of the reduced setting.
REDUCED: dict[str, dict[str, Any]] = {
    "unet": {"widths": [16, 48, 96]},
    "gan": {},
    "pgan": {},
    "sagan": {"generator": {"attention_level": 2}, "discriminator": SPECTRAL},
    "psagan": {"generator": {"attention_level": 2}, "discriminator": SPECTRAL},
    "ddim": {"denoiser": PLAIN, **FEW},
    "sa-ddpm": {"denoiser": ATTENTIVE, **FEW, "eta": 1.0},
    "ldm": {"denoiser": LATENT, **FEW},
    "dit": {"transformer": {"width": 120, "depth": 4}, **FEW},
    "adm": {"denoiser": PLAIN, "n_samples": 2},
    "pds": PDS,
    "pds-paper": {"estimator": GUIDED, "refiner": UNET, "reading": "released"},
    "residual-flow": {"mean": UNET, "flow": GUIDED, "n_steps": 2, "n_samples": 2},
}


@dataclass(frozen=True)
class Row:
    """One row of the table that is trained.

    Parameters
    ----------
    method : str
        Out of `METHODS`.
    changes : dict
        Fields of the method's configuration that differ from its row in the table.
    p_drop_template : float
        How often the template channels are withheld in training; 1: at testing, too.
    """

    method: str
    changes: dict[str, Any] = field(default_factory=dict)
    p_drop_template: float = 0.3


#: PDS without each of its parts.
ABLATIONS = {
    "pds-no-estimator": Row("pds", {"has_estimator": False}),
    "pds-no-pattern": Row("pds", {"has_pattern_loss": False}),
    "pds-no-microstructure": Row("pds", {"has_microstructure_loss": False}),
    "pds-no-refinement": Row("pds", {"has_refinement": False}),
    "pds-no-source": Row("pds", {"has_source": False}),
    "pds-one-stage": Row("pds", {"has_two_stages": False}),
    "pds-no-template": Row("pds", p_drop_template=1.0),
    "pds-no-zero-snr": Row("pds", {"has_zero_terminal_snr": False}),
    # Table VI: a shallower network of the microstructure loss.
    "pds-mr-one-depth": Row("pds", {"microstructure_depth": 1}),
    "pds-mr-two-depths": Row("pds", {"microstructure_depth": 2}),
}
#: In the order in which they are trained: what decides between winners comes first.
FIRST = ("unet", "pds", "residual-flow", "pds-paper", "gan", "ddim", "adm", "ldm", "dit", "sagan", "pgan")
ROWS = {name: Row(name) for name in (*FIRST, *(name for name in METHODS if name not in FIRST))} | ABLATIONS


def architecture_of(row: Row, *, is_reduced: bool) -> dict[str, Any]:
    """Return the sizes and parts of a row; empty fields are the method's own defaults."""
    sizes: dict[str, Any] = REDUCED[row.method] if is_reduced else {}
    return sizes | row.changes
