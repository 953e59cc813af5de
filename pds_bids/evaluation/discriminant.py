"""Linear discriminant analysis for many more features than people."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

__all__ = ["ShrunkenDiscriminant"]


class ShrunkenDiscriminant(ClassifierMixin, BaseEstimator):
    """Tell classes apart by their means, in the metric of a shrunken covariance within classes.

    In what people of one class differ in many features at once (overall brightness, tissue properties), the
    variance is large and the weight small; a penalty on the weights, as that of a logistic regression, is
    blind to that. The covariance ``(1 - a) S + a m I``, m the mean of the diagonal of S, has its a from
    Ledoit and Wolf's formula, so that nothing is left to be chosen. Every class counts alike, however many
    people it has.

    References
    ----------
    Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
    """

    def fit(self, rows: np.ndarray, y: np.ndarray) -> "ShrunkenDiscriminant":
        """Fit ``(N, F)`` rows; costs of the order of N squared times F, not of F cubed."""
        self.classes_, code = np.unique(y, return_inverse=True)
        means = np.stack([rows[code == k].mean(0) for k in range(len(self.classes_))])
        centre = means.mean(0)
        residuals = rows - means[code]
        shrinkage, scale = ledoit_wolf(residuals)
        self.coefficients_ = _solve(residuals, shrinkage, scale, means - centre)
        middle = 0.5 * (means + centre)
        self.intercepts_ = -(self.coefficients_ * middle).sum(1)
        return self

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return ``(N, K)`` probabilities."""
        margins = rows @ self.coefficients_.T + self.intercepts_
        powers = np.exp(margins - margins.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the most likely class."""
        return self.classes_[self.predict_proba(rows).argmax(1)]


def ledoit_wolf(residuals: np.ndarray) -> tuple[float, float]:
    """Return the shrinkage, 0 to 1, and the mean variance of centred rows, from their ``(N, N)`` products.

    Examples
    --------
    >>> ledoit_wolf(np.zeros((4, 2)))
    (1.0, 1.0)
    """
    n, n_features = residuals.shape
    products = residuals @ residuals.T
    squared_lengths = products.diagonal()
    scale = float(squared_lengths.sum() / n / n_features)
    if scale == 0:
        return 1.0, 1.0
    # Squared norm of S, of S - m I, and the mean squared error of S as an estimate.
    norm = float((products**2).sum() / n**2)
    distance = norm - n_features * scale**2
    error = (float((squared_lengths**2).sum() / n) - norm) / n
    return (min(error, distance) / distance if distance > 0 else 1.0), scale


def _solve(residuals: np.ndarray, shrinkage: float, scale: float, rows: np.ndarray) -> np.ndarray:
    """Multiply rows by the inverse of ``(1 - a) R'R / N + a m I`` (Woodbury)."""
    n = len(residuals)
    # Without any shrinkage nothing could be inverted; with N > F and no noise that may happen.
    ridge = max(shrinkage, 1e-6) * scale
    weight = (1 - shrinkage) / n
    inner = ridge * np.eye(n) + weight * (residuals @ residuals.T)
    return (rows - weight * np.linalg.solve(inner, residuals @ rows.T).T @ residuals) / ridge
