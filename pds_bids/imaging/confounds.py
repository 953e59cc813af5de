"""Confound tables with the column names that fMRIPrep's code writes.

Outlier columns have no underscore before the number (``motion_outlier00``), whatever its manual prints.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from pds_bids.exceptions import GeometryError

__all__ = [
    "bold_confounds",
    "confounds_metadata",
    "dvars",
    "dwi_confounds",
    "framewise_displacement",
    "motion_outliers",
    "rms_displacement",
]

MOTION_NAMES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
EDDY_NAMES = ("eddy_shift", "eddy_slope_x", "eddy_slope_y", "eddy_slope_z")
HEAD_RADIUS_MM = 50.0
RMS_RADIUS_MM = 80.0
# Spikes as fMRIPrep flags them by default: FD above 0.5 mm or standardised DVARS above 1.5.
FD_THRESHOLD_MM = 0.5
STD_DVARS_THRESHOLD = 1.5


def framewise_displacement(parameters: np.ndarray, radius_mm: float = HEAD_RADIUS_MM) -> np.ndarray:
    """Sum the absolute changes of the six motion parameters, rotations as arcs on a sphere.

    Parameters
    ----------
    parameters : ndarray
        ``(N, 6)`` translations in mm, rotations in radians.
    radius_mm : float
        Radius of the sphere.

    Returns
    -------
    ndarray
        ``(N,)`` mm; the first value is ``nan``.

    References
    ----------
    Power et al. 2012, 10.1016/j.neuroimage.2011.10.018.

    Examples
    --------
    >>> moved = np.zeros((2, 6))
    >>> moved[1, 0], moved[1, 5] = 0.2, 0.01
    >>> framewise_displacement(moved)
    array([nan, 0.7])
    """
    change = np.abs(np.diff(np.asarray(parameters, float), axis=0))
    return np.concatenate([[np.nan], change[:, :3].sum(1) + radius_mm * change[:, 3:].sum(1)])


def rms_displacement(
    ref2volume: np.ndarray, centre_ras: np.ndarray, radius_mm: float = RMS_RADIUS_MM
) -> np.ndarray:
    """Return the root mean square displacement between volumes over a sphere, as FSL's ``rmsdiff``.

    Parameters
    ----------
    ref2volume : ndarray
        ``(N, 4, 4)`` rigid point maps.
    centre_ras : ndarray
        ``(3,)`` centre of the sphere in the reference, mm.
    radius_mm : float
        Radius of the sphere.

    Returns
    -------
    ndarray
        ``(N,)`` mm; the first value is ``nan``.

    References
    ----------
    Jenkinson 1999, FMRIB technical report TR99MJ1, eq. 10.
    """
    ref2volume = np.asarray(ref2volume, float)
    change = ref2volume[1:] @ np.linalg.inv(ref2volume[:-1]) - np.eye(4)
    turn = change[:, :3, :3]
    shift = change[:, :3, 3] + turn @ np.asarray(centre_ras, float)
    squared = radius_mm**2 / 5 * (turn**2).sum((1, 2)) + (shift**2).sum(1)
    return np.concatenate([[np.nan], np.sqrt(squared)])


def dvars(timeseries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spatial root mean square of the volume-to-volume change, plain and standardised.

    Parameters
    ----------
    timeseries : ndarray
        ``(V, N)`` realigned signals of brain voxels. They are scaled to a median of 1000 first.

    Returns
    -------
    dvars : ndarray
        ``(N,)``; the first value is ``nan``.
    std_dvars : ndarray
        ``(N,)``, divided by its expectation for a first-order autoregressive signal; the first value is
        ``nan``; all ``nan`` when no voxel varies.

    References
    ----------
    Power et al. 2012, 10.1016/j.neuroimage.2011.10.018;
    Afyouni and Nichols 2018, 10.1016/j.neuroimage.2017.12.098.
    """
    timeseries = np.asarray(timeseries, dtype=np.float32)
    n_volumes = timeseries.shape[1]
    scale = 1000 / float(np.median(timeseries))
    total, deviation, used = np.zeros(n_volumes - 1), 0.0, 0
    # Blocks of voxels bound the temporary memory to a few times 4096 x N.
    for start in range(0, len(timeseries), 4096):
        signal = timeseries[start : start + 4096].astype(np.float64) * scale
        low, high = np.percentile(signal, [25, 75], axis=1, method="lower")
        varies = high > low
        signal, robust_sd = signal[varies], (high - low)[varies] / 1.349
        total += (np.diff(signal, axis=1) ** 2).sum(0)
        deviation += float((np.sqrt(2 * (1 - _lag1(signal))) * robust_sd).sum())
        used += int(varies.sum())
    if used == 0:
        return np.full(n_volumes, np.nan), np.full(n_volumes, np.nan)
    plain = np.sqrt(total / used)
    return np.concatenate([[np.nan], plain]), np.concatenate([[np.nan], plain / (deviation / used)])


