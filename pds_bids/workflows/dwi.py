"""One acquired diffusion series: conform, noise, head motion, means, brain; and the maps made of it."""

from nipype.pipeline import engine as pe

from pds_bids.bids.series import Series
from pds_bids.config import DenoiseMethod, UnringingMethod
from pds_bids.interfaces.dwi import DenoiseDWI, TensorFit
from pds_bids.interfaces.series import (
    BrainExtract,
    ConformGradients,
    ConformSeries,
    DWIMotion,
    MeanVolumes,
)
from pds_bids.workflows.nodes import identity
from pds_bids.workflows.series import BLOCKS_GB, SERIES_FIELDS

__all__ = ["direction_groups", "init_dwi_maps_wf", "init_dwi_wf"]


def init_dwi_wf(
    series: Series,
    *,
    denoise_method: DenoiseMethod = DenoiseMethod.NONE,
    unringing_method: UnringingMethod = UnringingMethod.NONE,
    sloppy: bool,
    omp_nthreads: int,
    name: str = "dwi_wf",
) -> pe.Workflow:
    """Build the workflow from an acquired diffusion series to its b0 and weighted means, mask and motion.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.dwi import init_dwi_wf
        table = {"bval": Path("dwi.bval"), "bvec": Path("dwi.bvec")}
        series = Series(Modality.DWI, Path("sub-01_dwi.nii.gz"), {}, {"sub": "01"}, **table)
        wf = init_dwi_wf(series, sloppy=False, omp_nthreads=1)

    Parameters
    ----------
    series : Series
        Acquired series with its gradient table, and the runs that are joined to it.
    denoise_method : DenoiseMethod
        How noise is removed before anything else.
    unringing_method : UnringingMethod
        How Gibbs ringing is removed after that.
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
    series, starts, motion, head_motion, mask, bias, scale
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
    files = [str(run.path) for run in series.runs]
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
    clean = conform
    if (denoise_method, unringing_method) != (DenoiseMethod.NONE, UnringingMethod.NONE):
        clean = pe.Node(
            DenoiseDWI(
                method=str(denoise_method),
                degibbs=unringing_method is UnringingMethod.GIBBS,
                dwi_file=files[0],
                partial_fourier=series.metadata.get("PartialFourier"),
                num_threads=omp_nthreads,
            ),
            name="denoise",
            n_procs=omp_nthreads,
            mem_gb=BLOCKS_GB,
        )
        workflow.connect([
            (conform, clean, [("out_file", "in_file"), ("starts", "starts")]),
            (gradients, clean, [("gradients", "gradients")]),
        ])  # fmt: skip
    workflow.connect([
        (clean, hmc, [("out_file", "in_file")]),
        (gradients, hmc, [("gradients", "gradients")]),
        (clean, mean, [("out_file", "in_file")]),
        (hmc, mean, [("motion", "motion")]),
        (gradients, mean, [("gradients", "gradients")]),
        (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
        (conform, outputnode, [("starts", "starts")]),
        (clean, outputnode, [("out_file", "series")]),
        (gradients, outputnode, [("gradients", "gradients")]),
        (hmc, outputnode, [("motion", "motion"), ("motion", "head_motion")]),
        (brain, outputnode, [("out_file", "b0"), ("out_file", "anchor"), ("other_file", "mean")]),
        (brain, outputnode, [("mask", "mask"), ("bias", "bias"), ("other_scale", "scale")]),
    ])  # fmt: skip
    return workflow


def init_dwi_maps_wf(*, mem_gb: float, name: str = "maps_wf") -> pe.Workflow:
    """Build the diffusion tensor and the means of shells.

    Parameters
    ----------
    mem_gb : float
        Memory of the fit.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    series, motion, gradients, distortion, mask, bias
        From `init_dwi_wf`.
    template2native
        From `init_registration_wf`.
    template_mask
        From `init_segments_wf`.

    Outputs
    -------
    fa, md, template_fa, template_md
        Native and on the model grid; undefined where no tensor can be fitted.
    shells, shells_json
        Mean b0 and the mean of each shell, native.
    tensor_quality
        JSON, for the quality file.
    """
    workflow = pe.Workflow(name=name)
    fields = ["motion", "gradients", "distortion", "mask", "bias", "template2native", "template_mask"]
    inputnode = identity(["series", *fields], name="inputnode")
    outputs = ["fa", "md", "template_fa", "template_md", "shells", "shells_json"]
    outputnode = identity([*outputs, "tensor_quality"], name="outputnode")
    tensor = pe.Node(TensorFit(), name="tensor", mem_gb=mem_gb)
    workflow.connect([
        (inputnode, tensor, [("series", "in_file"), *((field, field) for field in fields)]),
        (tensor, outputnode, [*((field, field) for field in outputs), ("quality", "tensor_quality")]),
    ])  # fmt: skip
    return workflow


def direction_groups(series: Series) -> list[int]:
    """Return the number of the phase-encoding direction of every volume; that of the first run is 0."""
    directions = [run.metadata.get("PhaseEncodingDirection") for run in series.runs]
    known = list(dict.fromkeys(directions))
    numbers = [known.index(direction) for direction in directions]
    return [n for n, run in zip(numbers, series.runs, strict=True) for _ in range(run.n_volumes)]
