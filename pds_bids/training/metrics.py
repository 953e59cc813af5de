"""Errors of a method on held-out people, and the calibration of its standard deviations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_bids.methods import Method
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.training.data import Example, to_device

__all__ = ["calibrate", "mean_square_errors"]


@torch.no_grad()
def mean_square_errors(
    method: Method, batches: Sequence[Example], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the in-brain mean square error per direction and target contrast, averaged over examples."""
    sums: dict[str, list[Tensor]] = {}
    for examples in batches:
        batch = to_device(examples, device)
        generators = [torch.Generator() for _ in batch.direction]
        error = (method.sample(batch, generators).mean - batch.target).square() * batch.mask
        by_contrast = error.sum((2, 3, 4)) / batch.mask.sum((2, 3, 4))
        for row, channel in batch.weights.nonzero().tolist():
            direction = list(Direction)[int(batch.direction[row])]
            sums.setdefault(f"{direction}_{CONTRASTS[channel]}", []).append(by_contrast[row, channel])
    return {name: float(torch.stack(values).mean()) for name, values in sums.items()}


@torch.no_grad()
def calibrate(
    method: Method, batches: Sequence[Example], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Scale a method's standard deviations such that 68.27% of held-out voxels lie within one of them.

    Parameters
    ----------
    method : Method
        Its ``calibration`` buffer, one factor per contrast, is changed in place.
    batches : sequence of Example
        Held-out people.
    device : torch.device or str
        Where `method` is.

    Returns
    -------
    dict of str to float
        The factors, and the share of voxels within two standard deviations after scaling (0.954 if Gaussian).
    """
    ratios: dict[int, list[Tensor]] = {}
    for examples in batches:
        batch = to_device(examples, device)
        sample = method.sample(batch, [torch.Generator() for _ in batch.direction])
        inside = batch.mask[:, 0] > 0
        for row, channel in batch.weights.nonzero().tolist():
            error = (sample.mean - batch.target)[row, channel][inside[row]].abs()
            ratios.setdefault(channel, []).append(
                error / sample.std[row, channel][inside[row]].clamp_min(1e-6)
            )
    report = {}
    for channel, parts in ratios.items():
        # torch.quantile refuses more than 2**24 values.
        joined = torch.cat(parts).sort().values
        factor = joined[int(0.6827 * (len(joined) - 1))]
        method.calibration[channel] *= factor
        report[f"factor_{CONTRASTS[channel]}"] = round(float(factor), 4)
        report[f"within_2_std_{CONTRASTS[channel]}"] = round(float((joined < 2 * factor).float().mean()), 4)
    return report
