#!/usr/bin/env python
"""The whole way of one participant as a part of a Nipype workflow: raw series to synthetic counterpart.

A node of nilearn smooths what comes out, to show where your own nodes go:

    python full_pipeline.py BIDS_DIR WORK_DIR --participant-label 01
"""

import argparse
from pathlib import Path

from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from pds_bids.config import RunConfig
from pds_bids.modalities import Modality
from pds_bids.planning import make_plan
from pds_bids.workflows.pds import init_pds_wf


def main() -> None:
    """Plan as the app does, build the workflow, and run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="receives everything")
    parser.add_argument("--participant-label", nargs="+", required=True, metavar="LABEL", help="without sub-")
    parser.add_argument("--n-segments", type=int, default=10, metavar="N")
    parser.add_argument("--plugin", default="MultiProc", help="any plugin of Nipype (default: MultiProc)")
    parser.add_argument("--nprocs", type=int, default=2, metavar="N")
    parser.add_argument("--sloppy", action="store_true", help="coarse and fast, to try it out")
    arguments = parser.parse_args()

    workflow = pe.Workflow(name="full_pipeline_wf", base_dir=str(arguments.work_dir.resolve()))
    config = RunConfig(
        bids_dir=arguments.bids_dir,
        output_dir=arguments.work_dir / "unused",
        work_dir=arguments.work_dir / "pds",
        participant_label=tuple(arguments.participant_label),
    )
    for session in make_plan(config).sessions:
        for direction in session.directions:
            source = session.bold if direction.source is Modality.BOLD else session.dwi
            pds_wf = init_pds_wf(
                source,
                has_t1w=session.t1w is not None,
                seed_names=session.label.split(),
                n_segments=arguments.n_segments,
                sloppy=arguments.sloppy,
                name=f"{session.name}_{direction}",
            )
            if session.t1w is not None:
                pds_wf.inputs.inputnode.t1w = str(session.t1w)
            smooth = pe.Node(
                Function(input_names=["in_file", "fwhm_mm"], output_names=["out_file"], function=smoothed),
                name=f"smooth_{session.name}_{direction}",
            )
            smooth.inputs.fwhm_mm = 6.0
            workflow.connect(pds_wf, "outputnode.synthetic", smooth, "in_file")
    executed = workflow.run(plugin=arguments.plugin, plugin_args={"n_procs": arguments.nprocs})
    for node in executed.nodes():
        if node.name.startswith(("named", "smooth")) and node.result:
            print(node.result.outputs)


def smoothed(in_file: str, fwhm_mm: float) -> str:
    """Smooth an image; its name still says that it is synthetic."""
    from pathlib import Path

    from nilearn.image import smooth_img

    out_file = Path.cwd() / Path(in_file).name.replace("desc-synthetic", "desc-synthetic+smooth")
    smooth_img(in_file, fwhm_mm).to_filename(out_file)
    return str(out_file)


if __name__ == "__main__":
    main()
