"""Errors of a method on held-out people, and the calibration of its standard deviations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_bids.methods import Method
from pds_bids.modalities import CONTRASTS, Direction
from pds_bids.training.data import Example, to_device

__all__ = ["LEVELS", "ONE_STD", "calibrate", "coverage", "error_ratios", "mean_square_errors"]

#: Coverage of intervals, in percent.
LEVELS = (50, 80, 95)
#: Share of a Gaussian within one standard deviation.
ONE_STD = 0.6827


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

    Errors have heavier tails than a Gaussian. The report therefore holds, for every level of `LEVELS`, the
    number of standard deviations that covers it (split conformal prediction, by person).

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
        By contrast: the factor; the share of voxels within two standard deviations after scaling (0.954 if
        Gaussian); and ``interval_50_*``, ``interval_80_*``, ``interval_95_*``, half widths of intervals in
        standard deviations (0.674, 1.282 and 1.960 if Gaussian).

    References
    ----------
    Angelopoulos and Bates 2021, arXiv:2107.07511, section 2.3.
    """
    report = {}
    for channel, ratios in error_ratios(method, batches, device).items():
        # torch.quantile refuses more than 2**24 values.
        joined = torch.cat(ratios).sort().values
        factor = _quantile(joined, ONE_STD)
        method.calibration[channel] *= factor
        contrast = CONTRASTS[channel]
        report[f"factor_{contrast}"] = round(factor, 4)
        report[f"within_2_std_{contrast}"] = round(float((joined < 2 * factor).float().mean()), 4)
        for level in LEVELS:
            report[f"interval_{level}_{contrast}"] = round(_quantile(joined, level / 100) / factor, 4)
    return report


@torch.no_grad()
def coverage(
    method: Method,
    batches: Sequence[Example],
    report: dict[str, float],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Return how many voxels of other people the intervals of `calibrate` hold.

    Parameters
    ----------
    method : Method
        Calibrated.
    batches : sequence of Example
        People that it was not calibrated on.
    report : dict of str to float
        What `calibrate` returned.
    device : torch.device or str
        Where `method` is.

    Returns
    -------
    dict of str to float
        ``covered_50_*`` and so on by contrast, as shares; every person counts the same.
    """
    shares = {}
    for channel, ratios in error_ratios(method, batches, device).items():
        for level in LEVELS:
            width = report[f"interval_{level}_{CONTRASTS[channel]}"]
            inside = torch.stack([(each <= width).float().mean() for each in ratios])
            shares[f"covered_{level}_{CONTRASTS[channel]}"] = float(inside.mean())
    return shares


@torch.no_grad()
def error_ratios(
    method: Method, batches: Sequence[Example], device: torch.device | str = "cpu"
) -> dict[int, list[Tensor]]:
    """Return by channel, for every person, ``(V,)`` absolute errors over standard deviations."""
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
    return ratios


def _quantile(ordered: Tensor, share: float) -> float:
    return float(ordered[min(int(share * len(ordered)), len(ordered) - 1)])
