"""Synthesis as a part of another workflow: from an acquired series, or from one preprocessed elsewhere.

Both workflows bring their template, have no configuration and no output folder, and run under any plugin.
"""

import os
from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.series import Series
from pds_bids.devices import visible_gpus
from pds_bids.inference.card import checked_weights_sha256, default_model_dir
from pds_bids.interfaces.registration import RegisterT1w, ResampleT1w
from pds_bids.interfaces.synthesis import SYNTHETIC_FIELDS, NameSynthetic
from pds_bids.interfaces.template import FetchTemplate
from pds_bids.modalities import Direction, Modality
from pds_bids.options import METHODS, Device, SegmentScheme
from pds_bids.workflows.bold import init_bold_wf
from pds_bids.workflows.dwi import init_dwi_wf
from pds_bids.workflows.nodes import connect_by_name, identity
from pds_bids.workflows.precomputed import as_list, init_reading_wf
from pds_bids.workflows.series import init_registration_wf, init_segments_wf
from pds_bids.workflows.synthesis import init_synthesis_wf

__all__ = ["init_pds_synth_wf", "init_pds_wf"]

NAMED_FIELDS = NameSynthetic.output_spec().copyable_trait_names()
PREPROCESSED_FIELDS = ["mean", "mask", "template_mask", "template2native", "native2template", "gate"]


def init_pds_synth_wf(
    source: str,
    *,
    made_by: str = "fMRIPrep",
    seed_names: list[str],
    random_seed: int = 0,
    n_segments: int = 10,
    segment_scheme: str = str(SegmentScheme.BALANCED),
    fd_spike_threshold: float = 0.5,
    method: str = "",
    model_dir: Path | None = None,
    device: str = "auto",
    omp_nthreads: int = 1,
    name: str = "pds_synth_wf",
) -> pe.Workflow:
    """Build the synthesis from a series that fMRIPrep, QSIPrep or another pipeline has realigned.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pds_bids.workflows.pds import init_pds_synth_wf
        wf = init_pds_synth_wf("bold", seed_names=["sub-01"])

    Parameters
    ----------
    source : str
        ``bold`` or ``dwi``: what was acquired; the other one is synthesised.
    made_by : str
        Name and version of the pipeline that preprocessed it, for messages.
    seed_names : list of str
        Participant and session, such as ``["sub-01", "ses-1"]``; with the seed they decide every random draw.
    random_seed : int
        Master seed.
    n_segments : int
        Segments that the time or gradient axis is cut into.
    segment_scheme : str
        DWI: ``balanced`` or ``contiguous``.
    fd_spike_threshold : float
        BOLD: framewise displacement in mm above which a volume is left out.
    method : str
        Synthesis method; the app's default if it is empty.
    model_dir : Path or None
        Model bundle; None for the one that ships with the package.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    omp_nthreads : int
        Threads per node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Raises
    ------
    WeightsError
        If there are no weights for the method, or they are damaged.

    Inputs
    ------
    series_file, mask_file
        4D series and brain mask, in the space of the scan, of the T1w image or of MNI152NLin2009cAsym.
    confounds_file
        TSV with fMRIPrep's columns of head motion, one row per volume.
    transforms
        List of ITK transforms from there to MNI152NLin2009cAsym, first the one that leaves the space of the
        series. Not to be set when the series is in the template's space.
    bval_file, bvec_file
        DWI: in FSL's convention for the image.

    Outputs
    -------
    synthetic, std, segments
        Prediction (3D), its standard deviation (3D), and predictions from every segment (4D), on the res-3
        grid of MNI152NLin2009cAsym. Names, headers and `sidecar` say that they are synthetic.
    b0, b0_std, fa, fa_std, md, md_std
        When diffusion MRI is synthesised: b = 0 image, FA and MD (mm^2/s).
    sidecar
        JSON: model, weights, seeds, device.
    qc, parcels
        Quality of the prediction (JSON), and parcel means of every segment (TSV).
    mean, mask, template_mask, template2native, native2template, gate
        Mean of the source and mask in its space, mask on the model grid, point maps (``.npz``), and the
        verdict on the registration (JSON).
    """
    modality = Modality(source)
    workflow = pe.Workflow(name=name)
    fields = ["series_file", "mask_file", "confounds_file", "transforms", "bval_file", "bvec_file"]
    inputnode = identity(fields, name="inputnode")
    reading_wf = init_reading_wf(modality, made_by=made_by, omp_nthreads=omp_nthreads)
    segments_wf = init_segments_wf(
        Series(modality, Path("series_file"), {}, {}),
        n_segments=n_segments,
        segment_scheme=segment_scheme,
        fd_spike_threshold=fd_spike_threshold,
        has_confounds=True,
    )
    tables = ["bval_file", "bvec_file"] if modality is Modality.DWI else []
    workflow.connect([
        (inputnode, reading_wf, [(f, f"inputnode.{f}") for f in ("series_file", "mask_file", *tables)]),
        (inputnode, reading_wf, [("confounds_file", "inputnode.motion_file")]),
        (inputnode, reading_wf, [("transforms", "inputnode.transforms")]),
        (inputnode, reading_wf, [(("series_file", as_list), "inputnode.judged")]),
    ])  # fmt: skip
    _add_synthesis(
        workflow,
        [reading_wf, segments_wf],
        Direction.to(modality.other),
        method=method,
        model_dir=model_dir,
        random_seed=random_seed,
        seed_names=seed_names,
        device=device,
        omp_nthreads=omp_nthreads,
    )
    return workflow


