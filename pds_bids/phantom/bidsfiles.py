"""Files of a simulated raw BIDS dataset, the same bytes for the same content."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids import __version__
from pds_bids.imaging.grid import Grid
from pds_bids.phantom.contrast import DwiProtocol
from pds_bids.phantom.demographics import Traits
from pds_bids.phantom.protocols import SITES, Series, Site, stored_direction

__all__ = [
    "Participant",
    "bold_sidecar",
    "dwi_sidecar",
    "fieldmap_sidecar",
    "t1w_sidecar",
    "write_dataset_files",
    "write_gradients",
    "write_image",
    "write_json",
]

# int16 leaves head room above the brightest voxel.
_INT16_PEAK = 8000.0
_README = """# Simulated people

Every image in this dataset was computed by `pds-bids-phantom`; nobody was scanned. BOLD, diffusion and
T1-weighted images of one participant come from the same simulated tissues. The command with the same options
writes the same bytes.
"""


def t1w_sidecar(site: Site) -> dict[str, object]:
    """Return the sidecar of a T1w image."""
    return {
        **_scanner(site),
        "EchoTime": 0.003,
        "RepetitionTime": site.mprage.tr_s,
        "InversionTime": site.mprage.ti_s,
        "FlipAngle": site.mprage.flip_deg,
    }


def bold_sidecar(
    site: Site, shape: tuple[int, int, int], slice_times_s: Sequence[float]
) -> dict[str, object]:
    """Return the sidecar of a BOLD series."""
    return {
        **_epi_sidecar(site, site.bold_series, site.bold.tr_s, site.bold.te_ms, shape),
        "TaskName": "rest",
        "FlipAngle": site.bold.flip_deg,
        "SliceTiming": list(slice_times_s),
    }


def dwi_sidecar(site: Site, shape: tuple[int, int, int]) -> dict[str, object]:
    """Return the sidecar of a diffusion series."""
    return {**_epi_sidecar(site, site.dwi_series, site.dwi.tr_s, site.dwi.te_ms, shape), "FlipAngle": 90}


def fieldmap_sidecar(
    site: Site, series: Series, protocol: DwiProtocol, shape: tuple[int, int, int]
) -> dict[str, object]:
    """Return the sidecar of spin-echo volumes for a fieldmap."""
    return {**_epi_sidecar(site, series, protocol.tr_s, protocol.te_ms, shape), "FlipAngle": 90}


def _scanner(site: Site) -> dict[str, object]:
    """Return what all images of a site say."""
    return {
        "Manufacturer": "pds-bids-phantom",
        "ManufacturersModelName": f"simulated, {site.model}",
        "MagneticFieldStrength": site.field_t,
        "InstitutionName": f"simulated site {site.name}",
    }


def _epi_sidecar(
    site: Site, series: Series, tr_s: float, te_ms: float, shape: tuple[int, int, int]
) -> dict[str, object]:
    """Return what EPI series have in common."""
    sidecar: dict[str, object] = {
        **_scanner(site),
        "RepetitionTime": tr_s,
        "EchoTime": round(te_ms / 1000, 6),
        "PhaseEncodingDirection": stored_direction(series.phase_encoding),
        "EffectiveEchoSpacing": series.echo_spacing_s,
        "TotalReadoutTime": series.total_readout_s(shape),
    }
    if series.bands > 1:
        sidecar["MultibandAccelerationFactor"] = series.bands
    return sidecar


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
        As it is, float32 or, of integers, int16; otherwise int16, scaled so that the brightest voxel is 8000.
    """
    vox2ras = grid.vox2ras.copy()
    vox2ras[:3, 3] += vox2ras[:3, 0] * (grid.shape[0] - 1)
    vox2ras[:3, 0] *= -1
    values = data[::-1]
    if as_float:
        stored = values.astype(np.int16 if values.dtype.kind in "iu" else np.float32)
    else:
        stored = np.rint(values * (_INT16_PEAK / values.max())).astype(np.int16)
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


@dataclass(frozen=True)
class Participant:
    """A row of ``participants.tsv``.

    Parameters
    ----------
    name : str
        ``sub-01``.
    traits : Traits
        Diagnosis, age, sex.
    site : str
        Name of the site.
    anatomy : str
        Head that the participant was made from.
    """

    name: str
    traits: Traits
    site: str
    anatomy: str


def write_dataset_files(out_dir: Path, people: Sequence[Participant], diagnoses: Sequence[str]) -> None:
    """Write what a BIDS dataset needs beside images.

    Parameters
    ----------
    out_dir : Path
        Root of the dataset.
    people : sequence of Participant
        All of them.
    diagnoses : sequence of str
        What the table says of each; not the truth in a control cohort.
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
    rows = [
        f"{p.name}\t{diagnosis}\t{p.traits.age_years:g}\t{p.traits.sex}\t{p.site}\t{p.anatomy}"
        for p, diagnosis in zip(people, diagnoses, strict=True)
    ]
    table = "\n".join(["participant_id\tdiagnosis\tage\tsex\tsite\tanatomy", *rows])
    (out_dir / "participants.tsv").write_text(table + "\n", encoding="utf-8")
    write_json(out_dir / "participants.json", _participants_json())


def _participants_json() -> dict[str, object]:
    """Return the descriptions of the columns of ``participants.tsv``."""
    return {
        "diagnosis": {
            "Description": "Diagnostic group of the simulated person",
            "Levels": {
                "NC": "normal control",
                "MCI": "mild cognitive impairment",
                "AD": "dementia of the Alzheimer type",
            },
        },
        "age": {"Description": "Age at the first session", "Units": "year"},
        "sex": {"Description": "Sex of the simulated person", "Levels": {"F": "female", "M": "male"}},
        "site": {
            "Description": "Simulated scanner and protocol",
            "Levels": {site.name: site.model for site in SITES},
        },
        "anatomy": {"Description": "Head from which the participant was made"},
    }
