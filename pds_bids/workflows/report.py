"""Figures of the report as nodes that write straight into the participant's folder."""

from collections.abc import Mapping
from pathlib import Path

from nipype.interfaces.base.core import BaseInterface
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
    workflow.add_nodes([identity([*fields, *DISTORTION_FIELDS], name="inputnode")])
    anchor, label = ANCHOR_NAMES[series.modality], series.label
    is_bold = series.modality is Modality.BOLD
    mask = MaskFigure(
        figure=_figure(output_dir, series, "mask", ".png"), title=f"{anchor} and brain mask {label}"
    )
    _add_figure(workflow, "mask_figure", mask, {"anchor": "in_file", "mask": "mask"})
    registration = RegistrationFigure(
        figure=_figure(output_dir, series, "registration", ".png"),
        template_figure=_figure(output_dir, series, BELOW_REGISTRATION, ".png"),
        title=f"{anchor} in template space {label}",
    )
    taken = {"anchor": "in_file"} | _same("mask", "gate", "template2native", "template")
    _add_figure(workflow, "registration_figure", registration, taken, mem_gb=0.5)
    motion = MotionFigure(
        figure=_figure(output_dir, series, "motion", ".svg"),
        title=f"Head motion {label}",
        tr_s=series.metadata.get("RepetitionTime") if is_bold else None,
        fd_threshold_mm=fd_spike_threshold if is_bold else None,
    )
    taken = {"anchor": "reference", "head_motion": "motion"} | _same("starts", "segments", "censored")
    taken |= _same("carpet", "confounds") if is_bold else {}
    _add_figure(workflow, "motion_figure", motion, taken)
    if has_fieldmap:
        distortion = DistortionFigure(
            figure=_figure(output_dir, series, "sdc", ".png"), title=f"Distortion correction {label}"
        )
        _add_figure(workflow, "distortion_figure", distortion, DISTORTION_FIELDS, mem_gb=0.5)
    if not is_bold:
        gradients = GradientFigure(
            figure=_figure(output_dir, series, "gradients", ".svg"), title=f"Gradient scheme {label}"
        )
        _add_figure(workflow, "gradient_figure", gradients, _same("gradients", "motion", "segments"))
        tensor = TensorFigure(
            figure=_figure(output_dir, series, "tensor", ".png"), title=f"Diffusion tensor {label}"
        )
        _add_figure(workflow, "tensor_figure", tensor, _same("fa", "md", "mask"))
    return workflow


def _add_figure(
    workflow: pe.Workflow,
    name: str,
    interface: BaseInterface,
    taken: Mapping[str, str],
    *,
    mem_gb: float = 0.2,
) -> None:
    """Add one figure, and connect what it takes: fields of the inputnode to its own inputs."""
    node = pe.Node(interface, name=name, mem_gb=mem_gb)
    workflow.connect([(workflow.get_node("inputnode"), node, list(taken.items()))])


def _same(*fields: str) -> dict[str, str]:
    """Return fields that are called the same on both sides."""
    return {field: field for field in fields}


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
