"""Many participants at once into one output folder, each a process of its own, as on a cluster."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

# A real run up to the first node: plan, dataset files, records, methods; seconds instead of minutes.
OPTIONS = ("--boilerplate-only", "--skip-bids-validation", "--n-segments", "2")
SHARED = ("dataset_description.json", ".bidsignore", "descriptions.tsv", "README.md", "logs/CITATION.md")


def write_cohort(folder: Path, count: int) -> Path:
    """Write participants with a tiny BOLD series each."""
    import nibabel as nib

    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "many", "BIDSVersion": "1.10.0"}')
    series = nib.Nifti1Image(np.ones((8, 8, 8, 12), np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    for number in range(1, count + 1):
        name = f"sub-{number:04d}"
        path = folder / name / "func" / f"{name}_task-rest_bold.nii.gz"
        path.parent.mkdir(parents=True)
        series.to_filename(path)
        path.with_name(f"{name}_task-rest_bold.json").write_text(
            '{"RepetitionTime": 2.0, "TaskName": "rest"}'
        )
    return folder


def watch(out: Path, stop: threading.Event, found: list[str], looks: list[int]) -> None:
    """Read the shared files as quickly as possible; note whatever is not whole."""
    whole: dict[str, bytes] = {}
    while not stop.is_set():
        for name in SHARED:
            try:
                content = (out / name).read_bytes()
            except FileNotFoundError:
                if name in whole:
                    found.append(f"{name} was gone")
                continue
            looks[0] += 1
            if name.endswith(".json"):
                try:
                    assert json.loads(content)["DatasetType"] == "derivative"
                except (ValueError, KeyError, AssertionError) as error:
                    found.append(f"{name}: {error!r}")
            elif not content.endswith(b"\n") or not content:
                found.append(f"{name} breaks off")
            whole[name] = content
        time.sleep(0.002)


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.heavy)])
def test_nothing_is_lost_and_shared_files_are_always_whole(count, tmp_path, record_property):
    data, out = write_cohort(tmp_path / "data", count), tmp_path / "out"
    stop, found, looks = threading.Event(), [], [0]
    watcher = threading.Thread(target=watch, args=(out, stop, found, looks))
    watcher.start()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    runs = []
    for number in range(1, count + 1):
        label = f"{number:04d}"
        command = [
            sys.executable, "-m", "pds_bids.cli.run", data, out, "participant", "--participant-label", label,
            "-w", tmp_path / "work" / label, *OPTIONS,
        ]  # fmt: skip
        runs.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    texts = [run.communicate()[0] for run in runs]
    stop.set()
    watcher.join()
    seconds = time.monotonic() - start
    record_property("measured", f"{count} at once: {seconds:.0f} s, {looks[0]} looks")
    assert [run.returncode for run in runs] == [0] * count, texts
    assert not found
    assert looks[0] > count
    for number in range(1, count + 1):
        name = f"sub-{number:04d}"
        plan = json.loads((out / name / "log" / f"plan_{name}.json").read_text())
        assert [session["participant"] for session in plan["sessions"]] == [name[4:]]
        assert len(list((out / name / "log").glob("*/pds-bids.toml"))) == 1
    assert not list(out.rglob("*.part*")), "scratch files stay behind"
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "pds-bids"
    assert {path.name for path in out.glob("sub-*")} == {f"sub-{n:04d}" for n in range(1, count + 1)}
