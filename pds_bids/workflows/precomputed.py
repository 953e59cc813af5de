"""One series that fMRIPrep or QSIPrep has preprocessed, in place of head motion, mask and registration."""

from nipype.pipeline import engine as pe

from pds_bids.bids.derivatives import Precomputed
from pds_bids.bids.series import Series
from pds_bids.exceptions import UsageError
from pds_bids.interfaces.precomputed import (
    PrecomputedBrain,
    PrecomputedConfounds,
    PrecomputedMotion,
    PrecomputedRegistration,
)
from pds_bids.interfaces.series import ConformGradients, ConformSeries, MeanVolumes
from pds_bids.modalities import Contrast, Modality
from pds_bids.workflows.nodes import identity
from pds_bids.workflows.series import BLOCKS_GB, SERIES_FIELDS

__all__ = ["PRECOMPUTED_FIELDS", "init_precomputed_wf", "init_reading_wf"]

REGISTRATION_FIELDS = ["template2native", "native2template", "t1w2epi", "gate"]
# What is handed on: the fields of a series and of a registration, and what only a realigned series has.
PRECOMPUTED_FIELDS = [
    *SERIES_FIELDS,
    *REGISTRATION_FIELDS,
    "confounds",
    "confounds_json",
]
# Files of the other pipeline; the names differ from those of what is handed on.
FILE_FIELDS = ["series_file", "mask_file", "motion_file", "transforms", "judged", "bval_file", "bvec_file"]


def init_precomputed_wf(
    series: Series,
    precomputed: Precomputed,
    *,
    dummy_scans: int | None,
    omp_nthreads: int,
    name: str = "precomputed_wf",
) -> pe.Workflow:
    """Build the workflow that reads derivatives; it replaces those of a series and of its registration.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.bids.derivatives import DerivativeDataset, Level, Pipeline, Precomputed
        from pds_bids.modalities import Modality
        from pds_bids.workflows.precomputed import init_precomputed_wf
        series = Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {}, {"sub": "01"})
        files = {role: Path(role) for role in ("series", "mask", "confounds", "anat")}
        dataset = DerivativeDataset(Pipeline.FMRIPREP, Path("fmriprep"), "25.1.0")
        precomputed = Precomputed(dataset, "sub-01", Level.ANATOMICAL, files)
        wf = init_precomputed_wf(series, precomputed, dummy_scans=None, omp_nthreads=1)

    Parameters
    ----------
    series : Series
        Acquired series.
    precomputed : Precomputed
        What was found for it, complete.
    dummy_scans : int or None
        BOLD volumes to drop at the start; None to take those that the confounds flag.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Raises
    ------
    UsageError
        If no set of files is complete; the message says what is missing.

    Inputs
    ------
    template
        From `FetchTemplate`.

    Outputs
    -------
    series, starts, dummies, mean, b0, anchor, mask, bias, scale, gradients
        As of `init_bold_wf` or `init_dwi_wf`, on the grid of the series that is read; the mask is theirs.
    motion
        What volumes are resampled with: identities for a realigned series.
    head_motion
        How the head had moved, for censoring and figures; the same as `motion` for a raw series.
    confounds, confounds_json
        Of a realigned series: columns of the pipeline's table, and their description. Undefined for a raw
        one, whose table is computed as usual.
    template2native, native2template, gate
        As of `init_registration_wf`. The gate is our own, and the node fails below it.
    t1w2epi
        Undefined.
    """
    if precomputed.level is None:
        raise UsageError(precomputed.problem)
    files = precomputed.files
    workflow = init_reading_wf(
        series.modality,
        made_by=precomputed.dataset.source,
        is_realigned=precomputed.is_realigned,
        dummy_scans=dummy_scans,
        omp_nthreads=omp_nthreads,
        name=name,
    )
    inputs = workflow.get_node("inputnode").inputs
    inputs.series_file = str(files.get("series", series.path))
    inputs.mask_file = str(files["mask"])
    inputs.motion_file = str(files["confounds" if precomputed.is_realigned else "hmc"])
    inputs.transforms = [str(path) for path in precomputed.transforms]
    inputs.judged = _judged(precomputed)
    if series.modality is Modality.DWI:
        inputs.bval_file, inputs.bvec_file = str(files["bval"]), str(files["bvec"])
    return workflow


