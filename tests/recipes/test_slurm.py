"""The batch scripts on a real Slurm: an array in which one fails, its retry, the group, a training."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pds_bids.options import AnalysisLevel

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from cluster import Cluster, why_not
from cohort_tree import write_tree

SLURM = Path(__file__).parents[2] / "workflows" / "slurm"
MINUTES = 60
FIELDS = "JobID%12,JobName%16,State,ExitCode,Elapsed,MaxRSS,ReqTRES%40"

reason = why_not()
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(bool(reason), reason=f"no Slurm here: {reason}")]


@pytest.fixture(scope="module")
def cluster(environment, prebuilt) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="pds-slurm-", dir="/tmp"))
    made = Cluster(folder)
    # What a user installs with pip: a command on the PATH.
    command = folder / "bin" / "pds-bids"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pds_bids.cli.run "$@"\n')
    command.chmod(0o755)
    local = folder / "local"
    local.mkdir()
    made.environment |= {
        key: environment[key] for key in ("PDS_BIDS_TEMPLATES", "OMP_NUM_THREADS", "PYTHONPATH")
    }
    made.environment |= {"TMPDIR": str(local), "PATH": f"{command.parent}:{made.environment['PATH']}"}
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def submitted(cluster, make_phantoms, tmp_path_factory):
    """Four people, one of whom has a file that breaks off; array and group have ended."""
    data = make_phantoms(participants=4, missing="dwi", with_t1w=False)
    out = tmp_path_factory.mktemp("slurm") / "out"
    (series,) = data.glob("sub-03/func/*_bold.nii.gz")
    whole = series.read_bytes()
    series.write_bytes(whole[: len(whole) // 2])
    options = {"SBATCH_OPTIONS": "--cpus-per-task=1 --mem=3500", "PDS_BIDS_TRIES": "1"}
    environment = cluster.environment | options
    command = (SLURM / "submit.sh", data, out, "--sloppy", "--n-segments", 1)
    done = cluster.run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    array, group = done.stdout.split()
    states = cluster.wait_for(array, 60 * MINUTES)
    states |= cluster.wait_for(group, 60 * MINUTES)
    keep(cluster.run("sacct", "-j", f"{array},{group}", f"--format={FIELDS}").stdout)
    return cluster, environment, data, out, (series, whole), array, group, states


def keep(lines: str) -> None:
    """Show accounting where pytest shows output, and add it to the file that PDS_SACCT names."""
    sys.stdout.write(lines)
    if os.environ.get("PDS_SACCT"):
        with open(os.environ["PDS_SACCT"], "a") as stream:
            stream.write(lines)


def log(out, pattern):
    (path,) = (out / "logs" / "slurm").glob(pattern)
    return path.read_text()


def test_one_participant_fails_and_the_others_are_complete(submitted):
    _, _, _, out, _, array, _, states = submitted
    expected = ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert [states[f"{array}_{task}"] for task in range(1, 5)] == expected
    for label in ("01", "02", "04"):
        assert len(list(out.glob(f"sub-{label}/dwi/*_res-3_desc-synthetic_dwiref.nii.gz"))) == 1
    assert not list(out.glob("sub-03/dwi/*_desc-synthetic_*"))
    assert "sub-03: FAILED with exit code 1" in log(out, f"pds-bids_{array}_3.log")
    assert "cannot be read to its end" in log(out, f"pds-bids_{array}_3.log")


def test_nothing_stays_on_the_local_disk(submitted):
    assert not list((submitted[0].folder / "local").glob("pds-bids_*"))


def test_the_group_waits_for_the_array(submitted):
    cluster, _, _, out, _, array, group, states = submitted
    rows = cluster.sacct(f"{array},{group}", "JobID,Start,End").splitlines()
    times = {row.split("|")[0]: row.split("|")[1:] for row in rows}
    ends = [times[f"{array}_{task}"][1] for task in range(1, 5)]
    assert times[group][0] >= max(ends)
    if "group" in list(AnalysisLevel):
        assert states[group] == "COMPLETED", log(out, f"pds-bids-group_{group}.log")
        assert list(out.glob("group_*.tsv"))


def test_only_the_failed_one_is_tried_again(submitted):
    cluster, environment, data, out, (series, whole), array, _, _ = submitted
    series.write_bytes(whole)
    command = (SLURM / "submit.sh", "--retry", array, data, out, "--sloppy", "--n-segments", 1)
    done = cluster.run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    again, _ = done.stdout.split()
    states = cluster.wait_for(again, 60 * MINUTES)
    keep(cluster.run("sacct", "-X", "-j", again, f"--format={FIELDS}").stdout)
    assert states == {f"{again}_3": "COMPLETED"}
    assert list(out.glob("sub-03/dwi/*_res-3_desc-synthetic_dwiref.nii.gz"))


def test_two_tasks_train_together(cluster, tmp_path):
    """Twenty updates on CPUs; what is tested is that both processes are one training."""
    tree = write_tree(tmp_path / "tree", 5)
    job = cluster.submit(
        "--cpus-per-task=1", "--mem=6000", f"--output={tmp_path}/train.log", SLURM / "train_ddp.sbatch",
        tree, tmp_path / "out", "--method", "unet", "--max-updates", 20, "--pass-size", 1, "--batch-size", 2,
        "--validate-every", 20, "--save-every", 10, "--device", "cpu",
    )  # fmt: skip
    states = cluster.wait_for(job, 60 * MINUTES)
    keep(cluster.run("sacct", "-j", job, f"--format={FIELDS}").stdout)
    text = (tmp_path / "train.log").read_text()
    assert states[job] == "COMPLETED", text
    assert (tmp_path / "out" / "models" / "unet" / "model.json").exists()
    # One table of losses with one line per update: two trainings side by side would write two of each.
    table = (tmp_path / "out" / "training" / "unet" / "losses.csv").read_text().splitlines()
    assert len(table) == 1 + 20
    assert f"{job}.0" in cluster.sacct(job, "JobID")


@pytest.mark.parametrize("script", sorted(SLURM.glob("*.sbatch")), ids=lambda path: path.name)
def test_slurm_accepts_every_line_of_resources(cluster, script):
    """Slurm's own parser reads all #SBATCH lines, those in comments for GPUs too."""
    text = script.read_text().replace("# For GPUs: #SBATCH", "#SBATCH")
    for line in re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE):
        assert line.startswith("--")
    done = cluster.run("sbatch", "--test-only", "--mem=1000", "--cpus-per-task=1", input=text)
    assert done.returncode == 0, done.stderr
    wrong = text.replace("#SBATCH", "#SBATCH --gres=nothing:1\n#SBATCH", 1)
    wrong = re.sub(r"#SBATCH --gres=gpu:\d\n", "", wrong)
    assert cluster.run("sbatch", "--test-only", "--mem=1000", "--cpus-per-task=1", input=wrong).returncode
