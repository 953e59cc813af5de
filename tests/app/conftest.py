"""A small simulated cohort, and the app as a user calls it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from pds_bids.phantom.cohort import CohortOptions, write_cohort
from pds_bids.template import RES02_GRID, get_template, load_template

#: Small and quick: what is tested is the app, not how good its images are.
TINY = {"bold_volumes": 8, "dwi_directions": 6, "voxel_size_mm": 4.0, "max_motion": 0.5}
QUICK = ("--sloppy", "--n-segments", 3, "--weights", "small")


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
def quick():
    """Options of a quick run."""
    return QUICK


@pytest.fixture(scope="session")
def work_template(tmp_path_factory):
    """Build the template from wheels once; runs find it in the cache of their work folder."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Fill a folder that all processes of the tests share, in whichever comes first."""

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            folder = tmp_path_factory.mktemp(name)
            make(folder)
            return folder
        folder = tmp_path_factory.getbasetemp().parent / name
        done = folder.with_suffix(".done")
        with FileLock(folder.with_suffix(".lock")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return fill


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
def cohort(make_cohort, once):
    """Two people; the first has no DWI, the second no BOLD and no T1w image."""

    def make(folder: Path) -> None:
        made = make_cohort(participants=2, missing="dwi,bold", seed=3)
        shutil.rmtree(made / "sub-02" / "anat")
        made.rename(folder / "data")

    return once("cohort", make) / "data"


@pytest.fixture(scope="session")
def finished(cohort, app, once):
    """The cohort, processed undisturbed and without a home folder: input, output and work folders."""

    def make(folder: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*")}
        run = app(
            cohort, folder / "out", "participant", "-w", folder / "work", *QUICK,
            env={"HOME": "/nonexistent"},
        )  # fmt: skip
        assert {path: path.stat().st_mtime_ns for path in cohort.rglob("*")} == before, "the input changed"
        assert run.code == 0, run.text

    folder = once("finished", make)
    return cohort, folder / "out", folder / "work"


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
