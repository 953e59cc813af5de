"""Does a synthetic image know whose it is? Agreement of parcels over people, beyond the mean person.

All functions take two tables of parcel means, acquired and synthetic, one row per person. Whatever the group
has in common is no achievement of a model: an atlas has it too.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import GeometryError

__all__ = [
    "BlandAltman",
    "Identification",
    "bland_altman",
    "correlate_people",
    "cover",
    "disturb_pattern",
    "identify_people",
]

# Half widths, in standard deviations, of intervals that hold 50, 80 and 95% of a Gaussian.
INTERVALS = {50: 0.67448975, 80: 1.28155157, 95: 1.95996398}
FEWEST = 3


@dataclass(frozen=True, eq=False)
class Identification:
    """How well people are told apart by their synthetic images.

    Parameters
    ----------
    is_found : ndarray
        ``(N,)`` bool: the own acquired pattern is the most alike of all.
    rank : ndarray
        ``(N,)`` float, 0 to 1: share of other people whose pattern is less alike than the own one.
    similarity : ndarray
        ``(N, N)`` correlation of the synthetic pattern of a row with the acquired one of a column.
    """

    is_found: np.ndarray
    rank: np.ndarray
    similarity: np.ndarray

    @property
    def rate(self) -> float:
        """Share of people who are found; chance is ``1 / N``."""
        return float(self.is_found.mean()) if self.is_found.size else float("nan")


@dataclass(frozen=True, eq=False)
class BlandAltman:
    """Agreement of two measurements per parcel.

    Parameters
    ----------
    bias : ndarray
        ``(P,)`` mean of synthetic - acquired over people; 0.02 means that the synthetic value is too high.
    sd : ndarray
        ``(P,)`` standard deviation of the difference.
    lower, upper : ndarray
        ``(P,)`` limits of agreement, bias -+ 1.96 SD.
    slope : ndarray
        ``(P,)`` of the difference on the mean of both; below 0 means that differences between people are too
        small in the synthetic image.
    n : ndarray
        ``(P,)`` people.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8
    """

    bias: np.ndarray
    sd: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    slope: np.ndarray
    n: np.ndarray


def correlate_people(
    acquired: np.ndarray, synthetic: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Correlate the two values of every parcel over people, after removing the mean of the group.

    Parameters
    ----------
    acquired, synthetic : ndarray
        ``(N, P)``; nan where a parcel was not seen.
    groups : ndarray, optional
        ``(N,)`` labels; each group's own mean is removed, so that a difference between groups counts for
        nothing. By default all people are one group.

    Returns
    -------
    ndarray
        ``(P,)``; nan where fewer than three people have the parcel or all have the same value.

    Examples
    --------
    >>> values = np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]])
    >>> correlate_people(values, 1 + 0.5 * values).round(6)
    array([1., 1.])
    """
    x, y = _pair(acquired, synthetic)
    labels = np.zeros(len(x)) if groups is None else np.asarray(groups)
    for label in np.unique(labels):
        own = labels == label
        x[own] -= _mean(x[own])
        y[own] -= _mean(y[own])
    n = np.isfinite(x).sum(0)
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    norm = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    is_defined = (n >= FEWEST) & (norm > 1e-12 * np.maximum(1, np.abs(np.nan_to_num(acquired)).max(0) ** 2))
    return np.divide((x * y).sum(0), norm, out=np.full(len(norm), np.nan), where=is_defined)


def identify_people(acquired: np.ndarray, synthetic: np.ndarray) -> Identification:
    """Look for everybody's acquired pattern among those of all, by the synthetic one.

    Both tables are standardised parcel by parcel over people, each by its own mean and spread, and rows are
    correlated. Parcels that somebody lacks are left out.

    Parameters
    ----------
    acquired, synthetic : ndarray
        ``(N, P)``; row i of both is the same person.

    Returns
    -------
    Identification
        Empty for fewer than three people, or three parcels that everybody has.
    """
    x, y = _pair(acquired, synthetic)
    if len(x) < FEWEST:
        return Identification(np.zeros(0, bool), np.zeros(0), np.zeros((0, 0)))
    kept = np.isfinite(x).all(0) & (x.std(0) > 0) & (y.std(0) > 0)
    if kept.sum() < FEWEST:
        return Identification(np.zeros(0, bool), np.zeros(0), np.zeros((0, 0)))
    x, y = (_unit((v[:, kept] - v[:, kept].mean(0)) / v[:, kept].std(0)) for v in (x, y))
    similarity = y @ x.T
    own = np.diag(similarity)
    others = similarity[~np.eye(len(x), dtype=bool)].reshape(len(x), -1)
    return Identification(own > others.max(1), (others < own[:, None]).mean(1), similarity)


