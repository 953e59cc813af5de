#!/usr/bin/env python
"""Synthesise the missing modality from outputs of fMRIPrep or QSIPrep, inside a Nipype workflow of your own.

A node of Nipype finds the files, `init_pds_synth_wf` synthesises, and a node of nilearn takes the result:

    python synthesize_after_fmriprep.py FMRIPREP_DIR WORK_DIR --participant-label 01
    python synthesize_after_fmriprep.py QSIPREP_DIR WORK_DIR --participant-label 01 --source dwi
"""

import argparse
import json
from pathlib import Path

from nipype.interfaces.io import SelectFiles
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from pds_bids.workflows.pds import init_pds_synth_wf

# Where fMRIPrep's `--output-spaces MNI152NLin2009cAsym` and QSIPrep's ACPC outputs lie.
TEMPLATE = "space-MNI152NLin2009cAsym*"
FILES = {
    "bold": {
        "series_file": f"func/*_{TEMPLATE}_desc-preproc_bold.nii.gz",
        "mask_file": f"func/*_{TEMPLATE}_desc-brain_mask.nii.gz",
        "confounds_file": "func/*_desc-confounds_timeseries.tsv",
    },
    "dwi": {
        "series_file": "dwi/*_space-ACPC_desc-preproc_dwi.nii.gz",
        "mask_file": "dwi/*_space-ACPC_desc-brain_mask.nii.gz",
        "confounds_file": "dwi/*_desc-confounds_timeseries.tsv",
        "bval_file": "dwi/*_space-ACPC_desc-preproc_dwi.bval",
        "bvec_file": "dwi/*_space-ACPC_desc-preproc_dwi.bvec",
        "transforms": "anat/*_from-ACPC_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    },
}


def main() -> None:
    """Build the workflow and run it."""
    arguments = parse()
    grab = init_grabber(arguments)
    pds_synth_wf = init_pds_synth_wf(
        arguments.source,
        made_by=made_by(arguments.derivatives),
        seed_names=[f"sub-{arguments.participant_label}"]
        + ([f"ses-{arguments.session_label}"] if arguments.session_label else []),
        random_seed=arguments.random_seed,
        n_segments=arguments.n_segments,
        device=arguments.device,
        omp_nthreads=arguments.omp_nthreads,
    )
    # Somebody else's node: nilearn averages every synthetic segment in the parcels of an atlas.
    parcels = pe.Node(
        Function(input_names=["in_file"], output_names=["out_file"], function=parcel_means), name="parcels"
    )

    workflow = pe.Workflow(name="after_fmriprep_wf", base_dir=str(arguments.work_dir.resolve()))
    workflow.connect([
        (grab, pds_synth_wf, [(field, f"inputnode.{field}") for field in FILES[arguments.source]]),
        (pds_synth_wf, parcels, [("outputnode.segments", "in_file")]),
    ])  # fmt: skip
    executed = workflow.run(plugin=arguments.plugin, plugin_args={"n_procs": arguments.nprocs})
    for node in executed.nodes():
        if node.name in ("named", "parcels") and node.result:
            print(node.result.outputs)


def init_grabber(arguments: argparse.Namespace) -> pe.Node:
    """Return a node of Nipype that finds the files of one participant."""
    folder = f"sub-{arguments.participant_label}"
    if arguments.session_label:
        folder += f"/ses-{arguments.session_label}"
    templates = {field: f"{folder}/{pattern}" for field, pattern in FILES[arguments.source].items()}
    grabber = SelectFiles(
        templates,
        base_directory=str(arguments.derivatives.resolve()),
        force_lists=["transforms"] if "transforms" in templates else False,
    )
    return pe.Node(grabber, name="grab")


def parcel_means(in_file: str) -> str:
    """Average every volume in the parcels of the atlas that comes with pds-bids, by nilearn."""
    import csv
    from pathlib import Path

    import pandas as pd
    from nilearn.maskers import NiftiLabelsMasker

    from pds_bids.template import get_template

    atlas = get_template(Path.cwd())
    with atlas.atlas_labels.open(newline="") as stream:
        names = {int(row["index"]): row["name"] for row in csv.DictReader(stream, delimiter="\t")}
    masker = NiftiLabelsMasker(atlas.atlas)
    table = pd.DataFrame(masker.fit_transform(in_file))
    table.columns = [names[index] for index in masker.labels_ if index]
    out_file = Path.cwd() / "desc-synthetic_parcels.tsv"
    table.to_csv(out_file, sep="\t", index=False)
    return str(out_file)


def made_by(derivatives: Path) -> str:
    """Return name and version of the pipeline that wrote a folder."""
    description = json.loads((derivatives / "dataset_description.json").read_text())
    generator = description.get("GeneratedBy", [{}])[0]
    return f"{generator.get('Name', 'a pipeline')} {generator.get('Version', '')}".strip()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("derivatives", type=Path, metavar="DERIVATIVES", help="folder with the sub- folders")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="receives everything")
    parser.add_argument("--participant-label", required=True, metavar="LABEL", help="without sub-")
    parser.add_argument("--session-label", metavar="LABEL", help="without ses-")
    parser.add_argument("--source", choices=list(FILES), default="bold", help="what was acquired")
    parser.add_argument("--n-segments", type=int, default=10, metavar="N")
    parser.add_argument("--random-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--plugin", default="MultiProc", help="any plugin of Nipype (default: MultiProc)")
    parser.add_argument("--nprocs", type=int, default=2, metavar="N")
    parser.add_argument("--omp-nthreads", type=int, default=1, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
