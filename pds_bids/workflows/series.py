"""One acquired series: conform, head motion, mean, brain, registration, segments."""

from collections.abc import Iterable

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe

from pds_bids.bids.series import Series
from pds_bids.config import EchoCombination
from pds_bids.interfaces.registration import AgreeOnRegistration, BridgeThroughT1w, RegisterEPI
from pds_bids.interfaces.segments import Confounds, CutBold, CutDWI, ResampleSegments
from pds_bids.interfaces.series import (
    BoldMotion,
    BoldReference,
    BrainExtract,
    CombineEchoes,
    ConformGradients,
    ConformSeries,
    DWIMotion,
    MeanVolumes,
)
from pds_bids.modalities import Contrast, Modality
from pds_bids.workflows.nodes import identity

__all__ = [
    "direction_groups",
    "init_bold_wf",
    "init_dwi_wf",
    "init_registration_wf",
    "init_segments_wf",
    "timeseries_mem_gb",
]

# A node that streams holds one or two blocks of volumes, float32 and float64, besides its libraries.
BLOCKS_GB = 0.8
# Holes and the surface of a mask add to a brain's own volume.
LARGE_BRAIN_ML = 1800.0

# What both modalities hand on: the same names, so that everything after them is built once.
SERIES_FIELDS = [
    "series",
    "starts",
    "motion",
    "dummies",
    "gradients",
    "distortion",
    "mean",
    "b0",
    "anchor",
    "mask",
    "bias",
    "scale",
]