def bland_altman(acquired: np.ndarray, synthetic: np.ndarray) -> BlandAltman:
    """Return bias and limits of agreement of every parcel over people; arguments as `correlate_people`.

    Examples
    --------
    >>> acquired = np.array([[1.0], [2.0], [3.0]])
    >>> float(bland_altman(acquired, acquired + 0.5).bias[0])
    0.5
    """
    x, y = _pair(acquired, synthetic)
    difference, middle = y - x, (x + y) / 2
    n = np.isfinite(difference).sum(0)
    bias = _mean(difference)
    centred, spread = np.nan_to_num(difference - bias), np.nan_to_num(middle - _mean(middle))
    few = np.full(len(n), np.nan)
    sd = np.sqrt(np.divide((centred**2).sum(0), n - 1, out=few.copy(), where=n >= FEWEST))
    power = (spread**2).sum(0)
    slope = np.divide((centred * spread).sum(0), power, out=few.copy(), where=(n >= FEWEST) & (power > 0))
    return BlandAltman(bias, sd, bias - INTERVALS[95] * sd, bias + INTERVALS[95] * sd, slope, n)


def cover(
    truth: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    mask: np.ndarray,
    widths: Mapping[int, float] | None = None,
) -> dict[int, float]:
    """Return which share of voxels lies in the 50, 80 and 95% intervals of a prediction.

    Parameters
    ----------
    truth, mean, std : ndarray
        Same shape and unit; `std` is the standard deviation that the model claims.
    mask : ndarray
        bool; voxels that count.
    widths : mapping of int to float, optional
        Half widths in standard deviations by percent, where the model says; otherwise those of a Gaussian.

    Returns
    -------
    dict of int to float
        An honest model has 0.5, 0.8 and 0.95; less means that it is too sure.
    """
    if not mask.any():
        warnings.warn("coverage is undefined: no voxel counts", RuntimeWarning, stacklevel=2)
        return dict.fromkeys(INTERVALS, float("nan"))
    error = np.abs(truth[mask].astype(np.float64) - mean[mask])
    spread = std[mask].astype(np.float64)
    return {
        level: float(np.mean(error <= width * spread))
        for level, width in (INTERVALS | dict(widths or {})).items()
    }


def disturb_pattern(
    acquired: np.ndarray,
    synthetic: np.ndarray,
    squared_error: np.ndarray,
    n_voxels: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Take the person's own parcel pattern out of synthetic images and see what that costs.

    A model that has learned the atlas alone loses nothing when the pattern of parcel means is replaced by
    that of the group (``removed``), or exchanged for another person's (``randomised``). Adding ``d`` to all
    voxels of a parcel changes its mean square error by ``2 d (synthetic - acquired) + d^2``.

    Parameters
    ----------
    acquired, synthetic : ndarray
        ``(N, P)`` parcel means.
    squared_error : ndarray
        ``(N, P)`` mean square error of the voxels of each parcel.
    n_voxels : ndarray
        ``(N, P)`` voxels of each parcel.
    rng : numpy.random.Generator
        Draws whose pattern one gets.

    Returns
    -------
    dict of str to ndarray
        ``own``, ``removed``, ``randomised``: ``(N,)`` mean square error over all parcels. For ``removed`` the
        group is everybody else, so that nobody's own pattern leaks back.
    """
    x, y = _pair(acquired, synthetic)
    if len(x) < FEWEST:
        return {name: np.full(len(x), np.nan) for name in ("own", "removed", "randomised")}
    # Sattolo's algorithm: one cycle through all people, so nobody keeps the own pattern.
    order = np.arange(len(x))
    for last in range(len(x) - 1, 0, -1):
        other = int(rng.integers(last))
        order[[last, other]] = order[[other, last]]
    n = np.isfinite(y).sum(0) - np.isfinite(y)
    others = np.divide(np.nansum(y, 0) - np.nan_to_num(y), n, out=np.full_like(y, np.nan), where=n > 0)
    shifts = {"own": np.zeros_like(y), "removed": others - y, "randomised": y[order] - y}
    known = np.all([np.isfinite(shift) for shift in shifts.values()] + [np.isfinite(squared_error)], 0)
    weight = np.where(known, n_voxels, 0).astype(float)
    total = weight.sum(1)
    result = {}
    for name, shift in shifts.items():
        error = np.where(known, squared_error + 2 * shift * (y - x) + shift**2, 0)
        result[name] = np.divide((weight * error).sum(1), total, out=np.full(len(x), np.nan), where=total > 0)
    return result


def _pair(acquired: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 copies with nan wherever one of the two is missing."""
    x, y = (np.array(values, np.float64) for values in (acquired, synthetic))
    if x.shape != y.shape or x.ndim != 2:
        raise GeometryError(f"acquired {x.shape} and synthetic {y.shape}: expected two tables of one shape")
    missing = ~(np.isfinite(x) & np.isfinite(y))
    x[missing] = y[missing] = np.nan
    return x, y


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of every column without nan; nan for an empty one, without a warning."""
    n = np.isfinite(values).sum(0)
    return np.divide(np.nansum(values, 0), n, out=np.full(values.shape[1], np.nan), where=n > 0)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return rows with mean zero and length one."""
    centred = rows - rows.mean(1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
