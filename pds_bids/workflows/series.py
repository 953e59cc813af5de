"""What series workflows hand on, and what both modalities share: registration and segments."""

from nipype.pipeline import engine as pe

from pds_bids.bids.doubts import sidecar_doubts
from pds_bids.bids.series import Series
from pds_bids.interfaces.dwi import FieldOfView
from pds_bids.interfaces.plausibility import JudgeSeries
from pds_bids.interfaces.registration import AgreeOnRegistration, BridgeThroughT1w, RegisterEPI
from pds_bids.interfaces.segments import Confounds, CutBold, CutDWI, ResampleSegments
from pds_bids.modalities import Contrast, Modality
from pds_bids.workflows.nodes import identity

__all__ = [
    "BLOCKS_GB",
    "DISTORTION_OUTPUTS",
    "SERIES_FIELDS",
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
    "head_motion",
    "dummies",
    "gradients",
    "distortion",
    "fieldmap",
    "distortion_quality",
    "eddy",
    "motion_quality",
    "distorted",
    "corrected",
    "denoise_notes",
    "mean",
    "b0",
    "anchor",
    "mask",
    "bias",
    "scale",
]

# What the estimate of a field hands on, under the names of a series.
DISTORTION_OUTPUTS = (
    ("outputnode.distortion", "distortion"),
    ("outputnode.hz", "fieldmap"),
    ("outputnode.qc", "distortion_quality"),
    ("outputnode.corrected", "corrected"),
)


