"""Susceptibility distortion of a series: field, verdict, and what resampling needs."""

from nipype.pipeline import engine as pe

from pds_bids.bids.fieldmaps import Fieldmap, FieldmapKind
from pds_bids.bids.series import Series
from pds_bids.exceptions import UsageError
from pds_bids.interfaces.distortion import EstimateField, FieldFromBlipGroups, fieldmap_spec
from pds_bids.workflows.nodes import identity

__all__ = ["init_distortion_wf"]

OUTPUTS = ["distortion", "hz", "corrected", "qc"]


def init_distortion_wf(
    series: Series, fieldmap: Fieldmap, *, omp_nthreads: int, mem_gb: float, name: str = "distortion_wf"
) -> pe.Workflow:
    """Build the estimate of the field of one series from its fieldmap.

    .. workflow::
        :graph2use: orig
        :simple_form: yes

        from pathlib import Path
        from pds_bids.bids.series import Series
        from pds_bids.bids.fieldmaps import EchoPlanar, Fieldmap, FieldmapKind
        from pds_bids.modalities import Modality
        from pds_bids.workflows.distortion import init_distortion_wf
        path = Path("sub-01_task-rest_bold.nii.gz")
        series = Series(Modality.BOLD, path, {}, {"sub": "01"})
        own = EchoPlanar(path, "j", 0.05)
        fieldmap = Fieldmap(FieldmapKind.PHASEDIFF, "IntendedFor", own)
        wf = init_distortion_wf(series, fieldmap, omp_nthreads=1, mem_gb=1)

    Parameters
    ----------
    series : Series
        Acquired series.
    fieldmap : Fieldmap
        From `find_fieldmap`.
    omp_nthreads : int
        Threads per node.
    mem_gb : float
        Memory of the node.
    name : str
        Name of the workflow.

    Returns
    -------
    Workflow

    Inputs
    ------
    distorted_mean
        Mean of the realigned series (DWI: mean b0), RAS+, nothing undone.
    n_volumes
        Length of the series.
    t1w, t1w_mask
        T1w image without its bias field and its brain mask, when there is one.
    b0_files, groups, motion
        Of a pair of diffusion series only, instead of the first two: mean b0 of either series in its own
        reference, group of every volume of the joined series, and its motion within the groups.

    Outputs
    -------
    distortion
        Field and readout of every volume; undefined when the field failed its checks.
    hz, corrected
        Field, and the mean undone.
    qc
        JSON.
    motion, volumes
        Of a pair only: motion referred to group 0, and the volumes that may be averaged.

    Raises
    ------
    UsageError
        If the fieldmap is a pair without its partner.
    """
    workflow = pe.Workflow(name=name)
    anatomy = ["t1w", "t1w_mask"]
    is_pair = fieldmap.kind is FieldmapKind.DWI_PAIR
    own = ["b0_files", "groups", "motion"] if is_pair else ["distorted_mean", "n_volumes"]
    inputnode = identity([*own, *anatomy], name="inputnode")
    outputs = [*OUTPUTS, "motion", "volumes"] if is_pair else OUTPUTS
    outputnode = identity(outputs, name="outputnode")
    if is_pair:
        if fieldmap.partner is None:
            raise UsageError(f"{series.path.name}: a pair of diffusion series without the second series")
        interface = FieldFromBlipGroups(
            stored=[str(series.path), str(fieldmap.partner.path)],
            metadata=[fieldmap.series.metadata, fieldmap.epis[0].metadata],
            how=fieldmap.how,
            notes=list(fieldmap.notes),
            num_threads=omp_nthreads,
        )
    else:
        interface = EstimateField(
            spec=fieldmap_spec(fieldmap),
            files=[str(path) for path in fieldmap.files],
            num_threads=omp_nthreads,
        )
    estimate = pe.Node(interface, name="estimate", n_procs=omp_nthreads, mem_gb=mem_gb)
    workflow.connect([
        (inputnode, estimate, [(field, field) for field in (*own, *anatomy)]),
        (estimate, outputnode, [(field, field) for field in outputs]),
    ])  # fmt: skip
    return workflow
