"""Statistics over subjects: paired tests, Holm's correction, bootstrap intervals, effect sizes.

The unit is always the subject: callers average the images of one subject first. Subjects that belong together
(visits of a family, simulations of one head) are resampled together.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pds_bids.exceptions import DataError

__all__ = [
    "Interval",
    "PairedComparison",
    "bootstrap_interval",
    "cohens_dz",
    "compare_paired",
    "exact_interval",
    "holm",
    "mcnemar_p",
    "signed_rank_p",
]

N_RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A figure and its percentile bootstrap interval.

    Parameters
    ----------
    estimate, low, high : float
        Of all subjects, and the two ends; ``nan`` where undefined.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """How one row differs from another over the same subjects.

    Parameters
    ----------
    name : str
        The row that the reference is compared with.
    n_subjects : int
        Subjects with both values.
    difference : Interval
        Mean of reference minus row.
    p, p_holm : float
        Wilcoxon signed-rank, two-sided; and corrected for all rows compared with this reference.
    effect_size : float
        `cohens_dz` of reference minus row.
    """

    name: str
    n_subjects: int
    difference: Interval
    p: float
    p_holm: float
    effect_size: float


def bootstrap_interval(
    values: np.ndarray,
    *,
    seed: int,
    statistic: Callable[[np.ndarray], float] | None = None,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """Resample subjects with replacement and return the percentile interval of a statistic.

    Parameters
    ----------
    values : ndarray
        ``(N, ...)``, one row per subject; for a paired difference the differences.
    seed : int
        Of the resampling.
    statistic : callable, optional
        From resampled rows to a number; the mean by default.
    clusters : sequence, optional
        Which cluster each subject belongs to. Clusters are resampled first, then the subjects within each,
        so that the interval speaks of new clusters, too.
    level : float
        Coverage aimed at.
    n_resamples : int
        Resamples.

    Returns
    -------
    Interval
        Both ends ``nan`` with a warning for fewer than two subjects or clusters, or a value that is not
        finite.

    Raises
    ------
    DataError
        If `clusters` and `values` differ in length or `level` is not between 0 and 1.

    References
    ----------
    Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    rows = np.asarray(values, np.float64)
    if not 0 < level < 1:
        raise DataError(f"level {level} of an interval; expected a number between 0 and 1")
    if clusters is not None and len(clusters) != len(rows):
        raise DataError(f"{len(rows)} subjects in {len(clusters)} clusters; give one cluster per subject")
    n_units = len(rows) if clusters is None else len(set(clusters))
    of: Callable[[np.ndarray], float] = statistic or (lambda chosen: float(chosen.mean()))
    if not len(rows) or not np.isfinite(rows).all():
        return _undefined("a value is missing or not finite", float("nan"))
    estimate = float(of(rows))
    if n_units < 2:
        return _undefined(f"{n_units} subject or cluster", estimate)
    picked, is_used = _resamples(len(rows), clusters, n_resamples, np.random.default_rng(seed))
    if statistic is None and rows.ndim == 1:
        drawn = (rows[picked] * is_used).sum(1) / is_used.sum(1)
    else:
        drawn = np.array([of(rows[one[used]]) for one, used in zip(picked, is_used, strict=True)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def exact_interval(n_right: int, n: int, *, level: float = 0.95) -> Interval:
    """Return a share and its exact interval by Clopper and Pearson.

    Exact for independent trials. Predictions of a cross-validation share training people, so that it is
    somewhat too short for them.

    Returns
    -------
    Interval
        ``nan`` with a warning for no trial.

    References
    ----------
    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404

    Examples
    --------
    >>> found = exact_interval(36, 53)
    >>> round(found.estimate, 4), round(found.low, 3), round(found.high, 3)
    (0.6792, 0.537, 0.801)
    """
    if not n:
        return _undefined("no trial", float("nan"))
    interval = stats.binomtest(n_right, n).proportion_ci(level, method="exact")
    return Interval(n_right / n, float(interval.low), float(interval.high))


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p of McNemar's test that two classifiers are right equally often.

    Parameters
    ----------
    first, second : ndarray
        ``(N,)`` bool, whether each was right about the same subjects.

    Returns
    -------
    float
        1 where they never differ; ``nan`` with a warning for no subject.

    Raises
    ------
    DataError
        If they are of different subjects.

    References
    ----------
    McNemar 1947, doi:10.1007/BF02295996
    """
    one, other = (np.asarray(each, bool) for each in (first, second))
    if one.shape != other.shape:
        raise DataError(f"McNemar's test: {one.shape} and {other.shape} answers; expected the same subjects")
    if not one.size:
        return _undefined("no subject", float("nan")).estimate
    n_differ = int((one != other).sum())
    return float(stats.binomtest(int((one & ~other).sum()), n_differ).pvalue) if n_differ else 1.0


def signed_rank_p(differences: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test that differences are symmetric about zero.

    Zeros are split between both signs (Pratt), so that equal rows give 1.

    Returns
    -------
    float
        ``nan`` with a warning for fewer than two subjects or a value that is not finite.

    References
    ----------
    Wilcoxon 1945, doi:10.2307/3001968; Pratt 1959, doi:10.1080/01621459.1959.10501526.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return _undefined(f"{len(values)} subjects, or a value is not finite", float("nan")).estimate
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct for several tests by Holm's step-down; a ``nan`` stays ``nan`` and does not count.

    References
    ----------
    Holm 1979, https://www.jstor.org/stable/4615733

    Examples
    --------
    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    raw = np.asarray(p_values, np.float64)
    corrected = raw.copy()
    order = [int(i) for i in np.argsort(raw) if np.isfinite(raw[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, float(raw[i]) * (len(order) - rank)))
        corrected[i] = largest
    return [float(value) for value in corrected]


def cohens_dz(differences: np.ndarray) -> float:
    """Return the mean paired difference over its standard deviation.

    Returns
    -------
    float
        ``nan`` with a warning where all differences are equal or there are fewer than two.

    References
    ----------
    Lakens 2013, doi:10.3389/fpsyg.2013.00863.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2 or not (spread := values.std(ddof=1)) > 0:
        return _undefined(f"{len(values)} differences without spread", float("nan")).estimate
    return float(values.mean() / spread)


def compare_paired(
    reference: np.ndarray,
    rows: Mapping[str, np.ndarray],
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
) -> list[PairedComparison]:
    """Compare one row with every other over the same subjects, corrected for their number.

    Parameters
    ----------
    reference : ndarray
        ``(N,)``, one value per subject.
    rows : mapping of str to ndarray
        ``(N,)`` each, the same subjects in the same order; a subject without a value (``nan``) in a row or in
        the reference is left out of that comparison.
    seed : int
        Of the bootstrap.
    clusters : sequence, optional
        See `bootstrap_interval`.

    Returns
    -------
    list of PairedComparison
        In the order of `rows`.

    Raises
    ------
    DataError
        If a row is not as long as the reference.
    """
    base = np.asarray(reference, np.float64)
    found = []
    for name, values in rows.items():
        if np.shape(values) != base.shape:
            raise DataError(f"row {name}: shape {np.shape(values)}, the reference has {base.shape}")
        difference = base - np.asarray(values, np.float64)
        is_there = np.isfinite(difference)
        kept = None if clusters is None else [c for c, ok in zip(clusters, is_there, strict=True) if ok]
        pairs = difference[is_there]
        interval = bootstrap_interval(pairs, seed=seed, clusters=kept)
        found.append((name, len(pairs), interval, signed_rank_p(pairs), cohens_dz(pairs)))
    corrected = holm([p for *_, p, _ in found])
    return [
        PairedComparison(name, n, interval, p, p_holm, size)
        for (name, n, interval, p, size), p_holm in zip(found, corrected, strict=True)
    ]


def _resamples(
    n: int, clusters: Sequence[Hashable] | None, n_resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(R, M)`` rows of every resample, and which of these places are used."""
    if clusters is None:
        return rng.integers(n, size=(n_resamples, n)), np.ones((n_resamples, n), bool)
    grouped: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        grouped.setdefault(cluster, []).append(index)
    sizes = np.array([len(members) for members in grouped.values()])
    table = np.zeros((len(sizes), sizes.max()), int)
    for row, members in zip(table, grouped.values(), strict=True):
        row[: len(members)] = members
    chosen = rng.integers(len(sizes), size=(n_resamples, len(sizes)))
    places = (rng.random((n_resamples, *table.shape)) * sizes[chosen][..., None]).astype(int)
    picked = table[chosen[..., None], places]
    is_used = np.arange(table.shape[1]) < sizes[chosen][..., None]
    return picked.reshape(n_resamples, -1), is_used.reshape(n_resamples, -1)


def _undefined(why: str, estimate: float) -> Interval:
    warnings.warn(f"undefined: {why}", RuntimeWarning, stacklevel=3)
    return Interval(estimate, float("nan"), float("nan"))
