"""Methods of synthesis: one file per method, one protocol."""

from pds_bids.methods.base import Batch, Condition, Method, SampleResult, target_weights
from pds_bids.methods.unet import UNetMethod

__all__ = ["METHODS", "Batch", "Condition", "Method", "SampleResult", "UNetMethod", "target_weights"]

#: Every method by its name on the command line.
METHODS: dict[str, type[Method]] = {UNetMethod.name: UNetMethod}
