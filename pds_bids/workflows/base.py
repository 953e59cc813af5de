"""The graph of a run: one workflow per session, from acquired series to reports.

The only place below the command line that sees the configuration; every builder gets what it needs by name.
"""

import os
from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.names import log_dir, output_path
from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.devices import visible_gpus
from pds_bids.inference.card import checked_weights_sha256, default_model_dir
from pds_bids.interfaces.registration import RegisterT1w, ResampleT1w
from pds_bids.interfaces.synthesis import SYNTHETIC_FIELDS
from pds_bids.interfaces.template import FetchTemplate
from pds_bids.modalities import MAP_UNITS, Direction, Modality
from pds_bids.options import Device, Ignore
from pds_bids.plan import Action, Plan, SessionPlan
from pds_bids.template import ATLAS_NAME
from pds_bids.workflows.bold import init_bold_wf
from pds_bids.workflows.derivatives import init_series_derivatives_wf, save_synthetic, save_t1w
from pds_bids.workflows.dwi import init_dwi_maps_wf, init_dwi_wf
from pds_bids.workflows.nodes import connect_by_name, identity
from pds_bids.workflows.precomputed import init_precomputed_wf
from pds_bids.workflows.report import init_anat_figure, init_series_report_wf, init_synthetic_report_wf
from pds_bids.workflows.series import init_registration_wf, init_segments_wf, timeseries_mem_gb
from pds_bids.workflows.synthesis import init_synthesis_wf

__all__ = ["init_modality_wf", "init_pds_bids_wf", "init_session_wf"]

#: Name of the workflow, and of its folder in the work folder, which has a folder for each session.
WORKFLOW = "pds_bids_wf"


def init_pds_bids_wf(plan: Plan, config: RunConfig) -> pe.Workflow:
    """Build the graph of a run.

    Parameters
    ----------
    plan : Plan
        Sessions whose action is ``run`` are built.
    config : RunConfig
        Options.

    Returns
    -------
    Workflow
        One node for the template, one workflow per session.
    """
    workflow = pe.Workflow(name=WORKFLOW, base_dir=str(config.work_dir))
    fetch = FetchTemplate(
        cache_dir=str(config.work_dir / "caches" / "templates"),
        templateflow_home=os.environ.get("TEMPLATEFLOW_HOME", ""),
    )
    template = pe.Node(fetch, name="template", mem_gb=1)
    for session in plan.with_action(Action.RUN):
        session_wf = init_session_wf(session, plan, config)
        _report_crashes_to(
            session_wf, config.output_dir / log_dir(session.participant, config.run_uuid), config
        )
        workflow.connect([
            (template, session_wf, [("template", "inputnode.template"), ("channels", "inputnode.channels")]),
        ])  # fmt: skip
    return workflow


def init_session_wf(session: SessionPlan, plan: Plan, config: RunConfig) -> pe.Workflow:
    """Build what is done for one session.

    Parameters
    ----------
    session : SessionPlan
        What is there and what is to be synthesised.
    plan : Plan
        For the folder of the dataset.
    config : RunConfig
        Options.

    Returns
    -------
    Workflow

    Inputs
    ------
    template, channels
        From `FetchTemplate`.
    """
    workflow = pe.Workflow(name=session.name)
    inputnode = identity(["template", "channels"], name="inputnode")
    threads = config.omp_nthreads or 1
    anat = anat_on_grid = None
    needs_anat = any(
        series is not None and session.derivatives(series.modality) is None
        for series in (session.bold, session.dwi)
    )
    if session.t1w is not None and needs_anat:
        anat = pe.Node(
            RegisterT1w(in_file=str(session.t1w), sloppy=config.sloppy, num_threads=threads),
            name="anat",
            n_procs=threads,
            mem_gb=1.5,
        )
        figure = init_anat_figure(session, config.output_dir)
        anat_on_grid = pe.Node(ResampleT1w(), name="anat_on_grid", mem_gb=0.5)
        save = save_t1w(session, bids_dir=plan.bids_dir, output_dir=config.output_dir)
        workflow.connect([
            (inputnode, anat, [("template", "template")]),
            (inputnode, anat_on_grid, [("template", "template")]),
            (anat, anat_on_grid, [("out_file", "in_file"), ("template2native", "template2native")]),
            (anat_on_grid, save, [("out_file", "template_t1w")]),
            (inputnode, figure, [("template", "template")]),
            (anat, figure, [("out_file", "in_file"), ("mask", "mask"), ("gate", "gate")]),
            (anat, figure, [("template2native", "template2native")]),
        ])  # fmt: skip
    acquired = {}
    for series in (session.bold, session.dwi):
        if series is not None:
            acquired[series.modality] = init_modality_wf(series, session, plan, config)
            _connect_modality(workflow, inputnode, anat, acquired[series.modality])
    for direction in session.directions:
        synthesis_wf = _add_synthesis(
            workflow, session, plan, config, direction, direction.target in acquired
        )
        _connect_synthesis(workflow, inputnode, synthesis_wf, acquired, direction)
        if anat_on_grid is not None:
            workflow.connect(anat_on_grid, "out_file", synthesis_wf, "inputnode.t1w")
    return workflow


