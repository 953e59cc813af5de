"""Checks of the machine before anything runs; torch is not loaded for them."""

import os
import shutil
import subprocess
from pathlib import Path

from pds_bids.config import Device
from pds_bids.exceptions import DeviceError

__all__ = ["check_device", "gpu_is_visible"]

DRIVER_TIMEOUT_S = 20


def check_device(device: Device) -> None:
    """Check that the device asked for is there.

    Parameters
    ----------
    device : Device
        As on the command line; only ``cuda`` can fail.

    Raises
    ------
    DeviceError
        If a GPU was asked for and this process sees none.
    """
    if device is Device.CUDA and not gpu_is_visible():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else "the driver lists none"
        raise DeviceError(
            f"--device cuda: no GPU is visible ({why}); give the container access to it (docker --gpus all, "
            "apptainer --nv) or use --device auto"
        )


def gpu_is_visible() -> bool:
    """Tell whether the NVIDIA driver lists a GPU that this process may use."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None and (not allowed.strip() or allowed.strip().startswith("-1")):
        return False
    command = shutil.which("nvidia-smi")
    if command is None:
        # Containers may have the device without the driver's tools.
        return Path("/dev/nvidiactl").exists() and Path("/dev/nvidia0").exists()
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout
