"""Diffusion maps: the tensor with its FA and MD, and the mean of each shell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.distortion import Distortion
from pds_bids.imaging.dwi import GradientTable, tensor_problem
from pds_bids.imaging.grid import Grid, apply_affine

__all__ = ["ShellMeans", "TensorMaps", "in_view", "maps_at", "shell_means", "tensor_maps", "tensor_volumes"]

# Above about 1500 s/mm2 the logarithm of the signal bends (kurtosis); the rest is the jitter of b-values.
TENSOR_BVAL_MAX = 1600.0
# Free water of 37 degrees Celsius has 3.0e-3 mm2/s; beyond this it is pulsation, misalignment or noise.
MD_MAX_MM2_S = 3.5e-3
# Signals of a chunk of voxels; the fit needs some 250 bytes for each of them.
CHUNK_SIGNALS = 500_000
# Signals resampled at once: the averager needs 24 bytes for each, 0.5 GB. More points are done in turns.
BLOCK_SIGNALS = 20_000_000
# Signals are raised to this share of the largest of their voxel: zeros are noise rounded down, in fluid at a
# high b-value for example, and have no logarithm.
SIGNAL_MIN_SHARE = 1e-3
# Eigenvalues that dipy has raised to its floor were zero or negative.
FLOOR_MARGIN = 1.001


@dataclass(frozen=True, eq=False)
class TensorMaps:
    """What a tensor fit gives at V points; zero, never NaN, where nothing could be fitted.

    Parameters
    ----------
    fa : ndarray
        ``(V,)`` float32, fractional anisotropy in [0, 1].
    md : ndarray
        ``(V,)`` float32, mean diffusivity, mm2/s (healthy white and grey matter: about 0.7e-3).
    s0 : ndarray
        ``(V,)`` float32, fitted signal without weighting, unit of the signals.
    direction : ndarray
        ``(V, 3)`` float32, principal eigenvector, in the frame of the b-vectors; its sign means nothing.
    residual : ndarray
        ``(V,)`` float32, root mean square of signal minus fit over the weighted volumes, as a share of their
        mean signal.
    volumes : tuple of int
        Volumes that were used, see `tensor_volumes`.
    n_implausible : int
        Fitted points with an eigenvalue that is not positive, or with an MD above that of free water.
    n_unfitted : int
        Points where too few volumes have a signal.
    """

    fa: np.ndarray
    md: np.ndarray
    s0: np.ndarray
    direction: np.ndarray
    residual: np.ndarray
    volumes: tuple[int, ...]
    n_implausible: int
    n_unfitted: int


@dataclass(frozen=True, eq=False)
class ShellMeans:
    """Mean signals by b-value at V points.

    Parameters
    ----------
    bvals : tuple of float
        0 for the b0s, then the mean b-value of each shell, s/mm2, ascending.
    n_volumes : tuple of int
        Volumes of each.
    means : ndarray
        ``(len(bvals), V)`` float32, arithmetic means.
    weighted : ndarray
        ``(V,)`` float32, mean over all weighted volumes.
    """

    bvals: tuple[float, ...]
    n_volumes: tuple[int, ...]
    means: np.ndarray
    weighted: np.ndarray


def tensor_volumes(table: GradientTable) -> tuple[int, ...]:
    """Choose the volumes of the tensor fit: b0s, and shells up to 1500 s/mm2 where these suffice.

    Parameters
    ----------
    table : GradientTable
        Checked table.

    Returns
    -------
    tuple of int
        Ascending. Higher shells are added, lowest first, only until the directions determine a tensor.

    Raises
    ------
    DataError
        If all volumes together do not determine a tensor.

    Examples
    --------
    >>> from pds_bids.imaging.dwi import check_gradients
    >>> vectors = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
    >>> table = check_gradients(
    ...     13, [0] + [1000] * 6 + [2500] * 6, np.vstack([np.zeros((1, 3)), vectors, vectors])
    ... )
    >>> tensor_volumes(table)
    (0, 1, 2, 3, 4, 5, 6)
    """
    problem = ""
    chosen = {k for k in table.weighted_volumes if table.bvals[k] <= TENSOR_BVAL_MAX}
    for more in [(), *(shell.volumes for shell in table.shells)]:
        chosen.update(more)
        problem = tensor_problem(table.bvecs[sorted(chosen)])
        if not problem:
            return tuple(sorted({*table.b0_volumes, *chosen}))
    raise DataError(f"no tensor can be fitted to this gradient table: {problem}")


def tensor_maps(signals: np.ndarray, table: GradientTable) -> TensorMaps:
    """Fit the diffusion tensor at each point by weighted linear least squares.

    The noise of a logarithm is the inverse of the signal, so each logarithm counts by the square of the
    signal that an unweighted fit predicts [1]_. Unweighted fits, which scanners use, give the weakest and
    noisiest signals the same say; non-linear fits cost far more and are not better [2]_.

    Parameters
    ----------
    signals : ndarray
        ``(V, N)`` float32. Each volume resampled once at the points. NaN is missing, as outside of a volume's
        field of view (`in_view`); zero and less count as very little signal.
    table : GradientTable
        Of all N volumes; vectors in the frame of the reference, rotated with the head (`rotate_bvecs`).

    Returns
    -------
    TensorMaps

    Raises
    ------
    GeometryError
        If the signals are not of the length of the table.
    DataError
        If the table does not determine a tensor.

    References
    ----------
    .. [1] Salvador et al., Hum Brain Mapp 2005, doi:10.1002/hbm.20076.
    .. [2] Veraart et al., NeuroImage 2013, doi:10.1016/j.neuroimage.2013.05.028.

    Examples
    --------
    >>> from pds_bids.imaging.dwi import check_gradients
    >>> vectors = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
    >>> table = check_gradients(7, [0] + [1000] * 6, np.vstack([np.zeros((1, 3)), vectors]))
    >>> maps = tensor_maps(500 * np.exp(-table.bvals * 0.7e-3)[None], table)
    >>> print(f"{maps.md[0]:.2e} {maps.fa[0]:.3f} {maps.s0[0]:.0f}")
    7.00e-04 0.000 500
    """
    _check_length(signals, table)
    volumes = list(tensor_volumes(table))
    n_points = len(signals)
    fa, md, s0, residual = np.zeros((4, n_points), np.float32)
    direction = np.zeros((n_points, 3), np.float32)
    n_implausible, n_unfitted = 0, 0
    step = max(1, CHUNK_SIGNALS // len(volumes))
    fit = _Fit(table, volumes)
    for start in range(0, n_points, step):
        chunk = np.asarray(signals[start : start + step][:, volumes], dtype=np.float64)
        here = start + np.arange(len(chunk))
        valid = np.isfinite(chunk)
        largest = np.where(valid, chunk, 0).max(1, keepdims=True)
        valid &= largest > 0
        chunk = np.maximum(chunk, SIGNAL_MIN_SHARE * largest)
        complete = np.asarray(valid.all(1))
        usable = complete.copy()
        usable[~complete] = fit.is_determined(valid[~complete])
        n_unfitted += int((~usable).sum())
        for rows in (complete, usable & ~complete):
            if not rows.any():
                continue
            # Nonsense may overflow an exponential; what is not finite is not used.
            with np.errstate(over="ignore", invalid="ignore"):
                found = fit(chunk[rows], None if rows is complete else valid[rows])
            *values, implausible = found
            is_fitted = np.all([np.isfinite(v).reshape(len(v), -1).all(1) for v in values], axis=0)
            to = here[rows][is_fitted]
            fa[to], md[to], s0[to], direction[to], residual[to] = (v[is_fitted] for v in values)
            n_implausible += int(implausible[is_fitted].sum())
            n_unfitted += int((~is_fitted).sum())
    return TensorMaps(fa, md, s0, direction, residual, tuple(volumes), n_implausible, n_unfitted)


def shell_means(signals: np.ndarray, table: GradientTable) -> ShellMeans:
    """Average the signals of each shell.

    Parameters
    ----------
    signals : ndarray
        ``(V, N)`` float32, as in `tensor_maps`; missing values do not enter the means.
    table : GradientTable
        Of all N volumes.

    Returns
    -------
    ShellMeans
        Zero where no volume of a shell has a signal.

    Raises
    ------
    GeometryError
        If the signals are not of the length of the table.

    Examples
    --------
    >>> from pds_bids.imaging.dwi import check_gradients
    >>> table = check_gradients(3, [0, 1000, 1000], np.array([[0, 0, 0], [0, 0, 1.0], [0, 1, 0]]))
    >>> shell_means(np.array([[9.0, 4.0, 2.0], [9.0, 4.0, np.nan]]), table).means
    array([[9., 9.],
           [3., 4.]], dtype=float32)
    """
    _check_length(signals, table)
    groups: list[Sequence[int]] = [table.b0_volumes, *(shell.volumes for shell in table.shells)]
    total = np.zeros((len(groups), len(signals)))
    count = np.zeros((len(groups), len(signals)), np.int32)
    for row, group in enumerate(groups):
        # Volume by volume: a boolean copy of all signals would double their memory.
        for k in group:
            values = np.asarray(signals[:, k], np.float64)
            valid = np.isfinite(values)
            total[row] += np.where(valid, values, 0)
            count[row] += valid
    means = _ratio(total, count)
    weighted = _ratio(total[1:].sum(0), count[1:].sum(0))
    return ShellMeans(
        (0.0, *(shell.bval for shell in table.shells)), tuple(map(len, groups)), means, weighted
    )


def in_view(
    points: np.ndarray, grid: Grid, ref2volume: np.ndarray, distortion: Distortion | None = None
) -> np.ndarray:
    """Return which volumes see which points.

    Parameters
    ----------
    points : ndarray
        ``(V, 3)`` RAS+ mm in the space of the reference.
    grid : Grid
        Lattice of a volume.
    ref2volume : ndarray
        ``(N, 4, 4)`` head motion.
    distortion : Distortion, optional
        Off-resonance in the reference.

    Returns
    -------
    ndarray
        ``(V, N)`` bool.

    Examples
    --------
    >>> motion = np.tile(np.eye(4), (2, 1, 1))
    >>> motion[1, 0, 3] = 3
    >>> in_view(np.array([[3.0, 0, 0]]), Grid((2, 2, 2), np.diag([3.0, 3, 3, 1])), motion)
    array([[ True, False]])
    """
    last = np.asarray(grid.shape) - 0.5
    seen = np.empty((len(points), len(ref2volume)), bool)
    field = None if distortion is None else distortion.at(points, grid.vox2ras)
    for k, pose in enumerate(ref2volume):
        index = apply_affine(grid.ras2vox @ pose, points)
        if field is not None:
            index = field.move(index.T, k).T
        seen[:, k] = ((index >= -0.5) & (index <= last)).all(1)
    return seen


def maps_at(
    points: np.ndarray, signals_at: Callable[[np.ndarray], np.ndarray], table: GradientTable
) -> tuple[TensorMaps | None, ShellMeans]:
    """Fit the tensor and average shells at any number of points, in bounded memory.

    Parameters
    ----------
    points : ndarray
        ``(V, 3)`` RAS+ mm in the space of the reference.
    signals_at : callable
        Gives the signals ``(v, N)`` at ``(v, 3)`` points, each volume resampled once.
    table : GradientTable
        As in `tensor_maps`.

    Returns
    -------
    tensor : TensorMaps or None
        None when the table does not determine a tensor (`pds_bids.imaging.dwi.tensor_problem`).
    shells : ShellMeans

    Raises
    ------
    DataError
        If there are no points.
    GeometryError
        If the signals are not of the length of the table.
    """
    if not len(points):
        raise DataError("no points to make diffusion maps at: the mask is empty")
    has_tensor = not tensor_problem(table.bvecs)
    step = max(1, BLOCK_SIGNALS // len(table.bvals))
    tensors: list[TensorMaps] = []
    means: list[ShellMeans] = []
    for start in range(0, len(points), step):
        signals = signals_at(points[start : start + step])
        means.append(shell_means(signals, table))
        if has_tensor:
            tensors.append(tensor_maps(signals, table))
    shells = ShellMeans(
        means[0].bvals,
        means[0].n_volumes,
        np.concatenate([part.means for part in means], axis=1),
        np.concatenate([part.weighted for part in means]),
    )
    return _joined(tensors) if tensors else None, shells


def _joined(parts: list[TensorMaps]) -> TensorMaps:
    return TensorMaps(
        np.concatenate([part.fa for part in parts]),
        np.concatenate([part.md for part in parts]),
        np.concatenate([part.s0 for part in parts]),
        np.concatenate([part.direction for part in parts]),
        np.concatenate([part.residual for part in parts]),
        parts[0].volumes,
        sum(part.n_implausible for part in parts),
        sum(part.n_unfitted for part in parts),
    )


class _Fit:
    """The tensor fit of one gradient table."""

    def __init__(self, table: GradientTable, volumes: list[int]) -> None:
        from dipy.core.gradients import gradient_table
        from dipy.reconst.dti import design_matrix

        bvals, bvecs = table.bvals[volumes], table.bvecs[volumes]
        self._gradients = gradient_table(bvals, bvecs=bvecs, b0_threshold=table.b0_threshold)
        self._weighted = bvals > table.b0_threshold
        self._design = design_matrix(self._gradients)
        # dipy's smallest eigenvalue, mm2/s.
        self._floor = 1e-6 / -self._design.min()

    def is_determined(self, valid: np.ndarray) -> np.ndarray:
        """Return for ``(V, N)`` which signals exist whether they suffice, ``(V,)``."""
        scaled = self._design / np.abs(self._design).max(0)
        enough = valid.sum(1) >= self._design.shape[1]
        ranks = np.linalg.matrix_rank(scaled * valid[enough][:, :, None], tol=0.05)
        enough[enough] = ranks == self._design.shape[1]
        return enough & valid[:, ~self._weighted].any(1)

    def __call__(self, signals: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Return FA, MD, S0, direction, residual and implausibility of ``(V, N)`` signals; not all finite."""
        if valid is None:
            fit = self._solve(signals, None)
        else:
            # What is missing has no weight; the signals themselves are the first guess of the weights.
            signals = np.where(valid, signals, 1)
            first = self._solve(signals, np.where(valid, signals, 0) ** 2)
            fit = self._solve(signals, np.where(valid, self._predicted(first), 0) ** 2)
        misfit = (signals - self._predicted(fit))[:, self._weighted] ** 2
        counted = np.ones_like(misfit) if valid is None else valid[:, self._weighted]
        share = np.sqrt(_ratio((misfit * counted).sum(1), counted.sum(1)))
        level = _ratio((signals[:, self._weighted] * counted).sum(1), counted.sum(1))
        fa, md = fit.fa.clip(0, 1), fit.md
        implausible = (fit.evals.min(1) <= self._floor * FLOOR_MARGIN) | (md > MD_MAX_MM2_S)
        # Beyond float32 is no signal.
        s0 = np.where(np.ravel(fit.S0_hat) < np.finfo(np.float32).max, np.ravel(fit.S0_hat), np.inf)
        return fa, md, s0, fit.evecs[:, :, 0], _ratio(share, level), implausible

    def _solve(self, signals: np.ndarray, weights: np.ndarray | None):  # type: ignore[no-untyped-def]
        from dipy.reconst.dti import TensorModel

        given = {} if weights is None else {"weights": weights}
        model = TensorModel(self._gradients, fit_method="WLS", return_S0_hat=True, **given)
        return model.fit(signals)

    def _predicted(self, fit) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Return the signals of a fit, ``(V, N)``."""
        along = np.einsum("ni,vij,nj->vn", self._gradients.bvecs, fit.quadratic_form, self._gradients.bvecs)
        return np.ravel(fit.S0_hat)[:, None] * np.exp(-self._gradients.bvals * along)


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the quotient as float32, 0 where nothing was counted."""
    return np.divide(total, count, out=np.zeros(np.shape(total)), where=count > 0).astype(np.float32)


def _check_length(signals: np.ndarray, table: GradientTable) -> None:
    if signals.ndim != 2 or signals.shape[1] != len(table.bvals):
        raise GeometryError(
            f"signals of shape {signals.shape} with a gradient table of {len(table.bvals)} volumes: "
            f"expected (points, {len(table.bvals)})"
        )
