"""CPUs, memory and NVIDIA GPUs that this process may use, without loading torch."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["available_cpus", "available_memory_mb", "visible_gpus"]

DRIVER_TIMEOUT_S = 20
# A card, or a MIG slice, which is listed below its card.
_LISTED = re.compile(r"^\s*(?:GPU|MIG) .*\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", re.MULTILINE)


def available_cpus() -> int:
    """Return how many CPUs this process may use, by its affinity and its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def available_memory_mb() -> int:
    """Return the memory of the machine or of the cgroup, whichever is smaller, in MiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit_file).read_text()))
        except (OSError, ValueError):
            continue
    return total // 2**20


def visible_gpus() -> list[str]:
    """Return names of the GPUs that CUDA would show this process.

    Returns
    -------
    list of str
        UUIDs as ``nvidia-smi -L`` lists them, or device files where that tool is missing. Only those that
        ``CUDA_VISIBLE_DEVICES`` names, if it is set: by number, or by the beginning of a UUID; the first
        entry that fits none ends the list.
    """
    listed = _listed_gpus()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        # CUDA shows a process one MIG slice only if it is named.
        return [name for name in listed if not name.startswith("MIG-")]
    cards = [name for name in listed if not name.startswith("MIG-")]
    visible: list[str] = []
    for entry in (part.strip() for part in allowed.split(",")):
        if entry.isdecimal():
            fitting = cards[int(entry) : int(entry) + 1]
        else:
            fitting = [name for name in listed if entry and name.startswith(entry)]
        if len(fitting) != 1:
            break
        visible += fitting
    return list(dict.fromkeys(visible))


@cache
def _listed_gpus() -> tuple[str, ...]:
    """Ask the driver once per process."""
    command = shutil.which("nvidia-smi")
    if command is None:
        # Containers may have the devices without the driver's tools.
        return tuple(str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*")))
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(_LISTED.findall(listing.stdout)) if listing.returncode == 0 else ()