def init_pds_wf(
    series: Series,
    *,
    has_t1w: bool = False,
    seed_names: list[str] | None = None,
    random_seed: int = 0,
    n_segments: int = 10,
    segment_scheme: str = str(SegmentScheme.BALANCED),
    fd_spike_threshold: float = 0.5,
    dummy_scans: int | None = None,
    method: str = "",
    model_dir: Path | None = None,
    device: str = "auto",
    sloppy: bool = False,
    omp_nthreads: int = 1,
    name: str = "pds_wf",
) -> pe.Workflow:
    """Build everything from an acquired series to its synthetic counterpart.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.modalities import Modality
        from pds_bids.workflows.pds import init_pds_wf
        series = Series(Modality.BOLD, Path("sub-01_task-rest_bold.nii.gz"), {}, {"sub": "01"})
        wf = init_pds_wf(series)

    Parameters
    ----------
    series : Series
        Acquired series with its runs, echoes and tables.
    has_t1w : bool
        Whether a T1w image will be connected; it checks the registration by a second path, and the network
        reads it.
    seed_names : list of str or None
        Participant and session; None for those of the series' name.
    random_seed, n_segments, segment_scheme, fd_spike_threshold, method, model_dir, device, omp_nthreads
        As of `init_pds_synth_wf`.
    dummy_scans : int or None
        BOLD volumes to drop at the start of a run; None to detect them.
    sloppy : bool
        Coarser and faster, for tests.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Raises
    ------
    WeightsError
        If there are no weights for the method, or they are damaged.

    Inputs
    ------
    t1w
        Acquired T1w image, if `has_t1w`.

    Outputs
    -------
    As of `init_pds_synth_wf`.
    """
    workflow = pe.Workflow(name=name)
    if series.modality is Modality.BOLD:
        series_wf = init_bold_wf(series, dummy_scans=dummy_scans, omp_nthreads=omp_nthreads)
    else:
        series_wf = init_dwi_wf(series, sloppy=sloppy, omp_nthreads=omp_nthreads)
    registration_wf = init_registration_wf(
        series.modality, has_t1w=has_t1w, sloppy=sloppy, omp_nthreads=omp_nthreads
    )
    segments_wf = init_segments_wf(
        series,
        n_segments=n_segments,
        segment_scheme=segment_scheme,
        fd_spike_threshold=fd_spike_threshold,
    )
    anatomy: list[pe.Node | pe.Workflow] = []
    if has_t1w:
        anatomy = [_init_anatomy_wf(sloppy=sloppy, omp_nthreads=omp_nthreads)]
        inputnode = identity(["t1w"], name="inputnode")
        workflow.connect(inputnode, "t1w", anatomy[0], "inputnode.t1w_file")
    entities = series.entities or parse_entities(series.path)
    _add_synthesis(
        workflow,
        [*anatomy, series_wf, registration_wf, segments_wf],
        Direction.to(series.modality.other),
        method=method,
        model_dir=model_dir,
        random_seed=random_seed,
        seed_names=seed_names or [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities],
        device=device,
        omp_nthreads=omp_nthreads,
    )
    return workflow


