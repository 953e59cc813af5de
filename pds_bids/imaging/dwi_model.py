"""What a diffusion-weighted volume should look like, predicted from the other volumes of its shell.

A Gaussian process on the sphere with an unknown mean: volumes of like gradient directions tell much of each
other, and the fewer or noisier they are, the more the prediction becomes the mean of the shell. All voxels
share the covariance, so that predicting a whole series is one small matrix.

References
----------
Andersson and Sotiropoulos 2015, 10.1016/j.neuroimage.2015.07.067 (Gaussian processes on a shell);
Rasmussen and Williams 2006, 0-262-18253-X, eq. 5.12 (leaving one out in closed form).
"""

import numpy as np

from pds_bids.exceptions import DataError

__all__ = ["leave_one_out_weights", "mean_of_others", "predict_others"]

# Reach of the covariance in degrees, and variance of the noise relative to the signal's, to choose from.
REACH_DEG = (30.0, 45.0, 60.0, 90.0, 135.0, 180.0)
NOISE_SHARE = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
# Noise of the others in a prediction, as a share of their own: a prediction from few, or one that
# extrapolates, passes on their errors of pose as well. With three volumes the mean of the others has 0.5.
MOST_NOISE = 0.5
# A value this many robust standard deviations off its prediction is spoilt, and predicts nothing itself.
SPOILT = 4.0


def leave_one_out_weights(bvecs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the weights that predict each volume from the others best.

    Parameters
    ----------
    bvecs : ndarray
        ``(n, 3)`` unit vectors in the frame of the head; zero vectors (b0s) are all alike.
    values : ndarray
        ``(n, P)`` aligned volumes at points of the head, from which reach and noise are chosen.

    Returns
    -------
    ndarray
        ``(n, n)`` float64; row *k* predicts volume *k*. Its diagonal is zero and its rows sum to 1.

    Raises
    ------
    DataError
        If there are fewer than two volumes.

    Examples
    --------
    Two volumes can only predict each other.

    >>> leave_one_out_weights(np.eye(3)[:2], np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[0., 1.],
           [1., 0.]])
    """
    if len(bvecs) < 2:
        raise DataError(f"{len(bvecs)} volume(s): at least two are needed to predict one from the others")
    values = np.asarray(values, float)
    gram = values @ values.T
    angle = np.arccos(np.clip(np.abs(np.asarray(bvecs, float) @ np.asarray(bvecs, float).T), 0, 1))
    is_b0 = np.linalg.norm(bvecs, axis=1) < 0.5
    angle[is_b0[:, None] & is_b0[None]] = 0
    best, best_error = mean_of_others(len(bvecs)), np.inf
    for reach_deg in REACH_DEG:
        ratio = np.minimum(angle / np.deg2rad(reach_deg), 1)
        covariance = 1 - 1.5 * ratio + 0.5 * ratio**3
        for share in NOISE_SHARE:
            residual = _leave_one_out(covariance + share * np.eye(len(bvecs)))
            error = float(np.einsum("ij,jk,ik->", residual, gram, residual))
            # Each row has 1 on the diagonal, and the rest are weights.
            is_steady = (residual**2).sum(1).max() - 1 <= MOST_NOISE
            if is_steady and error < best_error:
                best, best_error = np.eye(len(bvecs)) - residual, error
    return best


def mean_of_others(n_volumes: int) -> np.ndarray:
    """Return the ``(n, n)`` weights that predict each volume by the mean of all others."""
    return (np.ones((n_volumes, n_volumes)) - np.eye(n_volumes)) / (n_volumes - 1)


def predict_others(
    weights: np.ndarray, values: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predict each volume from the others, spoilt slices left out.

    Parameters
    ----------
    weights : ndarray
        ``(n, n)`` from `leave_one_out_weights`.
    values, slopes : ndarray
        ``(n, P)`` aligned volumes at points, and ``(n, P, 3)`` their gradients.

    Returns
    -------
    values, slopes : ndarray
        Predictions, float32.
    """
    weights = weights.astype(np.float32)
    predicted = weights @ values
    turned = np.moveaxis(slopes, 2, 0)
    steep = weights @ turned
    residual = np.abs(values - predicted)
    spoilt = residual > SPOILT * 1.4826 * np.median(residual, axis=1, keepdims=True)
    predicted = weights @ np.where(spoilt, predicted, values)
    steep = weights @ np.where(spoilt, steep, turned)
    return predicted, np.moveaxis(steep, 0, 2)


def _leave_one_out(covariance: np.ndarray) -> np.ndarray:
    """Return the matrix that turns values into what is left when each is predicted from the others."""
    precision = np.linalg.inv(covariance)
    ones = precision.sum(1)
    # The mean is unknown: its share of the information is taken out.
    precision = precision - np.outer(ones, ones) / ones.sum()
    return precision / np.diag(precision)[:, None]
