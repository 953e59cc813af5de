"""What the training stream gives: source, target, mask and protocol of simulated people."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pds_bids.imaging.tissues import Template
from pds_bids.modalities import Contrast

__all__ = ["ACQUIRED", "PROTOCOL_NUMBERS", "SOURCE_CHANNELS", "TARGET_CHANNELS", "Pair", "template_channels"]

#: Channels of a source and of a target; both begin with what EPI acquires.
ACQUIRED = (Contrast.BOLD, Contrast.DWI, Contrast.B0)
SOURCE_CHANNELS = (*ACQUIRED, Contrast.T1W)
TARGET_CHANNELS = (*ACQUIRED, Contrast.FA, Contrast.MD)
#: What `Pair.protocol` holds, in this order.
PROTOCOL_NUMBERS = (
    "bold_tr_s",
    "bold_te_ms",
    "bold_flip_deg",
    "dwi_tr_s",
    "dwi_te_ms",
    "dwi_bval_s_mm2",
    "field_t",
)


@dataclass(frozen=True, eq=False)
class Pair:
    """Simulated people: what a scanner would have given, and what is to be predicted.

    Of `PairStream.pair` one person; of `PairStream.pairs` several, with a leading dimension for all but the
    template.

    Parameters
    ----------
    source : Tensor
        ``(4, X, Y, Z)`` float32, `SOURCE_CHANNELS`, in-brain mean 1, zero outside the mask.
    target : Tensor
        ``(5, X, Y, Z)`` float32, `TARGET_CHANNELS`: three images with an in-brain mean of 1, then FA and MD
        (um^2/ms); zero outside the mask.
    mask : Tensor
        ``(X, Y, Z)`` bool, a brain mask with small errors.
    protocol : Tensor
        ``(7,)`` float32, `PROTOCOL_NUMBERS` of the source; all 0 where no signal equation holds.
    template : Tensor
        ``(4, X, Y, Z)`` float32, see `template_channels`; the same for every person.
    name : str
        The anatomy; several are joined by commas.
    """

    source: Tensor
    target: Tensor
    mask: Tensor
    protocol: Tensor
    template: Tensor
    name: str


def template_channels(template: Template) -> np.ndarray:
    """Return the template as network input.

    Parameters
    ----------
    template : Template
        On any grid.

    Returns
    -------
    ndarray
        ``(4, X, Y, Z)`` float32: grey matter, white matter, fluid, T1w divided by its in-brain mean; zero
        outside the template's brain mask.
    """
    t1w = template.t1w / template.t1w[template.mask].mean()
    maps = np.stack([template.gm, template.wm, template.csf, t1w]).astype(np.float32)
    return maps * template.mask
