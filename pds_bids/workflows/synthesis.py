"""Synthesis and refinement in a process of their own, and the way back to the native space."""

from nipype.pipeline import engine as pe

from pds_bids.interfaces.quality import Fidelity, ParcelTable
from pds_bids.interfaces.synthesis import SYNTHETIC_FIELDS, NameSources, Synthesize, SyntheticToNative
from pds_bids.modalities import MODALITIES, Direction
from pds_bids.workflows.nodes import identity

__all__ = ["init_synthesis_wf"]


def init_synthesis_wf(
    direction: Direction,
    *,
    method: str,
    model_dir: str,
    weights_sha256: str,
    random_seed: int,
    seed_names: list[str],
    device: str,
    use_gpu: bool,
    omp_nthreads: int,
    has_acquired: bool,
    name: str = "synthesis_wf",
) -> pe.Workflow:
    """Build the synthesis of one modality.

    The process ``pds-bids-synth`` synthesises on a coarse lattice and refines on the model grid, guided by
    the source at full resolution; both happen in the network of the method.

    Parameters
    ----------
    direction : Direction
        What is read and what is written.
    method, model_dir, weights_sha256 : str
        Method, its bundle, and the checksum that makes new weights a new computation.
    random_seed : int
        Master seed.
    seed_names : list of str
        Participant and session; every volume's seed derives from them.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    use_gpu : bool
        Whether the node claims a GPU slot.
    omp_nthreads : int
        Threads of the process.
    has_acquired : bool
        Whether the acquired target is there to compare with.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    source, source_b0, mask
        4D on the model grid: overall mean, then segments; brain mask.
    t1w
        The person's T1w on the model grid, when there is one.
    t1w_problem
        Why it does not fit the source; it is not used then.
    native_mask, native2template
        Of the source, for the way back.
    template, channels
        From `FetchTemplate`.
    plausibility
        Why the source may not be what its name says, for the sidecars.
    acquired, acquired_b0, acquired_fa, acquired_md, acquired_mask
        Target on the model grid, when it was acquired.

    Outputs
    -------
    mean, std, b0_mean, b0_std, fa_mean, fa_std, md_mean, md_std
        4D on the model grid.
    native_mean, native_std, native_b0_mean, ..., native_mask
        4D on the grid of the source, and where there is a prediction.
    metadata
        Model, seeds, device.
    qc
        Quality, and fidelity where the target was acquired.
    parcels
        Parcel means of every segment.
    """
    workflow = pe.Workflow(name=name)
    maps = SYNTHETIC_FIELDS
    inputs = ["source", "source_b0", "t1w", "mask", "native_mask", "native2template", "template", "channels"]
    inputs += ["t1w_problem", "plausibility"]
    acquired = ["acquired", "acquired_b0", "acquired_fa", "acquired_md", "acquired_mask"]
    inputnode = identity([*inputs, *acquired], name="inputnode")
    native = [f"native_{field}" for field in ["mask", *maps]]
    outputnode = identity([*maps, *native, "metadata", "qc", "parcels"], name="outputnode")

    synthesize = pe.Node(
        Synthesize(
            target=str(direction.target),
            method=method,
            model_dir=model_dir,
            weights_sha256=weights_sha256,
            seed=random_seed,
            seed_names=seed_names,
            device=device,
            use_gpu=use_gpu,
            num_threads=omp_nthreads,
        ),
        name="synthesize",
        n_procs=1 if use_gpu else omp_nthreads,
        mem_gb=2,
    )
    contrasts = [str(contrast) for contrast in MODALITIES[direction.source].sources]
    sources = pe.Node(NameSources(contrasts=contrasts), name="sources", run_without_submitting=True)
    to_native = pe.Node(SyntheticToNative(), name="to_native", mem_gb=0.5)
    parcels = pe.Node(ParcelTable(), name="parcels", mem_gb=0.5)
    fidelity = pe.Node(
        Fidelity(direction=str(direction), model_dir=model_dir),
        name="fidelity",
        mem_gb=2 if has_acquired else 0.5,
    )
    shared = [(field, field) for field in maps]
    workflow.connect([
        (inputnode, sources, [("source", "first"), ("source_b0", "second"), ("t1w", "t1w")]),
        (inputnode, sources, [("t1w_problem", "t1w_problem")]),
        (sources, synthesize, [("sources", "sources")]),
        (inputnode, synthesize, [("mask", "mask"), ("channels", "template")]),
        (inputnode, synthesize, [("plausibility", "plausibility")]),
        (inputnode, to_native, [("native_mask", "mask"), ("native2template", "native2template")]),
        (inputnode, to_native, [("mask", "template_mask")]),
        (synthesize, to_native, shared),
        (synthesize, parcels, [("mean", "in_file")]),
        (inputnode, parcels, [("mask", "mask"), ("template", "template")]),
        (synthesize, fidelity, [(f, f) for f in ("mean", "std", "b0_mean", "fa_mean", "md_mean")]),
        (inputnode, fidelity, [(f, f) for f in ("source", "source_b0", "mask")]),
        (sources, fidelity, [("t1w", "t1w")]),
        (synthesize, fidelity, [("metadata", "metadata")]),
        (inputnode, fidelity, [("template", "template"), ("channels", "channels")]),
        (synthesize, outputnode, [*shared, ("metadata", "metadata")]),
        (to_native, outputnode, [(field, f"native_{field}") for field in ["mask", *maps]]),
        (parcels, outputnode, [("out_file", "parcels")]),
        (fidelity, outputnode, [("out_file", "qc")]),
    ])  # fmt: skip
    if has_acquired:
        workflow.connect([(inputnode, fidelity, [(field, field) for field in acquired])])
    return workflow
