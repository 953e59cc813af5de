"""One acquired series: conform, head motion, mean, brain, registration, segments."""

from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.collect import Series
from pds_bids.interfaces.registration import AgreeOnRegistration, BridgeThroughT1w, RegisterEPI
from pds_bids.interfaces.segments import Confounds, CutBold, CutDWI, ResampleSegments
from pds_bids.interfaces.series import (
    BoldMotion,
    BoldReference,
    BrainExtract,
    ConformGradients,
    ConformSeries,
    DWIMotion,
    MeanVolumes,
)
from pds_bids.modalities import Contrast, Modality
from pds_bids.workflows.nodes import identity

__all__ = ["init_bold_wf", "init_dwi_wf", "init_registration_wf", "init_segments_wf", "series_mem_gb"]

# What both modalities hand on: the same names, so that everything after them is built once.
SERIES_FIELDS = ["series", "motion", "n_dummy", "gradients", "mean", "b0", "anchor", "mask", "bias", "scale"]


def init_bold_wf(
    series: Series, *, dummy_scans: int | None, omp_nthreads: int, mem_gb: float, name: str = "bold_wf"
) -> pe.Workflow:
    """Build the workflow from an acquired BOLD series to its mean, mask and head motion.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.collect import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.series import init_bold_wf
        series = Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {}, {"sub": "01"})
        wf = init_bold_wf(series, dummy_scans=None, omp_nthreads=1, mem_gb=1)

    Parameters
    ----------
    series : Series
        Acquired series.
    dummy_scans : int or None
        Volumes to drop at the start; None to detect them.
    omp_nthreads : int
        Threads per node.
    mem_gb : float
        Memory of a node that holds the series.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Outputs
    -------
    series
        Uncompressed RAS+ series.
    motion
        Point maps from the reference to every volume.
    n_dummy
        Non-steady-state volumes.
    mean, anchor
        Mean without bias field, in units of its in-brain mean; `anchor` is what is registered.
    mask, bias, scale
        Brain mask, bias field, in-brain mean.
    """
    workflow = pe.Workflow(name=name)
    outputnode = identity(SERIES_FIELDS, name="outputnode")
    conform = pe.Node(ConformSeries(in_file=str(series.path)), name="conform", mem_gb=mem_gb)
    reference = pe.Node(BoldReference(dummy_scans=dummy_scans), name="reference", mem_gb=0.5)
    hmc = pe.Node(BoldMotion(num_threads=omp_nthreads), name="hmc", n_procs=omp_nthreads, mem_gb=1.2)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=0.5)
    brain = pe.Node(BrainExtract(num_threads=omp_nthreads), name="brain", n_procs=omp_nthreads, mem_gb=0.5)
    workflow.connect([
        (conform, reference, [("out_file", "in_file")]),
        (conform, hmc, [("out_file", "in_file")]),
        (reference, hmc, [("out_file", "reference")]),
        (conform, mean, [("out_file", "in_file")]),
        (hmc, mean, [("motion", "motion")]),
        (reference, mean, [("n_dummy", "n_dummy")]),
        (mean, brain, [("out_file", "in_file")]),
        (conform, outputnode, [("out_file", "series")]),
        (reference, outputnode, [("n_dummy", "n_dummy")]),
        (hmc, outputnode, [("motion", "motion")]),
        (brain, outputnode, [("out_file", "mean"), ("out_file", "anchor"), ("mask", "mask")]),
        (brain, outputnode, [("bias", "bias"), ("scale", "scale")]),
    ])  # fmt: skip
    return workflow


def init_dwi_wf(
    series: Series, *, sloppy: bool, omp_nthreads: int, mem_gb: float, name: str = "dwi_wf"
) -> pe.Workflow:
    """Build the workflow from an acquired diffusion series to its b0 and weighted means, mask and motion.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.collect import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.series import init_dwi_wf
        table = {"bval": Path("dwi.bval"), "bvec": Path("dwi.bvec")}
        series = Series(Modality.DWI, Path("sub-01_dwi.nii.gz"), {}, {"sub": "01"}, **table)
        wf = init_dwi_wf(series, sloppy=False, omp_nthreads=1, mem_gb=1)

    Parameters
    ----------
    series : Series
        Acquired series with its gradient table.
    sloppy : bool
        Coarser and faster.
    omp_nthreads : int
        Threads per node.
    mem_gb : float
        Memory of a node that holds the series.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Outputs
    -------
    series, motion, mask, bias, scale
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
    gradients = pe.Node(
        ConformGradients(dwi_file=str(series.path), bval=str(series.bval), bvec=str(series.bvec)),
        name="gradients",
    )
    conform = pe.Node(ConformSeries(in_file=str(series.path)), name="conform", mem_gb=mem_gb)
    hmc = pe.Node(DWIMotion(sloppy=sloppy), name="hmc", mem_gb=1)
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=0.5)
    brain = pe.Node(BrainExtract(num_threads=omp_nthreads), name="brain", n_procs=omp_nthreads, mem_gb=0.5)
    outputnode.inputs.n_dummy = 0
    workflow.connect([
        (conform, hmc, [("out_file", "in_file")]),
        (gradients, hmc, [("gradients", "gradients")]),
        (conform, mean, [("out_file", "in_file")]),
        (hmc, mean, [("motion", "motion")]),
        (gradients, mean, [("gradients", "gradients")]),
        (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
        (conform, outputnode, [("out_file", "series")]),
        (gradients, outputnode, [("gradients", "gradients")]),
        (hmc, outputnode, [("motion", "motion")]),
        (brain, outputnode, [("out_file", "b0"), ("out_file", "anchor"), ("other_file", "mean")]),
        (brain, outputnode, [("mask", "mask"), ("bias", "bias"), ("other_scale", "scale")]),
    ])  # fmt: skip
    return workflow


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
    series, motion, n_dummy, gradients, mask, bias
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
        "motion",
        "n_dummy",
        "gradients",
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
    confounds = pe.Node(Confounds(), name="confounds", mem_gb=1)
    if series.modality is Modality.BOLD:
        tr_s = series.metadata.get("RepetitionTime")
        cut = pe.Node(
            CutBold(n_segments=n_segments, fd_threshold_mm=fd_spike_threshold, tr_s=tr_s), name="cut"
        )
        workflow.connect([
            (inputnode, cut, [("series", "in_file"), ("n_dummy", "n_dummy")]),
            (inputnode, confounds, [("n_dummy", "n_dummy"), ("native2template", "native2template")]),
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
        (inputnode, resample, [("bias", "bias"), ("mask", "mask")]),
        (inputnode, resample, [("template2native", "template2native"), ("template", "template")]),
        (cut, resample, [("segments", "segments")]),
        (inputnode, confounds, [("series", "in_file"), ("motion", "motion"), ("mask", "mask")]),
        (resample, outputnode, [("out_file", "stack"), ("mask", "template_mask")]),
        (cut, outputnode, [("segments", "segments"), ("censored", "censored")]),
        (confounds, outputnode, [("table", "confounds"), ("description", "confounds_json")]),
    ])  # fmt: skip
    return workflow


def series_mem_gb(series: Series) -> float:
    """Estimate the memory of a node that holds the whole series in float32, from the file's size.

    Compressed int16 images expand about two-fold, and float32 doubles that; integers stay beside floats.
    """
    return 0.3 + 6 * Path(series.path).stat().st_size / 1e9