def init_registration_wf(
    modality: Modality,
    *,
    has_t1w: bool,
    sloppy: bool,
    omp_nthreads: int,
    failed_figure: str = "",
    name: str = "registration_wf",
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
    failed_figure : str
        Where a registration that fails its gate is drawn; in the node's folder when not given.
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
    t1w_problem
        Why the T1w image does not fit; empty when it does, undefined without one.
    gate
        Verdict with the distance between the paths.
    mask
        The brain mask, less what lies well outside of the template's brain.
    """
    workflow = pe.Workflow(name=name)
    inputnode = identity(["anchor", "mask", "template", "t1w", "t1w_mask", "template2t1w"], name="inputnode")
    outputs = ["template2native", "native2template", "t1w2epi", "t1w_problem", "gate", "mask"]
    outputnode = identity(outputs, name="outputnode")
    contrast = Contrast.BOLD if modality is Modality.BOLD else Contrast.B0
    direct = pe.Node(
        RegisterEPI(contrast=str(contrast), sloppy=sloppy, num_threads=omp_nthreads),
        name="direct",
        n_procs=omp_nthreads,
        mem_gb=1,
    )
    if failed_figure:
        direct.inputs.failed_figure = failed_figure
    agree = pe.Node(AgreeOnRegistration(), name="agree")
    workflow.connect([
        (inputnode, direct, [("anchor", "in_file"), ("mask", "mask"), ("template", "template")]),
        (inputnode, agree, [("template", "template")]),
        (direct, agree, [("gate", "gate"), ("template2native", "direct")]),
        (direct, outputnode, [("native2template", "native2template")]),
        (direct, outputnode, [("template2native", "template2native"), ("agreed_mask", "mask")]),
        (agree, outputnode, [("gate", "gate")]),
    ])  # fmt: skip
    if has_t1w:
        bridge = pe.Node(
            BridgeThroughT1w(num_threads=omp_nthreads), name="bridge", n_procs=omp_nthreads, mem_gb=1
        )
        workflow.connect([
            (inputnode, bridge, [("anchor", "in_file"), ("mask", "mask")]),
            (inputnode, bridge, [("t1w", "t1w"), ("t1w_mask", "t1w_mask"), ("template2t1w", "template2t1w")]),
            (bridge, agree, [("template2native", "bridge"), ("problem", "bridge_problem")]),
            (bridge, outputnode, [("t1w2epi", "t1w2epi"), ("problem", "t1w_problem")]),
        ])  # fmt: skip
    return workflow


def init_segments_wf(
    series: Series,
    *,
    n_segments: int,
    segment_scheme: str,
    fd_spike_threshold: float,
    has_confounds: bool = False,
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
    has_confounds : bool
        Whether a table of confounds is there already.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    series, starts, motion, head_motion, dummies, gradients, distortion, eddy, mask, bias
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
    coverage
        JSON: how much of the brain was acquired.
    plausibility
        JSON: what speaks against the series being what its name says, in its signal and its sidecar. A
        diffusion series without weighting fails here.
    confounds, confounds_json
        Table and its description, unless it is there already.
    carpet
        BOLD: signals of voxels for the figure, with the table.
    """
    workflow = pe.Workflow(name=name)
    inputs = [
        "series",
        "starts",
        "motion",
        "head_motion",
        "dummies",
        "gradients",
        "distortion",
        "eddy",
        "mask",
        "bias",
        "template2native",
        "native2template",
    ]
    inputnode = identity([*inputs, "template"], name="inputnode")
    outputs = ["stack", "template_b0", "template_mask", "segments", "censored", "coverage"]
    outputs.append("plausibility")
    outputs += [] if has_confounds else ["confounds", "confounds_json"]
    outputs += ["carpet"] if series.modality is Modality.BOLD and not has_confounds else []
    outputnode = identity(outputs, name="outputnode")
    resample = pe.Node(ResampleSegments(), name="resample", mem_gb=1)
    coverage = pe.Node(FieldOfView(), name="coverage", mem_gb=BLOCKS_GB)
    judge = pe.Node(
        JudgeSeries(series_name=series.path.name, told=list(sidecar_doubts(series))),
        name="judge",
        mem_gb=BLOCKS_GB,
    )
    is_bold = series.modality is Modality.BOLD
    if is_bold:
        tr_s = series.metadata.get("RepetitionTime")
        cut = pe.Node(
            CutBold(n_segments=n_segments, fd_threshold_mm=fd_spike_threshold, tr_s=tr_s), name="cut"
        )
        workflow.connect([
            (inputnode, cut, [("series", "in_file"), ("dummies", "dummies"), ("starts", "starts")]),
            (inputnode, cut, [("head_motion", "motion")]),
            (inputnode, judge, [("dummies", "dummies")]),
        ])  # fmt: skip
    else:
        cut = pe.Node(CutDWI(n_segments=n_segments, scheme=segment_scheme), name="cut")
        workflow.connect([
            (inputnode, cut, [("gradients", "gradients"), ("motion", "motion")]),
            (inputnode, resample, [("gradients", "gradients")]),
            (inputnode, judge, [("gradients", "gradients")]),
            (resample, outputnode, [("b0_file", "template_b0")]),
        ])  # fmt: skip
    workflow.connect([
        (inputnode, resample, [("series", "in_file"), ("motion", "motion")]),
        (inputnode, resample, [("bias", "bias"), ("distortion", "distortion")]),
        (inputnode, judge, [("series", "in_file"), ("mask", "mask")]),
        (judge, resample, [("mask", "mask")]),
        (judge, outputnode, [("plausibility", "plausibility")]),
        (inputnode, resample, [("template2native", "template2native"), ("template", "template")]),
        (inputnode, coverage, [("series", "in_file"), ("mask", "mask"), ("template", "template")]),
        (inputnode, coverage, [("template2native", "template2native")]),
        (cut, resample, [("segments", "segments")]),
        (resample, outputnode, [("out_file", "stack"), ("mask", "template_mask")]),
        (cut, outputnode, [("segments", "segments"), ("censored", "censored")]),
        (coverage, outputnode, [("coverage", "coverage")]),
    ])  # fmt: skip
    if not has_confounds:
        _add_confounds(workflow, series)
    return workflow


def _add_confounds(workflow: pe.Workflow, series: Series) -> None:
    """Add the table of confounds to the segments."""
    is_bold = series.modality is Modality.BOLD
    mem_gb = timeseries_mem_gb(series) if is_bold else 0.5
    confounds = pe.Node(Confounds(), name="confounds", mem_gb=mem_gb)
    inputnode = workflow.get_node("inputnode")
    own = ["dummies", "native2template", "template"] if is_bold else ["gradients", "eddy"]
    if is_bold:
        workflow.connect(confounds, "carpet", workflow.get_node("outputnode"), "carpet")
    workflow.connect([
        (inputnode, confounds, [("series", "in_file"), ("motion", "motion"), ("mask", "mask")]),
        (inputnode, confounds, [("distortion", "distortion"), ("starts", "starts")]),
        (inputnode, confounds, [(field, field) for field in own]),
        (confounds, workflow.get_node("outputnode"), [("table", "confounds")]),
        (confounds, workflow.get_node("outputnode"), [("description", "confounds_json")]),
    ])  # fmt: skip


def timeseries_mem_gb(series: Series) -> float:
    """Estimate the memory of a node that holds the time course of every voxel of a brain in float32."""
    n_voxels = 1000 * LARGE_BRAIN_ML / max(series.voxel_mm3, 0.1)
    return 0.4 + n_voxels * series.total_volumes * 4 / 1e9