def motion_outliers(
    fd_mm: np.ndarray,
    std_dvars: np.ndarray | None = None,
    *,
    fd_threshold_mm: float = FD_THRESHOLD_MM,
    std_dvars_threshold: float = STD_DVARS_THRESHOLD,
    skip: Iterable[int] = (),
) -> np.ndarray:
    """Return the 0-based volumes whose displacement or DVARS exceeds its threshold.

    Parameters
    ----------
    fd_mm : ndarray
        ``(N,)`` framewise displacement; ``nan`` never exceeds.
    std_dvars : ndarray, optional
        ``(N,)``.
    fd_threshold_mm, std_dvars_threshold : float
        Exclusive limits.
    skip : iterable of int
        Dummy scans, which have columns of their own.

    Returns
    -------
    ndarray
        Ascending int.

    Examples
    --------
    >>> motion_outliers(np.array([np.nan, 0.6, 0.1]))
    array([1])
    """
    exceeds = np.nan_to_num(fd_mm) > fd_threshold_mm
    if std_dvars is not None:
        exceeds |= np.nan_to_num(std_dvars) > std_dvars_threshold
    return np.setdiff1d(np.flatnonzero(exceeds), list(skip))


def bold_confounds(
    parameters: np.ndarray,
    ref2volume: np.ndarray,
    centre_ras: np.ndarray,
    *,
    timeseries: np.ndarray,
    tissues: Mapping[str, np.ndarray] | None = None,
    dummies: Sequence[int] = (),
    outliers: Iterable[int] | None = None,
    starts: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Build the confound table of a BOLD series.

    Parameters
    ----------
    parameters : ndarray
        ``(N, 6)`` from `pds_bids.imaging.motion.matrices_to_parameters`.
    ref2volume : ndarray
        ``(N, 4, 4)``.
    centre_ras : ndarray
        ``(3,)`` centre of the head, for `rmsd`.
    timeseries : ndarray
        ``(V, N)`` realigned signals of brain voxels.
    tissues : mapping, optional
        ``csf`` and ``white_matter`` to a boolean ``(V,)`` choice of those voxels; an empty one gives ``nan``.
    dummies : sequence of int
        Volumes acquired before the signal was steady.
    outliers : iterable of int, optional
        Spikes; by default those of `motion_outliers`.
    starts : sequence of int
        First volume of each run; what compares a volume with the one before it is ``nan`` there.

    Returns
    -------
    DataFrame
        ``N`` rows. Missing values are ``nan`` and go to the file as ``n/a``.

    Raises
    ------
    GeometryError
        If the arrays differ in the number of volumes.
    """
    parameters = np.asarray(parameters, float)
    n_volumes = len(parameters)
    if ref2volume.shape[0] != n_volumes or timeseries.shape[1] != n_volumes:
        raise GeometryError(
            f"confounds: {n_volumes} rows of parameters, {ref2volume.shape[0]} matrices and "
            f"{timeseries.shape[1]} time points: expected one number of volumes"
        )
    columns = {"global_signal": timeseries.mean(0, dtype=np.float64)}
    for name, chosen in (tissues or {}).items():
        columns[name] = (
            timeseries[chosen].mean(0, dtype=np.float64) if chosen.any() else np.full(n_volumes, np.nan)
        )
    columns["dvars"], columns["std_dvars"] = dvars(timeseries)
    columns["framewise_displacement"] = framewise_displacement(parameters)
    columns["rmsd"] = rms_displacement(ref2volume, centre_ras)
    columns = _without_starts(columns | _motion_columns(parameters), starts)
    if outliers is None:
        outliers = motion_outliers(columns["framewise_displacement"], columns["std_dvars"], skip=dummies)
    columns |= _one_hot("non_steady_state_outlier", dummies, n_volumes)
    columns |= _one_hot("motion_outlier", outliers, n_volumes)
    return pd.DataFrame(columns)


def dwi_confounds(
    parameters: np.ndarray,
    ref2volume: np.ndarray,
    centre_ras: np.ndarray,
    bvals: np.ndarray,
    bvecs: np.ndarray,
    *,
    starts: Sequence[int] = (0,),
    eddy: np.ndarray | None = None,
) -> pd.DataFrame:
    """Build the confound table of a DWI series, with QSIPrep's names for the gradients.

    Parameters
    ----------
    parameters : ndarray
        ``(N, 6)``.
    ref2volume : ndarray
        ``(N, 4, 4)``.
    centre_ras : ndarray
        ``(3,)`` centre of the head, for `rmsd`.
    bvals : ndarray
        ``(N,)`` s/mm2.
    bvecs : ndarray
        ``(N, 3)`` along the RAS+ axes, after rotation to the reference.
    starts : sequence of int
        First volume of each run.
    eddy : ndarray, optional
        ``(N, 4)`` coefficients of `EddyCurrents`; without them there are no columns of eddy currents.

    Returns
    -------
    DataFrame
        ``N`` rows.

    Raises
    ------
    GeometryError
        If the arrays differ in the number of volumes.
    """
    parameters = np.asarray(parameters, float)
    if not len(parameters) == len(ref2volume) == len(bvals) == len(bvecs):
        raise GeometryError(
            f"confounds: {len(parameters)} rows of parameters, {len(ref2volume)} matrices, "
            f"{len(bvals)} b-values, {len(bvecs)} vectors: expected one number of volumes"
        )
    columns = {
        "framewise_displacement": framewise_displacement(parameters),
        "rmsd": rms_displacement(ref2volume, centre_ras),
    }
    columns = _without_starts(columns | _motion_columns(parameters), starts)
    columns["bval"] = np.asarray(bvals, float)
    columns |= {f"grad_{axis}": np.asarray(bvecs, float)[:, k] for k, axis in enumerate("xyz")}
    if eddy is not None:
        columns |= dict(zip(EDDY_NAMES, np.asarray(eddy, float).T, strict=True))
    return pd.DataFrame(columns)


def confounds_metadata(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Describe every column of a confound table, for its JSON sidecar.

    Parameters
    ----------
    table : DataFrame
        From `bold_confounds` or `dwi_confounds`.

    Returns
    -------
    dict
        Column name to ``Description`` and, where there is one, ``Units``.
    """
    return {str(name): _describe(str(name)) for name in table.columns}


def _describe(name: str) -> dict[str, str]:
    """Return the description and the unit of one column."""
    for prefix, what in _OUTLIER_TEXT.items():
        if name.startswith(prefix):
            return {"Description": what}
    base = name.removesuffix("_power2").removesuffix("_derivative1")
    text, unit = _COLUMN_TEXT[base]
    if base + "_derivative1" in name:
        text, unit = f"{text}; change from the volume before", unit
    if name.endswith("_power2"):
        text, unit = f"{text}; squared", f"{unit}^2"
    return {"Description": text, "Units": unit} if unit else {"Description": text}


_SIGN = "rigid map from the reference to the volume, about the centre of the reference grid, RAS+"
_EDDY = "by eddy currents, towards larger indices of the RAS+ axis of phase encoding"
_COLUMN_TEXT = {
    **{f"trans_{axis}": (f"Translation along {axis}; {_SIGN}", "mm") for axis in "xyz"},
    **{f"rot_{axis}": (f"Rotation about {axis}, R = Rx Ry Rz; {_SIGN}", "rad") for axis in "xyz"},
    "framewise_displacement": ("Power et al. 2012, rotations on a sphere of 50 mm", "mm"),
    "rmsd": ("Root mean square displacement between volumes over a sphere of 80 mm (Jenkinson 1999)", "mm"),
    "dvars": ("Root mean square change between volumes, brain scaled to a median of 1000", ""),
    "std_dvars": ("DVARS divided by its expectation (Afyouni and Nichols 2018)", ""),
    "global_signal": ("Mean over the brain mask", "arbitrary"),
    "csf": ("Mean over cerebrospinal fluid", "arbitrary"),
    "white_matter": ("Mean over white matter", "arbitrary"),
    "bval": ("b-value", "s/mm^2"),
    "eddy_shift": (f"Displacement {_EDDY} at the centre of the field of view", "mm"),
    **{f"eddy_slope_{a}": (f"Displacement {_EDDY}: its change along {a}, RAS+", "mm/mm") for a in "xyz"},
    **{f"grad_{a}": (f"Gradient direction along {a}, RAS+, rotated to the reference", "") for a in "xyz"},
}
_OUTLIER_TEXT = {
    "non_steady_state_outlier": "1 at one volume acquired before the signal was steady, 0 elsewhere",
    "motion_outlier": "1 at one volume with a spike of motion or signal change, 0 elsewhere",
}


def _motion_columns(parameters: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parameters, their backward differences, and the squares of both."""
    columns: dict[str, np.ndarray] = {}
    for name, values in zip(MOTION_NAMES, parameters.T, strict=True):
        change = np.concatenate([[np.nan], np.diff(values)])
        columns |= {name: values, f"{name}_derivative1": change}
        columns |= {f"{name}_derivative1_power2": change**2, f"{name}_power2": values**2}
    return columns


def _without_starts(columns: Mapping[str, np.ndarray], starts: Sequence[int]) -> dict[str, np.ndarray]:
    """Empty what compares volumes, where the volume before belongs to another run."""
    kept = {}
    for name, values in columns.items():
        kept[name] = values
        if "derivative1" in name or name in ("dvars", "std_dvars", "framewise_displacement", "rmsd"):
            kept[name] = values.copy()
            kept[name][list(starts)] = np.nan
    return kept


def _one_hot(prefix: str, volumes: Iterable[int], n_volumes: int) -> dict[str, np.ndarray]:
    """Return one indicator column for each volume, numbered from 00."""
    return {
        f"{prefix}{k:02d}": (np.arange(n_volumes) == volume).astype(int) for k, volume in enumerate(volumes)
    }


def _lag1(signal: np.ndarray) -> np.ndarray:
    """Return the lag-1 autocorrelation of each row (Yule-Walker with biased autocovariances)."""
    centred = signal - signal.mean(1, keepdims=True)
    return (centred[:, 1:] * centred[:, :-1]).sum(1) / (centred**2).sum(1)
