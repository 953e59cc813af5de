"""Recipes in Python, each run as its docstring says, against the app on the same data."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.imaging.grid import Grid, resample
from pds_bids.imaging.registration import from_itk_displacement

RECIPES = Path(__file__).parents[2] / "workflows"
OPTIONS = ("--sloppy", "--n-segments", 2)
MNI = "space-MNI152NLin2009cAsym"


@pytest.fixture(scope="module")
def phantom(make_phantoms):
    return make_phantoms(participants=1, missing="dwi", with_t1w=False)


@pytest.fixture(scope="module")
def app(phantom, python, tmp_path_factory):
    """The app's outputs, and its work folder."""
    base = tmp_path_factory.mktemp("app")
    python("-m", "pds_bids.cli.run", phantom, base / "out", "participant", "-w", base / "work", *OPTIONS)
    return base


@pytest.fixture(scope="module")
def fmriprep(phantom, app, tmp_path_factory):
    """The app's own series and mask in the template, under fMRIPrep's names."""
    root = tmp_path_factory.mktemp("derivatives") / "fmriprep"
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps(
            {"Name": "fMRIPrep", "BIDSVersion": "1.4.0", "DatasetType": "derivative",
             "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1.0"}]}
        )
    )  # fmt: skip
    raw = nib.load(next(phantom.glob("sub-01/func/*_bold.nii.gz")))
    field = nib.load(next(app.glob("out/sub-01/func/*_from-boldref_to-MNI152NLin2009cAsym_*_xfm.nii.gz")))
    grid = Grid(field.shape[:3], field.affine)
    points = from_itk_displacement(np.asarray(field.dataobj), grid).points
    series = [resample(np.asarray(raw.dataobj[..., k], np.float32), raw.affine, points) for k in range(8)]
    mask = nib.load(next(app.glob("out/sub-01/func/*_space-*_desc-brain_mask.nii.gz")))
    on_grid = resample(np.asarray(mask.dataobj), mask.affine, grid.points(), order=0)
    stem = folder / "sub-01_task-rest"
    for data, end in ((np.stack(series, -1), "preproc_bold"), (on_grid, "brain_mask")):
        nib.Nifti1Image(data, grid.vox2ras).to_filename(f"{stem}_{MNI}_res-2_desc-{end}.nii.gz")
    table = next(app.glob("out/sub-01/func/*_desc-confounds_timeseries.tsv")).read_text()
    Path(f"{stem}_desc-confounds_timeseries.tsv").write_text(table)
    return root


def voxels(folder, pattern):
    (path,) = folder.rglob(pattern)
    return np.asarray(nib.load(path).dataobj)


def test_synthesize_after_fmriprep_is_the_app(phantom, fmriprep, python, tmp_path):
    """The same derivatives, once read by the app and once by a workflow of Nipype and nilearn nodes."""
    command = ("-m", "pds_bids.cli.run", phantom, tmp_path / "out", "participant", "-w", tmp_path / "work")
    python(*command, "-d", f"fmriprep={fmriprep}", *OPTIONS)
    recipe = RECIPES / "synthesize_after_fmriprep.py"
    # One of Nipype's own plugins; the other recipe runs under MultiProc.
    options = ("--participant-label", "01", "--n-segments", 2, "--plugin", "Linear")
    python(recipe, fmriprep, tmp_path / "recipe", *options)
    ends = [f"desc-synthetic{end}_dwiref" for end in ("", "+std", "+segments", "+b0")]
    for end in (*ends, "model-tensor_param-fa_desc-synthetic_dwimap"):
        name = f"{MNI}_res-3_{end}.nii.gz"
        ours = voxels(tmp_path / "out", f"sub-01_{name}")
        np.testing.assert_array_equal(voxels(tmp_path / "recipe", name), ours, err_msg=name)
        assert ours.any()
    header = nib.load(next((tmp_path / "recipe").rglob("*_desc-synthetic_dwiref.nii.gz"))).header
    assert b"SYNTHETIC" in header["descrip"].item()
    rows = next((tmp_path / "recipe").rglob("desc-synthetic_parcels.tsv")).read_text().splitlines()
    assert len(rows) == 1 + 2
    assert "Hippocampus" in rows[0]


@pytest.mark.heavy
def test_full_pipeline_is_the_app(make_phantoms, python, tmp_path):
    data = make_phantoms(participants=1, missing="dwi")
    command = ("-m", "pds_bids.cli.run", data, tmp_path / "out", "participant", "-w", tmp_path / "work")
    python(*command, *OPTIONS)
    python(RECIPES / "full_pipeline.py", data, tmp_path / "recipe", "--participant-label", "01", *OPTIONS)
    name = f"{MNI}_res-3_desc-synthetic_dwiref.nii.gz"
    ours = voxels(tmp_path / "out", f"sub-01_{name}")
    np.testing.assert_array_equal(voxels(tmp_path / "recipe", name), ours)
    assert any((tmp_path / "recipe").rglob(f"{MNI}_res-3_desc-synthetic+smooth_dwiref.nii.gz"))


@pytest.mark.heavy
def test_preprocess_bold_is_the_app(phantom, app, python, tmp_path):
    (bold,) = phantom.glob("sub-01/func/*_bold.nii.gz")
    python(RECIPES / "preprocess_bold.py", bold, tmp_path, *OPTIONS)
    ours = voxels(app / "out", f"sub-01_task-rest_{MNI}_res-3_desc-segments_boldref.nii.gz")
    (stack,) = (tmp_path / "preprocess_bold_wf" / "segments_wf" / "resample").glob("segments.nii")
    np.testing.assert_array_equal(np.asarray(nib.load(stack).dataobj)[..., 1:], ours)


@pytest.mark.heavy
def test_preprocess_dwi_ends_with_a_tensor(make_phantoms, python, tmp_path):
    folder = make_phantoms(participants=1, missing="bold", with_t1w=False)
    (dwi,) = folder.glob("sub-01/dwi/*_dwi.nii.gz")
    python(RECIPES / "preprocess_dwi.py", dwi, tmp_path, *OPTIONS)
    (fa,) = (tmp_path / "preprocess_dwi_wf" / "maps_wf" / "tensor").glob("fa*.nii*")
    values = np.asarray(nib.load(fa).dataobj)
    assert 0.1 < values[values > 0].mean() < 0.6
