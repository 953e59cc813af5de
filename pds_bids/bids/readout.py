"""Direction and duration of the readout of an echo-planar image, from its sidecar."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from pds_bids.exceptions import DataError

__all__ = ["OPPOSITE", "EchoPlanar", "is_number", "readout"]

OPPOSITE = {"i": "i-", "i-": "i", "j": "j-", "j-": "j", "k": "k-", "k-": "k"}


@dataclass(frozen=True)
class EchoPlanar:
    """An echo-planar image and its readout.

    Parameters
    ----------
    path : Path
        NIfTI file.
    direction : str
        ``PhaseEncodingDirection``: ``i``, ``j-``, ...; an axis of the stored array.
    readout_s : float
        ``TotalReadoutTime``, seconds.
    """

    path: Path
    direction: str
    readout_s: float

    @property
    def metadata(self) -> dict[str, Any]:
        """The two fields under their BIDS names, as `phase_encoding` of `imaging.distortion` reads them."""
        return {"PhaseEncodingDirection": self.direction, "TotalReadoutTime": self.readout_s}


def readout(metadata: Mapping[str, Any], path: Path) -> EchoPlanar:
    """Read direction and readout time of an echo-planar image.

    ``TotalReadoutTime`` is taken as it stands, or made of ``EffectiveEchoSpacing`` and ``ReconMatrixPE``. An
    axis without a sign (``PhaseEncodingAxis``) is not enough: a wrong sign doubles the distortion.

    Raises
    ------
    DataError
        If one of the two cannot be known.

    Examples
    --------
    >>> sidecar = {"PhaseEncodingDirection": "j-", "EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 101}
    >>> readout(sidecar, Path("sub-01_bold.nii.gz")).readout_s
    0.05
    """
    direction = metadata.get("PhaseEncodingDirection")
    absent = []
    if direction not in OPPOSITE:
        axis_only = (
            " (PhaseEncodingAxis alone does not say which way)" if "PhaseEncodingAxis" in metadata else ""
        )
        absent.append(f"PhaseEncodingDirection{axis_only}")
    seconds = metadata.get("TotalReadoutTime")
    spacing_s, steps = (metadata.get(name) for name in ("EffectiveEchoSpacing", "ReconMatrixPE"))
    if seconds is None and is_number(spacing_s) and is_number(steps):
        seconds = round(spacing_s * (steps - 1), 9)
    if not (is_number(seconds) and 0.001 < seconds < 1):
        absent.append(
            "TotalReadoutTime" if seconds is None else f"TotalReadoutTime between 1 ms and 1 s ({seconds})"
        )
    if absent or not is_number(seconds):
        raise DataError(f"{path.name} has no {' and no '.join(absent)}")
    return EchoPlanar(path, str(direction), float(seconds))


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value of a sidecar is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
