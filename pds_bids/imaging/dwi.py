"""Gradient tables: checks, shells, and the frames in which directions are written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pds_bids.exceptions import DataError, GeometryError

__all__ = [
    "GradientTable",
    "Shell",
    "check_gradients",
    "distinct_directions",
    "fsl_to_ras_bvecs",
    "ras_to_fsl_bvecs",
    "rotate_bvecs",
    "tensor_problem",
]

# A volume is a b0 up to 50 s/mm2; where there is none, up to 100 (crusher gradients of some scanners).
B0_THRESHOLDS = (50.0, 100.0)
# Neighbouring b-values of one shell differ by less than this, or than this share of b.
SHELL_GAP = 100.0
SHELL_GAP_SHARE = 0.05
# Tables are printed with few digits; beyond this the length of a vector means something else.
NORM_TOLERANCE = 0.1
# No scanner for people reaches this b-value (s/mm2): it is in s/m2. One up to 20 may be in ms/um2.
BVAL_MAX = 1e5
BVAL_MAX_MS_UM2 = 20.0
# Two directions closer than this (radians) are one, measured twice; opposite ones, too.
SAME_DIRECTION = 0.02
# Ratio of the largest to the smallest singular value of the six products of direction components. Evenly
# spread directions have 1.6, the least even scheme in use about 9 (Skare et al. 2000).
TENSOR_CONDITION_MAX = 30.0
N_TENSOR = 6


@dataclass(frozen=True)
class Shell:
    """Volumes of one b-value.

    Parameters
    ----------
    bval : float
        Mean b-value, s/mm2.
    volumes : tuple of int
        0-based, ascending.
    """

    bval: float
    volumes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GradientTable:
    """A checked gradient table.

    Parameters
    ----------
    bvals : ndarray
        ``(N,)`` float64, s/mm2.
    bvecs : ndarray
        ``(N, 3)`` float64 unit vectors; zero for b0s. In the frame of the input (FSL's, if read from a file).
    b0_threshold : float
        Volumes with ``b <= b0_threshold`` are b0s.
    shells : tuple of Shell
        Weighted volumes by b-value, ascending; never empty.
    left_out : tuple of int
        0-based volumes that are in the series but must not be used.
    """

    bvals: np.ndarray
    bvecs: np.ndarray
    b0_threshold: float
    shells: tuple[Shell, ...]
    left_out: tuple[int, ...] = ()

    @property
    def b0_volumes(self) -> tuple[int, ...]:
        """0-based b0 volumes; never empty."""
        low = np.flatnonzero(self.bvals <= self.b0_threshold)
        return tuple(np.setdiff1d(low, self.left_out).tolist())

    @property
    def weighted_volumes(self) -> tuple[int, ...]:
        """0-based diffusion-weighted volumes; never empty."""
        return tuple(sorted(k for shell in self.shells for k in shell.volumes))

    def without(self, volumes: Sequence[int]) -> "GradientTable":
        """Return the table with some volumes left out: they count as neither b0 nor weighted.

        Raises
        ------
        DataError
            If no b0 or no weighted volume is left.

        Examples
        --------
        >>> table = check_gradients(4, [0, 0, 1000, 1000], np.eye(3)[[2, 2, 0, 1]])
        >>> rest = table.without([0, 2])
        >>> rest.b0_volumes, rest.weighted_volumes
        ((1,), (3,))
        """
        gone = set(volumes)
        rest = [tuple(k for k in shell.volumes if k not in gone) for shell in self.shells]
        shells = tuple(Shell(float(self.bvals[list(kept)].mean()), kept) for kept in rest if kept)
        table = replace(self, shells=shells, left_out=tuple(sorted(gone)))
        if not shells or not table.b0_volumes:
            raise DataError(
                f"without {len(gone)} of {self.bvals.size} volumes there is no b0 or nothing weighted"
            )
        return table


def check_gradients(
    n_volumes: int, bvals: Sequence[float] | np.ndarray, bvecs: np.ndarray, *, name: str = "dwi"
) -> GradientTable:
    """Check a gradient table against its series.

    Parameters
    ----------
    n_volumes : int
        Volumes of the series.
    bvals : array-like
        ``(N,)`` s/mm2.
    bvecs : ndarray
        ``(3, N)`` as FSL writes them, or ``(N, 3)``. For three volumes, whichever gives unit vectors.
    name : str
        What the messages call the series.

    Returns
    -------
    GradientTable
        Vectors normalised, b0 vectors set to zero.

    Raises
    ------
    GeometryError
        If counts do not fit, b-values are negative or not finite, or the vector of a weighted volume is not
        of length 1.
    DataError
        If there is no b0 or no weighted volume.

    Examples
    --------
    >>> table = check_gradients(3, [0, 1000, 1005], np.array([[0, 1, 0], [0, 0, 1.0], [0, 0, 0]]))
    >>> table.b0_volumes, [(shell.bval, shell.volumes) for shell in table.shells]
    ((0,), [(1002.5, (1, 2))])
    """
    bvals = np.array(bvals, dtype=float).ravel()
    if bvals.size != n_volumes:
        swapped = bvals.size == 3 * n_volumes and np.size(bvecs) == n_volumes
        hint = "the bval and the bvec file are exchanged" if swapped else "re-run the converter"
        raise GeometryError(f"{name}: {n_volumes} volumes != {bvals.size} b-values; {hint} or trim the table")
    if not np.isfinite(bvals).all() or (bvals < 0).any():
        bad = np.flatnonzero(~np.isfinite(bvals) | (bvals < 0)).tolist()
        raise GeometryError(f"{name}: b-values of volumes {_some(bad)} are negative or not finite")
    if bvals.max() > BVAL_MAX:
        raise DataError(
            f"{name}: largest b-value {bvals.max():g}, expected s/mm2; if it is in s/m2, divide by 1e6"
        )
    threshold = next((t for t in B0_THRESHOLDS if (bvals <= t).any()), B0_THRESHOLDS[-1])
    if not (bvals <= threshold).any():
        raise DataError(
            f"{name}: no b = 0 volume (smallest b-value {bvals.min():g}, b0s are <= {threshold:g} s/mm2); "
            "add the b0 of the same session to the series"
        )
    if not (bvals > threshold).any():
        may_be_ms = 0 < bvals.max() < BVAL_MAX_MS_UM2
        hint = "; if b-values are in ms/um2, multiply them by 1000" if may_be_ms else ""
        raise DataError(
            f"{name}: all {n_volumes} volumes have b <= {threshold:g} s/mm2; nothing is weighted{hint}"
        )
    vectors = _oriented(bvecs, n_volumes, name)
    return GradientTable(
        bvals, _normalised(vectors, bvals, threshold, name), threshold, _shells(bvals, threshold)
    )


def distinct_directions(bvecs: np.ndarray) -> np.ndarray:
    """Return the vectors that are not repetitions of one before, up to sign and about 1 degree.

    Parameters
    ----------
    bvecs : ndarray
        ``(N, 3)`` unit vectors; those of length zero are left out.

    Returns
    -------
    ndarray
        ``(M, 3)``, M <= N.
    """
    distinct = np.zeros((0, 3))
    for vector in np.asarray(bvecs, float).reshape(-1, 3):
        length = np.linalg.norm(vector)
        if length > 0.5 and np.abs(distinct @ vector / length).max(initial=0) < np.cos(SAME_DIRECTION):
            distinct = np.vstack([distinct, vector / length])
    return distinct


def tensor_problem(bvecs: np.ndarray) -> str:
    """Say why directions do not determine a diffusion tensor.

    Parameters
    ----------
    bvecs : ndarray
        ``(N, 3)`` unit vectors of weighted volumes; those of length zero do not count.

    Returns
    -------
    str
        Empty when they do: six or more distinct axes that are not near a plane or another cone on which
        different tensors look alike.

    References
    ----------
    Skare et al., J Magn Reson 2000, doi:10.1006/jmre.2000.2209.

    Examples
    --------
    >>> tensor_problem(np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]]))
    '2 distinct directions, at least 6 needed'
    """
    distinct = distinct_directions(bvecs)
    if len(distinct) < N_TENSOR:
        return f"{len(distinct)} distinct directions, at least {N_TENSOR} needed"
    x, y, z = distinct.T
    root = np.sqrt(2)
    products = np.stack([x * x, y * y, z * z, root * x * y, root * x * z, root * y * z], 1)
    sizes = np.linalg.svd(products, compute_uv=False)
    if sizes[0] > TENSOR_CONDITION_MAX * sizes[-1]:
        return f"the {len(distinct)} directions lie near a plane or a cone, so that some tensors look alike"
    return ""


def fsl_to_ras_bvecs(bvecs: np.ndarray, vox2ras: np.ndarray) -> np.ndarray:
    """Turn FSL's vectors into scanner directions.

    FSL writes vectors along the voxel axes of the stored image, the first component with its sign
    flipped when ``det(vox2ras) > 0``. Scanner directions do not depend on how the image is stored.

    Parameters
    ----------
    bvecs : ndarray
        ``(N, 3)`` in FSL's convention.
    vox2ras : ndarray
        ``(4, 4)`` affine of the image as stored, before any reorientation.

    Returns
    -------
    ndarray
        ``(N, 3)`` along the RAS+ axes of the scanner.

    Examples
    --------
    In an image stored RAS+, ``(1, 0, 0)`` points to the Left; stored LAS+, it does too.

    >>> fsl_to_ras_bvecs(np.array([[1.0, 0, 0]]), np.diag([2.0, 2, 2, 1]))
    array([[-1.,  0.,  0.]])
    >>> fsl_to_ras_bvecs(np.array([[1.0, 0, 0]]), np.diag([-2.0, 2, 2, 1]))
    array([[-1.,  0.,  0.]])
    """
    return np.asarray(bvecs, float) @ _fsl_axes(vox2ras).T + 0.0


def ras_to_fsl_bvecs(bvecs_ras: np.ndarray, vox2ras: np.ndarray) -> np.ndarray:
    """Turn scanner directions into FSL's vectors for an image stored with `vox2ras`.

    The inverse of `fsl_to_ras_bvecs`.

    Parameters
    ----------
    bvecs_ras : ndarray
        ``(N, 3)`` along the RAS+ axes of the scanner.
    vox2ras : ndarray
        ``(4, 4)`` affine of the image as it will be stored.

    Returns
    -------
    ndarray
        ``(N, 3)`` in FSL's convention.
    """
    return np.asarray(bvecs_ras, float) @ _fsl_axes(vox2ras) + 0.0


def rotate_bvecs(bvecs_ras: np.ndarray, ref2volume: np.ndarray) -> np.ndarray:
    """Express each volume's gradient direction in the reference position of the head.

    The gradient is fixed to the scanner. A direction *d* of the reference head lies along ``R d`` while
    volume *k* is acquired, so the gradient *g* acts on the reference head along ``R.T @ g``.

    Parameters
    ----------
    bvecs_ras : ndarray
        ``(N, 3)`` along the RAS+ axes of the scanner.
    ref2volume : ndarray
        ``(N, 4, 4)`` rigid point maps from the reference to each volume.

    Returns
    -------
    ndarray
        ``(N, 3)`` along the RAS+ axes of the reference.

    Raises
    ------
    GeometryError
        If there is not one matrix for each vector.

    Examples
    --------
    The head turns its nose from Anterior to the Left (+90 degrees about S); a gradient along Left then
    acts along what is Anterior in the reference.

    >>> turned = np.eye(4)
    >>> turned[:2, :2] = [[0, -1], [1, 0]]
    >>> rotate_bvecs(np.array([[-1.0, 0, 0]]), turned[None])
    array([[0., 1., 0.]])
    """
    bvecs_ras, ref2volume = np.asarray(bvecs_ras, float), np.asarray(ref2volume, float)
    if ref2volume.shape != (len(bvecs_ras), 4, 4):
        raise GeometryError(
            f"{len(bvecs_ras)} vectors but motion of shape {ref2volume.shape}: expected one each"
        )
    return np.einsum("nij,ni->nj", ref2volume[:, :3, :3], bvecs_ras) + 0.0


def _fsl_axes(vox2ras: np.ndarray) -> np.ndarray:
    """Return the ``(3, 3)`` orthogonal matrix whose columns are FSL's axes in RAS+."""
    # The closest rotation or reflection: columns of a sheared affine are not orthogonal.
    left, _, right = np.linalg.svd(
        np.asarray(vox2ras, float)[:3, :3] / np.linalg.norm(vox2ras[:3, :3], axis=0)
    )
    axes = left @ right
    return axes * [-1, 1, 1] if np.linalg.det(axes) > 0 else axes


