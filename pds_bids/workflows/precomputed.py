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

__all__ = ["PRECOMPUTED_FIELDS", "init_precomputed_wf"]

REGISTRATION_FIELDS = ["template2native", "native2template", "t1w2epi", "gate"]
# What is handed on: the fields of a series and of a registration, and what only a realigned series has.
PRECOMPUTED_FIELDS = [
    *SERIES_FIELDS,
    *REGISTRATION_FIELDS,
    "confounds",
    "confounds_json",
]


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
    workflow = pe.Workflow(name=name)
    is_dwi, made_by = series.modality is Modality.DWI, precomputed.dataset.source
    files = precomputed.files
    inputnode = identity(["template"], name="inputnode")
    outputnode = identity(PRECOMPUTED_FIELDS, name="outputnode")
    conform = pe.Node(
        ConformSeries(in_files=[str(files.get("series", series.path))]), name="conform", mem_gb=BLOCKS_GB
    )
    moved = _motion_node(precomputed, dummy_scans)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=0.5)
    brain = pe.Node(
        PrecomputedBrain(mask=str(files["mask"]), num_threads=omp_nthreads),
        name="their_brain",
        n_procs=omp_nthreads,
        mem_gb=0.5,
    )
    way = pe.Node(
        PrecomputedRegistration(
            contrast=str(Contrast.B0 if is_dwi else Contrast.BOLD),
            transforms=[str(path) for path in precomputed.transforms],
            judged=[str(path) for path in _judged(precomputed)],
            made_by=made_by,
        ),
        name="their_registration",
        mem_gb=1.5,
    )
    workflow.connect([
        (conform, moved, [("out_file", "in_file")]),
        (conform, mean, [("out_file", "in_file")]),
        (moved, mean, [("motion", "motion"), ("dummies", "dummies")]),
        (brain, way, [("out_file", "in_file"), ("mask", "mask")]),
        (inputnode, way, [("template", "template")]),
        (conform, outputnode, [("out_file", "series"), ("starts", "starts")]),
        (moved, outputnode, [("motion", "motion"), ("dummies", "dummies")]),
        (brain, outputnode, [("out_file", "anchor"), ("mask", "mask"), ("bias", "bias")]),
        (way, outputnode, [("template2native", "template2native"), ("gate", "gate")]),
        (way, outputnode, [("native2template", "native2template")]),
    ])  # fmt: skip
    if precomputed.is_realigned:
        workflow.connect([
            (moved, outputnode, [("head_motion", "head_motion"), ("table", "confounds")]),
            (moved, outputnode, [("description", "confounds_json")]),
        ])  # fmt: skip
    else:
        workflow.connect(moved, "motion", outputnode, "head_motion")
    if is_dwi:
        gradients = pe.Node(
            ConformGradients(
                dwi_files=[str(files["series"])], bvals=[str(files["bval"])], bvecs=[str(files["bvec"])]
            ),
            name="gradients",
        )
        workflow.connect([
            (gradients, mean, [("gradients", "gradients")]),
            (gradients, outputnode, [("gradients", "gradients")]),
            (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
            (brain, outputnode, [("out_file", "b0"), ("other_file", "mean"), ("other_scale", "scale")]),
        ])  # fmt: skip
    else:
        workflow.connect([
            (mean, brain, [("out_file", "in_file")]),
            (brain, outputnode, [("out_file", "mean"), ("scale", "scale")]),
        ])  # fmt: skip
    return workflow


def _motion_node(precomputed: Precomputed, dummy_scans: int | None) -> pe.Node:
    """Return the node that knows how the head moved: from the confounds, or from transforms."""
    if precomputed.is_realigned:
        interface = PrecomputedConfounds(
            table=str(precomputed.files["confounds"]),
            made_by=precomputed.dataset.source,
            dummy_scans=dummy_scans,
        )
        return pe.Node(interface, name="their_confounds")
    interface = PrecomputedMotion(transforms=str(precomputed.files["hmc"]), dummy_scans=dummy_scans)
    return pe.Node(interface, name="their_motion", mem_gb=0.5)


def _judged(precomputed: Precomputed) -> list[str]:
    """Return what the gate judges: image, mask and transforms."""
    roles = ("series", "mask", "coreg", "anat")
    return [precomputed.files[role].name for role in roles if role in precomputed.files]
