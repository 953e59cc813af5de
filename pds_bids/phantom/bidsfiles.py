"""Files of a simulated raw BIDS dataset, the same bytes for the same content."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids import __version__
from pds_bids.imaging.grid import Grid
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol

__all__ = [
    "T1W_SIDECAR",
    "bold_sidecar",
    "dwi_sidecar",
    "write_dataset_files",
    "write_gradients",
    "write_image",
    "write_json",
]

_SCANNER = {
    "Manufacturer": "pds-bids-phantom",
    "ManufacturersModelName": "simulated",
    "MagneticFieldStrength": 3,
    "InstitutionName": "simulated",
}
T1W_SIDECAR: dict[str, object] = {
    **_SCANNER,
    "EchoTime": 0.003,
    "RepetitionTime": 2.3,
    "InversionTime": 0.9,
    "FlipAngle": 9,
}
_ECHO_SPACING_S = 0.0005
# int16 leaves head room above the brightest voxel.
_INT16_PEAK = 8000.0
_README = """# Simulated people

Every image in this dataset was computed by `pds-bids-phantom`; nobody was scanned. BOLD, diffusion and
T1-weighted images of one participant come from the same simulated tissues. The command with the same options
writes the same bytes.
"""


def bold_sidecar(protocol: BoldProtocol, shape: tuple[int, int, int]) -> dict[str, object]:
    """Return the sidecar of a BOLD series; odd slices first."""
    n_slices = shape[2]
    order = [*range(0, n_slices, 2), *range(1, n_slices, 2)]
    timing = np.zeros(n_slices)
    timing[order] = np.arange(n_slices) * protocol.tr_s / n_slices
    return {
        **_epi_sidecar(protocol.tr_s, protocol.te_ms, shape),
        "TaskName": "rest",
        "FlipAngle": protocol.flip_deg,
        "SliceTiming": [round(float(t), 4) for t in timing],
    }


def dwi_sidecar(protocol: DwiProtocol, shape: tuple[int, int, int]) -> dict[str, object]:
    """Return the sidecar of a diffusion series."""
    return {**_epi_sidecar(protocol.tr_s, protocol.te_ms, shape), "FlipAngle": 90}


def _epi_sidecar(tr_s: float, te_ms: float, shape: tuple[int, int, int]) -> dict[str, object]:
    """Return what EPI series have in common."""
    return {
        **_SCANNER,
        "RepetitionTime": tr_s,
        "EchoTime": te_ms / 1000,
        "PhaseEncodingDirection": "j-",
        "EffectiveEchoSpacing": _ECHO_SPACING_S,
        "TotalReadoutTime": round(_ECHO_SPACING_S * (shape[1] - 1), 6),
    }


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_image(
    path: Path, data: np.ndarray, grid: Grid, tr_s: float | None = None, *, as_float: bool = False
) -> None:
    """Write an image in LAS order, as most scanners' converters do.

    Parameters
    ----------
    path : Path
        ``.nii.gz``.
    data : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, V)``, RAS+.
    grid : Grid
        Its grid, axis-aligned.
    tr_s : float, optional
        Repetition time of a series.
    as_float : bool
        float32 as it is; otherwise int16, scaled so that the brightest voxel is 8000.
    """
    vox2ras = grid.vox2ras.copy()
    vox2ras[:3, 3] += vox2ras[:3, 0] * (grid.shape[0] - 1)
    vox2ras[:3, 0] *= -1
    values = data[::-1]
    stored = (
        values.astype(np.float32)
        if as_float
        else np.rint(values * (_INT16_PEAK / values.max())).astype(np.int16)
    )
    image = nib.Nifti1Image(stored, vox2ras)
    image.set_sform(vox2ras, 1)
    image.set_qform(vox2ras, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"simulated by pds-bids-phantom"
    if tr_s is not None:
        image.header.set_zooms((*grid.zooms, tr_s))
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 4, raw, mtime=0) as packed:
        packed.write(image.to_bytes())


def write_gradients(stem: Path, bvals: np.ndarray, bvecs_ras: np.ndarray) -> None:
    """Write ``.bval`` and ``.bvec`` in FSL's convention.

    FSL's vectors follow the voxel axes of an image whose first axis runs to the left, which is how
    `write_image` stores it: ``(1, 0, 0)`` in RAS is written as ``(-1, 0, 0)``.
    """
    columns = bvecs_ras.T * np.array([[-1.0], [1.0], [1.0]])
    stem.with_name(stem.name + ".bval").write_text(
        " ".join(f"{b:.0f}" for b in bvals) + "\n", encoding="utf-8"
    )
    rows = "\n".join(" ".join(f"{value + 0.0:.6f}" for value in row) for row in columns)
    stem.with_name(stem.name + ".bvec").write_text(rows + "\n", encoding="utf-8")


def write_dataset_files(out_dir: Path, anatomy_of: Mapping[str, str]) -> None:
    """Write what a BIDS dataset needs beside images.

    Parameters
    ----------
    out_dir : Path
        Root of the dataset.
    anatomy_of : mapping
        Participant to the name of the head it was made from.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    description = {
        "Name": "Simulated people",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["The pds-bids developers"],
        "GeneratedBy": [{"Name": "pds-bids-phantom", "Version": __version__}],
    }
    write_json(out_dir / "dataset_description.json", description)
    (out_dir / "README.md").write_text(_README, encoding="utf-8")
    rows = [f"{name}\t{anatomy}" for name, anatomy in anatomy_of.items()]
    table = "\n".join(["participant_id\tanatomy", *rows])
    (out_dir / "participants.tsv").write_text(table + "\n", encoding="utf-8")
    columns = {"anatomy": {"Description": "Head from which the participant was made"}}
    write_json(out_dir / "participants.json", columns)
