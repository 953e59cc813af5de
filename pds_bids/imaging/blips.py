"""Groups of volumes with different phase encoding as one series."""

from collections.abc import Sequence

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.distortion import Distortion
from pds_bids.imaging.grid import apply_affine, resample
from pds_bids.imaging.pepolar import Blip, BlipField

__all__ = ["agreement", "join_groups"]


def join_groups(
    found: BlipField, blips: Sequence[Blip], groups: np.ndarray, motion: np.ndarray
) -> tuple[np.ndarray, Distortion]:
    """Refer the motion of all volumes to the first group, and give each its readout.

    With the two results, ``segment_means(series, vox2ras, motion, [volumes], points, distortion=distortion)``
    samples every volume of either group where the head is in it and the field has moved it, and averages
    them: no volume is interpolated twice.

    Parameters
    ----------
    found : BlipField
        From the mean b0 of each group, in the order of the groups.
    blips : sequence of Blip
        What it was estimated from, all on the grid of the series.
    groups : ndarray
        ``(N,)`` int, group of each volume.
    motion : ndarray
        ``(N, 4, 4)`` maps from the reference of its own group to each volume, RAS+ mm.

    Returns
    -------
    motion : ndarray
        ``(N, 4, 4)`` maps from the undistorted reference of group 0: ``within[k] @ ref2blip[groups[k]]``.
    distortion : Distortion
        Field on the grid of group 0, one readout per volume.

    Raises
    ------
    GeometryError
        If the groups do not fit the volumes, or the images do not lie on one grid.
    """
    groups = np.asarray(groups)
    if groups.shape != (len(motion),) or not set(groups.tolist()) <= set(range(len(blips))):
        raise GeometryError(
            f"groups {sorted(set(groups.tolist()))} of {groups.size} volumes, for {len(motion)} poses and "
            f"{len(blips)} images: expected one group per volume and one image per group"
        )
    if any(blip.grid != blips[0].grid for blip in blips):
        raise GeometryError("the images of the groups do not lie on one grid: they cannot be one series")
    joined = np.asarray(motion, float) @ found.ref2blip[groups]
    axes = np.array([blip.phase_encoding.axis for blip in blips])[groups]
    readout_s = np.array([blip.phase_encoding.readout_s for blip in blips])[groups]
    return joined, Distortion(found.hz, blips[0].grid, axes, readout_s)


def agreement(blips: Sequence[Blip], found: BlipField, brain: np.ndarray) -> dict[str, float]:
    """Compare the first two images before and after.

    Parameters
    ----------
    blips : sequence of Blip
        As acquired.
    found : BlipField
        Estimated from them.
    brain : ndarray
        ``(X, Y, Z)`` bool on the grid of the first.

    Returns
    -------
    dict
        ``correlation_before``, ``correlation_after``; ``difference_before``, ``difference_after``: mean
        absolute difference over the mean of the first; ``moved_mm``: mean distance that the head moved
        between them, apart from its shift along the phase encoding, which a constant field explains as well.
    """
    first, second = blips[:2]
    points = first.grid.points()
    there = resample(second.image, second.grid.vox2ras, points, order=1)
    before = first.image[brain], there[brain] * (first.image[brain].mean() / max(there[brain].mean(), 1e-12))
    after = found.corrected[0][brain], found.corrected[1][brain]
    step = first.grid.vox2ras[:3, first.phase_encoding.axis]
    far = apply_affine(found.ref2blip[1], points[brain]) - points[brain]
    along = far.mean(0) @ step / (step @ step)
    values = {"moved_mm": float(np.linalg.norm(far - along * step, axis=1).mean())}
    for name, (one, two) in (("before", before), ("after", after)):
        values[f"correlation_{name}"] = float(np.corrcoef(one, two)[0, 1])
        values[f"difference_{name}"] = float(np.abs(one - two).mean() / one.mean())
    return values