def _init_anatomy_wf(*, sloppy: bool, omp_nthreads: int) -> pe.Workflow:
    """Build the registration of a T1w image, under the names of what follows."""
    workflow = pe.Workflow(name="anatomy_wf")
    inputnode = identity(["t1w_file", "template"], name="inputnode")
    outputnode = identity(["t1w", "t1w_mask", "template2t1w", "t1w_on_grid"], name="outputnode")
    anat_on_grid = pe.Node(ResampleT1w(), name="anat_on_grid", mem_gb=0.5)
    anat = pe.Node(
        RegisterT1w(sloppy=sloppy, num_threads=omp_nthreads), name="anat", n_procs=omp_nthreads, mem_gb=1.5
    )
    workflow.connect([
        (inputnode, anat, [("t1w_file", "in_file"), ("template", "template")]),
        (inputnode, anat_on_grid, [("template", "template")]),
        (anat, anat_on_grid, [("out_file", "in_file"), ("template2native", "template2native")]),
        (anat_on_grid, outputnode, [("out_file", "t1w_on_grid")]),
        (anat, outputnode, [("out_file", "t1w"), ("mask", "t1w_mask"), ("template2native", "template2t1w")]),
    ])  # fmt: skip
    return workflow


def _add_synthesis(
    workflow: pe.Workflow,
    stages: list[pe.Node | pe.Workflow],
    direction: Direction,
    *,
    method: str,
    model_dir: Path | None,
    random_seed: int,
    seed_names: list[str],
    device: str,
    omp_nthreads: int,
) -> None:
    """Add template, synthesis and outputs to what leads from a series to its segments."""
    home = os.environ.get("TEMPLATEFLOW_HOME", "")
    template = pe.Node(FetchTemplate(templateflow_home=home), name="template", mem_gb=1)
    known = identity(["template"], name="known")
    method = method or METHODS[0]
    chosen = model_dir or default_model_dir(method)
    synthesis_wf = init_synthesis_wf(
        direction,
        method=method,
        model_dir=str(chosen),
        weights_sha256=checked_weights_sha256(chosen),
        random_seed=random_seed,
        seed_names=seed_names,
        device=device,
        use_gpu=Device(device) is not Device.CPU and bool(visible_gpus()),
        omp_nthreads=omp_nthreads,
        has_acquired=False,
    )
    named = pe.Node(NameSynthetic(target=str(direction.target)), name="named", mem_gb=0.5)
    outputnode = identity([*NAMED_FIELDS, "qc", "parcels", *PREPROCESSED_FIELDS], name="outputnode")
    workflow.connect(template, "template", known, "template")
    connect_by_name(workflow, [known, *stages])
    handed_on = [("stack", "source"), ("template_b0", "source_b0"), ("template_mask", "mask")]
    handed_on.append(("plausibility", "plausibility"))
    made = [*SYNTHETIC_FIELDS, "metadata"]
    series_wf, registration_wf, segments_wf = _ends(stages)
    if stages[0].name == "anatomy_wf":
        workflow.connect(stages[0], "outputnode.t1w_on_grid", synthesis_wf, "inputnode.t1w")
        workflow.connect(registration_wf, "outputnode.t1w_problem", synthesis_wf, "inputnode.t1w_problem")
    workflow.connect([
        (segments_wf, synthesis_wf, [(f"outputnode.{a}", f"inputnode.{b}") for a, b in handed_on]),
        (registration_wf, synthesis_wf, [("outputnode.mask", "inputnode.native_mask")]),
        (registration_wf, synthesis_wf, [("outputnode.native2template", "inputnode.native2template")]),
        (template, synthesis_wf, [("template", "inputnode.template"), ("channels", "inputnode.channels")]),
        (synthesis_wf, named, [(f"outputnode.{field}", field) for field in made]),
        (synthesis_wf, outputnode, [("outputnode.qc", "qc"), ("outputnode.parcels", "parcels")]),
        (named, outputnode, [(field, field) for field in NAMED_FIELDS]),
        (series_wf, outputnode, [("outputnode.mean", "mean")]),
        (segments_wf, outputnode, [("outputnode.template_mask", "template_mask")]),
        (registration_wf, outputnode, [("outputnode.mask", "mask"), ("outputnode.gate", "gate")]),
        (registration_wf, outputnode, [("outputnode.template2native", "template2native")]),
        (registration_wf, outputnode, [("outputnode.native2template", "native2template")]),
    ])  # fmt: skip


def _ends(stages: list[pe.Node | pe.Workflow]) -> tuple[pe.Workflow, pe.Workflow, pe.Workflow]:
    """Return what has the series, its registration and its segments; the first two may be one."""
    segments_wf, registration_wf = stages[-1], stages[-2]
    return (stages[-3] if len(stages) > 2 else registration_wf), registration_wf, segments_wf
