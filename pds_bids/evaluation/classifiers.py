"""Classifiers of diagnoses; everything that is fitted is fitted on the training fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from pds_bids.evaluation.discriminant import ShrunkenDiscriminant
from pds_bids.evaluation.imputation import BlockNeighbourImputer
from pds_bids.evaluation.schemes import Imputation
from pds_bids.options import Classifier

__all__ = ["RegressOut", "fit_nested", "scores_of"]

INNER_FOLDS = 3
N_NEIGHBOURS = 5
N_TREES = 100


class RegressOut(TransformerMixin, BaseEstimator):
    """Take out of every feature what covariates explain in the training people.

    Parameters
    ----------
    n_covariates : int
        Last columns, which are the covariates; they are dropped.
    """

    def __init__(self, n_covariates: int = 0) -> None:
        self.n_covariates = n_covariates

    def fit(self, rows: np.ndarray, y: object = None) -> "RegressOut":  # noqa: ARG002 - scikit-learn gives it
        """Fit one linear model per feature, with an intercept that is kept."""
        features, design = self._split(rows)
        self.mean_ = design.mean(0)
        self.coefficients_ = np.linalg.lstsq(design - self.mean_, features - features.mean(0), rcond=None)[0]
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Return the features less what the covariates predict."""
        features, design = self._split(rows)
        return features - (design - self.mean_) @ self.coefficients_

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_features = rows.shape[1] - self.n_covariates
        return rows[:, :n_features], rows[:, n_features:]


def fit_nested(
    kind: Classifier,
    rows: np.ndarray,
    y: np.ndarray,
    families: Sequence[str],
    *,
    n_covariates: int = 0,
    imputation: Imputation = Imputation.NONE,
    volume_mask: np.ndarray | None = None,
    seed: int = 0,
) -> Any:
    """Fit a classifier; its settings are chosen by a cross-validation within the training people.

    Parameters
    ----------
    kind : Classifier
        Which.
    rows : ndarray
        ``(N, F + n_covariates)`` features, then covariates; nan features are imputed.
    y : ndarray
        ``(N,)`` diagnoses.
    families : sequence of str
        Whose relative each row is, or whose it is; inner folds do not part relatives either.
    n_covariates : int
        Columns at the end that are regressed out.
    imputation : Imputation
        For features that are nan; single parcels are filled by the mean in any case.
    volume_mask : ndarray, optional
        ``(X, Y, Z)`` bool; for the network: where the voxels of a contrast lie.
    seed : int
        Of all draws.

    Returns
    -------
    sklearn estimator
        Fitted, with ``classes_``.
    """
    estimator, grid = _estimator(kind, volume_mask, seed)
    fill = (
        BlockNeighbourImputer(N_NEIGHBOURS)
        if imputation is Imputation.NEIGHBOURS
        else SimpleImputer(keep_empty_features=True)
    )
    pipeline = Pipeline(
        [
            # Neighbours are near in all features: as they come, years of age outweigh every parcel.
            ("units", StandardScaler() if imputation is Imputation.NEIGHBOURS else "passthrough"),
            ("fill", fill),
            ("covariates", RegressOut(n_covariates)),
            ("scale", StandardScaler()),
            ("classify", estimator),
        ]
    )
    n_folds = min(INNER_FOLDS, _fewest_families(y, families))
    if not grid or n_folds < 2:
        return pipeline.fit(rows, y)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed % 2**32)
    named = {f"classify__{name}": values for name, values in grid.items()}
    search = GridSearchCV(pipeline, named, scoring="balanced_accuracy", cv=folds)
    return search.fit(rows, y, groups=np.asarray(families)).best_estimator_


def scores_of(fitted: Any, rows: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return ``(N, K)`` scores that sum to 1, in the order of `classes`; 0 for a class not trained on."""
    if hasattr(fitted, "predict_proba"):
        found = fitted.predict_proba(rows)
    else:
        margins = fitted.decision_function(rows)
        margins = np.stack([-margins, margins], 1) / 2 if margins.ndim == 1 else margins
        powers = np.exp(margins - margins.max(1, keepdims=True))
        found = powers / powers.sum(1, keepdims=True)
    scores = np.zeros((len(rows), len(classes)))
    for column, name in enumerate(fitted.classes_):
        scores[:, list(classes).index(name)] = found[:, column]
    return scores


def _estimator(
    kind: Classifier, volume_mask: np.ndarray | None, seed: int
) -> tuple[Any, dict[str, list[Any]]]:
    """Return an estimator and the settings to choose from."""
    state = seed % 2**32
    if kind is Classifier.LDA:
        return ShrunkenDiscriminant(), {}
    if kind is Classifier.LOGISTIC:
        model = LogisticRegression(class_weight="balanced", max_iter=2000)
        return model, {"C": [1e-3, 1e-2, 1e-1, 1.0]}
    if kind in (Classifier.SVM, Classifier.VOXEL_SVM):
        return SVC(kernel="linear", class_weight="balanced"), {"C": [1e-4, 1e-3, 1e-2, 1e-1]}
    if kind is Classifier.FOREST:
        forest = RandomForestClassifier(N_TREES, class_weight="balanced", random_state=state)
        return forest, {"min_samples_leaf": [1, 4]}
    from pds_bids.evaluation.network import VolumeNetwork  # late: MONAI

    # The number of epochs is chosen inside, by held-out people of the training fold.
    return VolumeNetwork(volume_mask, seed=seed), {}


def _fewest_families(y: np.ndarray, families: Sequence[str]) -> int:
    owners = np.asarray(families)
    return min(len(set(owners[y == label])) for label in np.unique(y))