def init_bold_wf(
    series: Series,
    *,
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
        from pds_bids.workflows.series import init_bold_wf
        series = Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {}, {"sub": "01"})
        wf = init_bold_wf(series, dummy_scans=None, omp_nthreads=1)

    Parameters
    ----------
    series : Series
        Acquired series, with its echoes and the runs that are joined to it.
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

    Outputs
    -------
    series
        Uncompressed RAS+ series, all runs one after the other, echoes combined.
    starts
        First volume of each run.
    motion
        Point maps from the reference to every volume.
    dummies
        Non-steady-state volumes.
    mean, anchor
        Mean without bias field, in units of its in-brain mean; `anchor` is what is registered.
    mask, bias, scale
        Brain mask, bias field, in-brain mean.
    """
    workflow = pe.Workflow(name=name)
    outputnode = identity(SERIES_FIELDS, name="outputnode")
    conform = pe.Node(ConformSeries(in_files=_paths(series.runs)), name="conform", mem_gb=BLOCKS_GB)
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
        (hmc, outputnode, [("motion", "motion")]),
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
        files = _paths([run.echoes[k] for run in series.runs])
        node = workflow.get_node("conform")
        if files != _paths(series.runs):
            node = pe.Node(ConformSeries(in_files=files), name=f"conform_echo{k + 1}", mem_gb=BLOCKS_GB)
        workflow.connect(node, "out_file", gather, f"in{k + 1}")
    workflow.connect([
        (gather, combine, [("out", "in_files")]),
        (workflow.get_node("hmc"), combine, [("motion", "motion")]),
        (workflow.get_node("reference"), combine, [("dummies", "dummies")]),
    ])  # fmt: skip
    return combine


def init_dwi_wf(series: Series, *, sloppy: bool, omp_nthreads: int, name: str = "dwi_wf") -> pe.Workflow:
    """Build the workflow from an acquired diffusion series to its b0 and weighted means, mask and motion.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.series import init_dwi_wf
        table = {"bval": Path("dwi.bval"), "bvec": Path("dwi.bvec")}
        series = Series(Modality.DWI, Path("sub-01_dwi.nii.gz"), {}, {"sub": "01"}, **table)
        wf = init_dwi_wf(series, sloppy=False, omp_nthreads=1)

    Parameters
    ----------
    series : Series
        Acquired series with its gradient table, and the runs that are joined to it.
    sloppy : bool
        Coarser and faster.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Outputs
    -------
    series, starts, motion, mask, bias, scale
        As for BOLD.
    gradients
        Checked table in scanner RAS+.
    mean
        Mean of the weighted volumes, in units of its in-brain mean.
    b0, anchor
        Mean of the b0 volumes, which is what is registered.
    """
    workflow = pe.Workflow(name=name)
    outputnode = identity(SERIES_FIELDS, name="outputnode")
    files = _paths(series.runs)
    gradients = pe.Node(
        ConformGradients(
            dwi_files=files,
            bvals=[str(run.bval) for run in series.runs],
            bvecs=[str(run.bvec) for run in series.runs],
        ),
        name="gradients",
    )
    conform = pe.Node(ConformSeries(in_files=files), name="conform", mem_gb=BLOCKS_GB)
    hmc = pe.Node(DWIMotion(sloppy=sloppy, groups=direction_groups(series)), name="hmc", mem_gb=1)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=BLOCKS_GB)
    brain = pe.Node(BrainExtract(num_threads=omp_nthreads), name="brain", n_procs=omp_nthreads, mem_gb=0.5)
    outputnode.inputs.dummies = []
    workflow.connect([
        (conform, hmc, [("out_file", "in_file")]),
        (gradients, hmc, [("gradients", "gradients")]),
        (conform, mean, [("out_file", "in_file")]),
        (hmc, mean, [("motion", "motion")]),
        (gradients, mean, [("gradients", "gradients")]),
        (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
        (conform, outputnode, [("out_file", "series"), ("starts", "starts")]),
        (gradients, outputnode, [("gradients", "gradients")]),
        (hmc, outputnode, [("motion", "motion")]),
        (brain, outputnode, [("out_file", "b0"), ("out_file", "anchor"), ("other_file", "mean")]),
        (brain, outputnode, [("mask", "mask"), ("bias", "bias"), ("other_scale", "scale")]),
    ])  # fmt: skip
    return workflow


def direction_groups(series: Series) -> list[int]:
    """Return the number of the phase-encoding direction of every volume; that of the first run is 0."""
    directions = [run.metadata.get("PhaseEncodingDirection") for run in series.runs]
    known = list(dict.fromkeys(directions))
    numbers = [known.index(direction) for direction in directions]
    return [n for n, run in zip(numbers, series.runs, strict=True) for _ in range(run.n_volumes)]


def init_registration_wf(
    modality: Modality, *, has_t1w: bool, sloppy: bool, omp_nthreads: int, name: str = "registration_wf"
) -> pe.Workflow:
    """Build the registration of one mean EPI to the template, checked against a second path.

    Parameters
    ----------
    modality : Modality
        Whose reference it is; the b0 for DWI.
    has_t1w : bool
        Whether a T1w image gives a second path.
    sloppy : bool
        Coarser and faster.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    anchor, mask
        Mean EPI without its bias field, and its brain mask.
    template
        From `FetchTemplate`.
    t1w, t1w_mask, template2t1w
        When there is a T1w image.

    Outputs
    -------
    template2native, native2template
        Point maps.
    t1w2epi
        Rigid point map, when there is a T1w image.
    gate
        Verdict with the distance between the paths.
    """
    workflow = pe.Workflow(name=name)
    inputnode = identity(["anchor", "mask", "template", "t1w", "t1w_mask", "template2t1w"], name="inputnode")
    outputnode = identity(["template2native", "native2template", "t1w2epi", "gate"], name="outputnode")
    contrast = Contrast.BOLD if modality is Modality.BOLD else Contrast.B0
    direct = pe.Node(
        RegisterEPI(contrast=str(contrast), sloppy=sloppy, num_threads=omp_nthreads),
        name="direct",
        n_procs=omp_nthreads,
        mem_gb=1,
    )
    agree = pe.Node(AgreeOnRegistration(), name="agree")
    workflow.connect([
        (inputnode, direct, [("anchor", "in_file"), ("mask", "mask"), ("template", "template")]),
        (inputnode, agree, [("template", "template")]),
        (direct, agree, [("gate", "gate"), ("template2native", "direct")]),
        (direct, outputnode, [("native2template", "native2template")]),
        (direct, outputnode, [("template2native", "template2native")]),
        (agree, outputnode, [("gate", "gate")]),
    ])  # fmt: skip
    if has_t1w:
        bridge = pe.Node(
            BridgeThroughT1w(num_threads=omp_nthreads), name="bridge", n_procs=omp_nthreads, mem_gb=1
        )
        workflow.connect([
            (inputnode, bridge, [("anchor", "in_file"), ("mask", "mask")]),
            (inputnode, bridge, [("t1w", "t1w"), ("t1w_mask", "t1w_mask"), ("template2t1w", "template2t1w")]),
            (bridge, agree, [("template2native", "bridge")]),
            (bridge, outputnode, [("t1w2epi", "t1w2epi")]),
        ])  # fmt: skip
    return workflow


def init_segments_wf(
    series: Series,
    *,
    n_segments: int,
    segment_scheme: str,
    fd_spike_threshold: float,
    name: str = "segments_wf",
) -> pe.Workflow:
    """Build the cut into segments, their averages on the model grid, and the confound table.

    Parameters
    ----------
    series : Series
        Acquired series, for its repetition time.
    n_segments : int
        Segments wanted.
    segment_scheme : str
        DWI: ``balanced`` or ``contiguous``.
    fd_spike_threshold : float
        BOLD: mm of framewise displacement above which a volume is left out.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    series, starts, motion, dummies, gradients, distortion, mask, bias
        From `init_bold_wf` or `init_dwi_wf`.
    template2native, native2template
        From `init_registration_wf`.
    template
        From `FetchTemplate`.

    Outputs
    -------
    stack, template_b0
        4D on the model grid: overall mean, then segments.
    template_mask
        Brain mask on the model grid.
    segments, censored
        Which volumes belong where, and which nowhere.
    confounds, confounds_json
        Table and its description.
    """
    workflow = pe.Workflow(name=name)
    inputs = [
        "series",
        "starts",
        "motion",
        "dummies",
        "gradients",
        "distortion",
        "mask",
        "bias",
        "template2native",
        "native2template",
    ]
    inputnode = identity([*inputs, "template"], name="inputnode")
    outputs = ["stack", "template_b0", "template_mask"]
    outputs += ["segments", "censored", "confounds", "confounds_json"]
    outputnode = identity(outputs, name="outputnode")
    resample = pe.Node(ResampleSegments(), name="resample", mem_gb=1)
    is_bold = series.modality is Modality.BOLD
    mem_gb = timeseries_mem_gb(series) if is_bold else 0.5
    confounds = pe.Node(Confounds(), name="confounds", mem_gb=mem_gb)
    if is_bold:
        tr_s = series.metadata.get("RepetitionTime")
        cut = pe.Node(
            CutBold(n_segments=n_segments, fd_threshold_mm=fd_spike_threshold, tr_s=tr_s), name="cut"
        )
        workflow.connect([
            (inputnode, cut, [("series", "in_file"), ("dummies", "dummies"), ("starts", "starts")]),
            (inputnode, confounds, [("dummies", "dummies"), ("native2template", "native2template")]),
            (inputnode, confounds, [("template", "template")]),
        ])  # fmt: skip
    else:
        cut = pe.Node(CutDWI(n_segments=n_segments, scheme=segment_scheme), name="cut")
        workflow.connect([
            (inputnode, cut, [("gradients", "gradients")]),
            (inputnode, confounds, [("gradients", "gradients")]),
            (inputnode, resample, [("gradients", "gradients")]),
            (resample, outputnode, [("b0_file", "template_b0")]),
        ])  # fmt: skip
    workflow.connect([
        (inputnode, cut, [("motion", "motion")]),
        (inputnode, resample, [("series", "in_file"), ("motion", "motion")]),
        (inputnode, resample, [("bias", "bias"), ("mask", "mask"), ("distortion", "distortion")]),
        (inputnode, resample, [("template2native", "template2native"), ("template", "template")]),
        (cut, resample, [("segments", "segments")]),
        (inputnode, confounds, [("series", "in_file"), ("motion", "motion"), ("mask", "mask")]),
        (inputnode, confounds, [("distortion", "distortion"), ("starts", "starts")]),
        (resample, outputnode, [("out_file", "stack"), ("mask", "template_mask")]),
        (cut, outputnode, [("segments", "segments"), ("censored", "censored")]),
        (confounds, outputnode, [("table", "confounds"), ("description", "confounds_json")]),
    ])  # fmt: skip
    return workflow


def timeseries_mem_gb(series: Series) -> float:
    """Estimate the memory of a node that holds the time course of every voxel of a brain in float32."""
    n_voxels = 1000 * LARGE_BRAIN_ML / max(series.voxel_mm3, 0.1)
    return 0.4 + n_voxels * series.total_volumes * 4 / 1e9


def _paths(runs: Iterable[Series]) -> list[str]:
    return [str(run.path) for run in runs]
