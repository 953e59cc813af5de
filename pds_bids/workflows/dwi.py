"""One acquired diffusion series: conform, noise, head motion, means, brain; and the maps made of it."""

from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.fieldmaps import Fieldmap, FieldmapKind
from pds_bids.bids.series import Series
from pds_bids.interfaces.dwi import DenoiseDWI, TensorFit
from pds_bids.interfaces.dwi_motion import DWIMotion, JoinEddy
from pds_bids.interfaces.series import (
    BrainExtract,
    ConformGradients,
    ConformSeries,
    GroupB0s,
    LeaveOut,
    MeanVolumes,
)
from pds_bids.options import DenoiseMethod, UnringingMethod
from pds_bids.workflows.distortion import init_distortion_wf
from pds_bids.workflows.nodes import identity
from pds_bids.workflows.series import BLOCKS_GB, DISTORTION_OUTPUTS, SERIES_FIELDS

__all__ = ["direction_groups", "init_dwi_maps_wf", "init_dwi_wf", "phase_axes"]

# A head with the air around it.
FIELD_OF_VIEW_ML = 9000.0


def init_dwi_wf(
    series: Series,
    *,
    fieldmap: Fieldmap | None = None,
    is_eddy_corrected: bool = True,
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
    fieldmap : Fieldmap or None
        What its distortion is corrected with; a pair when a run of the opposite direction is joined.
    is_eddy_corrected : bool
        Correct eddy currents, where the sidecar tells the axis of phase encoding.
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

    Inputs
    ------
    t1w, t1w_mask
        T1w image, when there is one, to judge a field by.

    Outputs
    -------
    series, starts, motion, head_motion, mask, bias, scale
        As for BOLD.
    distortion, fieldmap, distortion_quality, distorted, corrected
        As for BOLD; the distortion holds the eddy currents as well.
    eddy, motion_quality
        Eddy currents for the table of confounds; JSON for the quality file.
    gradients
        Checked table in scanner RAS+.
    mean
        Mean of the weighted volumes, in units of its in-brain mean.
    b0, anchor
        Mean of the b0 volumes, which is what is registered.
    """
    workflow = pe.Workflow(name=name)
    outputnode = identity(SERIES_FIELDS, name="outputnode")
    outputnode.inputs.dummies = []
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
    axes = phase_axes(series) if is_eddy_corrected else []
    mean = pe.Node(MeanVolumes(), name="mean", mem_gb=BLOCKS_GB)
    brain = pe.Node(BrainExtract(num_threads=omp_nthreads), name="brain", n_procs=omp_nthreads, mem_gb=0.5)
    clean = conform
    if (denoise_method, unringing_method) != (DenoiseMethod.NONE, UnringingMethod.NONE):
        clean = _add_denoising(workflow, series, denoise_method, unringing_method, omp_nthreads)
        workflow.connect([
            (conform, clean, [("out_file", "in_file"), ("starts", "starts")]),
            (gradients, clean, [("gradients", "gradients")]),
            (clean, outputnode, [("notes", "denoise_notes")]),
        ])  # fmt: skip
    workflow.connect([
        (clean, hmc, [("out_file", "in_file")]),
        (gradients, hmc, [("gradients", "gradients")]),
        (clean, mean, [("out_file", "in_file")]),
        (mean, brain, [("b0_file", "in_file"), ("out_file", "other_file")]),
        (conform, outputnode, [("starts", "starts")]),
        (clean, outputnode, [("out_file", "series")]),
        (brain, outputnode, [("out_file", "b0"), ("out_file", "anchor"), ("other_file", "mean")]),
        (brain, outputnode, [("mask", "mask"), ("bias", "bias"), ("other_scale", "scale")]),
        (hmc, outputnode, [("quality", "motion_quality")]),
    ])  # fmt: skip
    undoes_distortion = _add_eddy(workflow, axes) if any(axis for _, axis in axes) else mean
    moved, table = hmc, gradients
    if fieldmap is not None:
        moved, table = _add_distortion(workflow, series, fieldmap, clean, undoes_distortion, omp_nthreads)
    workflow.connect([
        (moved, mean, [("motion", "motion")]),
        (moved, outputnode, [("motion", "motion"), ("motion", "head_motion")]),
        (table, mean, [("gradients", "gradients")]),
        (table, outputnode, [("gradients", "gradients")]),
    ])  # fmt: skip
    return workflow


def _add_denoising(
    workflow: pe.Workflow,
    series: Series,
    denoise_method: DenoiseMethod,
    unringing_method: UnringingMethod,
    omp_nthreads: int,
) -> pe.Node:
    """Return the node that removes noise and ringing."""
    interface = DenoiseDWI(
        method=str(denoise_method),
        degibbs=unringing_method is UnringingMethod.GIBBS,
        dwi_file=str(series.path),
        partial_fourier=series.metadata.get("PartialFourier"),
        num_threads=omp_nthreads,
    )
    # MP-PCA holds the series and a few copies of a slab.
    mem_gb = BLOCKS_GB + 3 * series.n_volumes * FIELD_OF_VIEW_ML * 1000 / series.voxel_mm3 * 4 / 1e9
    node = pe.Node(interface, name="denoise", n_procs=omp_nthreads, mem_gb=mem_gb)
    workflow.add_nodes([node])
    return node


def _add_eddy(workflow: pe.Workflow, axes: list[tuple[Path, str]]) -> pe.Node:
    """Let head motion estimate eddy currents, and return the node that joins them to the field."""
    hmc, outputnode = workflow.get_node("hmc"), workflow.get_node("outputnode")
    hmc.inputs.group_files = [str(path) for path, _ in axes]
    hmc.inputs.phase_axes = [axis for _, axis in axes]
    eddy = pe.Node(JoinEddy(), name="eddy")
    workflow.connect([
        (hmc, eddy, [("eddy", "eddy")]),
        (hmc, outputnode, [("eddy", "eddy")]),
        (eddy, workflow.get_node("mean"), [("distortion", "distortion")]),
        (eddy, outputnode, [("distortion", "distortion")]),
    ])  # fmt: skip
    return eddy


def _add_distortion(
    workflow: pe.Workflow,
    series: Series,
    fieldmap: Fieldmap,
    clean: pe.Node,
    undoes_distortion: pe.Node,
    omp_nthreads: int,
) -> tuple[pe.Node, pe.Node]:
    """Estimate the field; return who knows the motion and the gradients after it."""
    inputnode = identity(["t1w", "t1w_mask"], name="inputnode")
    distortion_wf = init_distortion_wf(series, fieldmap, omp_nthreads=omp_nthreads, mem_gb=1)
    # With eddy currents, what resampling needs comes from the node that joins the two.
    has_eddy = undoes_distortion.name == "eddy"
    shown = [(a, b) for a, b in DISTORTION_OUTPUTS if not (has_eddy and b == "distortion")]
    workflow.connect([
        (inputnode, distortion_wf, [("t1w", "inputnode.t1w"), ("t1w_mask", "inputnode.t1w_mask")]),
        (distortion_wf, undoes_distortion, [("outputnode.distortion", "distortion")]),
        (distortion_wf, workflow.get_node("outputnode"), shown),
    ])  # fmt: skip
    connect = _connect_pair if fieldmap.kind is FieldmapKind.DWI_PAIR else _connect_fieldmap
    return connect(workflow, series, clean, distortion_wf)


def _connect_fieldmap(
    workflow: pe.Workflow, series: Series, clean: pe.Node, distortion_wf: pe.Workflow
) -> tuple[pe.Node, pe.Node]:
    """Estimate the field at the mean b0; return who knows the motion and the gradients after it."""
    hmc, gradients = workflow.get_node("hmc"), workflow.get_node("gradients")
    raw_mean = pe.Node(MeanVolumes(), name="distorted_mean", mem_gb=BLOCKS_GB)
    distortion_wf.inputs.inputnode.n_volumes = series.total_volumes
    workflow.connect([
        (clean, raw_mean, [("out_file", "in_file")]),
        (hmc, raw_mean, [("motion", "motion")]),
        (gradients, raw_mean, [("gradients", "gradients")]),
        (raw_mean, distortion_wf, [("b0_file", "inputnode.distorted_mean")]),
        (raw_mean, workflow.get_node("outputnode"), [("b0_file", "distorted")]),
    ])  # fmt: skip
    return hmc, gradients


def _connect_pair(
    workflow: pe.Workflow, series: Series, clean: pe.Node, distortion_wf: pe.Workflow
) -> tuple[pe.Node, pe.Node]:
    """Estimate the field between the directions; return who knows the motion and the gradients after it.

    Without a field the directions do not lie on one another: volumes of the second one are left out.
    """
    hmc, gradients = workflow.get_node("hmc"), workflow.get_node("gradients")
    groups = direction_groups(series)
    means = pe.Node(GroupB0s(groups=groups), name="group_b0s", mem_gb=BLOCKS_GB)
    leave_out = pe.Node(LeaveOut(), name="leave_out")
    joined = identity(["motion"], name="joined_motion")
    distortion_wf.inputs.inputnode.groups = groups
    workflow.connect([
        (clean, means, [("out_file", "in_file")]),
        (hmc, means, [("motion", "motion")]),
        (hmc, distortion_wf, [("motion", "inputnode.motion")]),
        (gradients, means, [("gradients", "gradients")]),
        (means, distortion_wf, [("out_files", "inputnode.b0_files")]),
        (means, workflow.get_node("outputnode"), [("first", "distorted")]),
        (gradients, leave_out, [("gradients", "gradients")]),
        (distortion_wf, leave_out, [("outputnode.volumes", "volumes")]),
        (distortion_wf, joined, [("outputnode.motion", "motion")]),
    ])  # fmt: skip
    return joined, leave_out


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


def phase_axes(series: Series) -> list[tuple[Path, str]]:
    """Return a file of each of the `direction_groups`, and its stored axis of phase encoding, or ``""``."""
    groups, first = direction_groups(series), 0
    found: dict[int, tuple[Path, str]] = {}
    for run in series.runs:
        told = run.metadata.get("PhaseEncodingDirection") or run.metadata.get("PhaseEncodingAxis") or ""
        number = groups[first] if groups else 0
        found.setdefault(number, (run.path, str(told).removesuffix("-")))
        first += run.n_volumes
    return [found[number] for number in sorted(found)]
