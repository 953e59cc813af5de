"""The same run twice, in another order, in parallel, and after being killed."""

import os
import random
import shutil
import signal
import subprocess
import time

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

KILLS = 6


def test_a_finished_output_is_left_alone(finished, app, quick):
    cohort, out, work = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    nodes = {path: path.stat().st_mtime_ns for path in work.rglob("result_*.pklz")}
    run = app(cohort, out, "participant", "-w", work, *quick)
    assert run.code == 0, run.text
    assert "2 done (2 of them by an earlier run)" in run.text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    assert {path: path.stat().st_mtime_ns for path in work.rglob("result_*.pklz")} == nodes


def test_other_settings_are_another_run(finished, app, tmp_path):
    cohort, out, _ = finished
    run = app(cohort, out, "participant", "-w", tmp_path, "--sloppy", "--n-segments", 2, "--dry-run")
    assert run.code == 0
    assert "2 to run" in run.text


def test_voxels_do_not_depend_on_processes_or_order(finished, app, quick, tmp_path, assert_same_images):
    """One process and the second participant first, against two processes in the usual order."""
    cohort, out, _ = finished
    for label in ("02", "01"):
        run = app(
            cohort, tmp_path / "out", "participant", "--participant-label", label,
            "-w", tmp_path / "work", "--nprocs", 1, *quick,
        )  # fmt: skip
        assert run.code == 0, run.text
    assert_same_images(tmp_path / "out", out)


def test_killed_at_random_moments_and_run_again(finished, app, command, quick, tmp_path, assert_same_images):
    cohort, reference, _ = finished
    call = command(cohort, tmp_path / "out", "participant", "-w", tmp_path / "work", *quick)
    moments = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moments.uniform(2, 12))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "out").rglob("*.nii.gz"):
            if not path.name.startswith("."):
                assert_readable(path)
    run = app(cohort, tmp_path / "out", "participant", "-w", tmp_path / "work", *quick)
    assert run.code == 0, run.text
    assert_same_images(tmp_path / "out", reference)
    # Somebody empties the output folder and keeps the work folder, where every node is done.
    shutil.rmtree(tmp_path / "out")
    run = app(cohort, tmp_path / "out", "participant", "-w", tmp_path / "work", *quick)
    assert run.code == 0, run.text
    assert_same_images(tmp_path / "out", reference)


def assert_readable(path):
    np.asanyarray(nib.load(path).dataobj)
