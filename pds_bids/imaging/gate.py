"""The gate behind every registration: what a good one looks like, in figures that go into the QC file."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.masks import dice, eroded

__all__ = ["Gate", "GateLimits", "judge", "nmi"]

# The correlation looks deeper than this below the surface, at structure finer than this.
DEPTH_MM, COARSE_MM = 5.0, 10.0


@dataclass(frozen=True)
class GateLimits:
    """What a registration must reach; measured on real scans and on images that must fail.

    Parameters
    ----------
    mask_dice : float
        Least overlap of the two brain masks inside the field of view.
    nmi_ratio : float
        Least ratio of (NMI - 1) to that of the null.
    jacobian_min, jacobian_max : float
        Bounds on the 1st and 99th percentile.
    volume_min, volume_max : float
        Bounds on the median of the Jacobian: native over template brain volume.
    stretch : float
        Largest ratio of scales along the principal axes of the best affine: half a brain fills a whole one
        only if it is stretched.
    correlation : float
        Least correlation of the fine structure deep in the brain.
    affine_correlation : float
        The same without a deformation. A cropped head can be stretched affinely until its outline fits: one
        that was wrong by 4 mm reached 0.23, right ones 0.31 to 0.42.
    """

    mask_dice: float = 0.88
    nmi_ratio: float = 1.3
    jacobian_min: float = 0.15
    jacobian_max: float = 3.0
    volume_min: float = 0.5
    volume_max: float = 1.5
    stretch: float = 1.33
    correlation: float = 0.22
    affine_correlation: float = 0.3


@dataclass(frozen=True)
class Gate:
    """Figures of one registration and whether it may be used.

    Parameters
    ----------
    mask_dice : float
        Overlap of the brain masks inside the field of view.
    nmi : float
        Normalised mutual information (1 for unrelated images) inside the brain.
    nmi_null : float
        The highest NMI of the moving image turned upside down, back to front, or shifted by 12 mm.
    jacobian_min, jacobian_max : float
        1st and 99th percentile of the Jacobian determinant in the brain.
    two_path_mm : float
        Median distance to a second path between the same spaces; nan if there is none.
    stage : str
        ``deformable``, ``affine`` or ``rigid``.
    passed : bool
        Whether all limits hold.
    reason : str
        Which did not; empty if passed.
    correlation : float
        Correlation of the two images deep in the brain, without what varies over more than
        `COARSE_MM`; near 0 where folds and ventricles do not match. Nan in records of older versions.
    """

    mask_dice: float
    nmi: float
    nmi_null: float
    jacobian_min: float
    jacobian_max: float
    two_path_mm: float
    stage: str
    passed: bool
    reason: str
    correlation: float = float("nan")


def nmi(a: np.ndarray, b: np.ndarray, n_bins: int = 32) -> float:
    """Return Studholme's normalised mutual information of two samples: 1 unrelated, 2 the same.

    Intensities are binned between their 1st and 99th percentile; nan if one of the samples is empty.

    Examples
    --------
    >>> values = np.arange(3200.0)
    >>> round(nmi(values, values), 3)
    2.0
    """
    if a.size == 0:
        return float("nan")
    codes = []
    for values in (a, b):
        low, high = np.percentile(values, (1, 99))
        codes.append(np.clip((values - low) / max(high - low, 1e-12) * n_bins, 0, n_bins - 1).astype(int))
    joint = np.bincount(codes[0] * n_bins + codes[1], minlength=n_bins**2).reshape(n_bins, n_bins) / a.size
    entropies = [-float(p[p > 0] @ np.log(p[p > 0])) for p in (joint.sum(1), joint.sum(0), joint.ravel())]
    return (entropies[0] + entropies[1]) / entropies[2] if entropies[2] > 0 else 1.0


def judge(
    fixed: np.ndarray,
    fixed_mask: np.ndarray,
    moving: np.ndarray,
    moving_mask: np.ndarray,
    moving_grid: Grid,
    fixed2moving: PointMap,
    stage: str,
    limits: GateLimits,
) -> Gate:
    """Measure a registration and compare it with the limits.

    Parameters
    ----------
    fixed, fixed_mask : ndarray
        Image and brain mask on ``fixed2moving.grid``.
    moving, moving_mask : ndarray
        Image and brain mask on `moving_grid`.
    moving_grid : Grid
        Lattice of the moving image.
    fixed2moving : PointMap
        What is judged.
    stage : str
        ``deformable``, ``affine`` or ``rigid``.
    limits : GateLimits
        What must be reached.

    Returns
    -------
    Gate
    """
    points = fixed2moving.points
    in_view = resample(np.ones(moving_grid.shape, np.float32), moving_grid.vox2ras, points, order=0) > 0
    mapped_mask = resample(moving_mask.astype(np.float32), moving_grid.vox2ras, points, order=1) > 0.5
    overlap = dice(mapped_mask & in_view, fixed_mask & in_view)
    warped = resample(moving, moving_grid.vox2ras, points, order=1)
    both = fixed_mask & mapped_mask
    shared = nmi(fixed[both], warped[both])
    null = _null(fixed, fixed_mask, warped, mapped_mask, fixed2moving.grid)
    jacobian = (
        fixed2moving.jacobian()[fixed_mask & in_view] if in_view[fixed_mask].any() else np.array([np.nan])
    )
    low, middle, high = np.percentile(jacobian, (1, 50, 99))
    checks = {
        f"mask Dice {overlap:.3f} (at least {limits.mask_dice:.2f})": overlap >= limits.mask_dice,
        f"NMI {shared:.3f} against {null:.3f} of misplaced copies (at least {limits.nmi_ratio:.2f} times "
        "as far above 1)": shared - 1 >= limits.nmi_ratio * (null - 1),
        f"Jacobian {low:.2f} to {high:.2f} (within {limits.jacobian_min} to {limits.jacobian_max})": (
            low >= limits.jacobian_min and high <= limits.jacobian_max
        ),
        f"volume ratio {middle:.2f} (within {limits.volume_min} to {limits.volume_max})": (
            limits.volume_min <= middle <= limits.volume_max
        ),
    }
    stretch = _stretch(fixed2moving, fixed_mask)
    checks[f"stretched {stretch:.2f} times (at most {limits.stretch})"] = stretch <= limits.stretch
    likeness = _correlation(fixed, warped, both, fixed2moving.grid)
    least = limits.affine_correlation if stage == "affine" else limits.correlation
    checks[f"correlation of the fine structure {likeness:.2f} (at least {least:.2f})"] = likeness >= least
    reason = "; ".join(text for text, holds in checks.items() if not holds)
    return Gate(
        mask_dice=overlap,
        nmi=shared,
        nmi_null=null,
        jacobian_min=float(low),
        jacobian_max=float(high),
        two_path_mm=float("nan"),
        stage=stage,
        passed=not reason,
        reason=reason,
        correlation=likeness,
    )


def _correlation(fixed: np.ndarray, warped: np.ndarray, both: np.ndarray, grid: Grid) -> float:
    """Correlate two images deep in the brain, less their local means; nan where there is no depth."""
    deep = eroded(both, grid, DEPTH_MM)
    if not deep.any():
        return float("nan")
    sigma_vox = COARSE_MM / np.asarray(grid.zooms)
    weight = ndimage.gaussian_filter(both.astype(np.float32), sigma_vox)
    a, b = (
        (image - ndimage.gaussian_filter(np.where(both, image, 0), sigma_vox) / np.maximum(weight, 1e-6))[
            deep
        ]
        for image in (fixed, warped)
    )
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _stretch(fixed2moving: PointMap, mask: np.ndarray) -> float:
    """Ratio of the largest to the smallest scale of the affine that fits the map best."""
    here = np.column_stack([fixed2moving.grid.points()[mask], np.ones(mask.sum())])[::7]
    there = fixed2moving.points[mask][::7].astype(float)
    if not np.isfinite(there).all():
        return float("inf")
    fitted = np.linalg.lstsq(here, there)[0]
    scales = np.linalg.svd(fitted[:3], compute_uv=False)
    return float(scales[0] / scales[-1])


def _null(
    fixed: np.ndarray, fixed_mask: np.ndarray, warped: np.ndarray, warped_mask: np.ndarray, grid: Grid
) -> float:
    """Highest NMI of misplaced copies: turned over, or shifted by 12 mm along an axis."""
    corners = ndimage.find_objects(fixed_mask.astype(np.int8))
    if not corners:
        return float("nan")
    box = corners[0]
    fixed, fixed_mask, warped, warped_mask = (x[box] for x in (fixed, fixed_mask, warped, warped_mask))
    copies = [(np.flip(warped, axis), np.flip(warped_mask, axis)) for axis in (1, 2)]
    for axis in range(3):
        steps = max(1, round(12.0 / grid.zooms[axis]))
        copies += [(np.roll(warped, s, axis), np.roll(warped_mask, s, axis)) for s in (-steps, steps)]
    values = [nmi(fixed[both], copy[both]) for copy, mask in copies if (both := fixed_mask & mask).any()]
    return max(values, default=float("nan"))
