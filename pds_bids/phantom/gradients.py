"""Gradient tables: directions spread evenly, b = 0 volumes in between."""

import numpy as np

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


def gradient_table(directions: int, bval_s_mm2: float) -> tuple[np.ndarray, np.ndarray]:
    """Return b-values and directions with a b = 0 volume first and after every ten directions.

    Parameters
    ----------
    directions : int
        Number of diffusion-weighted volumes.
    bval_s_mm2 : float
        Their b-value.

    Returns
    -------
    bvals : ndarray
        ``(V,)``.
    bvecs : ndarray
        ``(V, 3)``, zero for b = 0.

    Examples
    --------
    >>> gradient_table(30, 1000)[0][:3]
    array([   0., 1000., 1000.])
    """
    vectors = spread_directions(directions)
    # Neighbours in time should not be neighbours in space.
    order = np.argsort((np.arange(directions) * 0.618034) % 1)
    bvals, bvecs = [], []
    for position, index in enumerate(order):
        if position % 10 == 0:
            bvals.append(0.0)
            bvecs.append(np.zeros(3))
        bvals.append(float(bval_s_mm2))
        bvecs.append(vectors[index])
    bvals.append(0.0)
    bvecs.append(np.zeros(3))
    return np.array(bvals), np.array(bvecs)