def _oriented(bvecs: np.ndarray, n_volumes: int, name: str) -> np.ndarray:
    """Return the vectors as ``(N, 3)``, whichever way they were written."""
    bvecs = np.array(bvecs, dtype=float)
    if bvecs.shape == (3, 3) and n_volumes == 3:
        # Both readings fit: take the one whose vectors are of length 1 or 0.
        rows, columns = (np.nan_to_num(np.linalg.norm(bvecs, axis=axis)) for axis in (1, 0))
        misfit = [np.minimum(np.abs(norms - 1), norms).sum() for norms in (rows, columns)]
        return bvecs if misfit[0] < misfit[1] else bvecs.T
    if bvecs.shape == (3, n_volumes):
        return bvecs.T
    if bvecs.shape == (n_volumes, 3):
        return bvecs
    raise GeometryError(
        f"{name}: bvecs of shape {bvecs.shape} for {n_volumes} volumes: expected (3, {n_volumes}); "
        "re-run the converter"
    )


def _normalised(bvecs: np.ndarray, bvals: np.ndarray, threshold: float, name: str) -> np.ndarray:
    """Return unit vectors, zero for b0s, after a look at their lengths."""
    weighted = bvals > threshold
    norms = np.linalg.norm(np.where(weighted[:, None], bvecs, 0), axis=1)
    missing = np.flatnonzero(weighted & ~(norms > 1e-6)).tolist()
    if missing:
        raise GeometryError(
            f"{name}: volumes {_some(missing)} have b > {threshold:g} s/mm2 but no direction "
            "(zero or not finite); a trace image does not belong into the series: remove it and its b-value"
        )
    bad = np.flatnonzero(weighted & (np.abs(norms - 1) > NORM_TOLERANCE)).tolist()
    if bad:
        squares, weights = norms[weighted] ** 2, bvals[weighted]
        # A table that was already scaled has both: b follows the square of the length.
        is_told_twice = np.ptp(weights) > SHELL_GAP and np.allclose(
            squares, weights / weights.max(), atol=0.1
        )
        how = (
            "b follows the square of the length already: normalise the vectors and leave b as it is"
            if is_told_twice
            else "if the scanner codes b in the length, multiply b by its square and normalise the vectors"
        )
        raise GeometryError(
            f"{name}: vectors of volumes {_some(bad)} have length {norms[bad[0]]:.3g}, expected 1; {how}"
        )
    unit = np.zeros_like(bvecs)
    unit[weighted] = bvecs[weighted] / norms[weighted, None]
    return unit


def _shells(bvals: np.ndarray, threshold: float) -> tuple[Shell, ...]:
    """Group weighted volumes wherever the sorted b-values have a gap."""
    order = np.argsort(bvals, kind="stable")
    order = order[bvals[order] > threshold]
    steps = np.diff(bvals[order])
    cuts = np.flatnonzero(steps > np.maximum(SHELL_GAP, SHELL_GAP_SHARE * bvals[order][1:])) + 1
    return tuple(
        Shell(float(bvals[group].mean()), tuple(np.sort(group).tolist())) for group in np.split(order, cuts)
    )


def _some(volumes: list[int]) -> str:
    """Return the first few numbers of a list, for a message."""
    return ", ".join(map(str, volumes[:5])) + (f" and {len(volumes) - 5} more" if len(volumes) > 5 else "")
