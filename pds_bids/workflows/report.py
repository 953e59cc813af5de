"""Figures of the report as nodes that write straight into the participant's folder."""

from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.names import output_path
from pds_bids.bids.series import Series
from pds_bids.interfaces.distortion_figure import DistortionFigure
from pds_bids.interfaces.figures import (
    GradientFigure,
    MaskFigure,
    MotionFigure,
    ParcelFigure,
    RegistrationFigure,
    SyntheticFigure,
    TensorFigure,
)
from pds_bids.modalities import MAP_UNITS, Contrast, Direction, Modality, field_prefix
from pds_bids.plan import SessionPlan
from pds_bids.workflows.nodes import identity

__all__ = ["init_anat_figure", "init_series_report_wf", "init_synthetic_report_wf"]

# What the figure of the distortion takes, under the names of `DistortionFigure`.
DISTORTION_FIELDS = {
    "distorted": "before",
    "corrected": "after",
    "fieldmap": "hz",
    "distortion_quality": "qc",
    "t1w": "t1w",
    "t1w_mask": "t1w_mask",
    "t1w2epi": "t1w2epi",
}
# The page shows a figure "X+below" beneath the figure "X", with a slider between them.
BELOW_REGISTRATION = "registration+below"
MEAN_NAMES = {Modality.BOLD: "mean BOLD", Modality.DWI: "mean DWI"}
# Unit of a map in figures, and what its 1 is in files.
MAP_FIGURE_UNITS = {Contrast.FA: ("FA", 1.0), Contrast.MD: ("um^2/ms", 1e-3)}
ANCHOR_NAMES = {Modality.BOLD: "mean BOLD", Modality.DWI: "mean b = 0 image"}


def init_anat_figure(session: SessionPlan, output_dir: Path) -> pe.Node:
    """Return the figure of the T1w image's registration; inputs as of `RegistrationFigure`."""
    path, below = (
        output_path("figure_t1w", session.entities, extension=".png", desc=desc)
        for desc in ("registration", BELOW_REGISTRATION)
    )
    interface = RegistrationFigure(
        figure=str(output_dir / path),
        template_figure=str(output_dir / below),
        title="T1w image in template space",
    )
    return pe.Node(interface, name="anat_figure", mem_gb=0.5)


def init_series_report_wf(
    series: Series,
    output_dir: Path,
    *,
    fd_spike_threshold: float,
    has_fieldmap: bool = False,
    name: str = "report_wf",
) -> pe.Workflow:
    """Build the figures of an acquired series: mask, registration, motion, distortion, gradients, tensor.

    Parameters
    ----------
    series : Series
        What was acquired.
    output_dir : Path
        Derivative dataset.
    fd_spike_threshold : float
        mm, drawn as a line.
    has_fieldmap : bool
        Whether distortion was to be corrected.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    anchor, starts, mask, motion, head_motion, gradients, template2native, gate, segments, censored
        From the preprocessing of the series.
    template
        From `FetchTemplate`.
    carpet, confounds
        BOLD, from `init_segments_wf`.
    fa, md
        DWI, from `init_dwi_maps_wf`.
    distorted, corrected, fieldmap, distortion_quality, t1w, t1w_mask, t1w2epi
        Where distortion was to be corrected.
    """
    workflow = pe.Workflow(name=name)
    fields = [
        "anchor",
        "starts",
        "mask",
        "motion",
        "head_motion",
        "gradients",
        "template2native",
        "gate",
        "segments",
        "censored",
        "template",
        "carpet",
        "confounds",
        "fa",
        "md",
    ]
    inputnode = identity([*fields, *DISTORTION_FIELDS], name="inputnode")
    anchor, label = ANCHOR_NAMES[series.modality], series.label
    mask = pe.Node(
        MaskFigure(
            figure=_figure(output_dir, series, "mask", ".png"), title=f"{anchor} and brain mask {label}"
        ),
        name="mask_figure",
    )
    registration = pe.Node(
        RegistrationFigure(
            figure=_figure(output_dir, series, "registration", ".png"),
            template_figure=_figure(output_dir, series, BELOW_REGISTRATION, ".png"),
            title=f"{anchor} in template space {label}",
        ),
        name="registration_figure",
        mem_gb=0.5,
    )
    is_bold = series.modality is Modality.BOLD
    motion = pe.Node(
        MotionFigure(
            figure=_figure(output_dir, series, "motion", ".svg"),
            title=f"Head motion {label}",
            tr_s=series.metadata.get("RepetitionTime") if is_bold else None,
            fd_threshold_mm=fd_spike_threshold if is_bold else None,
        ),
        name="motion_figure",
    )
    workflow.connect([
        (inputnode, mask, [("anchor", "in_file"), ("mask", "mask")]),
        (inputnode, registration, [("anchor", "in_file"), ("mask", "mask"), ("gate", "gate")]),
        (inputnode, registration, [("template2native", "template2native"), ("template", "template")]),
        (inputnode, motion, [("anchor", "reference"), ("head_motion", "motion"), ("starts", "starts")]),
        (inputnode, motion, [("segments", "segments"), ("censored", "censored")]),
        (inputnode, motion, [("carpet", "carpet"), ("confounds", "confounds")] if is_bold else []),
    ])  # fmt: skip
    if has_fieldmap:
        distortion = pe.Node(
            DistortionFigure(
                figure=_figure(output_dir, series, "sdc", ".png"), title=f"Distortion correction {label}"
            ),
            name="distortion_figure",
            mem_gb=0.5,
        )
        workflow.connect([(inputnode, distortion, list(DISTORTION_FIELDS.items()))])
    if series.modality is Modality.DWI:
        gradients = pe.Node(
            GradientFigure(
                figure=_figure(output_dir, series, "gradients", ".svg"), title=f"Gradient scheme {label}"
            ),
            name="gradient_figure",
        )
        tensor = pe.Node(
            TensorFigure(
                figure=_figure(output_dir, series, "tensor", ".png"), title=f"Diffusion tensor {label}"
            ),
            name="tensor_figure",
        )
        fields = ["gradients", "motion", "segments"]
        workflow.connect([
            (inputnode, gradients, [(field, field) for field in fields]),
            (inputnode, tensor, [(field, field) for field in ("fa", "md", "mask")]),
        ])  # fmt: skip
    return workflow


