#!/usr/bin/env python
"""Preprocess one BOLD series with the nodes of pds-bids: head motion, mean, brain mask, template, confounds.

python preprocess_bold.py sub-01_task-rest_bold.nii.gz WORK_DIR
"""

import argparse
from pathlib import Path

from nipype.pipeline import engine as pe

from pds_bids.bids.metadata import read_metadata
from pds_bids.bids.series import Series
from pds_bids.interfaces.template import FetchTemplate
from pds_bids.modalities import Modality
from pds_bids.workflows.bold import init_bold_wf
from pds_bids.workflows.nodes import connect_by_name, identity
from pds_bids.workflows.series import init_registration_wf, init_segments_wf


def main() -> None:
    """Build the workflow, run it, and say where the results are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bold", type=Path, metavar="BOLD", help="4D NIfTI, with its JSON beside it")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="receives everything")
    parser.add_argument("--n-segments", type=int, default=10, metavar="N")
    parser.add_argument("--sloppy", action="store_true", help="coarse and fast, to try it out")
    arguments = parser.parse_args()
    bold = arguments.bold.resolve()
    series = Series(Modality.BOLD, bold, read_metadata(bold, bold.parent), {})

    template = pe.Node(FetchTemplate(), name="template")
    known = identity(["template"], name="known")
    bold_wf = init_bold_wf(series, dummy_scans=None, omp_nthreads=1)
    registration_wf = init_registration_wf(
        Modality.BOLD, has_t1w=False, sloppy=arguments.sloppy, omp_nthreads=1
    )
    segments_wf = init_segments_wf(
        series, n_segments=arguments.n_segments, segment_scheme="balanced", fd_spike_threshold=0.5
    )
    workflow = pe.Workflow(name="preprocess_bold_wf", base_dir=str(arguments.work_dir.resolve()))
    workflow.connect(template, "template", known, "template")
    # Outputs go to the inputs of the same name, as in the app.
    connect_by_name(workflow, [known, bold_wf, registration_wf, segments_wf])
    executed = workflow.run()
    for node in executed.nodes():
        if node.name in ("brain", "direct", "resample", "confounds"):
            print(f"{node.name}: {node.output_dir()}")


if __name__ == "__main__":
    main()