def init_modality_wf(series: Series, session: SessionPlan, plan: Plan, config: RunConfig) -> pe.Workflow:
    """Build the preprocessing of one acquired series, its outputs and its figures.

    Parameters
    ----------
    series : Series
        What was acquired.
    session : SessionPlan
        For what a reader should know, and whether there is a T1w image.
    plan : Plan
        For the folder of the dataset.
    config : RunConfig
        Options.

    Returns
    -------
    Workflow

    Inputs
    ------
    template
        From `FetchTemplate`.
    t1w, t1w_mask, template2t1w, t1w_gate
        When there is a T1w image.

    Outputs
    -------
    stack, template_b0, template_fa, template_md, template_mask
        On the model grid.
    mask, native2template
        Native, for the way back.
    plausibility
        Why the series may not be what its name says.
    t1w_problem
        Why the T1w image does not fit it.
    """
    workflow = pe.Workflow(name=f"{series.modality}_preproc_wf")
    precomputed = session.derivatives(series.modality)
    has_t1w = session.t1w is not None and precomputed is None
    inputnode = identity(["template", "t1w", "t1w_mask", "template2t1w", "t1w_gate"], name="inputnode")
    outputs = ["stack", "template_b0", "template_fa", "template_md", "template_mask", "mask", "plausibility"]
    outputnode = identity([*outputs, "native2template", "t1w_problem"], name="outputnode")
    read = series if precomputed is None else precomputed.applied_to(series)
    segments_wf = init_segments_wf(
        read,
        n_segments=config.n_segments,
        segment_scheme=str(config.segment_scheme),
        fd_spike_threshold=config.fd_spike_threshold,
        has_confounds=precomputed is not None and precomputed.is_realigned,
    )
    derivatives_wf = init_series_derivatives_wf(
        read,
        bids_dir=plan.bids_dir,
        output_dir=config.output_dir,
        has_t1w=has_t1w,
        precomputed=precomputed,
        notes=_remarks(session, series.modality),
    )
    report_wf = init_series_report_wf(
        read,
        config.output_dir,
        fd_spike_threshold=config.fd_spike_threshold,
        has_fieldmap=session.fieldmap(series.modality) is not None,
    )
    maps = []
    if series.modality is Modality.DWI:
        maps.append(init_dwi_maps_wf(mem_gb=timeseries_mem_gb(read)))
    sources = _source_stages(series, session, config, has_t1w=has_t1w)
    connect_by_name(
        workflow, [inputnode, *sources, segments_wf, *maps, derivatives_wf, report_wf, outputnode]
    )
    return workflow


def _remarks(session: SessionPlan, modality: Modality) -> list[str]:
    """Return what the quality file of one modality should say of the plan: its own shortcomings."""
    other = f"{modality.other.upper()}:"
    is_listing_or_good = ("\n", "distortion is corrected with")
    return [
        note
        for note in session.notes
        if not note.startswith(other) and not any(part in note for part in is_listing_or_good)
    ]


def _source_stages(
    series: Series, session: SessionPlan, config: RunConfig, *, has_t1w: bool
) -> list[pe.Workflow]:
    """Return what leads from files to a series, its mean and mask, and its way to the template."""
    precomputed, fieldmap = session.derivatives(series.modality), session.fieldmap(series.modality)
    threads = config.omp_nthreads or 1
    if precomputed is not None:
        return [
            init_precomputed_wf(series, precomputed, dummy_scans=config.dummy_scans, omp_nthreads=threads)
        ]
    if series.modality is Modality.BOLD:
        series_wf = init_bold_wf(
            series,
            fieldmap=fieldmap,
            dummy_scans=config.dummy_scans,
            combine_echoes=config.combine_echoes,
            omp_nthreads=threads,
        )
    else:
        series_wf = init_dwi_wf(
            series,
            fieldmap=fieldmap,
            is_eddy_corrected=Ignore.EDDY not in config.ignore,
            denoise_method=config.denoise_method,
            unringing_method=config.unringing_method,
            sloppy=config.sloppy,
            omp_nthreads=threads,
        )
    figure = output_path("figure", series.entities, series.modality, extension=".png", desc="failed")
    registration_wf = init_registration_wf(
        series.modality,
        has_t1w=has_t1w,
        sloppy=config.sloppy,
        omp_nthreads=threads,
        failed_figure=str(config.output_dir / figure),
    )
    return [series_wf, registration_wf]


