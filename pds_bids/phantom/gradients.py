"""Gradient tables: directions spread evenly, b = 0 volumes in between."""

from collections.abc import Sequence

import numpy as np

from pds_bids.exceptions import UsageError

__all__ = ["gradient_table", "spread_directions"]


def spread_directions(count: int, n_steps: int = 200) -> np.ndarray:
    """Spread axes evenly over the sphere by electrostatic repulsion; an axis has no sign.

    Parameters
    ----------
    count : int
        Number of directions.
    n_steps : int
        Number of descent steps.

    Returns
    -------
    ndarray
        ``(count, 3)`` unit vectors; the same for every call.
    """
    # Start on a spiral over the upper half of the sphere.
    z = 1 - (np.arange(count) + 0.5) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - z**2)
    vectors = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)
    for step in range(n_steps):
        force = np.zeros_like(vectors)
        for sign in (1, -1):
            apart = vectors[:, None] - sign * vectors[None]
            distance = np.linalg.norm(apart, axis=-1)
            distance[distance < 1e-9] = np.inf
            force += (apart / distance[..., None] ** 3).sum(1)
        vectors += (0.2 / (1 + step)) * force / np.linalg.norm(force, axis=1).max()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _spread_shells(counts: Sequence[int], n_steps: int = 200) -> np.ndarray:
    """Spread the axes of several shells, each over the sphere and all of them together."""
    total = int(sum(counts))
    joint = spread_directions(total)
    # Dealt out by the golden ratio, every shell starts out spread over the whole spiral.
    vectors = joint[np.argsort((np.arange(total) * 0.618034) % 1)]
    shell = np.repeat(np.arange(len(counts)), counts)
    same = shell[:, None] == shell
    # Half of the weight to each shell's own spread, as many pairs count as there are.
    weight = 0.5 + 0.5 * len(counts) * same
    for step in range(n_steps):
        force = np.zeros_like(vectors)
        for sign in (1, -1):
            apart = vectors[:, None] - sign * vectors[None]
            distance = np.linalg.norm(apart, axis=-1)
            distance[distance < 1e-9] = np.inf
            force += (weight[..., None] * apart / distance[..., None] ** 3).sum(1)
        vectors += (0.2 / (1 + step)) * force / np.linalg.norm(force, axis=1).max()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Choose the sign of every axis so that the vectors cover the whole sphere: eddy currents cancel."""
    signed = vectors.copy()
    for _ in range(5):
        for k in range(len(signed)):
            others = np.delete(signed, k, 0)
            energies = [
                (1 / np.maximum(np.linalg.norm(others - s * signed[k], axis=1), 1e-6)).sum() for s in (1, -1)
            ]
            if energies[1] < energies[0]:
                signed[k] *= -1
    return signed


def gradient_table(
    directions: int | Sequence[int], bvals_s_mm2: float | Sequence[float], *, b0_every: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Return b-values and directions with b = 0 volumes first, in between and last.

    Parameters
    ----------
    directions : int or sequence of int
        Number of diffusion-weighted volumes, of each shell.
    bvals_s_mm2 : float or sequence of float
        The b-value of each shell.
    b0_every : int
        Weighted volumes between two of b = 0.

    Returns
    -------
    bvals : ndarray
        ``(V,)``. Volumes of all shells are mixed evenly over time.
    bvecs : ndarray
        ``(V, 3)`` unit vectors over the whole sphere, zero for b = 0. The axes of each shell repel each
        other, and more weakly those of the other shells.

    Raises
    ------
    UsageError
        If there is not one positive b-value for each number of directions.

    References
    ----------
    Caruyer et al. 2013, doi:10.1002/mrm.24736.

    Examples
    --------
    >>> gradient_table(30, 1000)[0][:3]
    array([   0., 1000., 1000.])
    """
    counts = [directions] if isinstance(directions, int) else list(directions)
    shells = list(np.atleast_1d(np.asarray(bvals_s_mm2, float)))
    if len(counts) != len(shells) or min(counts) < 1 or min(shells) <= 0 or b0_every < 1:
        raise UsageError(f"{counts} directions at b = {shells}: give one positive b-value for each shell")
    vectors = spread_directions(counts[0]) if len(counts) == 1 else _spread_shells(counts)
    vectors = np.concatenate([_signed(part) for part in np.split(vectors, np.cumsum(counts)[:-1])])
    weights = np.repeat(shells, counts)
    # Neighbours in time should not be neighbours in space, and every shell lasts from the start to the end.
    when = np.concatenate([np.argsort(np.argsort((np.arange(n) * 0.618034) % 1)) / n for n in counts])
    bvals, bvecs = [], []
    for position, index in enumerate(np.argsort(when, kind="stable")):
        if position % b0_every == 0:
            bvals.append(0.0)
            bvecs.append(np.zeros(3))
        bvals.append(float(weights[index]))
        bvecs.append(vectors[index])
    bvals.append(0.0)
    bvecs.append(np.zeros(3))
    return np.array(bvals), np.array(bvecs)
