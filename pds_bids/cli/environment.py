"""The process environment: caches, threads and telemetry, set before anything heavy is imported."""

import os
import tempfile
from pathlib import Path

__all__ = ["prepare_environment"]

NIPYPE_LEVELS = ("CRITICAL", "ERROR", "INFO")
NIPYPE_SETTINGS = """\
[logging]
workflow_level = {level}
interface_level = {level}
utils_level = {level}
"""


def prepare_environment(work_dir: Path, omp_nthreads: int, *, verbosity: int = 0) -> None:
    """Point every cache to the work folder, bound threads, and switch telemetry off.

    Works with HOME unset or not writable, and with a read-only file system outside of the work folder.

    Parameters
    ----------
    work_dir : Path
        Created when missing.
    omp_nthreads : int
        Threads per process.
    verbosity : int
        0: nothing from Nipype, for the last lines and the crash files say what failed; 1: whole tracebacks
        as they happen; 2: every node.
    """
    caches = work_dir / "caches"
    caches.mkdir(parents=True, exist_ok=True)
    if not os.access(os.environ.get("HOME", ""), os.W_OK):
        os.environ["HOME"] = str(caches)
    defaults = {
        "MPLCONFIGDIR": caches / "matplotlib",
        "XDG_CACHE_HOME": caches,
        "NUMBA_CACHE_DIR": caches / "numba",
        "TORCH_HOME": caches / "torch",
        # A worker that spins while it waits slows a busy machine down five-fold.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": 0,
        "TEMPLATEFLOW_AUTOUPDATE": 0,
        "MPLBACKEND": "Agg",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
    # Workers read their settings from here; what is set in this process does not reach them.
    (caches / "nipype").mkdir(exist_ok=True)
    (caches / "nipype" / "nipype.cfg").write_text(
        NIPYPE_SETTINGS.format(level=NIPYPE_LEVELS[min(verbosity, 2)])
    )
    fixed = {
        "NIPYPE_CONFIG_DIR": caches / "nipype",
        "NIPYPE_NO_ET": 1,
        "NO_ET": 1,
        "OMP_NUM_THREADS": omp_nthreads,
        "OPENBLAS_NUM_THREADS": omp_nthreads,
        "MKL_NUM_THREADS": omp_nthreads,
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": omp_nthreads,
    }
    os.environ.update({name: str(value) for name, value in fixed.items()})
    if not os.access(tempfile.gettempdir(), os.W_OK):
        tempfile.tempdir = str(caches)
        os.environ["TMPDIR"] = str(caches)
