"""Bring a field to a series, and judge whether undoing its distortion makes the series truer.

A field with the wrong sign doubles the distortion, and nothing crashes. So every field is tried as it is,
negated, and not at all, and what it does to the likeness with an undistorted image decides.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pds_bids.imaging import greedy
from pds_bids.imaging.distortion import Distortion, PhaseEncoding
from pds_bids.imaging.fieldmaps import FieldImage
from pds_bids.imaging.gate import Gate, nmi
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, apply_affine, resample
from pds_bids.imaging.intensity import n4_bias, to_units
from pds_bids.imaging.masks import dilated, rough_brain_mask
from pds_bids.imaging.realign import realigned_mean
from pds_bids.imaging.registration import register_rigid

__all__ = ["Likeness", "bring_field", "compare_signs", "displacement_mm", "implausible", "undistorted"]

# Rounds of "undo the field, register, look the field up again", and when they end.
N_ROUNDS, STEADY_MM = 3, 0.3
# Where the field moves less than this part of a voxel, correction shows nothing.
LEAST_SHIFT_VOXELS = 0.5
# Excess of NMI over 1 may fall by this share before a correction counts as harmful: noise of registration.
TOLERATED_LOSS = 0.03
# The negated field is better beyond doubt when its excess of NMI is this share higher.
SIGN_MARGIN = 0.03
# At 3 T and usual readouts brain moves by up to 15 mm; more is an error of phase unwrapping or of units.
LARGEST_SHIFT_MM = 25.0
# Voxels of the brain that the field may fold: above the sinuses and ear canals.
LARGEST_FOLDED_SHARE = 0.05
# Registration of series and magnitude: overlap of their masks, and NMI against that of misplaced copies.
LEAST_DICE, LEAST_NMI_RATIO = 0.75, 1.5
# Of the image that a correction is compared with; a mask with the scalp in it leads the registration astray.
LEAST_TARGET_DICE = 0.8
FOLDED_DENSITY = 0.1
# A joint histogram of 32 x 32 bins needs some voxels in it.
LEAST_VOXELS = 2000


@dataclass(frozen=True, eq=False)
class Likeness:
    """Normalised mutual information of a series with an undistorted image, after rigid registration.

    Parameters
    ----------
    corrected, uncorrected, negated : float
        With the field undone, not undone, and undone with the opposite sign; where the field moves the brain
        by at least half a voxel.
    whole_corrected, whole_uncorrected : float
        The same over the whole brain.
    reason : str
        Why the field must not be used; empty if it may.
    doubt : str
        Why the comparison says nothing: the two images do not register; empty if it does.
    """

    corrected: float
    uncorrected: float
    negated: float
    whole_corrected: float
    whole_uncorrected: float
    reason: str
    doubt: str = ""


def undistorted(
    image: np.ndarray, grid: Grid, hz: np.ndarray, encoding: PhaseEncoding, order: int = 3
) -> np.ndarray:
    """Undo the distortion of one image.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)`` as acquired.
    grid : Grid
        Its lattice.
    hz : ndarray
        ``(X, Y, Z)`` off-resonance on the same lattice, where the head truly is.
    encoding : PhaseEncoding
        Its readout.
    order : int
        Spline order.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, signal rescaled by how much the field squeezed it.
    """
    distortion = Distortion(
        np.asarray(hz, np.float32), grid, np.array([encoding.axis]), np.array([encoding.readout_s])
    )
    series = np.asarray(image, np.float32)[..., None]
    return realigned_mean(series, grid.vox2ras, np.eye(4)[None], order=order, distortion=distortion)


def displacement_mm(hz: np.ndarray, grid: Grid, encoding: PhaseEncoding) -> np.ndarray:
    """Return how far the field moves each voxel along the array axis of phase encoding, mm.

    Examples
    --------
    >>> grid = Grid((1, 1, 1), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> displacement_mm(np.full((1, 1, 1), 40.0), grid, PhaseEncoding(1, -0.05)).item()
    -6.0
    """
    return np.asarray(hz) * encoding.readout_s * grid.zooms[encoding.axis]


def implausible(hz: np.ndarray, grid: Grid, encoding: PhaseEncoding, brain: np.ndarray) -> str:
    """Return why a field cannot be true, or an empty string.

    Parameters
    ----------
    hz : ndarray
        ``(X, Y, Z)`` Hz on `grid`.
    grid : Grid
        Grid of the series.
    encoding : PhaseEncoding
        Its readout.
    brain : ndarray
        ``(X, Y, Z)`` bool.

    Returns
    -------
    str
    """
    if not np.isfinite(hz).all():
        return "the field is not finite everywhere"
    far_mm = float(np.percentile(np.abs(displacement_mm(hz, grid, encoding))[brain], 99))
    if far_mm > LARGEST_SHIFT_MM:
        return (
            f"the field moves 1% of the brain by more than {far_mm:.0f} mm (at most {LARGEST_SHIFT_MM:.0f})"
        )
    slope = encoding.readout_s * np.gradient(hz.astype(float), axis=encoding.axis)
    folded = float((1 + slope < FOLDED_DENSITY)[brain].mean())
    if folded > LARGEST_FOLDED_SHARE:
        return f"the field folds {100 * folded:.0f}% of the brain (at most {100 * LARGEST_FOLDED_SHARE:.0f}%)"
    return ""


def bring_field(
    field: FieldImage, mean: np.ndarray, grid: Grid, encoding: PhaseEncoding, *, nthreads: int = 1
) -> tuple[np.ndarray, Gate]:
    """Bring a field to the space of a distorted mean image.

    The mean, undone with the field as it lies, is registered rigidly to the field's magnitude; that moves the
    field, which changes the undone mean, and so on until it rests.

    Parameters
    ----------
    field : FieldImage
        Field and magnitude of the same head.
    mean : ndarray
        ``(X, Y, Z)`` mean of the realigned series, distorted.
    grid : Grid
        Its lattice.
    encoding : PhaseEncoding
        Its readout.
    nthreads : int
        Threads.

    Returns
    -------
    hz : ndarray
        ``(X, Y, Z)`` float32 on `grid`, in the undistorted space of the mean.
    gate : Gate
        Verdict on the last registration; if it did not pass, the field must not be used.
    """
    magnitude = field.magnitude / n4_bias(field.magnitude, field.grid, field.brain, nthreads=nthreads)
    ref2field, points = np.eye(4), grid.points()
    for _ in range(N_ROUNDS):
        hz = _looked_up(field, ref2field, points)
        seen = undistorted(mean, grid, hz, encoding, order=1)
        brain = rough_brain_mask(seen, grid)
        bias = n4_bias(seen, grid, brain, nthreads=nthreads)
        found, gate = register_rigid(
            seen / bias, grid, brain, magnitude, field.grid, field.brain, nthreads=nthreads
        )
        inside = points[brain]
        step_mm = np.linalg.norm(apply_affine(found, inside) - apply_affine(ref2field, inside), axis=1).mean()
        ref2field = found
        gate = _relaxed(gate, LEAST_DICE)
        if step_mm < STEADY_MM or not gate.passed:
            break
    return _looked_up(field, ref2field, points), gate


def compare_signs(
    hz: np.ndarray,
    mean: np.ndarray,
    grid: Grid,
    encoding: PhaseEncoding,
    target: np.ndarray,
    target_grid: Grid,
    target_mask: np.ndarray,
    *,
    nthreads: int = 1,
) -> Likeness:
    """Compare a series with an undistorted image: field undone, not undone, undone with the wrong sign.

    Parameters
    ----------
    hz : ndarray
        ``(X, Y, Z)`` field on `grid`, in the undistorted space of the mean.
    mean : ndarray
        ``(X, Y, Z)`` distorted mean.
    grid : Grid
        Lattice of the two.
    encoding : PhaseEncoding
        Readout of the series.
    target : ndarray
        Undistorted image of the same head, N4-corrected: T1w, or magnitude of a gradient echo.
    target_grid : Grid
        Its lattice.
    target_mask : ndarray
        Its brain, bool.
    nthreads : int
        Threads.

    Returns
    -------
    Likeness

    Raises
    ------
    DataError
        If no brain is found in the mean.
    """
    still = GreedyImage(to_units(target, target_mask)[0], target_grid)
    versions = {sign: undistorted(mean, grid, sign * hz, encoding) for sign in (1, 0, -1)}
    # What a wrong field has torn apart registers with nothing: the pose is that of the image as it came.
    brain = rough_brain_mask(mean, grid)
    bias = n4_bias(mean, grid, brain, nthreads=nthreads)
    pose, gate = register_rigid(mean / bias, grid, brain, target, target_grid, target_mask, nthreads=nthreads)
    if not (gate := _relaxed(gate, LEAST_TARGET_DICE)).passed:
        return Likeness(math.nan, math.nan, math.nan, math.nan, math.nan, reason="", doubt=gate.reason)
    shift = np.abs(displacement_mm(hz, grid, encoding)) / grid.zooms[encoding.axis]
    local: dict[int, float] = {}
    whole: dict[int, float] = {}
    for sign, version in versions.items():
        own = brain if sign == 0 else rough_brain_mask(version, grid)
        # Each by its own bias field: one fitted to piled-up signal would flatter the version that has it.
        even = version / (bias if sign == 0 else n4_bias(version, grid, own, nthreads=nthreads))
        epi = GreedyImage(to_units(even, own)[0], grid, dilated(own, grid, 8.0))
        epi2target = greedy.affine(
            epi, still, pose, dof=6, metric="NMI", schedule="30x20x10", nthreads=nthreads
        )
        places = apply_affine(epi2target, grid.points())
        seen = resample(target, target_grid.vox2ras, places, order=1)
        in_brain = resample(target_mask.astype(np.float32), target_grid.vox2ras, places, order=1) > 0.5
        whole[sign] = nmi(even[in_brain], seen[in_brain])
        moved = in_brain & (shift > LEAST_SHIFT_VOXELS)
        moved = moved if moved.sum() > LEAST_VOXELS else in_brain
        local[sign] = nmi(even[moved], seen[moved])
    return Likeness(local[1], local[0], local[-1], whole[1], whole[0], _verdict(local))


def _relaxed(gate: Gate, least_dice: float) -> Gate:
    """Ask less of the masks: scalp is bright in a gradient echo of low resolution, and its mask is rough."""
    checks = {
        f"mask Dice {gate.mask_dice:.3f} (at least {least_dice})": gate.mask_dice >= least_dice,
        f"NMI {gate.nmi:.3f} against {gate.nmi_null:.3f} of misplaced copies": (
            gate.nmi - 1 >= LEAST_NMI_RATIO * (gate.nmi_null - 1)
        ),
    }
    reason = "; ".join(text for text, holds in checks.items() if not holds)
    return replace(gate, passed=not reason, reason=reason)


def _verdict(excess: dict[int, float]) -> str:
    """Say why the field must not be used."""
    good, none, wrong = (excess[sign] - 1 for sign in (1, 0, -1))
    figures = f"NMI {1 + good:.4f} with it, {1 + none:.4f} without, {1 + wrong:.4f} with the sign turned"
    if wrong > (1 + SIGN_MARGIN) * good and wrong > none:
        return (
            f"the field fits with the opposite sign ({figures}): PhaseEncodingDirection of the series, or "
            "the sign of the fieldmap, is wrong"
        )
    if good < (1 - TOLERATED_LOSS) * none:
        return f"undoing the field makes the series less like the undistorted image ({figures})"
    return ""


def _looked_up(field: FieldImage, ref2field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the field at points of the reference; it goes on beyond the border of its own image."""
    from scipy import ndimage

    index = np.moveaxis(apply_affine(field.grid.ras2vox @ ref2field, points), -1, 0)
    return ndimage.map_coordinates(field.hz, index, order=1, mode="nearest", output=np.float32)
