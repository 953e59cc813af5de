"""Means over the parcels of an atlas."""

import numpy as np

__all__ = ["parcel_means"]


def parcel_means(volumes: np.ndarray, atlas: np.ndarray, mask: np.ndarray, labels: list[int]) -> np.ndarray:
    """Average every volume over every parcel, inside the brain mask.

    Parameters
    ----------
    volumes : ndarray
        ``(X, Y, Z, N)``.
    atlas : ndarray
        ``(X, Y, Z)`` integer parcel indices, 0 for none.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    labels : list of int
        Parcels, in the order of the columns.

    Returns
    -------
    ndarray
        ``(N, len(labels))`` float64; nan for a parcel with no voxel in the mask.

    Examples
    --------
    >>> atlas = np.array([[[1, 1, 2]]])
    >>> parcel_means(np.array([[[[1.0], [3.0], [5.0]]]]), atlas, atlas > 0, [1, 2, 3])
    array([[ 2.,  5., nan]])
    """
    index, inside = atlas[mask], volumes[mask].astype(np.float64)
    size = max(int(index.max(initial=0)), max(labels)) + 1
    counts = np.bincount(index, minlength=size).astype(float)
    sums = np.stack([np.bincount(index, column, minlength=size) for column in inside.T])
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means[:, labels]
