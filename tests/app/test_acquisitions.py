"""Echoes and runs: the same head in more files must give the same image."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

ECHO_TIMES_S = (0.03, 0.05)
T2STAR_S = 0.045
# Averages of twice as many volumes differ by rounding, and by which volume is the reference of the motion.
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def several(cohort, app, quick, tmp_path_factory):
    """Two runs with two echoes each, whose decay is the same everywhere; each first echo is the cohort's."""
    base = tmp_path_factory.mktemp("several")
    data = base / "data"
    shutil.copytree(cohort, data, ignore=shutil.ignore_patterns("sub-02", "participants.*"))
    folder = data / "sub-01" / "func"
    path, sidecar = next(folder.glob("*_bold.nii.gz")), next(folder.glob("*_bold.json"))
    image, metadata = nib.load(path), json.loads(sidecar.read_text())
    for run in (1, 2):
        for echo, time_s in enumerate(ECHO_TIMES_S, 1):
            decay = np.exp(-(time_s - ECHO_TIMES_S[0]) / T2STAR_S)
            stem = folder / f"sub-01_task-rest_run-{run}_echo-{echo}_bold"
            volumes = (np.asarray(image.dataobj, np.float32) * decay).astype(np.float32)
            nib.Nifti1Image(volumes, image.affine).to_filename(f"{stem}.nii.gz")
            stem.with_suffix(".json").write_text(json.dumps(metadata | {"EchoTime": time_s}))
    path.unlink()
    sidecar.unlink()
    options = ("-w", base / "work", *quick, "--runs", "average")
    run = app(data, base / "out", "participant", *options)
    assert run.code == 0, run.text
    return run, base / "out"


def mean_in_template(out):
    path = next(out.glob("sub-01/func/*_space-*_desc-mean_boldref.nii.gz"))
    return np.asarray(nib.load(path).dataobj)


def test_combined_and_averaged_is_the_same_head(several, finished):
    ours, alone = mean_in_template(several[1]), mean_in_template(finished[1])
    inside = (ours > 0) & (alone > 0)
    assert inside.sum() > 0.99 * (alone > 0).sum()
    assert np.abs(ours - alone)[inside].mean() < TOLERANCE


def test_names_lose_what_was_joined(several):
    names = [path.name for path in (several[1] / "sub-01" / "func").iterdir()]
    assert "sub-01_task-rest_desc-mean_boldref.nii.gz" in names
    assert not any("run-" in name or "echo-" in name for name in names)


def test_sidecar_names_all_sources(several):
    sidecar = several[1] / "sub-01/func/sub-01_task-rest_desc-mean_boldref.json"
    assert len(json.loads(sidecar.read_text())["Sources"]) == 4


def test_nothing_is_compared_across_runs(several, finished):
    table = pd.read_csv(
        next(several[1].glob("sub-01/func/*_desc-confounds_timeseries.tsv")), sep="\t", na_values="n/a"
    )
    alone = pd.read_csv(
        next(finished[1].glob("sub-01/func/*_desc-confounds_timeseries.tsv")), sep="\t", na_values="n/a"
    )
    assert len(table) == 2 * len(alone)
    missing = np.flatnonzero(table["framewise_displacement"].isna()).tolist()
    assert missing == [0, len(alone)] == np.flatnonzero(table["dvars"].isna()).tolist()
    dummies = [name for name in alone if name.startswith("non_steady")]
    assert len([name for name in table if name.startswith("non_steady")]) == 2 * len(dummies)


def test_the_plan_tells_what_is_read_together(several):
    text = " ".join(several[0].text.split())
    assert "2 echoes (30, 50 ms) are combined with weights from T2*" in text
    assert "is read with sub-01_task-rest_run-2_echo-1_bold.nii.gz: they are averaged" in text
