"""A simulated dataset, and the app's own run on it, to compare recipes with."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pds_bids.phantom.cohort import CohortOptions, write_cohort
from pds_bids.template import RES02_GRID, get_template, load_template

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "workflows"


@pytest.fixture(scope="session")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the template once, in the layout of images; every process is pointed to it."""
    folder = tmp_path_factory.mktemp("prebuilt")
    get_template(folder)
    return folder


@pytest.fixture(scope="session")
def environment(prebuilt: Path) -> dict[str, str]:
    """Variables for recipes that run in processes of their own."""
    return os.environ | {"PDS_BIDS_TEMPLATES": str(prebuilt), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def python(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python as a user does; fails with what was printed."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def make_phantoms(prebuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a simulated dataset; returns its folder."""

    def make(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("phantoms") / "data"
        small = {"bold_volumes": 8, "dwi_directions": 6, "voxel_size_mm": 4.0, "max_motion": 0.5, "seed": 3}
        template = load_template(get_template(prebuilt), RES02_GRID)
        write_cohort(folder, template, CohortOptions(**(small | options)), cache_dir=prebuilt / "anatomies")
        return folder

    return make
