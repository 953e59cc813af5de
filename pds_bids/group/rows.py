"""Rows of the table of diagnoses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pds_bids.evaluation.classification import Performance, measure
from pds_bids.evaluation.diagnosis import Cohort, Prediction
from pds_bids.evaluation.schemes import Imputation, Input, Scheme
from pds_bids.evaluation.statistics import exact_interval, mcnemar_p
from pds_bids.group.people import People
from pds_bids.options import Classifier
from pds_bids.seeds import derive_seed

__all__ = ["Question", "describe_inputs", "result_row"]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of the cohort.

    Parameters
    ----------
    people : People
        Diagnoses, covariates, sites, who is who.
    classifiers : tuple of Classifier
        Which.
    n_folds : int
        Of the outer cross-validation.
    n_permutations : int
        Orders of permuted labels; 0 for none.
    seed : int
        Master seed.
    n_procs : int
        Classifiers at a time.
    volume_mask : ndarray, optional
        Where coarse voxels lie.
    parcels : tuple of int
        Columns of the parcels that are looked at; empty for all.
    """

    people: People
    classifiers: tuple[Classifier, ...]
    n_folds: int = 5
    n_permutations: int = 100
    seed: int = 0
    n_procs: int = 1
    volume_mask: np.ndarray | None = None
    parcels: tuple[int, ...] = ()

    @property
    def features(self) -> str:
        """What classifiers of parcels read, for the table."""
        return f"{len(self.parcels)} parcels" if self.parcels else "parcels"

    @property
    def main_classifier(self) -> Classifier | None:
        """Classifier of the controls: the first of those that read parcels."""
        return next((kind for kind in self.classifiers if not kind.reads_voxels), None)


def result_row(
    scheme: Scheme,
    found: Prediction,
    kind: Classifier,
    cohort: Cohort,
    question: Question,
    beside: Prediction | None = None,
    *,
    family: str = "scheme",
) -> dict[str, Any]:
    """Return one row of the table."""
    seed = derive_seed(question.seed, "performance", scheme.name, str(kind))
    row: dict[str, Any] = {
        "family": family,
        "scheme": scheme.name,
        "paper_scheme": scheme.paper or None,
        "classifier": str(kind),
        "features": "voxels" if kind.reads_voxels else question.features,
        "train_input": describe_inputs(scheme.train, scheme.imputation),
        "test_input": describe_inputs(scheme.test, scheme.imputation),
        **{f"n_test_{k}": found.inputs.count(k) for k in ("acquired", "synthetic", "mixed")},
        "n_train": found.n_train,
        "n_test": len(found.people),
        "chance": 1 / len(cohort.classes),
        **_figures(measure(found, seed=seed)),
    }
    # An acquired image alone is its own source.
    if beside is not None and len(beside.people) and (scheme.has_synthetic or len(scheme.test) > 1):
        right = dict(zip(found.people, found.is_right.tolist(), strict=True))
        own = np.array([right[person] for person in beside.people])
        score = exact_interval(int(beside.is_right.sum()), len(beside.people))
        row |= {
            "source_only_accuracy": score.estimate,
            "source_only_ci_low": score.low,
            "source_only_ci_high": score.high,
            "source_only_balanced_accuracy": measure(beside, seed=seed).balanced_accuracy.estimate,
            "difference_to_source_only": float(own.mean() - beside.is_right.mean()),
            "mcnemar_p": mcnemar_p(own, beside.is_right),
        }
    return row


def _figures(performance: Performance) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in ("accuracy", "balanced_accuracy", "f1", "auc"):
        interval = getattr(performance, name)
        row |= {name: interval.estimate, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
    return row | {f"recall_{name}": value for name, value in performance.recall.items()}


def describe_inputs(parts: Sequence[Input], imputation: Imputation) -> str:
    """Return what a scheme reads, in words that the table and the page search."""
    text = " + ".join(f"{part.origin} {part.modality}" for part in parts)
    return text if imputation is Imputation.NONE else f"{text}, missing: {imputation}"
