"""A small simulated cohort, and the app as a user calls it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.phantom.cohort import CohortOptions, write_cohort
from pds_bids.template import RES02_GRID, get_template, load_template

# Small and quick: what is tested is the app, not how good its images are.
TINY = {"bold_volumes": 8, "dwi_directions": 6, "voxel_size_mm": 4.0, "max_motion": 0.5}


@dataclass(frozen=True)
class Run:
    """What a call of the app left behind."""

    code: int
    text: str


def _command(*arguments) -> list[str]:
    return [sys.executable, "-m", "pds_bids.cli.run", *map(str, arguments)]


def call(*arguments, env=None) -> Run:
    """Call the app in a process of its own, as a user does."""
    done = subprocess.run(
        _command(*arguments), capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )
    return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def app():
    return call


@pytest.fixture(scope="session")
def command():
    """Give the command line of a call, for tests that end it themselves."""
    return _command


@pytest.fixture(scope="session")
def work_template(tmp_path_factory):
    """Build the template from wheels once; runs find it in the cache of their work folder."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture(scope="session")
def make_cohort(tmp_path_factory, work_template):
    """Write a simulated dataset; returns its folder."""

    def make(**options) -> Path:
        template = load_template(get_template(work_template), RES02_GRID)
        folder = tmp_path_factory.mktemp("cohort") / "data"
        write_cohort(
            folder, template, CohortOptions(**(TINY | options)), cache_dir=work_template / "anatomies"
        )
        return folder

    return make


@pytest.fixture(scope="session")
def cohort(make_cohort):
    """Two people; the first has no DWI, the second no BOLD and no T1w image."""
    folder = make_cohort(participants=2, missing="dwi,bold", seed=3)
    for path in (folder / "sub-02" / "anat").iterdir():
        path.unlink()
    (folder / "sub-02" / "anat").rmdir()
    return folder


@pytest.fixture(scope="session")
def finished(cohort, app, tmp_path_factory):
    """The cohort, processed undisturbed and without a home folder: input, output and work folders."""
    base = tmp_path_factory.mktemp("finished")
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*")}
    run = app(
        cohort, base / "out", "participant", "-w", base / "work", "--sloppy", "--n-segments", 3,
        env={"HOME": "/nonexistent"},
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in cohort.rglob("*")} == before, "the input was written to"
    assert run.code == 0, run.text
    return cohort, base / "out", base / "work"


def images(folder: Path) -> dict[str, np.ndarray]:
    """Return the voxels of every image below a folder, by relative name."""
    return {
        str(path.relative_to(folder)): np.asanyarray(nib.load(path).dataobj)
        for path in sorted(folder.rglob("*.nii.gz"))
        if not path.name.startswith(".")
    }


@pytest.fixture(scope="session")
def assert_same_images():
    """Fail unless two folders hold the same images, voxel by voxel."""

    def compare(one: Path, other: Path) -> None:
        first, second = images(one), images(other)
        assert first.keys() == second.keys()
        assert first
        for name, voxels in first.items():
            np.testing.assert_array_equal(voxels, second[name], err_msg=name)

    return compare
