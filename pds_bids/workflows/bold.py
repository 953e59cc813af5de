"""One acquired BOLD series: conform, head motion, echoes, mean, brain."""

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe

from pds_bids.bids.fieldmaps import Fieldmap
from pds_bids.bids.series import Series
from pds_bids.interfaces.series import (
    BoldMotion,
    BoldReference,
    BrainExtract,
    CombineEchoes,
    ConformSeries,
    MeanVolumes,
)
from pds_bids.options import EchoCombination
from pds_bids.workflows.distortion import init_distortion_wf
from pds_bids.workflows.nodes import identity
from pds_bids.workflows.series import BLOCKS_GB, DISTORTION_OUTPUTS, SERIES_FIELDS

__all__ = ["init_bold_wf"]


def init_bold_wf(
    series: Series,
    *,
    fieldmap: Fieldmap | None = None,
    dummy_scans: int | None,
    combine_echoes: EchoCombination = EchoCombination.T2STAR,
    omp_nthreads: int,
    name: str = "bold_wf",
) -> pe.Workflow:
    """Build the workflow from an acquired BOLD series to its mean, mask and head motion.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.bold import init_bold_wf
        series = Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {}, {"sub": "01"})
        wf = init_bold_wf(series, dummy_scans=None, omp_nthreads=1)

    Parameters
    ----------
    series : Series
        Acquired series, with its echoes and the runs that are joined to it.
    fieldmap : Fieldmap or None
        What its distortion is corrected with.
    dummy_scans : int or None
        Volumes to drop at the start of every run; None to detect them.
    combine_echoes : EchoCombination
        Weights of the echoes, where there are several.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    t1w, t1w_mask
        T1w image, when there is one, to judge a field by.

    Outputs
    -------
    series
        Uncompressed RAS+ series, all runs one after the other, echoes combined.
    starts
        First volume of each run.
    motion, head_motion
        Point maps from the reference to every volume.
    dummies
        Non-steady-state volumes.
    mean, anchor
        Mean without bias field, in units of its in-brain mean; `anchor` is what is registered.
    mask, bias, scale
        Brain mask, bias field, in-brain mean.
    distortion, fieldmap, distortion_quality
        Where a fieldmap is there: what resampling needs (undefined when the field failed its checks), the
        field in Hz, and the verdict.
    distorted, corrected
        The mean before and after, for the report.
    """
    workflow = pe.Workflow(name=name)
    outputnode = identity(SERIES_FIELDS, name="outputnode")
    conform = pe.Node(
        ConformSeries(in_files=[str(run.path) for run in series.runs]), name="conform", mem_gb=BLOCKS_GB
    )
    reference = pe.Node(BoldReference(dummy_scans=dummy_scans), name="reference", mem_gb=BLOCKS_GB)
    hmc = pe.Node(BoldMotion(num_threads=omp_nthreads), name="hmc", n_procs=omp_nthreads, mem_gb=1.2)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=BLOCKS_GB)
    brain = pe.Node(BrainExtract(num_threads=omp_nthreads), name="brain", n_procs=omp_nthreads, mem_gb=0.5)
    workflow.connect([
        (conform, reference, [("out_file", "in_file"), ("starts", "starts")]),
        (conform, hmc, [("out_file", "in_file")]),
        (reference, hmc, [("out_file", "reference")]),
        (hmc, mean, [("motion", "motion")]),
        (reference, mean, [("dummies", "dummies")]),
        (mean, brain, [("out_file", "in_file")]),
        (conform, outputnode, [("starts", "starts")]),
        (reference, outputnode, [("dummies", "dummies")]),
        (hmc, outputnode, [("motion", "motion"), ("motion", "head_motion")]),
        (brain, outputnode, [("out_file", "mean"), ("out_file", "anchor"), ("mask", "mask")]),
        (brain, outputnode, [("bias", "bias"), ("scale", "scale")]),
    ])  # fmt: skip
    whole = conform
    if series.echoes:
        whole = _add_echoes(workflow, series, combine_echoes)
    workflow.connect([
        (whole, mean, [("out_file", "in_file")]),
        (whole, outputnode, [("out_file", "series")]),
    ])  # fmt: skip
    if fieldmap is not None:
        _add_distortion(workflow, series, fieldmap, whole, omp_nthreads)
    return workflow


def _add_echoes(workflow: pe.Workflow, series: Series, combination: EchoCombination) -> pe.Node:
    """Add the other echoes and their combination, and return the node that combines."""
    number = len(series.echoes)
    times_s = [float(echo.metadata["EchoTime"]) for echo in series.echoes]
    combine = pe.Node(
        CombineEchoes(echo_times_s=times_s, combination=str(combination)), name="combine", mem_gb=BLOCKS_GB
    )
    gather = pe.Node(Merge(number), name="echoes", run_without_submitting=True)
    for k in range(number):
        files = [str(run.echoes[k].path) for run in series.runs]
        node = workflow.get_node("conform")
        if files != node.inputs.in_files:
            node = pe.Node(ConformSeries(in_files=files), name=f"conform_echo{k + 1}", mem_gb=BLOCKS_GB)
        workflow.connect(node, "out_file", gather, f"in{k + 1}")
    workflow.connect([
        (gather, combine, [("out", "in_files")]),
        (workflow.get_node("hmc"), combine, [("motion", "motion")]),
        (workflow.get_node("reference"), combine, [("dummies", "dummies")]),
    ])  # fmt: skip
    return combine


def _add_distortion(
    workflow: pe.Workflow, series: Series, fieldmap: Fieldmap, whole: pe.Node, omp_nthreads: int
) -> None:
    """Estimate the field at the mean as it was acquired, and undo it in the mean."""
    inputnode, outputnode = identity(["t1w", "t1w_mask"], name="inputnode"), workflow.get_node("outputnode")
    raw_mean = pe.Node(MeanVolumes(), name="distorted_mean", mem_gb=BLOCKS_GB)
    distortion_wf = init_distortion_wf(series, fieldmap, omp_nthreads=omp_nthreads, mem_gb=1)
    distortion_wf.inputs.inputnode.n_volumes = series.total_volumes
    workflow.connect([
        (whole, raw_mean, [("out_file", "in_file")]),
        (workflow.get_node("hmc"), raw_mean, [("motion", "motion")]),
        (workflow.get_node("reference"), raw_mean, [("dummies", "dummies")]),
        (raw_mean, distortion_wf, [("out_file", "inputnode.distorted_mean")]),
        (inputnode, distortion_wf, [("t1w", "inputnode.t1w"), ("t1w_mask", "inputnode.t1w_mask")]),
        (distortion_wf, workflow.get_node("mean"), [("outputnode.distortion", "distortion")]),
        # A list of its own: Nipype takes it apart.
        (distortion_wf, outputnode, list(DISTORTION_OUTPUTS)),
        (raw_mean, outputnode, [("out_file", "distorted")]),
    ])  # fmt: skip
