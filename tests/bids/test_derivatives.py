"""What is found in derivative trees of several versions, and what is said about those that lack something."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.derivatives import (
    Level,
    Pipeline,
    find_derivatives,
    find_precomputed,
)
from pds_bids.bids.metadata import split_name
from pds_bids.bids.series import Series
from pds_bids.exceptions import UsageError
from pds_bids.modalities import Modality
from pds_bids.options import DERIVATIVES, Synthesize
from pds_bids.plan import Plan, SessionPlan

N_VOLUMES = 5
MNI = "MNI152NLin2009cAsym"
ANAT = f"sub-01/anat/sub-01_from-T1w_to-{MNI}_mode-image_xfm.h5"
ACPC = f"sub-01/anat/sub-01_from-ACPC_to-{MNI}_mode-image_xfm.h5"


@pytest.fixture
def make_tree(tmp_path):
    """Write a derivative dataset of tiny files and give its folder."""

    def make(names, pipeline="fMRIPrep", version="25.1.0", description=None, voxel_mm=None):
        root = tmp_path / "derivatives"
        root.mkdir(exist_ok=True)
        default = {"DatasetType": "derivative", "GeneratedBy": [{"Name": pipeline, "Version": version}]}
        (root / "dataset_description.json").write_text(json.dumps({"Name": "x", **(description or default)}))
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith((".nii.gz", ".nii")):
                shape = (2, 2, 2, N_VOLUMES) if "preproc" in name else (2, 2, 2)
                size = (voxel_mm or {}).get(name, 2.0)
                nib.Nifti1Image(np.ones(shape, np.int16), np.diag([size] * 3 + [1])).to_filename(path)
            else:
                path.write_text("something")
        return root

    return make


def acquired(name, n_volumes=N_VOLUMES):
    entities, suffix, _ = split_name(name)
    return Series(Modality(suffix), Path("/raw") / name, {}, entities, n_volumes=n_volumes)


def look(root, name, pipeline=Pipeline.FMRIPREP, n_volumes=N_VOLUMES):
    return find_precomputed(find_derivatives(root, pipeline), acquired(name, n_volumes))


def func(*names, prefix="sub-01/func/sub-01_task-rest"):
    return [f"{prefix}_{name}" for name in names]


def dwi(*names, prefix="sub-01/dwi/sub-01"):
    return [f"{prefix}_{name}" for name in names]


CONFOUNDS = "desc-confounds_timeseries.tsv"
CURRENT_FIT = ["desc-brain_mask.nii.gz", "desc-hmc_boldref.nii.gz", "desc-coreg_boldref.nii.gz"]
CURRENT_FIT += ["from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"]
CURRENT_FIT += ["from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"]
IN_T1W = ["space-T1w_desc-preproc_bold.nii.gz", "space-T1w_desc-brain_mask.nii.gz"]
IN_MNI = [f"space-{MNI}_res-2_desc-preproc_bold.nii.gz", f"space-{MNI}_res-2_desc-brain_mask.nii.gz"]
GRADIENTS = [f"space-ACPC_desc-preproc_dwi.{kind}" for kind in ("nii.gz", "bval", "bvec", "b")]

LAYOUTS = {
    "current, all spaces": (
        func(*CURRENT_FIT, "desc-preproc_bold.nii.gz", *IN_T1W, *IN_MNI, CONFOUNDS),
        Level.ACQUIRED,
        "sub-01_task-rest_desc-preproc_bold.nii.gz",
    ),
    "current, T1w": (func(*CURRENT_FIT, *IN_T1W, *IN_MNI, CONFOUNDS), Level.ANATOMICAL, "space-T1w_desc-"),
    "current, default spaces": (
        func(*CURRENT_FIT, *IN_MNI, CONFOUNDS),
        Level.TEMPLATE,
        "_res-2_desc-preproc",
    ),
    "current, --level minimal": (func(*CURRENT_FIT), Level.TRANSFORMS, None),
    "development version": (
        func(
            "space-run_desc-brain_mask.nii.gz",
            "from-orig_to-run_mode-image_desc-hmc_xfm.txt",
            "from-run_to-T1w_mode-image_desc-coreg_xfm.txt",
            "desc-preproc_bold.nii.gz",
            CONFOUNDS,
        ),
        Level.ACQUIRED,
        "sub-01_task-rest_desc-preproc_bold.nii.gz",
    ),
    "development version, --level minimal": (
        func(
            "space-run_desc-brain_mask.nii.gz",
            "from-orig_to-run_mode-image_desc-hmc_xfm.txt",
            "from-run_to-T1w_mode-image_desc-coreg_xfm.txt",
        ),
        Level.TRANSFORMS,
        None,
    ),
    "22, func and T1w": (
        func(
            "desc-preproc_bold.nii.gz",
            "desc-brain_mask.nii.gz",
            "from-scanner_to-T1w_mode-image_xfm.txt",
            "from-T1w_to-scanner_mode-image_xfm.txt",
            *IN_T1W,
            CONFOUNDS,
        ),
        Level.ACQUIRED,
        "sub-01_task-rest_desc-preproc_bold.nii.gz",
    ),
    "1.5, template without res": (
        func(
            f"space-{MNI}_desc-preproc_bold.nii.gz",
            f"space-{MNI}_desc-brain_mask.nii.gz",
            "desc-confounds_regressors.tsv",
        ),
        Level.TEMPLATE,
        f"space-{MNI}_desc-preproc_bold.nii.gz",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_fmriprep(make_tree, name):
    files, level, series = LAYOUTS[name]
    found = look(make_tree([*files, ANAT]), "sub-01_task-rest_bold.nii.gz")
    assert found.level is level, found.listing()
    assert not found.problem
    if series is None:
        assert not found.is_realigned
        assert found.files["hmc"].name.endswith("hmc_xfm.txt")
    else:
        assert series in found.files["series"].name
        assert found.files["confounds"].suffix == ".tsv"
    transforms = [path.name for path in found.transforms]
    n_expected = {Level.ACQUIRED: 2, Level.TRANSFORMS: 2, Level.ANATOMICAL: 1, Level.TEMPLATE: 0}[level]
    assert len(transforms) == n_expected
    if n_expected:
        assert transforms[-1].endswith(f"from-T1w_to-{MNI}_mode-image_xfm.h5"), "nearest to the template last"


QSIPREP_LAYOUTS = {
    "1.x": (
        [*dwi(*GRADIENTS, "space-ACPC_desc-brain_mask.nii.gz", CONFOUNDS), ACPC],
        "sub-01_dwi.nii.gz",
        "ACPC",
    ),
    "1.x with sessions, anatomy outside of them": (
        [
            *dwi(
                *GRADIENTS,
                "space-ACPC_desc-brain_mask.nii.gz",
                CONFOUNDS,
                prefix="sub-01/ses-a/dwi/sub-01_ses-a_acq-x_run-1",
            ),
            ACPC,
        ],
        "sub-01_ses-a_acq-x_run-01_dwi.nii.gz",
        "ACPC",
    ),
    "1.x, resolution in the name": (
        [
            *dwi(
                *[name.replace("_desc", "_res-2mm_desc") for name in GRADIENTS],
                "space-ACPC_res-2mm_desc-brain_mask.nii.gz",
                CONFOUNDS,
            ),
            ACPC,
        ],
        "sub-01_dwi.nii.gz",
        "ACPC",
    ),
    "0.x": (
        [
            *dwi(
                *[name.replace("ACPC", "T1w") for name in GRADIENTS],
                "space-T1w_desc-brain_mask.nii.gz",
                "confounds.tsv",
                prefix="sub-01/dwi/sub-01_acq-x",
            ),
            ANAT,
        ],
        "sub-01_acq-x_dwi.nii.gz",
        "T1w",
    ),
}


@pytest.mark.parametrize("name", QSIPREP_LAYOUTS)
def test_layouts_of_qsiprep(make_tree, name):
    files, series, space = QSIPREP_LAYOUTS[name]
    found = look(make_tree(files, "qsiprep", "1.0.1"), series, Pipeline.QSIPREP)
    assert found.level is Level.ANATOMICAL, found.listing()
    assert (found.space, found.is_native) == (space, False)
    assert {"series", "bval", "bvec", "mask", "confounds", "anat"} == set(found.files)
    assert found.files["bvec"].name == found.files["series"].name.replace(".nii.gz", ".bvec")
    read = found.applied_to(acquired(series))
    assert (read.path, read.bvec, read.n_volumes) == (found.files["series"], found.files["bvec"], N_VOLUMES)
    # Images in another space than the scan's say so in their names.
    assert read.entities == acquired(series).entities | found.space_entities
    assert found.space_entities["space"] == space


def test_sources_are_named_by_dataset(make_tree):
    found = look(make_tree([*func(*IN_MNI, CONFOUNDS)]), "sub-01_task-rest_bold.nii.gz")
    assert found.uris[0] == f"bids:fmriprep:sub-01/func/sub-01_task-rest_{IN_MNI[0]}"
    assert len(found.uris) == 3


def test_joined_series_are_used_with_a_note(make_tree):
    files = dwi(*GRADIENTS, "space-ACPC_desc-brain_mask.nii.gz", CONFOUNDS)
    root = make_tree([*files, ACPC], "QSIPrep")
    found = look(root, "sub-01_dir-AP_run-2_dwi.nii.gz", Pipeline.QSIPREP, n_volumes=3)
    assert found.level is Level.ANATOMICAL
    assert "names no dir, run: several acquired series may be joined" in found.notes[0]


def test_fmriprep_never_joins_runs(make_tree):
    root = make_tree([*func(*IN_MNI, CONFOUNDS), ANAT])
    assert look(root, "sub-01_task-rest_run-1_bold.nii.gz").level is None


def test_files_of_another_run_task_or_acquisition_are_not_taken(make_tree):
    others = ["sub-01/func/sub-01_task-rest_run-2", "sub-01/func/sub-01_task-nback_run-1"]
    others += ["sub-01/func/sub-01_task-rest_acq-mb_run-1", "sub-01/func/sub-01_task-rest"]
    files = [name for prefix in others for name in func(*IN_MNI, CONFOUNDS, prefix=prefix)]
    root = make_tree(files)
    assert look(root, "sub-01_task-rest_run-1_bold.nii.gz").level is None
    assert look(root, "sub-01_task-rest_run-02_bold.nii.gz").level is Level.TEMPLATE


def test_anatomy_of_the_same_session_wins_then_none_then_another(make_tree):
    names = func(*IN_T1W, CONFOUNDS, prefix="sub-01/ses-2/func/sub-01_ses-2_task-rest")
    anats = {
        label: ANAT.replace("/anat/sub-01", f"/ses-{label}/anat/sub-01_ses-{label}") for label in ("1", "2")
    }
    series = "sub-01_ses-2_task-rest_bold.nii.gz"
    root = make_tree([*names, anats["1"]])
    found = look(root, series)
    assert found.files["anat"] == root / anats["1"]
    assert "the T1w image's way to the template is from ses-1" in found.notes
    make_tree([ANAT])
    assert look(root, series).files["anat"] == root / ANAT
    make_tree([anats["2"]])
    assert look(root, series).files["anat"] == root / anats["2"]
    assert not look(root, series).notes


def test_two_anatomies_that_fit_equally_are_not_chosen_between(make_tree):
    anats = [ANAT.replace("sub-01_", f"sub-01_run-{run}_") for run in (1, 2)]
    found = look(make_tree([*func(*IN_T1W, CONFOUNDS), *anats]), "sub-01_task-rest_bold.nii.gz")
    assert found.level is None
    assert "2 files fit and none fits better" in found.listing()


def test_the_combination_of_echoes_comes_before_the_echo(make_tree):
    prefix = "sub-01/func/sub-01_task-rest"
    files = [*func(*IN_MNI, CONFOUNDS), *func(*IN_MNI, prefix=f"{prefix}_echo-2")]
    found = look(make_tree(files), "sub-01_task-rest_echo-2_bold.nii.gz")
    assert "echo" not in found.files["series"].name
    assert "combination of the echoes" in found.notes[0]
    found.files["series"].unlink()
    found = look(found.dataset.root, "sub-01_task-rest_echo-2_bold.nii.gz")
    assert "echo-2" in found.files["series"].name
    assert found.files["confounds"].name == f"sub-01_task-rest_{CONFOUNDS}"


def test_the_resolution_next_to_the_model_grid_is_read(make_tree):
    sizes = {"res-1_": 1.0, "res-2_": 2.0, "res-native_": 3.0, "res-4_": 4.0}
    names = {}
    for label, size in sizes.items():
        for kind in ("desc-preproc_bold", "desc-brain_mask"):
            names[f"sub-01/func/sub-01_task-rest_space-{MNI}_{label}{kind}.nii.gz"] = size
    root = make_tree([*names, *func(CONFOUNDS)], voxel_mm=names)
    found = look(root, "sub-01_task-rest_bold.nii.gz")
    assert "res-native" in found.files["series"].name
    assert "res-native" in found.files["mask"].name
    assert "of 4 resolutions" in found.notes[0]


def test_another_template_is_no_use_and_is_listed(make_tree):
    other = "MNI152NLin6Asym"
    files = [name.replace(MNI, other) for name in [*func(*IN_MNI, CONFOUNDS), ANAT]]
    found = look(make_tree(files), "sub-01_task-rest_bold.nii.gz")
    assert found.level is None
    assert f"space-{other}_res-2_desc-preproc_bold.nii.gz" in found.listing()


def test_the_listing_says_what_was_found_missing_and_needed(make_tree):
    root = make_tree([*func(*IN_T1W)])
    found = look(root, "sub-01_task-rest_bold.nii.gz")
    assert found.level is None
    lines = [line.split() for line in found.listing().splitlines()]
    assert ["found", "series", "sub-01/func/sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz"] in lines
    assert ["missing", "anat", f"sub-01/[ses-*/]anat/sub-01[_*]_from-T1w_to-{MNI}_mode-image_xfm.h5"] in lines
    assert "nearest to complete is the set 'realigned series in the space of the T1w image'" in found.problem
    assert "confounds" in found.problem
    assert "anat" in found.problem
    assert "mask (" not in found.problem, "the mask is there"
    assert f"({root})" in found.listing()


def test_a_participant_who_is_not_there_is_a_problem(make_tree):
    root = make_tree([*func(*IN_MNI, CONFOUNDS)])
    found = look(root, "sub-02_task-rest_bold.nii.gz")
    assert found.level is None
    assert "files there: none" in found.listing()


def test_content_that_is_not_fetched_is_a_problem(make_tree):
    root = make_tree([*func(*IN_MNI, CONFOUNDS)])
    series = root / func(IN_MNI[0])[0]
    series.write_bytes(b"")
    found = look(root, "sub-01_task-rest_bold.nii.gz")
    assert found.level is None
    assert "datalad get" in found.problem


def test_a_series_of_another_length_is_another_scan(make_tree):
    found = look(make_tree([*func(*IN_MNI, CONFOUNDS)]), "sub-01_task-rest_bold.nii.gz", n_volumes=6)
    assert found.level is None
    assert "it has 5 volumes, the acquired series 6" in found.problem


def test_a_fieldmap_that_transforms_do_not_hold_is_noted(make_tree):
    fmap = "from-boldref_to-auto00000_mode-image_xfm.txt"
    root = make_tree([*func(*CURRENT_FIT, fmap), ANAT])
    assert "fieldmap" in look(root, "sub-01_task-rest_bold.nii.gz").notes[0]


def test_precomputed_survives_json(make_tree):
    for names in ([*func(*IN_MNI, CONFOUNDS)], []):
        found = look(make_tree(names), "sub-01_task-rest_bold.nii.gz")
        session = SessionPlan("01", bold_derivatives=found)
        plan = Plan("demo", Path("/data"), Synthesize.MISSING, (session,))
        assert Plan.from_json(plan.to_json()).sessions[0].bold_derivatives == found


def test_the_folder_must_be_of_the_pipeline_that_is_named(make_tree, tmp_path):
    root = make_tree([], "QSIPrep", "1.0.1")
    with pytest.raises(UsageError, match=r"made by qsiprep; use -d qsiprep="):
        find_derivatives(root, Pipeline.FMRIPREP)
    make_tree([], description={"BIDSVersion": "1.9.0"})
    with pytest.raises(UsageError, match="a raw dataset, not derivatives"):
        find_derivatives(root, Pipeline.FMRIPREP)
    make_tree([], description={"PipelineDescription": {"Name": "fMRIPrep", "Version": "20.0.5"}})
    assert find_derivatives(root, Pipeline.FMRIPREP).source == "fMRIPrep 20.0.5"


def test_a_folder_above_gets_a_hint(tmp_path):
    (tmp_path / "fmriprep").mkdir()
    with pytest.raises(UsageError, match=r"did you mean -d fmriprep=.*/fmriprep\?"):
        find_derivatives(tmp_path, Pipeline.FMRIPREP)


def test_pipelines_are_those_of_the_option():
    assert tuple(Pipeline) == DERIVATIVES


def test_the_pipeline_must_be_for_the_modality(make_tree):
    dataset = find_derivatives(make_tree([]), Pipeline.FMRIPREP)
    with pytest.raises(UsageError, match="does not preprocess DWI"):
        find_precomputed(dataset, acquired("sub-01_dwi.nii.gz"))
