import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom import bidsfiles
from pds_bids.phantom.cohort import CohortOptions, missing_by_participant, write_cohort
from pds_bids.phantom.gradients import gradient_table

TINY = CohortOptions(
    participants=2, missing="dwi,bold", seed=4, bold_volumes=5, dwi_directions=6, voxel_size_mm=8.0
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, fine_template, anatomy_cache):
    root = tmp_path_factory.mktemp("cohort")
    for name in ("a", "b"):
        truth = root / "truth" if name == "a" else None
        write_cohort(root / name, fine_template, TINY, cache_dir=anatomy_cache, truth_dir=truth)
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_same_options_same_bytes(cohort):
    first = digests(cohort / "a")
    assert first == digests(cohort / "b")
    assert {"sub-01/func/sub-01_task-rest_bold.nii.gz", "sub-02/dwi/sub-02_dwi.bvec"} <= set(first)
    assert not any("sub-01/dwi" in name or "sub-02/func" in name for name in first)


def test_validator_accepts_the_dataset(cohort):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    run = subprocess.run([validator, cohort / "a"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_gradients_on_disk_follow_fsl(tmp_path):
    # FSL: vectors in voxel axes, the first flipped when the affine's determinant is positive. Read back that
    # way, the written file gives the RAS vectors.
    bvals, bvecs = gradient_table(6, 1000)
    grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    bidsfiles.write_image(tmp_path / "dwi.nii.gz", np.random.default_rng(0).random((4, 5, 6)), grid)
    bidsfiles.write_gradients(tmp_path / "dwi", bvals, bvecs)
    affine = nib.load(tmp_path / "dwi.nii.gz").affine
    stored = np.loadtxt(tmp_path / "dwi.bvec").T
    if np.linalg.det(affine[:3, :3]) > 0:
        stored = stored * [-1, 1, 1]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(stored @ axes.T, bvecs, atol=1e-5)


def test_image_on_disk_lies_where_the_grid_says(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    grid = Grid((4, 5, 6), np.array([[2.0, 0, 0, -7], [0, 3.0, 0, 1], [0, 0, 4.0, 2], [0, 0, 0, 1]]))
    bidsfiles.write_image(tmp_path / "x.nii.gz", data, grid, as_float=True)
    image = nib.as_closest_canonical(nib.load(tmp_path / "x.nii.gz"))
    np.testing.assert_allclose(image.affine, grid.vox2ras)
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)


def test_truth_holds_what_was_planted(cohort):
    motion = np.loadtxt(cohort / "truth/sub-01/func/sub-01_desc-bold_motion.tsv", skiprows=1)
    assert motion.shape == (TINY.bold_volumes, 6)
    assert np.abs(motion).max() <= TINY.max_motion
    fa = np.asarray(nib.load(cohort / "truth/sub-02/dwi/sub-02_fa.nii.gz").dataobj)
    dwi = nib.load(cohort / "a/sub-02/dwi/sub-02_dwi.nii.gz")
    assert fa.shape == dwi.shape[:3]
    tissue = json.loads((cohort / "truth/sub-01/anat/sub-01_tissue.json").read_text())
    assert 1200 < tissue["cortex"]["t1_ms"] < 1650


def test_slice_timing_fits_the_series(cohort):
    sidecar = json.loads((cohort / "a/sub-01/func/sub-01_task-rest_bold.json").read_text())
    bold = nib.load(cohort / "a/sub-01/func/sub-01_task-rest_bold.nii.gz")
    assert len(sidecar["SliceTiming"]) == bold.shape[2]
    assert max(sidecar["SliceTiming"]) < sidecar["RepetitionTime"] == bold.header.get_zooms()[3]


def test_what_is_missing():
    assert missing_by_participant("none", 2, 0) == ["none", "none"]
    drawn = missing_by_participant("random", 60, 1)
    assert drawn == missing_by_participant("random", 60, 1)
    assert set(drawn) == {"none", "bold", "dwi"}
    with pytest.raises(UsageError, match="'t1w'"):
        missing_by_participant("dwi,t1w", 2, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"participants": 0}, "participants is 0"),
        ({"voxel_size_mm": 0.1}, "voxel size"),
        ({"missing": "x"}, "x"),
    ],
)
def test_options_are_checked(wrong, message):
    with pytest.raises(UsageError, match=message):
        CohortOptions(**wrong)


def test_folder_in_use_is_refused(tmp_path, fine_template):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_cohort(tmp_path, fine_template, TINY, cache_dir=tmp_path)


def test_help_is_quick_and_names_every_option():
    code = (
        "import sys; from pds_bids.cli.phantom import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'dipy', 'scipy', 'nibabel') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("[]")
    for option in ("--participants", "--missing", "--truth", "--voxel-size-mm", "--no-t1w", "--seed"):
        assert option in run.stdout


def test_wrong_option_gives_exit_code_2(tmp_path, capsys, monkeypatch):
    from pds_bids.cli import phantom

    assert phantom.main([str(tmp_path / "out"), "--missing", "everything"]) == 2
    assert "everything" in capsys.readouterr().err
