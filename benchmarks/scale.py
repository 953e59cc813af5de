"""What a cohort costs before anything is computed: indexing, planning and start of a job.

    python benchmarks/scale.py WORK --participants 2000 [--finished OUT]

writes skeletons (names, sidecars, tables, images of a few voxels) into WORK, calls the app on them as a
user does, and prints a table of CPU seconds; wall time depends on what else the machine does. In the output
folder of a real run, ``--finished``, files per participant are counted.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np


def main() -> None:
    """Write the cohort, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--participants", type=int, default=2000, metavar="N")
    parser.add_argument("--finished", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    data, count = arguments.work / "data", arguments.participants
    if not data.exists():
        write_skeletons(data, count)
    base = [data, arguments.work / "out", "participant", "-w", arguments.work / "work", "--dry-run"]
    one = ["--participant-label", f"{count // 2:04d}"]
    rows = [
        ("start of Python and `--version`", ["--version"]),
        (f"plan of one of {count}", [*base, *one, "--skip-bids-validation"]),
        (f"the same with the validator, on one of {count}", [*base, *one]),
        (f"plan of all {count}", [*base, "--skip-bids-validation"]),
    ]
    print("| what | CPU s | wall s | peak MB |\n|---|---|---|---|")
    for name, options in rows:
        print(f"| {name} | {measure(options)} |", flush=True)
    print(f"\nfiles in the skeleton: {sum(1 for path in data.rglob('*') if path.is_file())}")
    if arguments.finished:
        count_files(arguments.finished)


def measure(options: list[object]) -> str:
    """Call the app; return CPU seconds, wall seconds and peak memory of it and its children."""
    command = [sys.executable, "-m", "pds_bids.cli.run", *map(str, options)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{cpu_s:.1f} | {wall_s:.1f} | {after.ru_maxrss / 1024:.0f}"


def write_skeletons(data: Path, count: int) -> None:
    """Write people who have BOLD, diffusion MRI or both in turn, and a T1w image each."""
    source = data / "sourcedata"
    source.mkdir(parents=True)
    (data / "dataset_description.json").write_text('{"Name": "skeletons", "BIDSVersion": "1.10.0"}')
    vox2ras = np.diag([3.0, 3.0, 3.0, 1.0])
    for name, shape in {"bold": (4, 4, 4, 20), "dwi": (4, 4, 4, 7), "T1w": (4, 4, 4)}.items():
        nib.Nifti1Image(np.ones(shape, np.int16), vox2ras).to_filename(source / f"{name}.nii.gz")
    bvecs = np.vstack([np.zeros(3), np.eye(3), -np.eye(3)]).T
    np.savetxt(source / "dwi.bval", [[0, *[1000] * 6]], fmt="%d")
    np.savetxt(source / "dwi.bvec", bvecs, fmt="%g")
    (source / "bold.json").write_text('{"RepetitionTime": 2.0, "TaskName": "rest"}')
    (source / "dwi.json").write_text('{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}')
    (source / "T1w.json").write_text("{}")
    for number in range(1, count + 1):
        person = f"sub-{number:04d}"
        series = [("anat", "T1w", "T1w")]
        series += [("func", "task-rest_bold", "bold")] if number % 3 != 1 else []
        series += [("dwi", "dwi", "dwi")] if number % 3 != 2 else []
        for folder, end, kind in series:
            (data / person / folder).mkdir(parents=True, exist_ok=True)
            for path in source.glob(f"{kind}.*"):
                extension = path.name.partition(".")[2]
                os.link(path, data / person / folder / f"{person}_{end}.{extension}")


def count_files(out: Path) -> None:
    """Count what a real run left per participant."""
    for folder in sorted(path for path in out.glob("sub-*") if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        print(f"{folder.name}: {len(files)} files, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