def init_reading_wf(
    modality: Modality,
    *,
    made_by: str,
    is_realigned: bool = True,
    dummy_scans: int | None = None,
    omp_nthreads: int = 1,
    name: str = "reading_wf",
) -> pe.Workflow:
    """Build the workflow that reads files of another pipeline, which may be known only at run time.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pds_bids.modalities import Modality
        from pds_bids.workflows.precomputed import init_reading_wf
        wf = init_reading_wf(Modality.BOLD, made_by="fMRIPrep 25.1.0")

    Parameters
    ----------
    modality : Modality
        Of the series.
    made_by : str
        Name and version of the pipeline, for messages and descriptions.
    is_realigned : bool
        Whether the series is realigned and has a table of confounds; otherwise it is the raw one with a
        transform for every volume.
    dummy_scans : int or None
        BOLD volumes to drop at the start; None to take those that the confounds flag.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    template
        From `FetchTemplate`.
    series_file, mask_file
        4D series, and brain mask in the same space.
    motion_file
        Table of confounds of a realigned series, or ITK transforms of a raw one.
    transforms
        List of ITK transforms from there to the template, none when it lies there.
    judged
        List of files that a message names when the registration fails its gate.
    bval_file, bvec_file
        DWI.

    Outputs
    -------
    As of `init_precomputed_wf`.
    """
    workflow = pe.Workflow(name=name)
    inputnode = identity(["template", *FILE_FIELDS], name="inputnode")
    outputnode = identity(PRECOMPUTED_FIELDS, name="outputnode")
    conform = pe.Node(ConformSeries(), name="conform", mem_gb=BLOCKS_GB)
    moved = _motion_node(is_realigned, made_by, dummy_scans)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=0.5)
    brain = pe.Node(
        PrecomputedBrain(num_threads=omp_nthreads), name="their_brain", n_procs=omp_nthreads, mem_gb=0.5
    )
    contrast = Contrast.B0 if modality is Modality.DWI else Contrast.BOLD
    way = pe.Node(
        PrecomputedRegistration(contrast=str(contrast), made_by=made_by),
        name="their_registration",
        mem_gb=1.5,
    )
    workflow.connect([
        (inputnode, conform, [(("series_file", as_list), "in_files")]),
        (inputnode, moved, [("motion_file", "table" if is_realigned else "transforms")]),
        (inputnode, brain, [("mask_file", "mask")]),
        (inputnode, way, [("template", "template"), ("transforms", "transforms"), ("judged", "judged")]),
        (conform, moved, [("out_file", "in_file")]),
        (conform, mean, [("out_file", "in_file")]),
        (moved, mean, [("motion", "motion"), ("dummies", "dummies")]),
        (brain, way, [("out_file", "in_file"), ("mask", "mask")]),
        (conform, outputnode, [("out_file", "series"), ("starts", "starts")]),
        (moved, outputnode, [("motion", "motion"), ("dummies", "dummies")]),
        (brain, outputnode, [("out_file", "anchor"), ("mask", "mask"), ("bias", "bias")]),
        (way, outputnode, [("template2native", "template2native"), ("gate", "gate")]),
        (way, outputnode, [("native2template", "native2template")]),
    ])  # fmt: skip
    if is_realigned:
        workflow.connect([
            (moved, outputnode, [("head_motion", "head_motion"), ("table", "confounds")]),
            (moved, outputnode, [("description", "confounds_json")]),
        ])  # fmt: skip
    else:
        workflow.connect(moved, "motion", outputnode, "head_motion")
    if modality is Modality.DWI:
        _connect_dwi(workflow, inputnode, outputnode)
    else:
        workflow.connect([
            (mean, brain, [("out_file", "in_file")]),
            (brain, outputnode, [("out_file", "mean"), ("scale", "scale")]),
        ])  # fmt: skip
    return workflow


def as_list(item: str) -> list[str] | str:
    """Return a list of one, and nothing for nothing; Nipype calls it from its source, at a connection."""
    from nipype.interfaces.base import isdefined

    return [item] if isdefined(item) else item


def _connect_dwi(workflow: pe.Workflow, inputnode: pe.Node, outputnode: pe.Node) -> None:
    """Add the gradient table, and both contrasts of a diffusion series."""
    mean, brain = workflow.get_node("mean"), workflow.get_node("their_brain")
    gradients = pe.Node(ConformGradients(), name="gradients")
    workflow.connect([
        (inputnode, gradients, [(("series_file", as_list), "dwi_files")]),
        (inputnode, gradients, [(("bval_file", as_list), "bvals"), (("bvec_file", as_list), "bvecs")]),
        (gradients, mean, [("gradients", "gradients")]),
        (gradients, outputnode, [("gradients", "gradients")]),
        (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
        (brain, outputnode, [("out_file", "b0"), ("other_file", "mean"), ("other_scale", "scale")]),
    ])  # fmt: skip


def _motion_node(is_realigned: bool, made_by: str, dummy_scans: int | None) -> pe.Node:
    """Return the node that knows how the head moved: from the confounds, or from transforms."""
    if is_realigned:
        return pe.Node(PrecomputedConfounds(made_by=made_by, dummy_scans=dummy_scans), name="their_confounds")
    return pe.Node(PrecomputedMotion(dummy_scans=dummy_scans), name="their_motion", mem_gb=0.5)


def _judged(precomputed: Precomputed) -> list[str]:
    """Return what the gate judges: image, mask and transforms."""
    roles = ("series", "mask", "coreg", "anat")
    return [precomputed.files[role].name for role in roles if role in precomputed.files]