def init_synthetic_report_wf(
    session: SessionPlan, direction: Direction, output_dir: Path, *, has_acquired: bool
) -> pe.Workflow:
    """Build the figures of a synthetic volume: beside its source, and against the acquired one, if any.

    Parameters
    ----------
    session : SessionPlan
        Whose it is.
    direction : Direction
        What was read and written.
    output_dir : Path
        Derivative dataset.
    has_acquired : bool
        Whether the target was acquired.

    Returns
    -------
    Workflow

    Inputs
    ------
    source, mask
        4D on the model grid, overall mean first; brain mask.
    mean, std, acquired
        Likewise; of DWI also ``fa_mean`` and so on.
    template
        From `FetchTemplate`.
    """
    workflow = pe.Workflow(name=f"{direction}_report_wf")
    entities = session.entities_of(direction)
    figures = [(direction.targets[0], "synthetic", MEAN_NAMES[direction.target])]
    figures += [(c, f"synthetic{c}", str(c).upper()) for c in direction.targets if c in MAP_UNITS]
    own = ["mean", "std", *(["acquired"] if has_acquired else [])]
    names = [f"{field_prefix(contrast)}{field}" for contrast, *_ in figures for field in own]
    inputnode = identity(["source", "mask", *names, "template"], name="inputnode")
    for contrast, desc, text in figures:
        path = output_path("figure", entities, direction.target, extension=".png", desc=desc)
        figure = pe.Node(
            SyntheticFigure(
                figure=str(output_dir / path),
                title=f"Synthetic {'volume' if contrast not in MAP_UNITS else text}",
                names=(MEAN_NAMES[direction.source], text),
            ),
            name=f"{desc}_figure",
            mem_gb=0.5,
        )
        if contrast in MAP_UNITS:
            figure.inputs.map_unit = MAP_FIGURE_UNITS[contrast]
        prefix = field_prefix(contrast)
        workflow.connect([
            (inputnode, figure, [("source", "source"), ("mask", "mask")]),
            (inputnode, figure, [(f"{prefix}{field}", field) for field in own]),
        ])  # fmt: skip
    if has_acquired:
        path = output_path("figure", entities, direction.target, extension=".svg", desc="parcels")
        title = MEAN_NAMES[direction.target]
        parcels = pe.Node(ParcelFigure(figure=str(output_dir / path), title=title), name="parcel_figure")
        wanted = ["mean", "std", "mask", "acquired", "template"]
        workflow.connect([(inputnode, parcels, [(field, field) for field in wanted])])
    return workflow


def _figure(output_dir: Path, series: Series, desc: str, extension: str) -> str:
    path = output_path("figure", series.entities, series.modality, extension=extension, desc=desc)
    return str(output_dir / path)
