"""Refuse cross-validations in which the test set is not new."""

from collections.abc import Sequence

import numpy as np

from pds_bids.exceptions import LeakageError

__all__ = ["check_duplicates", "check_folds"]

# Two scans of one person, let alone of two, differ by more than this in their standardised pattern.
ALIKE = 0.9995
# A correlation over fewer parcels than this says little.
FEWEST_FEATURES = 20
FEWEST_PEOPLE = 4


def check_folds(people: Sequence[str], folds: np.ndarray) -> None:
    """Refuse folds that split the rows of one person: segments, runs or sessions.

    Parameters
    ----------
    people : sequence of str
        Who each row is of.
    folds : ndarray
        ``(N,)`` int, fold of each row.

    Raises
    ------
    LeakageError
        If rows of a person lie in two folds.
    """
    place: dict[str, int] = {}
    for person, fold in zip(people, np.asarray(folds).tolist(), strict=True):
        if place.setdefault(person, fold) != fold:
            raise LeakageError(
                f"leakage: rows of {person} lie in folds {place[person]} and {fold}; "
                "training would see the person who is tested. Split by person, not by segment or session"
            )


def check_duplicates(
    people: Sequence[str],
    features: np.ndarray,
    folds: np.ndarray | None = None,
    digests: Sequence[frozenset[str]] = (),
) -> None:
    """Refuse the same images under two names.

    Parameters
    ----------
    people : sequence of str
        Who each row is of.
    features : ndarray
        ``(N, F)``; nan where something is missing. Rows are compared where both have values.
    folds : ndarray, optional
        Fold of each row; without it any two people count as apart.
    digests : sequence of frozenset of str, optional
        Checksums of the images behind each row.

    Raises
    ------
    LeakageError
        If two people in different folds have an image, or all features, in common, or standardised patterns
        that correlate above 0.9995.
    """
    place = np.arange(len(people)) if folds is None else np.asarray(folds)
    owners: dict[str, int] = {}
    for row, own in enumerate(digests):
        for digest in own:
            other = owners.setdefault(digest, row)
            if people[other] != people[row] and place[other] != place[row]:
                _refuse(people[other], people[row], "have an image in common, voxel by voxel")
    values = np.asarray(features, np.float64)
    scale = np.nanstd(values, axis=0) if len(values) else np.zeros(0)
    kept = scale > 0
    values = (values[:, kept] - np.nanmean(values[:, kept], 0)) / scale[kept]
    for row in range(1, len(values)):
        shared = np.isfinite(values[:row]) & np.isfinite(values[row])
        difference = np.where(shared, values[:row] - values[row], 0)
        is_equal = shared.any(1) & (np.abs(difference).max(1, initial=0) < 1e-9)
        is_alike = is_equal | (_correlations(values[:row], values[row], shared) > ALIKE)
        for other in np.flatnonzero(is_alike).tolist():
            if people[other] != people[row] and place[other] != place[row]:
                how = "the same values" if is_equal[other] else "patterns too alike for two people"
                _refuse(people[other], people[row], f"have {how} in {int(shared[other].sum())} features")


def _correlations(others: np.ndarray, own: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Return the correlation of a row with others over the features that both have."""
    n = shared.sum(1)
    if len(others) + 1 < FEWEST_PEOPLE:
        # Standardised over two people, everybody is the opposite or the same.
        return np.zeros(len(others))
    x, y = np.where(shared, others, 0), np.where(shared, own, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(shared, x - (x.sum(1) / n)[:, None], 0)
        y = np.where(shared, y - (y.sum(1) / n)[:, None], 0)
        found = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.where(n >= FEWEST_FEATURES, np.nan_to_num(found), 0)


def _refuse(one: str, other: str, why: str) -> None:
    raise LeakageError(
        f"leakage: {one} and {other} {why}; one of them would be trained on and the other tested. "
        "Leave one out (--participant-label), or say that they are one person (--person-column)"
    )
