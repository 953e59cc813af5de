#!/usr/bin/env python
"""Preprocess one diffusion series with the nodes of pds-bids: motion, eddy currents, template, tensor.

python preprocess_dwi.py sub-01_dwi.nii.gz WORK_DIR
"""

import argparse
from pathlib import Path

import nibabel as nib
from nipype.pipeline import engine as pe

from pds_bids.bids.metadata import read_metadata
from pds_bids.bids.series import Series
from pds_bids.interfaces.template import FetchTemplate
from pds_bids.modalities import Modality
from pds_bids.workflows.dwi import init_dwi_maps_wf, init_dwi_wf
from pds_bids.workflows.nodes import connect_by_name, identity
from pds_bids.workflows.series import init_registration_wf, init_segments_wf


def main() -> None:
    """Build the workflow, run it, and say where the results are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dwi", type=Path, metavar="DWI", help="4D NIfTI, with .bval, .bvec and JSON beside it"
    )
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="receives everything")
    parser.add_argument("--n-segments", type=int, default=10, metavar="N")
    parser.add_argument("--sloppy", action="store_true", help="coarse and fast, to try it out")
    arguments = parser.parse_args()
    dwi = arguments.dwi.resolve()
    tables = {kind: dwi.with_name(f"{dwi.name.split('.')[0]}.{kind}") for kind in ("bval", "bvec")}
    n_volumes = nib.load(dwi).shape[3]
    series = Series(Modality.DWI, dwi, read_metadata(dwi, dwi.parent), {}, **tables, n_volumes=n_volumes)

    template = pe.Node(FetchTemplate(), name="template")
    known = identity(["template"], name="known")
    dwi_wf = init_dwi_wf(series, sloppy=arguments.sloppy, omp_nthreads=1)
    registration_wf = init_registration_wf(
        Modality.DWI, has_t1w=False, sloppy=arguments.sloppy, omp_nthreads=1
    )
    segments_wf = init_segments_wf(
        series, n_segments=arguments.n_segments, segment_scheme="balanced", fd_spike_threshold=0.5
    )
    maps_wf = init_dwi_maps_wf(mem_gb=2)
    workflow = pe.Workflow(name="preprocess_dwi_wf", base_dir=str(arguments.work_dir.resolve()))
    workflow.connect(template, "template", known, "template")
    # Outputs go to the inputs of the same name, as in the app.
    connect_by_name(workflow, [known, dwi_wf, registration_wf, segments_wf, maps_wf])
    executed = workflow.run()
    for node in executed.nodes():
        if node.name in ("brain", "direct", "resample", "tensor"):
            print(f"{node.name}: {node.output_dir()}")


if __name__ == "__main__":
    main()
