import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pds_bids.bids.dataset import write_dataset_files
from pds_bids.bids.names import (
    OutputName,
    bidsignore,
    find_outputs,
    identify,
    log_dir,
    modalities_of,
    output_keys,
    output_path,
    report_path,
)
from pds_bids.bids.sidecars import Provenance, acquired_sidecar, mask_sidecar, synthetic_sidecar
from pds_bids.bids.write import write_json, write_nifti, write_text
from pds_bids.modalities import Direction, Modality

BOLD = {"sub": "01", "ses": "1", "task": "rest", "acq": "mb", "run": "02", "echo": "2"}
DWI = {"sub": "01", "ses": "1", "dir": "AP"}
SESSION = {"sub": "01", "ses": "1"}
ANAT = {"sub": "01", "ses": "1", "acq": "mprage"}
T = "space-MNI152NLin2009cAsym_res-3"
A = "space-MNI152NLin2009cAsym_atlas-AAL_res-3"
GROUP = ("roi", "roi_coverage", "connectivity")

# Every name once, written down by hand from the design.
NAMES = [
    (
        "mean",
        BOLD,
        Modality.BOLD,
        False,
        "func/sub-01_ses-1_task-rest_acq-mb_run-02_echo-2_desc-mean_boldref.nii.gz",
    ),
    ("mean", DWI, Modality.DWI, True, f"dwi/sub-01_ses-1_dir-AP_{T}_desc-mean_dwiref.nii.gz"),
    ("b0", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-b0_dwiref.nii.gz"),
    ("segments", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-segments_dwiref.nii.gz"),
    ("mask", DWI, Modality.DWI, True, f"dwi/sub-01_ses-1_dir-AP_{T}_desc-brain_mask.nii.gz"),
    (
        "hmc",
        DWI,
        Modality.DWI,
        False,
        "dwi/sub-01_ses-1_dir-AP_from-orig_to-dwiref_mode-image_desc-hmc_xfm.txt",
    ),
    (
        "ref2template",
        DWI,
        Modality.DWI,
        False,
        "dwi/sub-01_ses-1_dir-AP_from-dwiref_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz",
    ),
    (
        "template2ref",
        DWI,
        Modality.DWI,
        False,
        "dwi/sub-01_ses-1_dir-AP_from-MNI152NLin2009cAsym_to-dwiref_mode-image_xfm.nii.gz",
    ),
    ("ref2t1w", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_from-dwiref_to-T1w_mode-image_xfm.txt"),
    ("confounds", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-confounds_timeseries.tsv"),
    ("segment_table", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-segments_timeseries.tsv"),
    ("qc", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-image_qc.json"),
    (
        "parcels",
        DWI,
        Modality.DWI,
        True,
        "dwi/sub-01_ses-1_dir-AP_space-MNI152NLin2009cAsym_atlas-AAL_res-3_stat-mean_timeseries.tsv",
    ),
    # Of the level group: input and contrast are in the label.
    ("roi", DWI, Modality.DWI, True, f"dwi/sub-01_ses-1_dir-AP_{A}_stat-mean_desc-mean_timeseries.tsv"),
    ("roi_coverage", DWI, Modality.DWI, True, f"dwi/sub-01_ses-1_dir-AP_{A}_stat-coverage_desc-mean_qc.tsv"),
    (
        "connectivity",
        {"sub": "01", "ses": "1", "task": "rest"},
        Modality.BOLD,
        True,
        f"func/sub-01_ses-1_task-rest_{A}_stat-pearsoncorrelation_desc-mean_relmat.tsv",
    ),
    ("t1w", ANAT, None, False, "anat/sub-01_ses-1_acq-mprage_desc-preproc_T1w.nii.gz"),
    ("t1w_mask", ANAT, None, True, f"anat/sub-01_ses-1_acq-mprage_{T}_desc-brain_mask.nii.gz"),
    (
        "t1w2template",
        ANAT,
        None,
        False,
        "anat/sub-01_ses-1_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz",
    ),
    (
        "template2t1w",
        ANAT,
        None,
        False,
        "anat/sub-01_ses-1_from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.nii.gz",
    ),
    ("shells", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-shells_dwiref.nii.gz"),
    ("fa", DWI, Modality.DWI, True, f"dwi/sub-01_ses-1_dir-AP_{T}_model-tensor_param-fa_dwimap.nii.gz"),
    ("md", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_model-tensor_param-md_dwimap.nii.gz"),
    ("fieldmap", DWI, Modality.DWI, False, "dwi/sub-01_ses-1_dir-AP_desc-preproc_fieldmap.nii.gz"),
    # The source's task-, run- and dir- do not belong to the target, unless they tell two of them apart.
    (
        "synthetic",
        SESSION | {"run": "2"},
        Modality.DWI,
        True,
        f"dwi/sub-01_ses-1_run-2_{T}_desc-synthetic_dwiref.nii.gz",
    ),
    ("synthetic", SESSION, Modality.DWI, True, f"dwi/sub-01_ses-1_{T}_desc-synthetic_dwiref.nii.gz"),
    ("synthetic", SESSION, Modality.BOLD, False, "func/sub-01_ses-1_desc-synthetic_boldref.nii.gz"),
    (
        "synthetic_segments",
        SESSION,
        Modality.DWI,
        True,
        f"dwi/sub-01_ses-1_{T}_desc-synthetic+segments_dwiref.nii.gz",
    ),
    (
        "synthetic_std",
        SESSION,
        Modality.BOLD,
        True,
        f"func/sub-01_ses-1_{T}_desc-synthetic+std_boldref.nii.gz",
    ),
    ("synthetic_b0", SESSION, Modality.DWI, True, f"dwi/sub-01_ses-1_{T}_desc-synthetic+b0_dwiref.nii.gz"),
    ("synthetic_b0std", SESSION, Modality.DWI, False, "dwi/sub-01_ses-1_desc-synthetic+b0std_dwiref.nii.gz"),
    (
        "synthetic_fastd",
        SESSION,
        Modality.DWI,
        True,
        f"dwi/sub-01_ses-1_{T}_model-tensor_param-fa_desc-synthetic+std_dwimap.nii.gz",
    ),
    (
        "synthetic_md",
        SESSION,
        Modality.DWI,
        False,
        "dwi/sub-01_ses-1_model-tensor_param-md_desc-synthetic_dwimap.nii.gz",
    ),
    (
        "synthetic_fa",
        SESSION,
        Modality.DWI,
        True,
        f"dwi/sub-01_ses-1_{T}_model-tensor_param-fa_desc-synthetic_dwimap.nii.gz",
    ),
    (
        "synthetic_mdstd",
        SESSION,
        Modality.DWI,
        False,
        "dwi/sub-01_ses-1_model-tensor_param-md_desc-synthetic+std_dwimap.nii.gz",
    ),
    ("synthetic_mask", SESSION, Modality.DWI, False, "dwi/sub-01_ses-1_desc-synthetic+brain_mask.nii.gz"),
    ("synthetic_qc", SESSION, Modality.DWI, False, "dwi/sub-01_ses-1_desc-synthetic_qc.json"),
    (
        "synthetic_parcels",
        SESSION,
        Modality.DWI,
        True,
        "dwi/sub-01_ses-1_space-MNI152NLin2009cAsym_atlas-AAL_res-3_stat-mean_desc-synthetic_timeseries.tsv",
    ),
]


def free_of(key: str) -> dict[str, str]:
    if key.startswith("figure"):
        return {"desc": "coreg"}
    if key in GROUP:
        return {"atlas": "AAL", "desc": "mean"}
    return {"atlas": "AAL"} if key.endswith("parcels") else {}


@pytest.mark.parametrize(("key", "entities", "modality", "in_template", "expected"), NAMES)
def test_name(key, entities, modality, in_template, expected):
    path = output_path(key, entities, modality, in_template=in_template, **free_of(key))
    assert path == Path("sub-01/ses-1") / expected


def test_every_output_has_a_name_above():
    assert {key for key, *_ in NAMES} == {key for key in output_keys() if not key.startswith("figure")}


def every_output(entities: dict[str, str]) -> list[OutputName]:
    """Return every output in every form that exists."""
    outputs = []
    for key in output_keys():
        for modality, in_template in itertools.product(modalities_of(key), (False, True)):
            for extension in (".nii.gz", ".json", ".txt", ".tsv", ".svg"):
                name = OutputName(key, entities, modality, in_template, extension, free_of(key))
                try:
                    outputs.append((name, name.path))
                except ValueError:
                    continue
    return outputs


@pytest.mark.parametrize("entities", [BOLD, DWI, {"sub": "A"}, {"sub": "01", "task": "rest"}])
def test_every_name_can_be_read_back(entities):
    for name, path in every_output(entities):
        read = identify(path)
        assert read is not None, path
        assert (read.key, read.modality, read.in_template) == (name.key, name.modality, name.in_template)
        assert (read.extension, read.free, read.path) == (name.extension, name.free, path)
        kept = {key: value for key, value in entities.items() if f"{key}-{value}" in path.name}
        assert read.entities == kept


def test_names_are_distinct():
    paths = [path for _, path in every_output(BOLD)]
    assert len(paths) == len(set(paths))


def test_images_in_the_space_of_derivatives():
    entities = {"sub": "01", "space": "T1w"}
    image = output_path("mean", entities, Modality.DWI)
    assert image.name == "sub-01_space-T1w_desc-mean_dwiref.nii.gz"
    assert identify(image).entities == entities
    assert output_path("confounds", entities, Modality.DWI).name == "sub-01_desc-confounds_timeseries.tsv"
    in_template = output_path("mean", entities, Modality.DWI, in_template=True)
    assert in_template.name == f"sub-01_{T}_desc-mean_dwiref.nii.gz"


@pytest.mark.parametrize(
    "path",
    [
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-01/func/sub-01_desc-synthetic_dwiref.nii.gz",
        "sub-01/dwi/sub-01_space-T1w_desc-confounds_timeseries.tsv",
        "sub-02/dwi/sub-01_desc-mean_dwiref.nii.gz",
        "sub-01/dwi/sub-01_res-3_space-MNI152NLin2009cAsym_desc-mean_dwiref.nii.gz",
        "dataset_description.json",
        "sub-01/dwi/.sub-01_desc-mean_dwiref-x.part.nii.gz",
    ],
)
def test_other_files_are_nobodys_output(path):
    assert identify(Path(path)) is None


def test_synthetic_names_all_say_so_and_others_do_not():
    for name, path in every_output(BOLD):
        assert ("desc-synthetic" in path.name) == name.key.startswith("synthetic")


def test_sessionless_names_and_other_paths():
    assert output_path("qc", {"sub": "01"}, Modality.DWI) == Path("sub-01/dwi/sub-01_desc-image_qc.json")
    assert output_path("figure", BOLD, Modality.BOLD, desc="coreg") == Path(
        "sub-01/figures/sub-01_ses-1_task-rest_acq-mb_run-02_echo-2_desc-coreg_boldref.svg"
    )
    assert report_path("01") == Path("sub-01.html")
    assert log_dir("01", "x") == Path("sub-01/log/x")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: output_path("nothing", DWI), KeyError, "no output 'nothing'"),
        (lambda: output_path("mean", DWI), ValueError, "does not exist for modality None"),
        (lambda: output_path("b0", BOLD, Modality.BOLD), ValueError, "does not exist for modality bold"),
        (lambda: output_path("qc", DWI, Modality.DWI, in_template=True), ValueError, "in_template=True"),
        (lambda: output_path("qc", DWI, Modality.DWI, extension=".tsv"), ValueError, "not '.tsv'"),
        (lambda: output_path("parcels", DWI, Modality.DWI, in_template=True), KeyError, "needs atlas"),
        (lambda: output_path("mean", {"ses": "1"}, Modality.DWI), KeyError, "sub"),
    ],
)
def test_names_that_do_not_exist(call, error, message):
    with pytest.raises(error, match=message):
        call()


def write_output(root: Path, name: OutputName, path: Path, grid: np.ndarray) -> None:
    """Write a tiny but complete form of one output."""
    reference = "" if name.in_template else "bids::" + output_path("mean", DWI, Modality.DWI).as_posix()
    if name.extension == ".nii.gz":
        is_4d = "segments" in name.key or name.key.endswith("template")
        data = np.ones((4, 4, 4, 2) if is_4d else (4, 4, 4), np.float32)
        if name.key.endswith("mask"):
            data = data > 0
        write_nifti(root / path, data, grid, description="SYNTHETIC", is_template_space=name.in_template)
    elif name.extension != ".json":
        write_text(root / path, "x\n1\n")
    elif name.key.endswith("mask"):
        write_json(
            root / path,
            mask_sidecar(name.key, ["bids:raw:x"], in_template=name.in_template, reference=reference),
        )
    elif name.key in ("mean", "b0", "segments", "t1w"):
        write_json(
            root / path,
            acquired_sidecar(name.key, ["bids:raw:x"], in_template=name.in_template, reference=reference),
        )
    elif name.key.startswith("synthetic") and ".nii.gz" in output_extensions(name.key):
        provenance = Provenance(Direction.to(name.modality), ("bids:raw:x",), {"Name": "unet"}, 1)
        write_json(
            root / path,
            synthetic_sidecar(name.key, provenance, in_template=name.in_template, reference=reference),
        )
    else:
        write_json(root / path, {"Description": "x"})


def output_extensions(key: str) -> set[str]:
    return {name.extension for name, _ in every_output(DWI) if name.key == key}


def test_validator_accepts_a_tree_of_all_outputs(tmp_path):
    """The validator of this environment, which knows nothing of our table, is the oracle."""
    root = tmp_path / "out"
    write_dataset_files(root, tmp_path, {"Name": "a dataset", "License": "CC0"})
    grid = np.diag([3.0, 3.0, 3.0, 1.0])
    written = set()
    for modality, entities in ((Modality.BOLD, BOLD), (Modality.DWI, DWI), (None, ANAT)):
        for name, path in every_output(entities):
            if name.modality is modality:
                write_output(root, name, path, grid)
                written.add(root / path)
    write_text(root / report_path("01"), "<html></html>")
    write_text(root / log_dir("01", "x") / "pds-bids.toml", "")
    write_text(root / "logs" / "CITATION.md", "x")
    assert {path for path, _ in find_outputs(root)} == written
    assert list(find_outputs(root, "02")) == []
    validator = Path(sys.executable).with_name("bids-validator-deno")
    run = subprocess.run([validator, root, "--ignoreWarnings"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    # Without .bidsignore the same tree is refused: the validator did look.
    (root / ".bidsignore").write_text("")
    run = subprocess.run([validator, root, "--ignoreWarnings"], capture_output=True, text=True, check=False)
    assert run.returncode != 0


def test_bidsignore_is_the_validated_list():
    lines = bidsignore().splitlines()
    assert lines[:4] == ["*.html", "logs/", "log", "figures"]
    # The masks and the T1w image are names that BIDS knows: they must be validated, not ignored.
    ignored = [line for line in lines if re.search("mask|T1w", line)]
    assert ignored == ["**/func/*_desc-synthetic+brain_mask.*"]
