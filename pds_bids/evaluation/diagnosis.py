"""Tell diagnoses apart by cross-validation over people, the source-only classifier beside every scheme."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pds_bids.evaluation.classifiers import fit_nested, scores_of
from pds_bids.evaluation.leakage import check_folds
from pds_bids.evaluation.schemes import Blocks, Imputation, Input, Origin, Scheme
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality
from pds_bids.options import Classifier
from pds_bids.seeds import derive_seed

__all__ = ["Cohort", "Prediction", "make_folds", "predict", "source_only"]

FEWEST_PER_CLASS = 2


@dataclass(frozen=True, eq=False)
class Cohort:
    """Labelled people.

    Parameters
    ----------
    blocks : Blocks
        Features; several rows may be of one person (segments), who is then judged by the mean score.
    labels : ndarray
        ``(N,)`` str, diagnosis.
    folds : ndarray
        ``(N,)`` int, fold in which a row is tested.
    covariates : ndarray
        ``(N, C)`` float; nan where unknown.
    volume_mask : ndarray, optional
        For features that are voxels.
    families : tuple of str
        Whose relative each row is: nobody is tested by a classifier that has seen a relative. Empty where
        nobody has any.
    """

    blocks: Blocks
    labels: np.ndarray
    folds: np.ndarray
    covariates: np.ndarray
    volume_mask: np.ndarray | None = None
    families: tuple[str, ...] = ()
    classes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_folds(self.blocks.people, self.folds)
        object.__setattr__(self, "classes", tuple(sorted(set(self.labels.tolist()))))
        if len(self.classes) < 2:
            raise DataError(f"diagnosis: only {list(self.classes)} among the people; two groups are needed")

    @property
    def relatives(self) -> np.ndarray:
        """``(N,)`` str: the family of each row, the person where there is none."""
        return np.asarray(self.families or self.blocks.people)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores of people who were not trained on.

    Parameters
    ----------
    people : tuple of str
        Who was tested.
    truth : ndarray
        ``(N,)`` str.
    scores : ndarray
        ``(N, K)``, sum 1.
    n_train : int
        People trained on, in the mean over folds.
    inputs : tuple of str
        What each person's test features were: ``acquired``, ``synthetic`` or ``mixed``.
    classes : tuple of str
        Order of the columns.
    """

    people: tuple[str, ...]
    truth: np.ndarray
    scores: np.ndarray
    n_train: int
    inputs: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def predicted(self) -> np.ndarray:
        """Diagnosis with the highest score."""
        return np.asarray(self.classes)[self.scores.argmax(1)] if len(self.people) else np.zeros(0, "U1")

    @property
    def is_right(self) -> np.ndarray:
        """``(N,)`` bool."""
        return self.predicted == self.truth


def make_folds(
    people: Sequence[str],
    labels: np.ndarray,
    n_folds: int,
    seed: int,
    *,
    patterns: Sequence[str] = (),
    families: Sequence[str] = (),
) -> np.ndarray:
    """Deal people out to folds, evenly by diagnosis and, where numbers allow, by what was acquired.

    Parameters
    ----------
    people : sequence of str
        Who each row is of.
    labels : ndarray
        ``(N,)`` diagnoses.
    n_folds : int
        How many; fewer where a diagnosis has fewer people.
    seed : int
        Master seed.
    patterns : sequence of str
        What each row has, for example ``bold``.
    families : sequence of str
        Whose relative each row is; by default nobody's.

    Returns
    -------
    ndarray
        ``(N,)`` int; all rows of a family in one fold.

    Raises
    ------
    DataError
        If a diagnosis has fewer than two people or families, or a person two diagnoses.
    """
    first = {person: row for row, person in reversed(list(enumerate(people)))}
    for person, label in zip(people, labels, strict=True):
        if labels[first[person]] != label:
            raise DataError(
                f"diagnosis: {person} is {labels[first[person]]} in one row and {label} in another"
            )
    rows = np.array([first[person] for person in first])
    strata = labels[rows].astype(str)
    kin = np.asarray(families if len(families) else people)[rows]
    names = np.unique(strata)
    counts = np.array([len(set(kin[strata == name])) for name in names])
    fewest = int(counts.min())
    if fewest < FEWEST_PER_CLASS:
        few = ", ".join(names[counts < FEWEST_PER_CLASS].tolist())
        raise DataError(
            f"diagnosis: fewer than {FEWEST_PER_CLASS} people with images in {few} (relatives count as "
            f"one); at least {FEWEST_PER_CLASS} are needed in each group"
        )
    n_folds = min(n_folds, fewest)
    if len(patterns):
        finer = np.array([f"{a}/{b}" for a, b in zip(strata, np.asarray(patterns)[rows], strict=True)])
        if np.unique(finer, return_counts=True)[1].min() >= n_folds:
            strata = finer
    shuffling: dict[str, Any] = {"shuffle": True, "random_state": derive_seed(seed, "folds") % 2**32}
    has_relatives = len(set(kin)) < len(kin)
    splitter = (StratifiedGroupKFold if has_relatives else StratifiedKFold)(n_folds, **shuffling)
    fold_of = np.zeros(len(rows), int)
    for fold, (_, test) in enumerate(splitter.split(strata, strata, kin)):
        fold_of[test] = fold
    by_person = dict(zip(first, fold_of.tolist(), strict=True))
    return np.array([by_person[person] for person in people])


