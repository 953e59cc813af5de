"""Checks of the machine before anything runs; torch is not loaded for them."""

import os

from pds_bids.devices import visible_gpus
from pds_bids.exceptions import DeviceError
from pds_bids.options import Device

__all__ = ["check_device"]


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
    if device is Device.CUDA and not visible_gpus():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else "the driver lists none"
        raise DeviceError(
            f"--device cuda: no GPU is visible ({why}); give the container access to it (docker --gpus all, "
            "apptainer --nv) or use --device auto"
        )
