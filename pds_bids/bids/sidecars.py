"""What stands beside images: sidecars, the description of the dataset, and what labels mean."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_bids import __version__
from pds_bids.bids.names import modalities_of
from pds_bids.modalities import Direction

__all__ = [
    "INTENDED_USE_WARNING",
    "MAP_UNITS_TEXT",
    "Provenance",
    "acquired_sidecar",
    "bids_uri",
    "container_from_environment",
    "dataset_description",
    "descriptions",
    "mask_sidecar",
    "synthetic_header",
    "synthetic_sidecar",
]

BIDS_VERSION = "1.10.0"
# Name of the input dataset in BIDS URIs: bids:raw:sub-01/...
RAW = "raw"
RESOLUTION = "3 mm isotropic: the res-3 grid of MNI152NLin2009cAsym, 65 x 77 x 65 voxels"
UNITS = "arbitrary: intensity after bias correction, divided by its mean inside the brain"
MAP_UNITS_TEXT = {"fa": "1", "md": "mm^2/s"}
INTENDED_USE_WARNING = (
    "This image was not acquired. A generative model predicted it from another modality of the same person; "
    "it cannot show what the source does not determine, such as lesions. Not for diagnosis or clinical use."
)
# Acquisition parameters that stay true of an average over time or gradients; RepetitionTime does not.
KEPT_METADATA = (
    "EchoTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "PhaseEncodingDirection",
    "TaskName",
    "TotalReadoutTime",
)
WHAT = {
    "mean": "Mean of the series after motion correction; for DWI of the volumes with b > 0",
    "b0": "Mean of the volumes with b = 0 after motion correction",
    "segments": "Means of the segments of the time or gradient axis, one volume each",
    "shells": "Means of the volumes of each b-value after motion correction, one volume per shell",
    "fa": "Fractional anisotropy of a diffusion tensor",
    "md": "Mean diffusivity of a diffusion tensor",
    "fieldmap": "Off-resonance in the space of the motion-corrected reference",
    "mask": "Brain mask",
    "t1w": "T1w image after bias correction",
    "t1w_mask": "Brain mask",
    "synthetic": "SYNTHETIC image, not acquired: prediction from the mean of the whole source series",
    "synthetic_segments": "SYNTHETIC images, not acquired: predictions from segments of the source series",
    "synthetic_std": "Standard deviation, voxel by voxel, of the prediction of a SYNTHETIC image",
    "synthetic_b0": "SYNTHETIC image, not acquired: prediction of the mean volume with b = 0",
    "synthetic_b0std": "Standard deviation, voxel by voxel, of the prediction of a SYNTHETIC b = 0 image",
    "synthetic_fa": "SYNTHETIC map, not acquired: prediction of fractional anisotropy",
    "synthetic_fastd": "Standard deviation, voxel by voxel, of the prediction of a SYNTHETIC FA map",
    "synthetic_md": "SYNTHETIC map, not acquired: prediction of mean diffusivity",
    "synthetic_mdstd": "Standard deviation, voxel by voxel, of the prediction of a SYNTHETIC MD map",
    "synthetic_mask": "Brain mask of a SYNTHETIC image, taken from its source",
}
LABELS = {
    "mean": "Mean of an acquired series after motion correction (DWI: of the volumes with b > 0)",
    "b0": "Mean of the acquired volumes with b = 0 after motion correction",
    "segments": "Means of segments of an acquired series along time or gradients, or the table of segments",
    "shells": "Means of the acquired volumes of each b-value after motion correction",
    "brain": "Mask of the brain",
    "preproc": "Acquired image after preprocessing",
    "hmc": "Head motion correction",
    "confounds": "Time courses that are not of interest",
    "image": "Quality of acquired images and of their registration",
    "synthetic": "SYNTHETIC: predicted from another modality, not acquired",
    "synthetic+segments": "SYNTHETIC: predicted from segments of another modality, not acquired",
    "synthetic+std": "SYNTHETIC: standard deviation of the prediction",
    "synthetic+b0": "SYNTHETIC: predicted b = 0 image, not acquired",
    "synthetic+b0std": "SYNTHETIC: standard deviation of the predicted b = 0 image",
    "synthetic+brain": "SYNTHETIC: brain mask of a predicted image, taken from its source",
}


@dataclass(frozen=True)
class Provenance:
    """How a synthetic image came about.

    Parameters
    ----------
    direction : Direction
        Which modality was read and which one written.
    sources : tuple of str
        BIDS URIs of the acquired files that were read; never of the target modality.
    generative_model : Mapping
        ``Name``, ``Version``, ``WeightsSHA256``, ``TrainingData``, ``Sampler``, ``Steps``.
    random_seed : int
        Seed of this image.
    device : str
        Where the network ran.
    is_deterministic : bool
        Whether the same call gives the same bits.
    """

    direction: Direction
    sources: tuple[str, ...]
    generative_model: Mapping[str, Any]
    random_seed: int
    device: str = "cpu"
    is_deterministic: bool = True


def bids_uri(path: Path, root: Path, dataset: str = "") -> str:
    """Return the BIDS URI of a file.

    Parameters
    ----------
    path, root : Path
        File and the dataset that it is in.
    dataset : str
        Name in ``DatasetLinks``; empty for the dataset that the sidecar is in.

    Examples
    --------
    >>> bids_uri(Path("/data/sub-01/dwi/sub-01_dwi.nii.gz"), Path("/data"), "raw")
    'bids:raw:sub-01/dwi/sub-01_dwi.nii.gz'
    """
    return f"bids:{dataset}:{path.relative_to(root).as_posix()}"


def acquired_sidecar(
    key: str,
    sources: Iterable[str],
    *,
    in_template: bool,
    reference: str = "",
    metadata: Mapping[str, Any] | None = None,
    is_skull_stripped: bool = True,
) -> dict[str, Any]:
    """Return the sidecar of an image that was computed from an acquired one.

    Parameters
    ----------
    key : str
        Row of the table of names: ``mean``, ``b0``, ``segments``, ``t1w``.
    sources : iterable of str
        BIDS URIs.
    in_template : bool
        Whether the image is on the template grid.
    reference : str
        BIDS URI of the image whose space this one is in; required outside of the template.
    metadata : Mapping or None
        Sidecar of the source; what stays true of an average is kept.
    is_skull_stripped : bool
        Whether voxels outside of the brain are zero.

    Returns
    -------
    dict
        Content of the JSON file.

    Raises
    ------
    ValueError
        If neither the template nor a reference is given.
    """
    kept = {name: metadata[name] for name in KEPT_METADATA if metadata and name in metadata}
    return (
        {"Description": WHAT[key], "Sources": list(sources), "SkullStripped": is_skull_stripped}
        | _space(in_template, reference)
        | {"Units": UNITS}
        | kept
    )


def mask_sidecar(
    key: str, sources: Iterable[str], *, in_template: bool, reference: str = ""
) -> dict[str, Any]:
    """Return the sidecar of a brain mask; parameters as in `acquired_sidecar`."""
    synthetic = {"Synthetic": True} if key.startswith("synthetic") else {}
    return (
        {"Description": WHAT[key], "Sources": list(sources), "Type": "Brain"}
        | _space(in_template, reference)
        | synthetic
    )


def synthetic_sidecar(
    key: str,
    provenance: Provenance,
    *,
    in_template: bool,
    reference: str = "",
    segments: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the sidecar of a synthetic image.

    Parameters
    ----------
    key : str
        Row of the table of names: ``synthetic``, ``synthetic_segments``, ``synthetic_std``.
    provenance : Provenance
        How it came about.
    in_template : bool
        Whether the image is on the template grid.
    reference : str
        BIDS URI of the source's reference image; required outside of the template.
    segments : sequence of Mapping
        For an image with a volume per segment: one mapping each, for example
        ``{"Index": 1, "Onset": 0.0, "Duration": 30.0}``; becomes ``SegmentIndex`` and so on.

    Returns
    -------
    dict
        Content of the JSON file.

    Raises
    ------
    ValueError
        If the output does not exist for the target, the segments have different keys, or neither the
        template nor a reference is given.
    """
    if provenance.direction.target not in modalities_of(key):
        raise ValueError(f"output {key!r} does not exist for {provenance.direction.target}")
    names = {frozenset(segment) for segment in segments}
    if len(names) > 1:
        raise ValueError(f"segments have different keys: {sorted(map(sorted, names))}")
    arrays = {f"Segment{name}": [segment[name] for segment in segments] for name in next(iter(segments), {})}
    return {
        "Description": WHAT[key],
        "Synthetic": True,
        "SyntheticFrom": provenance.direction.source.value,
        "IntendedUseWarning": INTENDED_USE_WARNING,
        "Sources": list(provenance.sources),
        "GenerativeModel": dict(provenance.generative_model),
        "RandomSeed": provenance.random_seed,
        "Device": provenance.device,
        "Deterministic": provenance.is_deterministic,
        "SkullStripped": True,
        **_space(in_template, reference),
        "Units": MAP_UNITS_TEXT.get(key.removeprefix("synthetic_").removesuffix("std"), UNITS),
        **arrays,
    }


