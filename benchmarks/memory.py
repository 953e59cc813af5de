"""Measure the memory of a whole run on a long series: 1,200 volumes of BOLD at 2 mm by default.

    python benchmarks/memory.py SCRATCH [--volumes 1200] [--voxel-mm 2]

Simulates one person, lengthens the series with fresh noise (written one volume at a time), runs the app on it
as a user would, and prints the largest memory of all its processes together: private memory plus each
process's share of what is shared (PSS), so that memory-mapped files and forked libraries count once.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from scipy import ndimage

from pds_bids.phantom.cohort import CohortOptions, write_cohort
from pds_bids.template import RES02_GRID, get_template, load_template

SIMULATED_VOLUMES = 24
NOISE_SHARE = 0.02


def lengthen(path: Path, n_volumes: int) -> None:
    """Replace a series by a longer one of cubic voxels: its volumes over and over, with fresh noise."""
    image = nib.load(path)
    zooms = image.header.get_zooms()
    volumes = ndimage.zoom(
        np.asarray(image.dataobj, dtype=np.float32), (1, 1, zooms[2] / zooms[0], 1), order=1
    )
    shape = volumes.shape[:3]
    header = image.header.copy()
    vox2ras = image.affine @ np.diag([1, 1, (image.shape[2] - 1) / (shape[2] - 1), 1])
    header.set_sform(vox2ras, 1)
    header.set_qform(vox2ras, 1)
    header.set_data_shape((*shape, n_volumes))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    rng = np.random.default_rng(1)
    scale = NOISE_SHARE * volumes[volumes > volumes.mean()].mean()
    with gzip.open(path, "wb", compresslevel=1) as stream:
        header.write_to(stream)
        stream.write(b"\0" * (352 - header.sizeof_hdr))
        for k in range(n_volumes):
            noise = scale * rng.standard_normal(shape, dtype=np.float32)
            volume = np.clip(volumes[..., k % volumes.shape[3]] + noise, 0, 32767)
            stream.write(volume.astype("<i2").tobytes(order="F"))


def peak_pss_gb(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return its largest PSS in GB, its wall time in seconds, and its exit code."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for own in [root, *root.children(recursive=True)]:
            try:
                total += own.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak / 1e9, time.monotonic() - started, process.returncode


def main() -> int:
    """Simulate, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scratch", type=Path, help="folder for data and outputs; 10 GB for the default")
    parser.add_argument("--volumes", type=int, default=1200)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    arguments = parser.parse_args()
    data, out, work = (arguments.scratch / name for name in ("data", "out", "work"))
    for folder in (data, out, work):
        shutil.rmtree(folder, ignore_errors=True)
    template = load_template(get_template(arguments.scratch / "template"), RES02_GRID)
    options = CohortOptions(
        participants=1, missing="dwi", bold_volumes=SIMULATED_VOLUMES, voxel_size_mm=arguments.voxel_mm
    )
    write_cohort(data, template, options, cache_dir=arguments.scratch / "anatomies")
    series = next(data.rglob("*_bold.nii.gz"))
    lengthen(series, arguments.volumes)
    shape = nib.load(series).shape
    command = [sys.executable, "-m", "pds_bids.cli.run", str(data), str(out), "participant", "-w", str(work)]
    peak_gb, wall_s, code = peak_pss_gb(command)
    row = {
        "shape": list(shape),
        "float32_gb": round(float(np.prod(shape, dtype=float)) * 4 / 1e9, 2),
        "peak_gb": round(peak_gb, 2),
        "wall_s": round(wall_s),
        "exit_code": code,
    }
    print(json.dumps(row))
    return code


if __name__ == "__main__":
    sys.exit(main())