def _connect_modality(
    workflow: pe.Workflow, inputnode: pe.Node, anat: pe.Node | None, modality_wf: pe.Workflow
) -> None:
    workflow.connect(inputnode, "template", modality_wf, "inputnode.template")
    # Nobody takes the T1w image where another pipeline has registered the series.
    if anat is not None and modality_wf.get_node("registration_wf") is not None:
        workflow.connect([
            (anat, modality_wf, [("out_file", "inputnode.t1w"), ("mask", "inputnode.t1w_mask")]),
            (anat, modality_wf, [("template2native", "inputnode.template2t1w")]),
            (anat, modality_wf, [("gate", "inputnode.t1w_gate")]),
        ])  # fmt: skip


def _add_synthesis(
    workflow: pe.Workflow,
    session: SessionPlan,
    plan: Plan,
    config: RunConfig,
    direction: Direction,
    has_acquired: bool,
) -> pe.Workflow:
    """Add synthesis, outputs and figure of one direction, and return the synthesis workflow."""
    model_dir = config.model_dir or default_model_dir(config.method)
    synthesis_wf = init_synthesis_wf(
        direction,
        method=config.method,
        model_dir=str(model_dir),
        weights_sha256=checked_weights_sha256(model_dir),
        random_seed=config.random_seed,
        seed_names=session.label.split(),
        device=str(config.device),
        use_gpu=config.device is not Device.CPU and bool(visible_gpus()),
        omp_nthreads=config.omp_nthreads or 1,
        has_acquired=has_acquired,
        name=f"{direction}_wf",
    )
    save = save_synthetic(
        session,
        direction,
        bids_dir=plan.bids_dir,
        output_dir=config.output_dir,
        output_spaces=config.output_spaces,
        atlas=ATLAS_NAME,
        name=f"save_{direction}",
    )
    report_wf = init_synthetic_report_wf(session, direction, config.output_dir, has_acquired=has_acquired)
    maps = SYNTHETIC_FIELDS
    fields = [*maps, *(f"native_{field}" for field in ["mask", *maps]), "metadata", "qc", "parcels"]
    drawn = [f for f in maps if hasattr(report_wf.get_node("inputnode").inputs, f)]
    workflow.connect([
        (synthesis_wf, save, [(f"outputnode.{f}", f) for f in fields if hasattr(save.inputs, f)]),
        (synthesis_wf, report_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in drawn]),
    ])  # fmt: skip
    return synthesis_wf


def _connect_synthesis(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    synthesis_wf: pe.Workflow,
    acquired: dict[Modality, pe.Workflow],
    direction: Direction,
) -> None:
    source_wf, target_wf = acquired[direction.source], acquired.get(direction.target)
    save = workflow.get_node(f"save_{direction}")
    report_wf = workflow.get_node(f"{direction}_report_wf")
    handed_on = [("stack", "source"), ("template_b0", "source_b0"), ("template_mask", "mask")]
    handed_on += [("mask", "native_mask"), ("native2template", "native2template")]
    handed_on += [("plausibility", "plausibility"), ("t1w_problem", "t1w_problem")]
    workflow.connect([
        (inputnode, synthesis_wf, [("template", "inputnode.template"), ("channels", "inputnode.channels")]),
        (source_wf, synthesis_wf, [(f"outputnode.{a}", f"inputnode.{b}") for a, b in handed_on]),
        (source_wf, save, [("outputnode.template_mask", "mask")] if hasattr(save.inputs, "mask") else []),
        (inputnode, report_wf, [("template", "inputnode.template")]),
        (source_wf, report_wf, [("outputnode.stack", "inputnode.source")]),
        (source_wf, report_wf, [("outputnode.template_mask", "inputnode.mask")]),
    ])  # fmt: skip
    if target_wf is not None:
        handed_on = [("stack", "acquired"), ("template_b0", "acquired_b0")]
        handed_on += [("template_fa", "acquired_fa"), ("template_md", "acquired_md")]
        handed_on.append(("template_mask", "acquired_mask"))
        workflow.connect([
            (target_wf, synthesis_wf, [(f"outputnode.{a}", f"inputnode.{b}") for a, b in handed_on]),
            (target_wf, report_wf, [("outputnode.stack", "inputnode.acquired")]),
            (target_wf, report_wf, [
                (f"outputnode.template_{c}", f"inputnode.{c}_acquired")
                for c in direction.targets
                if c in MAP_UNITS
            ]),
        ])  # fmt: skip


def _report_crashes_to(workflow: pe.Workflow, folder: Path, config: RunConfig) -> None:
    """Let every node of a session leave its crash file with its participant."""
    for node in workflow.list_node_names():
        workflow.get_node(node).config = {
            "execution": {
                "crashdump_dir": str(folder),
                "crashfile_format": "txt",
                "stop_on_first_crash": str(config.stop_on_first_crash).lower(),
            }
        }
