"""The app reads what fMRIPrep has made, here a tree in its layout, in place of its own steps."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.imaging.grid import Grid, resample
from pds_bids.imaging.registration import from_itk_displacement

SPACE = "space-MNI152NLin2009cAsym_res-2"
# What was interpolated twice is smoother than what was interpolated once.
TOLERANCE = 0.04


@pytest.fixture(scope="module")
def fmriprep(finished, tmp_path_factory):
    """The undisturbed run's own BOLD series and mask, in the template, under fMRIPrep's names."""
    cohort, out, _ = finished
    root = tmp_path_factory.mktemp("fmriprep")
    description = {
        "Name": "fMRIPrep",
        "BIDSVersion": "1.4.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1.0"}],
    }
    (root / "dataset_description.json").write_text(json.dumps(description))
    raw = nib.load(next((cohort / "sub-01/func").glob("*_bold.nii.gz")))
    field = nib.load(next(out.glob("sub-01/func/*_from-boldref_to-MNI152NLin2009cAsym_*_xfm.nii.gz")))
    grid = Grid(field.shape[:3], field.affine)
    points = from_itk_displacement(np.asarray(field.dataobj), grid).points
    volumes = [
        resample(np.asarray(raw.dataobj[..., k], np.float32), raw.affine, points) for k in range(raw.shape[3])
    ]
    stem = root / "sub-01/func/sub-01_task-rest_"
    stem.parent.mkdir(parents=True)
    nib.Nifti1Image(np.stack(volumes, -1), grid.vox2ras).to_filename(
        f"{stem}{SPACE}_desc-preproc_bold.nii.gz"
    )
    mask = nib.load(next(out.glob("sub-01/func/*_space-*_desc-brain_mask.nii.gz")))
    on_grid = resample(np.asarray(mask.dataobj), mask.affine, grid.points(), order=0)
    nib.Nifti1Image(on_grid, grid.vox2ras).to_filename(f"{stem}{SPACE}_desc-brain_mask.nii.gz")
    table = next(out.glob("sub-01/func/*_desc-confounds_timeseries.tsv")).read_text()
    Path(f"{stem}desc-confounds_timeseries.tsv").write_text(table)
    return root


@pytest.fixture(scope="module")
def read(finished, fmriprep, app, quick, tmp_path_factory):
    base = tmp_path_factory.mktemp("read")
    options = ("--participant-label", "01", "-w", base / "work", *quick)
    run = app(finished[0], base / "out", "participant", "-d", f"fmriprep={fmriprep}", *options)
    assert run.code == 0, run.text
    return run, base


def volume(out, pattern):
    return np.asarray(nib.load(next(out.glob(pattern))).dataobj)


def test_the_plan_lists_what_was_found(read):
    text = " ".join(read[0].text.split())
    assert "uses: realigned series in MNI152NLin2009cAsym" in text
    assert f"sub-01_task-rest_{SPACE}_desc-preproc_bold.nii.gz" in text


def test_the_image_is_that_of_the_raw_series(read, finished):
    pattern = "sub-01/func/*_res-3_desc-mean_boldref.nii.gz"
    ours, raw = volume(read[1] / "out", pattern), volume(finished[1], pattern)
    inside = (ours > 0) & (raw > 0)
    assert inside.sum() > 0.98 * (raw > 0).sum()
    assert np.abs(ours - raw)[inside].mean() < TOLERANCE


def test_nothing_is_computed_again(read):
    nodes = {path.name for path in (read[1] / "work").rglob("*") if path.is_dir()}
    assert "their_registration" in nodes
    assert not nodes & {"hmc", "reference", "direct", "bridge", "anat", "confounds"}


def test_names_and_sources_say_where_it_comes_from(read):
    out = read[1] / "out"
    native = next(out.glob(f"sub-01/dwi/sub-01_{SPACE}_desc-synthetic_dwiref.nii.gz"))
    sidecar = json.loads(native.with_name(native.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Sources"][0].startswith("bids:fmriprep:sub-01/func/")
    assert "fmriprep" in json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([validator, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_tree_that_does_not_cover_the_series_fails_the_session(finished, fmriprep, app, tmp_path):
    mask = next(fmriprep.glob("sub-01/func/*_desc-brain_mask.nii.gz"))
    hidden = mask.rename(tmp_path / "mask.nii.gz")
    try:
        run = app(finished[0], tmp_path / "out", "participant", "--participant-label", "01", "-w",
                  tmp_path / "work", "-d", f"fmriprep={fmriprep}")  # fmt: skip
    finally:
        hidden.rename(mask)
    assert run.code == 1
    text = " ".join(run.text.split())
    assert "do not cover" in text
    assert "desc-brain_mask.nii.gz" in text
