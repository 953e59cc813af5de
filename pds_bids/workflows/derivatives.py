"""Which file becomes which output, and which outputs a finished session must have."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from pds_bids.bids.derivatives import Precomputed
from pds_bids.bids.metadata import split_name
from pds_bids.bids.names import output_path
from pds_bids.bids.series import Series
from pds_bids.bids.sidecars import (
    MAP_UNITS_TEXT,
    RAW,
    Provenance,
    acquired_sidecar,
    bids_uri,
    mask_sidecar,
    synthetic_header,
    synthetic_sidecar,
)
from pds_bids.interfaces.derivatives import SaveDerivatives, Volumes
from pds_bids.interfaces.quality import ParcelTable, SegmentTable, SourceQuality
from pds_bids.interfaces.synthesis import synthetic_images
from pds_bids.modalities import Direction, Modality
from pds_bids.options import NATIVE_SPACE, TEMPLATE_SPACE
from pds_bids.plan import SessionPlan
from pds_bids.template import ATLAS_NAME
from pds_bids.workflows.nodes import identity

__all__ = [
    "init_series_derivatives_wf",
    "required_outputs",
    "save_series",
    "save_synthetic",
]

SEGMENT_COLUMNS = {
    "segment": {"Description": "Number of the segment, from 1; volume of the desc-segments image"},
    "volumes": {"Description": "Volumes of the acquired series that were averaged, from 0"},
    "n_volumes": {"Description": "How many they are"},
    "onset_s": {"Description": "Time of the first volume from the start of the series", "Units": "s"},
    "duration_s": {"Description": "Time from the first to the end of the last volume", "Units": "s"},
    "b_values_s_mm2": {"Description": "b-values of the volumes, rounded to 50", "Units": "s/mm^2"},
    "n_b0": {"Description": "Share of b = 0 volumes"},
}
SCAN_UNITS = "arbitrary: those of the scan, after bias correction"
PARCEL_TEXT = "Mean of each parcel inside the brain mask; one row per segment, one column per parcel"


@dataclass(frozen=True)
class _Output:
    """One line of a table: key in io_spec.json, input it is made from, and how.

    `more` is an input whose JSON is added to the sidecar.
    """

    key: str
    source: str
    in_template: bool = False
    extension: str | None = None
    volumes: Volumes = Volumes.ALL
    sidecar: dict[str, Any] | None = None
    more: str = ""


def init_series_derivatives_wf(
    series: Series,
    *,
    bids_dir: Path,
    output_dir: Path,
    has_t1w: bool,
    precomputed: Precomputed | None = None,
    notes: Iterable[str],
    name: str = "derivatives_wf",
) -> pe.Workflow:
    """Build tables, quality file and outputs of an acquired series.

    Parameters
    ----------
    series : Series
        The series that is read.
    bids_dir, output_dir : Path
        Input dataset, and the derivative dataset.
    has_t1w : bool
        Whether there is a T1w image.
    precomputed : Precomputed or None
        What another pipeline has made of the series.
    notes : iterable of str
        What a reader should know, for the quality file.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    template, t1w_gate
        From `FetchTemplate` and `RegisterT1w`.
    starts, dummies, scale, mean, b0, mask, motion, fieldmap, distortion_quality, motion_quality,
    denoise_notes
        From `init_bold_wf` or `init_dwi_wf`.
    gate, template2native, native2template, t1w2epi
        From `init_registration_wf`.
    stack, template_b0, template_mask, segments, censored, coverage, plausibility, confounds, confounds_json
        From `init_segments_wf`.
    fa, md, template_fa, template_md, shells, shells_json, tensor_quality
        DWI, from `init_dwi_maps_wf`.
    """
    workflow = pe.Workflow(name=name)
    from_series = ["starts", "dummies", "scale", "mean", "b0", "mask", "motion"]
    from_series += ["fieldmap", "distortion_quality", "motion_quality", "denoise_notes"]
    from_registration = ["gate", "template2native", "native2template", "t1w2epi"]
    from_segments = [
        "stack",
        "template_b0",
        "template_mask",
        "segments",
        "censored",
        "coverage",
        "plausibility",
        "confounds",
        "confounds_json",
    ]
    from_maps = ["fa", "md", "template_fa", "template_md", "shells", "shells_json", "tensor_quality"]
    fields = ["template", "t1w_gate", *from_series, *from_registration, *from_segments, *from_maps]
    inputnode = identity(fields, name="inputnode")
    quality = pe.Node(SourceQuality(notes=list(notes)), name="quality")
    table = pe.Node(SegmentTable(), name="segment_table")
    parcels = pe.Node(ParcelTable(), name="parcels", mem_gb=0.5)
    save = save_series(
        series,
        bids_dir=bids_dir,
        output_dir=output_dir,
        atlas=ATLAS_NAME,
        has_t1w=has_t1w,
        precomputed=precomputed,
    )
    judged = ["template", "t1w_gate", "starts", "dummies", "scale", "mask", "gate"]
    judged += ["segments", "censored", "coverage", "plausibility", "tensor_quality", "confounds"]
    judged += ["distortion_quality", "motion_quality", "denoise_notes"]
    saved = [field for field in fields if hasattr(save.inputs, field)]
    workflow.connect([
        (inputnode, table, [("segments", "segments")]),
        (inputnode, parcels, [("stack", "in_file"), ("template_mask", "mask"), ("template", "template")]),
        (inputnode, quality, [(field, field) for field in judged]),
        (inputnode, save, [(field, field) for field in saved]),
        (table, save, [("out_file", "segment_table")]),
        (parcels, save, [("out_file", "parcels")]),
        (quality, save, [("out_file", "qc")]),
    ])  # fmt: skip
    return workflow


def save_series(
    series: Series,
    *,
    bids_dir: Path,
    output_dir: Path,
    atlas: str,
    has_t1w: bool,
    precomputed: Precomputed | None = None,
    name: str = "save",
) -> pe.Node:
    """Return the node that writes what was made of an acquired series.

    Parameters
    ----------
    series : Series
        The series that is read.
    bids_dir, output_dir : Path
        Input dataset, and the derivative dataset.
    atlas : str
        Name of the atlas, for the table of parcels.
    has_t1w : bool
        Whether there is a transform to the T1w image.
    precomputed : Precomputed or None
        What another pipeline has made of the series.
    name : str
        Name of the node.

    Returns
    -------
    Node
        Its inputs: mean, b0, mask, motion, template2native, native2template, t1w2epi, confounds,
        confounds_json, segment_table, qc, stack, template_b0, template_mask, parcels; for DWI fa, md,
        template_fa, template_md, shells, shells_json.
    """
    raws = _sources(series, precomputed, bids_dir)
    raw = raws[0]
    atlas_json = {"Description": PARCEL_TEXT, "Atlas": atlas}

    def image(key: str, *, in_template: bool) -> dict[str, Any]:
        """Return the sidecar of one image of the series."""
        return acquired_sidecar(
            key,
            raws,
            in_template=in_template,
            reference=raw,
            metadata=series.metadata,
            is_skull_stripped=in_template,
        ) | ({} if key == "fieldmap" else {"BiasCorrected": "N4"})

    def mask(*, in_template: bool) -> dict[str, Any]:
        return mask_sidecar("mask", raws, in_template=in_template, reference=raw)

    outputs = [
        _Output("mean", "mean", sidecar=image("mean", in_template=False)),
        _Output("mask", "mask", sidecar=mask(in_template=False)),
        _Output("mean", "stack", True, None, Volumes.FIRST, image("mean", in_template=True)),
        _Output("segments", "stack", True, None, Volumes.REST, image("segments", in_template=True)),
        _Output("mask", "template_mask", True, sidecar=mask(in_template=True)),
        _Output("ref2template", "template2native", sidecar={"Description": "ITK displacement field, LPS mm"}),
        _Output("template2ref", "native2template", sidecar={"Description": "ITK displacement field, LPS mm"}),
        _Output("fieldmap", "fieldmap", sidecar=image("fieldmap", in_template=False) | {"Units": "Hz"}),
        _Output("confounds", "confounds"),
        _Output("confounds", "confounds_json", extension=".json"),
        _Output("segment_table", "segment_table", sidecar=SEGMENT_COLUMNS),
        _Output("qc", "qc", extension=".json"),
        _Output("parcels", "parcels", True, sidecar=atlas_json),
    ]  # fmt: skip
    if precomputed is None or not precomputed.is_realigned:
        sidecar = {"Description": "Head motion, one ITK transform per volume"}
        outputs.append(_Output("hmc", "motion", sidecar=sidecar))
    if series.modality is Modality.DWI:
        shells = image("shells", in_template=False) | {"Units": SCAN_UNITS}
        outputs += [
            _Output("shells", "shells", sidecar=shells, more="shells_json"),
            *(_map_output(key, raws, in_template=there) for key in ("fa", "md") for there in (False, True)),
            _Output("b0", "b0", sidecar=image("b0", in_template=False)),
            _Output("b0", "template_b0", True, volumes=Volumes.FIRST, sidecar=image("b0", in_template=True)),
        ]
    if has_t1w:
        outputs.append(_Output("ref2t1w", "t1w2epi", sidecar={"Description": "ITK rigid transform"}))
    return _node(name, outputs, series.entities, series.modality, output_dir, atlas, like=series.path)


def _map_output(key: str, sources: list[str], *, in_template: bool) -> _Output:
    """Return the output of a tensor map."""
    sidecar = acquired_sidecar(key, sources, in_template=in_template, reference=sources[0])
    sidecar["Units"] = MAP_UNITS_TEXT[key]
    return _Output(key, f"template_{key}" if in_template else key, in_template, sidecar=sidecar)


def save_synthetic(
    session: SessionPlan,
    direction: Direction,
    *,
    bids_dir: Path,
    output_dir: Path,
    output_spaces: Iterable[str],
    atlas: str,
    name: str = "save",
) -> pe.Node:
    """Return the node that writes a synthetic modality.

    Parameters
    ----------
    session : SessionPlan
        Whose it is.
    direction : Direction
        What was read and written.
    bids_dir, output_dir : Path
        Input dataset, and the derivative dataset.
    output_spaces : iterable of str
        Out of `pds_bids.options.OUTPUT_SPACES`.
    atlas : str
        Name of the atlas, for the table of parcels.
    name : str
        Name of the node.

    Returns
    -------
    Node
        Its inputs: mean, std, b0_mean, b0_std, fa_mean and so on, each also with ``native_`` before it; mask,
        native_mask, qc, parcels, metadata.
    """
    acquired, precomputed = session.series(direction.source), session.derivatives(direction.source)
    if acquired is None:
        raise ValueError(f"{session.label}: no {direction.source} to synthesise from")
    source = acquired if precomputed is None else precomputed.applied_to(acquired)
    raws = tuple(_sources(source, precomputed, bids_dir))
    raw = raws[0]
    # Model, seed and device are known when it has run; its metadata replaces these.
    provenance = Provenance(direction, raws, {}, 0)
    outputs = []
    for space in output_spaces:
        in_template, prefix = space == TEMPLATE_SPACE, "native_" if space == NATIVE_SPACE else ""
        for key, _, stack, volumes in synthetic_images(direction.target):
            sidecar = synthetic_sidecar(key, provenance, in_template=in_template, reference=raw)
            outputs.append(_Output(key, prefix + stack, in_template, volumes=volumes, sidecar=sidecar))
        sidecar = mask_sidecar("synthetic_mask", raws, in_template=in_template, reference=raw)
        outputs.append(_Output("synthetic_mask", f"{prefix}mask", in_template, sidecar=sidecar))
    outputs += [
        _Output("synthetic_qc", "qc", extension=".json"),
        _Output(
            "synthetic_parcels",
            "parcels",
            True,
            sidecar={"Description": PARCEL_TEXT, "Atlas": atlas, "Synthetic": True},
        ),
    ]
    entities, target = session.entities_of(direction), direction.target
    node = _node(name, outputs, entities, target, output_dir, atlas, like=source.path, names=["metadata"])
    node.inputs.description = synthetic_header(direction)
    return node


def save_t1w(session: SessionPlan, *, bids_dir: Path, output_dir: Path, name: str = "save_t1w") -> pe.Node:
    """Return the node that writes the T1w image on the model grid; its input: template_t1w.

    Raises
    ------
    ValueError
        If the session has none.
    """
    if session.t1w is None:
        raise ValueError(f"{session.label}: no T1w image to write")
    sources = [bids_uri(session.t1w, bids_dir, RAW)]
    sidecar = acquired_sidecar("t1w", sources, in_template=True) | {
        "BiasCorrected": "N4",
        "Units": SCAN_UNITS,
    }
    entities = split_name(session.t1w.name)[0]
    outputs = [_Output("t1w", "template_t1w", True, sidecar=sidecar)]
    return _node(name, outputs, entities, None, output_dir, "", like=session.t1w)


def required_outputs(session: SessionPlan, output_spaces: Iterable[str]) -> list[Path]:
    """Return what must exist, relative to the output folder, before a session counts as done."""
    required = []
    for direction in session.directions:
        entities = session.entities_of(direction)
        keys = [*(image.key for image in synthetic_images(direction.target)), "synthetic_mask"]
        for space in output_spaces:
            for key in keys:
                path = output_path(key, entities, direction.target, in_template=space == TEMPLATE_SPACE)
                required += [path, path.with_name(path.name.replace(".nii.gz", ".json"))]
        required.append(output_path("synthetic_qc", entities, direction.target))
    return required


def _sources(series: Series, precomputed: Precomputed | None, bids_dir: Path) -> list[str]:
    """Return the BIDS URIs of what is read; the first is the image that gives the grid."""
    if precomputed is not None and precomputed.is_realigned:
        first = bids_uri(series.path, precomputed.dataset.root, str(precomputed.dataset.pipeline))
        return [first, *(uri for uri in precomputed.uris if uri != first)]
    theirs = precomputed.uris if precomputed is not None else []
    return [*(bids_uri(path, bids_dir, RAW) for path in series.images()), *theirs]


def _node(
    name: str,
    outputs: list[_Output],
    entities: dict[str, str],
    modality: Modality | None,
    output_dir: Path,
    atlas: str,
    *,
    like: Path,
    names: list[str] | None = None,
) -> pe.Node:
    paths, sidecars, volumes, inputs_of, more_of = {}, {}, {}, {}, {}
    for output in outputs:
        label = f"{output.key}:{output.source}"
        path = output_path(
            output.key,
            entities,
            modality,
            in_template=output.in_template,
            extension=output.extension,
            atlas=atlas,
        )
        paths[label], volumes[label], inputs_of[label] = str(path), str(output.volumes), output.source
        if output.sidecar is not None:
            # Derivatives of others bring a resolution of their own, which BIDS wants to be explained.
            explained = {"Resolution": "that of the series that was read"} if "_res-" in path.name else {}
            sidecars[label] = explained | output.sidecar
        if output.more:
            more_of[label] = output.more
    interface = SaveDerivatives(
        [*dict.fromkeys([*inputs_of.values(), *more_of.values()]), *(names or [])],
        output_dir=str(output_dir),
        paths=paths,
        sidecars=sidecars,
        volumes=volumes,
        inputs_of=inputs_of,
        more_of=more_of,
        like=str(like),
    )
    return pe.Node(interface, name=name, mem_gb=0.5)