def predict(
    cohort: Cohort, scheme: Scheme, kind: Classifier, *, seed: int, labels: np.ndarray | None = None
) -> Prediction:
    """Test everybody whom a scheme can test, each by a classifier that has not seen him or her.

    Parameters
    ----------
    cohort : Cohort
        People, features, folds.
    scheme : Scheme
        What is trained on and tested on.
    kind : Classifier
        Which classifier.
    seed : int
        Master seed.
    labels : ndarray, optional
        In place of those of the cohort: permuted ones.

    Returns
    -------
    Prediction
        One row per person; empty when too few people have the features.
    """
    y = cohort.labels if labels is None else labels
    can_train, can_test = (
        _who(cohort.blocks, parts, scheme.imputation) for parts in (scheme.train, scheme.test)
    )
    train_rows, test_rows = (cohort.blocks.take(parts) for parts in (scheme.train, scheme.test))
    scores = np.full((len(y), len(cohort.classes)), np.nan)
    people, kin = np.asarray(cohort.blocks.people), cohort.relatives
    trained = []
    for fold in np.unique(cohort.folds):
        is_tested = cohort.folds == fold
        # Folds may part relatives, as those of sites do.
        train, test = can_train & ~np.isin(kin, kin[is_tested]), can_test & is_tested
        if not test.any() or _fewest(people[train], y[train], cohort.classes) < FEWEST_PER_CLASS:
            continue
        extra = _filled(cohort.covariates, train)
        fitted = fit_nested(
            kind,
            np.concatenate([train_rows[train], extra[train]], 1),
            y[train],
            kin[train].tolist(),
            n_covariates=extra.shape[1],
            imputation=scheme.imputation,
            volume_mask=cohort.volume_mask,
            seed=derive_seed(seed, "classifier", str(kind), int(fold)),
        )
        scores[test] = scores_of(fitted, np.concatenate([test_rows[test], extra[test]], 1), cohort.classes)
        trained.append(len(set(people[train])))
    origins = [_origin(cohort.blocks, scheme, row) for row in range(len(y))]
    return _by_person(people, y, scores, origins, cohort.classes, int(np.mean(trained)) if trained else 0)


def source_only(scheme: Scheme, tested: Prediction, singles: dict[Modality, Prediction]) -> Prediction:
    """Return the classifier that sees only the acquired images which a scheme's test input was made from.

    A synthetic image is a function of its source, so it holds no information that the source has not. This
    is what the source alone gives: the mean score of classifiers of single acquired modalities.

    Parameters
    ----------
    scheme : Scheme
        What it is compared with.
    tested : Prediction
        Of that scheme: the people to judge.
    singles : dict of Modality to Prediction
        Of classifiers trained and tested on one acquired modality.

    Returns
    -------
    Prediction
        Of the people in `tested` whose sources were judged, in their order.
    """
    places = {modality: {p: k for k, p in enumerate(single.people)} for modality, single in singles.items()}
    kept, scores = [], []
    for row, person in enumerate(tested.people):
        sources = set()
        for part in scheme.test:
            is_acquired = part.origin is Origin.ACQUIRED and (
                scheme.imputation is Imputation.NONE or person in places[part.modality]
            )
            is_filled = part.origin is Origin.FILLED and person in places[part.modality]
            sources.add(part.modality if is_acquired or is_filled else part.modality.other)
        own = [singles[m].scores[places[m][person]] for m in sorted(sources) if person in places[m]]
        if len(own) == len(sources):
            kept.append(row)
            scores.append(np.mean(own, 0))
    n_train = min((single.n_train for single in singles.values() if single.people), default=0)
    return Prediction(
        tuple(tested.people[k] for k in kept),
        tested.truth[kept],
        np.array(scores).reshape(len(kept), len(tested.classes)),
        n_train,
        ("acquired",) * len(kept),
        tested.classes,
    )


def _who(blocks: Blocks, parts: Sequence[Input], imputation: Imputation) -> np.ndarray:
    has = [blocks.has(part) for part in parts]
    return np.all(has, 0) if imputation is Imputation.NONE else np.any(has, 0)


def _origin(blocks: Blocks, scheme: Scheme, row: int) -> str:
    kinds = {str(blocks.origin_of(part, row)) for part in scheme.test}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _fewest(people: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> int:
    return min(len(set(people[labels == name])) for name in classes)


def _filled(covariates: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Fill unknown covariates by the mean of the training people, zero where nobody's is known."""
    if not covariates.shape[1]:
        return covariates
    known = np.isfinite(covariates[train])
    total = np.where(known, covariates[train], 0).sum(0)
    mean = np.divide(total, known.sum(0), out=np.zeros(len(total)), where=known.sum(0) > 0)
    return np.where(np.isfinite(covariates), covariates, mean)


def _by_person(
    people: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    origins: Sequence[str],
    classes: tuple[str, ...],
    n_train: int,
) -> Prediction:
    """Average the scores of the rows of each person."""
    is_tested = np.isfinite(scores).all(1)
    names = list(dict.fromkeys(people[is_tested].tolist()))
    rows = [np.flatnonzero(is_tested & (people == name)) for name in names]
    return Prediction(
        tuple(names),
        np.array([labels[own[0]] for own in rows], dtype=labels.dtype),
        np.array([scores[own].mean(0) for own in rows]).reshape(len(names), len(classes)),
        n_train,
        tuple(origins[own[0]] for own in rows),
        classes,
    )
