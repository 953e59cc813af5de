"""Controls of a diagnosis: no image at all, another site, permuted labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pds_bids.evaluation.diagnosis import Cohort, make_folds, predict, source_only
from pds_bids.evaluation.schemes import Blocks, Input, Origin, Scheme, default_schemes
from pds_bids.exceptions import DataError
from pds_bids.group.participants import Measured
from pds_bids.group.rows import Question, describe_inputs, result_row
from pds_bids.modalities import Modality
from pds_bids.options import Classifier
from pds_bids.seeds import derive_seed

__all__ = ["covariates_alone", "cross_site", "permuted_labels"]

#: Schemes that are tested on another site and with permuted labels.
CHOSEN = ("acquired bold", "acquired dwi", "hybrid: missing modality synthetic")


def covariates_alone(cohort: Cohort, question: Question) -> list[dict[str, Any]]:
    """Return what age, sex and site tell without any image."""
    if not cohort.covariates.shape[1]:
        return []
    # As features they must not be regressed out of themselves; a person without any is not tested.
    table = np.where(np.isfinite(cohort.covariates), cohort.covariates, np.nan)
    parts = (Input(Modality.BOLD, Origin.ACQUIRED),)
    blocks = Blocks(cohort.blocks.people, {(Modality.BOLD, Origin.ACQUIRED): table})
    alone = replace(cohort, blocks=blocks, covariates=np.zeros((len(table), 0)))
    scheme = Scheme("covariates alone, no image", parts, parts)
    found = predict(alone, scheme, Classifier.LOGISTIC, seed=question.seed)
    row = result_row(scheme, found, Classifier.LOGISTIC, alone, question, family="control")
    inputs = {"train_input": "covariates", "test_input": "covariates", "features": "covariates"}
    return [row | inputs | {f"n_test_{k}": 0 for k in ("acquired", "synthetic", "mixed")}]


def cross_site(measured: Sequence[Measured], cohort: Cohort, question: Question) -> list[dict[str, Any]]:
    """Return classifiers that are trained on all sites but one and tested on that one."""
    sites = np.array([question.people.site_of(person.label) for person in measured])
    known = sorted(set(sites) - {""})
    kind = question.main_classifier
    if len(known) < 2 or kind is None:
        return []
    first = {person: place for place, person in reversed(list(enumerate(cohort.blocks.people)))}
    # One person scanned at two sites must not be on both sides: the first site counts.
    folds = np.array(
        [known.index(sites[first[p]]) if sites[first[p]] else len(known) for p in cohort.blocks.people]
    )
    design, _ = question.people.design([p.label for p in measured], without=("site",))
    across = replace(cohort, folds=folds, covariates=design)
    rows = []
    schemes = {s.name: s for s in default_schemes() if s.name in CHOSEN}
    found = {n: predict(across, s, kind, seed=question.seed) for n, s in schemes.items()}
    singles = {s.test[0].modality: found[n] for n, s in schemes.items() if len(s.test) == 1}
    for name, scheme in schemes.items():
        beside = source_only(scheme, found[name], singles)
        row = result_row(scheme, found[name], kind, across, question, beside, family="cross-site")
        rows.append(row | {"scheme": f"{name}, each site by the others"})
    return rows


def permuted_labels(cohort: Cohort, question: Question) -> list[dict[str, Any]]:
    """Return the accuracy with permuted labels, mean and interval over orders, and the p of the true ones."""
    kind = question.main_classifier
    if not question.n_permutations or kind is None:
        return []
    from joblib import Parallel, delayed  # late: half a second

    rows = []
    for scheme in (s for s in default_schemes() if s.name in CHOSEN):
        jobs = (
            delayed(_permuted_accuracy)(cohort, scheme, kind, question, order)
            for order in range(question.n_permutations)
        )
        values = np.array(Parallel(n_jobs=question.n_procs)(jobs))
        values = values[np.isfinite(values)]
        true = predict(cohort, scheme, kind, seed=question.seed)
        if not len(values) or not true.people:
            continue
        low, high = np.quantile(values, [0.025, 0.975])
        rows.append(
            {
                "family": "permuted labels",
                "scheme": scheme.name,
                "classifier": str(kind),
                "features": question.features,
                "train_input": describe_inputs(scheme.train, scheme.imputation),
                "test_input": describe_inputs(scheme.test, scheme.imputation),
                "n_train": true.n_train,
                "n_test": len(true.people),
                "chance": 1 / len(cohort.classes),
                "accuracy": float(values.mean()),
                "accuracy_ci_low": float(low),
                "accuracy_ci_high": float(high),
                "n_permutations": len(values),
                "permutation_p": float((1 + (values >= true.is_right.mean()).sum()) / (1 + len(values))),
            }
        )
    return rows


def _permuted_accuracy(
    cohort: Cohort, scheme: Scheme, kind: Classifier, question: Question, order: int
) -> float:
    rng = np.random.default_rng(derive_seed(question.seed, "permutation", order))
    people = list(dict.fromkeys(cohort.blocks.people))
    label_of = dict(zip(cohort.blocks.people, cohort.labels.tolist(), strict=True))
    shuffled = [label_of[people[k]] for k in rng.permutation(len(people))]
    by_person = dict(zip(people, shuffled, strict=True))
    labels = np.array([by_person[person] for person in cohort.blocks.people])
    # New folds: those of the cohort balance the true diagnoses.
    try:
        folds = make_folds(
            cohort.blocks.people, labels, question.n_folds, question.seed, families=cohort.families
        )
    except DataError:
        # In this order all people of a diagnosis are relatives.
        return float("nan")
    mixed = replace(cohort, labels=labels, folds=folds)
    found = predict(mixed, scheme, kind, seed=question.seed)
    return float(found.is_right.mean()) if found.people else float("nan")
