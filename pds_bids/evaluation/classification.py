"""Accuracy, balanced accuracy, recall, F1 and AUC of a classification, with intervals over people."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pds_bids.evaluation.diagnosis import Prediction
from pds_bids.evaluation.statistics import Interval, bootstrap_interval, exact_interval

__all__ = ["Performance", "area_under_curve", "measure"]

N_RESAMPLES = 1000


@dataclass(frozen=True)
class Performance:
    """How well people were told apart.

    Parameters
    ----------
    accuracy : Interval
        Exact interval.
    balanced_accuracy : Interval
        Mean recall over diagnoses (macro recall); bootstrap over people, like the next two.
    f1 : Interval
        Mean over diagnoses.
    auc : Interval
        Of the scores, each diagnosis against the others, mean.
    recall : dict of str to float
        Per diagnosis.
    """

    accuracy: Interval
    balanced_accuracy: Interval
    f1: Interval
    auc: Interval
    recall: dict[str, float]


def measure(found: Prediction, *, seed: int) -> Performance:
    """Measure a prediction; ``nan`` throughout for nobody.

    Parameters
    ----------
    found : Prediction
        Scores of people.
    seed : int
        Of the bootstrap.
    """
    if not found.people:
        empty = Interval(np.nan, np.nan, np.nan)
        return Performance(empty, empty, empty, empty, dict.fromkeys(found.classes, np.nan))
    names = np.asarray(found.classes)
    truth, predicted = (np.searchsorted(names, each) for each in (found.truth, found.predicted))
    rows = np.column_stack([truth, predicted, found.scores])
    n_classes = len(names)

    def balanced(chosen: np.ndarray) -> float:
        return float(np.nanmean(_recalls(chosen, n_classes)))

    def f1(chosen: np.ndarray) -> float:
        return _f1(chosen, n_classes)

    def auc(chosen: np.ndarray) -> float:
        return area_under_curve(chosen[:, 0].astype(int), chosen[:, 2:])

    balanced_accuracy, mean_f1, area = (
        bootstrap_interval(rows, seed=seed, statistic=statistic, n_resamples=N_RESAMPLES)
        if len(rows) > 1
        else Interval(statistic(rows), np.nan, np.nan)
        for statistic in (balanced, f1, auc)
    )
    recall = dict(zip(found.classes, _recalls(rows, n_classes).tolist(), strict=True))
    accuracy = exact_interval(int(found.is_right.sum()), len(rows))
    return Performance(accuracy, balanced_accuracy, mean_f1, area, recall)


def area_under_curve(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean over classes of the area under the curve of one class against the others.

    Parameters
    ----------
    truth : ndarray
        ``(N,)`` int, index of the class.
    scores : ndarray
        ``(N, K)``.

    Returns
    -------
    float
        Over classes of which some, but not all, are there; ``nan`` for none.

    Examples
    --------
    >>> area_under_curve(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))
    1.0
    """
    areas = []
    for column in range(scores.shape[1]):
        is_own = truth == column
        n_own, n_other = int(is_own.sum()), int((~is_own).sum())
        if n_own and n_other:
            # Mann and Whitney: the rank sum counts pairs in the right order, ties half.
            ranks = stats.rankdata(scores[:, column])
            areas.append((ranks[is_own].sum() - n_own * (n_own + 1) / 2) / (n_own * n_other))
    return float(np.mean(areas)) if areas else float("nan")


def _recalls(rows: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the recall of every class, nan for one that nobody has."""
    right = np.array([((rows[:, 0] == k) & (rows[:, 1] == k)).sum() for k in range(n_classes)], float)
    n = np.array([(rows[:, 0] == k).sum() for k in range(n_classes)])
    return np.divide(right, n, out=np.full(n_classes, np.nan), where=n > 0)


def _f1(rows: np.ndarray, n_classes: int) -> float:
    values = []
    for k in range(n_classes):
        is_own, is_said = rows[:, 0] == k, rows[:, 1] == k
        if total := int(is_own.sum() + is_said.sum()):
            values.append(2 * int((is_own & is_said).sum()) / total)
    return float(np.mean(values)) if values else float("nan")
