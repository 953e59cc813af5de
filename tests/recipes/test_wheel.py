"""The wheel in a fresh environment: all that the package needs is inside, wherever it is called from."""

import hashlib
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import util
from pathlib import Path

import pytest

from pds_bids.inference.card import BASELINES, SHIPPED

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (util.find_spec("hatchling") and util.find_spec("pip")),
    reason="hatchling and pip are needed to build a wheel without a network (extra `test`)",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; dependencies are those of this one, by a .pth file."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*command, wheel], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_every_data_file_is_inside(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "pds_bids"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert set(tracked.stdout.split()) <= inside


def test_weights_inside_are_those_that_the_package_knows(wheel):
    archive = zipfile.ZipFile(wheel)
    known = tomllib.loads(archive.read("pds_bids/data/models.toml").decode())
    assert known
    for bundle, files in known.items():
        for name, checksum in files.items():
            folder = SHIPPED[0] if name == BASELINES else bundle  # one file serves all bundles
            content = archive.read(f"pds_bids/data/models/{folder}/{name}")
            assert hashlib.sha256(content).hexdigest() == checksum


def test_it_runs_from_another_folder(fresh, prebuilt, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PDS_BIDS_TEMPLATES": str(prebuilt), "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(
            [fresh / command[0], *command[1:]],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run("python", "-c", "import pds_bids; print(pds_bids.__file__)").strip()
    assert Path(where).is_relative_to(fresh.parent)
    assert run("pds-bids", "--version").startswith("pds-bids ")
    small = ("--bold-volumes", "6", "--voxel-size-mm", "4", "--no-t1w", "--nprocs", "1", "--quiet")
    run("pds-bids-phantom", "data", "--participants", "1", "--missing", "dwi", *small)
    assert "synthesise" in run("pds-bids", "data", "out", "participant", "--dry-run", "-w", "work")
    check = "from pds_bids.inference.card import *; print(checked_weights_sha256(default_model_dir()))"
    assert len(run("python", "-c", check).strip()) == 64
    assert "--mask" in run("pds-bids-synth", "--help")
