"""Every console script starts, quickly enough, without what it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "monai", "nipype", "bids", "nilearn", "SimpleITK", "matplotlib")


@pytest.mark.parametrize("script", ["pds-bids", "pds-bids-synth", "pds-bids-phantom"])
def test_help(script):
    done = subprocess.run(
        [Path(sys.executable).with_name(script), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_version():
    done = subprocess.run(
        [Path(sys.executable).with_name("pds-bids"), "--version"], capture_output=True, text=True, check=False
    )
    from pds_bids import __version__

    assert __version__ in done.stdout


@pytest.mark.parametrize("module", ["run", "synth", "phantom"])
def test_help_loads_nothing_heavy(module):
    code = (
        f"import sys; from pds_bids.cli import {module}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
