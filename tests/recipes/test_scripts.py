"""Shell scripts of the recipes; the commands they call are replaced by ones that write down how."""

import subprocess
from pathlib import Path

import pytest

from pds_bids.cli.parser import parse_args

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "workflows").rglob("*.s*h")) + sorted((ROOT / "workflows").rglob("*.sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_parses_it(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def record(tmp_path):
    """Put a command on the PATH that writes down its arguments; returns environment and file."""
    calls = tmp_path / "calls"

    def install(name):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {calls}\n')
        command.chmod(0o755)
        environment = {"PATH": f"{command.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
        return environment, calls

    return install


def task(tmp_path, environment):
    """Run the array's script as task 2, outside of Slurm."""
    (tmp_path / "data").mkdir()
    (tmp_path / "list.txt").write_text("sub-01\nsub-02\n")
    script = ROOT / "workflows" / "slurm" / "participant_array.sbatch"
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}
    return subprocess.run(
        ["bash", script, tmp_path / "data", tmp_path / "out", tmp_path / "list.txt", "--n-segments", "4"],
        env=environment | slurm | {"SLURM_MEM_PER_NODE": "5000"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_task_is_a_valid_command(record, tmp_path):
    environment, calls = record("pds-bids")
    done = task(tmp_path, environment)
    assert done.returncode == 0, done.stderr
    config = parse_args(calls.read_text().splitlines())
    assert config.participant_label == ("02",)
    assert (config.nprocs, config.mem_mb, config.n_segments) == (3, 5000, 4)
    assert config.skip_bids_validation
    assert config.work_dir.parent == tmp_path


def test_the_container_sees_the_card_of_the_job(record, tmp_path):
    environment, calls = record("apptainer")
    done = task(tmp_path, environment | {"PDS_BIDS_SIF": "/x.sif", "CUDA_VISIBLE_DEVICES": "3"})
    assert done.returncode == 0, done.stderr
    words = calls.read_text().splitlines()
    assert words[words.index("--env") + 1] == "CUDA_VISIBLE_DEVICES=3"
    assert "--nv" in words
    assert words[words.index("/x.sif") + 1 :][:5] == ["/data", "/out", "participant", "-w", "/work"]


def test_datalad_records_a_valid_command(record, tmp_path):
    environment, calls = record("datalad")
    script = ROOT / "workflows" / "babs" / "datalad_containers_run.sh"
    subprocess.run(["bash", script, tmp_path, "sub-05"], env=environment, check=True)
    words = calls.read_text().splitlines()
    assert words[:3] == ["containers-run", "--container-name", "pds-bids"]
    config = parse_args(words[-1].split())
    assert config.participant_label == ("05",)
    assert "inputs/bids/sub-05" in words
