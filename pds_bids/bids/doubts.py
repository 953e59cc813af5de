"""What the sidecar of a series says against the name of its file."""

from collections.abc import Mapping
from typing import Any

from pds_bids.bids.series import Series
from pds_bids.modalities import Modality

__all__ = ["sidecar_doubts"]

# T2* of grey matter is about 50 ms at 3 T, 85 ms at 1.5 T: beyond these echo times (s) a gradient-echo EPI
# has little left. Where the field is not told it may be 1.5 T.
LATEST_ECHO = {"high": 0.06, "low": 0.075}
HIGH_FIELD_T = 2.0
# Two gradient pulses of b = 500 s/mm2 and the read-out do not fit into a shorter echo time (s).
EARLIEST_WEIGHTED_ECHO = 0.03
# Of `ImageType`, by what the image is then.
TOLD_TYPES = {
    Modality.BOLD: {"DIFFUSION": "diffusion MRI"},
    Modality.DWI: {"FMRI": "functional MRI", "ADC": "a map", "FA": "a map", "TRACEW": "a trace image"},
}


def sidecar_doubts(series: Series) -> tuple[str, ...]:
    """Say where the sidecars of a series contradict its suffix.

    Only fields that converters fill reliably count: `PulseSequenceType`, for instance, is "Multiband Gradient
    Echo EPI" for diffusion series of some scanners.

    Parameters
    ----------
    series : Series
        With its runs. Of echoes that are combined, only the one that head motion is found on counts: the last
        ones are late. Fields of a wrong type are passed over.

    Returns
    -------
    tuple of str
        One sentence per contradiction; empty for nearly every file.

    Examples
    --------
    >>> from pathlib import Path
    >>> sidecar_doubts(Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {"EchoTime": 0.09}, {}))
    ('BOLD: sub-01_task-rest_bold.nii.gz: echo time of 90 ms, too long for a gradient echo',)
    """
    return tuple(
        f"{series.modality.upper()}: {run.path.name}: {doubt}"
        for run in series.runs
        for doubt in _of_run(run)
    )


def _of_run(run: Series) -> list[str]:
    types = {str(item).upper() for item in _items(run.metadata.get("ImageType"))}
    told = TOLD_TYPES[run.modality]
    found = [f"ImageType says {what}" for what in dict.fromkeys(told[word] for word in told if word in types)]
    return found + (_bold(run) if run.modality is Modality.BOLD else _dwi(run.metadata))


def _bold(run: Series) -> list[str]:
    """Return what speaks against a gradient-echo EPI."""
    path, metadata = run.path, run.metadata
    found = []
    stem = path.name.split(".")[0]
    if "DiffusionScheme" in metadata or path.with_name(f"{stem}.bval").exists():
        found.append("it has b-values or a diffusion scheme")
    if _is_echo("SE", "GR", metadata) or str(metadata.get("SequenceName", "")).lstrip("*").startswith("epse"):
        found.append("a spin echo, which no weights have seen as BOLD")
    echo_s, field_t = _number(metadata.get("EchoTime")), _number(metadata.get("MagneticFieldStrength"))
    limit = LATEST_ECHO["high" if field_t is not None and field_t >= HIGH_FIELD_T else "low"]
    if echo_s is not None and echo_s > limit - 1e-6:
        found.append(f"echo time of {1000 * echo_s:.0f} ms, too long for a gradient echo")
    return found


def _dwi(metadata: Mapping[str, Any]) -> list[str]:
    """Return what speaks against a diffusion-weighted spin echo."""
    found = []
    if _is_echo("GR", "SE", metadata):
        found.append("a gradient echo")
    echo_s = _number(metadata.get("EchoTime"))
    if echo_s is not None and 0 < echo_s < EARLIEST_WEIGHTED_ECHO:
        found.append(f"echo time of {1000 * echo_s:.0f} ms, too short for diffusion weighting")
    return found


def _is_echo(kind: str, other: str, metadata: Mapping[str, Any]) -> bool:
    """Return whether `ScanningSequence` names one kind of echo and not the other."""
    words = {word for item in _items(metadata.get("ScanningSequence")) for word in str(item).split("\\")}
    return kind in words and other not in words


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