def synthetic_header(direction: Direction) -> str:
    """Return what the header of a synthetic image says."""
    return f"SYNTHETIC {direction.target} predicted from {direction.source} by pds-bids; not acquired"


def dataset_description(
    bids_dir: Path,
    source: Mapping[str, Any],
    container: Mapping[str, str] | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return ``dataset_description.json`` of the outputs.

    Parameters
    ----------
    bids_dir : Path
        Input dataset.
    source : Mapping
        Its description.
    container : Mapping or None
        ``Type``, ``Tag`` and ``URI`` of the container that this runs in.
    derivatives : Mapping or None
        Folders of other pipelines that are read, by name.

    Returns
    -------
    dict
        Content of the JSON file.
    """
    read = dict(derivatives or {})
    generator: dict[str, Any] = {
        "Name": "pds-bids",
        "Version": __version__,
        "Description": "Synthesis of the missing one of BOLD and diffusion MRI",
    }
    if container:
        generator["Container"] = dict(container)
    origin: dict[str, Any] = {"URL": bids_dir.as_uri()}
    origin |= {
        key: source[name] for name, key in (("DatasetDOI", "DOI"), ("Version", "Version")) if source.get(name)
    }
    return {
        "Name": f"pds-bids: synthetic BOLD and diffusion MRI of {source.get('Name', 'an unnamed dataset')}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": source.get("License") or "as the source dataset",
        "Authors": list(source.get("Authors") or []),
        "GeneratedBy": [generator],
        "SourceDatasets": [origin, *({"URL": folder.as_uri()} for folder in read.values())],
        "DatasetLinks": {name: folder.as_uri() for name, folder in ({RAW: bids_dir} | read).items()},
        "HowToAcknowledge": "See logs/CITATION.md. Files named desc-synthetic* are predictions, not scans.",
    }


def descriptions() -> list[tuple[str, str]]:
    """Return the rows of ``descriptions.tsv``: ``("desc-mean", "Mean of ...")``, one per label in use."""
    return sorted((f"desc-{label}", meaning) for label, meaning in LABELS.items())


def container_from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """Return the container that this runs in, as its image and its engine declare it.

    Images set ``PDS_BIDS_CONTAINER`` to their tag; Apptainer and Singularity name the image file.
    """
    tag = environment.get("PDS_BIDS_CONTAINER")
    for variable, kind in (("APPTAINER_NAME", "apptainer"), ("SINGULARITY_NAME", "singularity")):
        if environment.get(variable):
            return {"Type": kind, "Tag": tag or environment[variable]}
    return {"Type": "docker", "Tag": tag} if tag else None


def _space(in_template: bool, reference: str) -> dict[str, Any]:
    if in_template:
        return {"Resolution": RESOLUTION}
    if not reference:
        raise ValueError("an image outside of the template needs the URI of its reference image")
    return {"SpatialReference": reference}
