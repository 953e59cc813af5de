"""Head and brain masks of echo-planar images, without a trained network."""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid

__all__ = [
    "check_image",
    "closed",
    "dice",
    "dilated",
    "eroded",
    "evened",
    "head_mask",
    "largest_piece",
    "otsu_threshold",
    "part_t1w_brain",
    "rough_brain_mask",
    "rough_t1w_brain",
]

# Brain and scalp hang together by bridges thinner than twice this; measured on eleven real scans.
BRIDGE_MM = 4.0
# Brain is brighter than this part of the median of the inner head, scalp with fat suppressed is not.
TISSUE_FRACTION = 0.5
# Width of the window that evens out the light of surface coils before thresholds are used.
FLATTEN_MM = 20.0
# T1w: thickness of scalp and skull, height of the head without the neck, and how bright brain at least is.
SCALP_MM = 8.0
HEAD_MM = 150.0
# A brain without its head is not larger than this, a head is.
LARGEST_STRIPPED_ML = 2100.0
T1W_FRACTION = 0.7
T1W_BRIDGE_MM = 3.0
# Grey and white matter are brighter than this part of the mean of the brain, fluid and dura are not.
T1W_TISSUE = 0.6
# Adult brains are 1.0 to 1.8 litres; a slab of one, or a child's, is smaller.
SMALLEST_BRAIN_ML = 200.0
LARGEST_BRAIN_ML = 3000.0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice overlap of two masks; nan if both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def check_image(image: np.ndarray, grid: Grid, name: str = "image") -> None:
    """Refuse an image that no brain can be found in.

    Raises
    ------
    DataError
        If it does not fit its grid, is not finite, or is constant.
    """
    if image.shape != grid.shape:
        raise DataError(f"{name}: shape {image.shape} does not fit its grid {grid.shape}")
    if not np.isfinite(image).all():
        raise DataError(f"{name}: {int((~np.isfinite(image)).sum())} voxels are not finite")
    if np.ptp(image) == 0:
        raise DataError(f"{name}: constant ({image.flat[0]:g} everywhere); there is nothing to see in it")


def head_mask(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Separate the head from the air around it.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``.
    grid : Grid
        Its lattice.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool; without holes.

    Raises
    ------
    DataError
        If the image is constant, not finite or does not fit its grid.
    """
    check_image(image, grid)
    # Half of Otsu's threshold: muscle and the shaded side of the head belong to it, noise does not.
    return _filled(_sizeable(image > 0.5 * otsu_threshold(image)))


def rough_brain_mask(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Mask the brain in an echo-planar image by its intensity and shape alone.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``; mean BOLD or b = 0 image.
    grid : Grid
        Its lattice.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool; one piece without holes.

    Raises
    ------
    DataError
        If the image is constant, not finite, does not fit its grid, or holds nothing of the size of a brain.
    """
    head = head_mask(image, grid)
    flat = _flattened(image, head, grid)
    inner = eroded(head, grid, 2 * BRIDGE_MM)
    bright = head & (flat > TISSUE_FRACTION * np.median(flat[inner if inner.any() else head]))
    core = largest_piece(eroded(bright, grid, BRIDGE_MM))
    brain = dilated(core, grid, BRIDGE_MM + max(grid.zooms) / 2) & bright
    filled = ~dilated(~dilated(brain, grid, 2 * BRIDGE_MM), grid, 2 * BRIDGE_MM)
    brain = ndimage.binary_fill_holes((filled | brain) & head)
    volume_ml = brain.sum() * abs(np.linalg.det(grid.vox2ras[:3, :3])) / 1000
    if not SMALLEST_BRAIN_ML < volume_ml < LARGEST_BRAIN_ML:
        raise DataError(
            f"brain mask of {volume_ml:.0f} ml, expected {SMALLEST_BRAIN_ML:.0f} to {LARGEST_BRAIN_ML:.0f}: "
            "is this a head, and are its voxel sizes right?"
        )
    return brain


def rough_t1w_brain(t1w: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find roughly where the brain is in a T1-weighted head: below the scalp, one piece, not the neck.

    Parameters
    ----------
    t1w : ndarray
        ``(X, Y, Z)``; with or without the skull.
    grid : Grid
        Its lattice; 2 mm suffice.

    Returns
    -------
    brain : ndarray
        ``(X, Y, Z)`` bool; may keep some dura and lose some cerebellum: good for a start, not for a result.
    below : ndarray
        ``(X, Y, Z)`` bool; head without scalp, with the neck.
    flat : ndarray
        ``(X, Y, Z)``; the image evened out inside `below` above the neck, zero outside.

    Raises
    ------
    DataError
        If the image is constant, not finite, does not fit its grid, or shows nothing below a scalp.
    """
    head = head_mask(t1w, grid)
    height_mm = grid.points()[..., 2]
    has_scalp = head.sum() * abs(np.linalg.det(grid.vox2ras[:3, :3])) / 1000 > LARGEST_STRIPPED_ML
    below = eroded(head, grid, SCALP_MM) if has_scalp else head
    inner = below & (height_mm > np.percentile(height_mm[head], 99.9) - HEAD_MM)
    if not inner.any():
        raise DataError(
            f"T1w image: a head of {int(head.sum())} voxels has nothing {SCALP_MM:.0f} mm below its surface"
        )
    flat = evened(t1w, inner, grid)
    bright = inner & (flat > T1W_FRACTION * np.median(flat[inner]))
    core = largest_piece(eroded(bright, grid, T1W_BRIDGE_MM))
    brain = dilated(core, grid, T1W_BRIDGE_MM + max(grid.zooms) / 2) & bright
    filled = ~dilated(~dilated(brain, grid, 10.0), grid, 10.0)
    return _filled((filled | brain) & inner), below, flat


def part_t1w_brain(
    t1w: np.ndarray, grid: Grid, prior: np.ndarray, error_mm: float, below: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Part the brain from marrow, scalp and dura along the darkest surface between them.

    A watershed: two floods, from deep in the brain and from outside of it, run through what is bright first
    and meet where it is darkest, so that bridges between them do not matter as they do to an erosion.

    Parameters
    ----------
    t1w : ndarray
        ``(X, Y, Z)``; with or without the skull.
    grid : Grid
        Its lattice; 2 mm suffice.
    prior : ndarray
        ``(X, Y, Z)`` bool; brain mask of a registered template.
    error_mm : float
        The edge of the brain is sought this far inside and outside of the edge of `prior`.
    below : ndarray, optional
        ``(X, Y, Z)`` bool; from `rough_t1w_brain`: what is not below the scalp is not brain either. Keeps a
        rough prior from the scalp, but is wrong where air or a removed face lie close to the brain.

    Returns
    -------
    units : ndarray
        ``(X, Y, Z)`` float32; the image evened out, mean of the brain 1, zero outside of the brain.
    tissue : ndarray
        ``(X, Y, Z)`` bool; its grey and white matter.

    References
    ----------
    Hahn & Peitgen 2000, The skull stripping problem in MRI solved by a single 3D watershed transform,
    MICCAI, 10.1007/978-3-540-40899-4_14.
    """
    from skimage.segmentation import watershed  # late: slow to import

    near = dilated(prior, grid, error_mm)
    if below is not None:
        near &= below
    units, tissue = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, bool)
    box = _box(near, grid, 0.0)
    near, prior = near[box], prior[box]
    deep = eroded(near & prior, grid, error_mm)
    if not deep.any():
        return units, tissue
    flat = evened(t1w[box], near, grid)
    flat /= flat[near & prior].mean()
    sources = deep + 2 * ~near
    # What is brighter than grey matter counts alike, and both floods start at once.
    level = np.where(sources > 0, -np.inf, -np.minimum(flat, 1.0))
    brain = watershed(level, sources) == 1
    bright = brain & (flat > T1W_TISSUE)
    core = largest_piece(eroded(bright, grid, 2.0))
    tissue[box] = dilated(core, grid, 2.0 + max(grid.zooms) / 2) & bright
    units[box] = np.where(brain, flat, 0)
    return units, tissue


def evened(image: np.ndarray, inside: np.ndarray, grid: Grid) -> np.ndarray:
    """Even out coil shading and clip fat, for registration only; float32, zero outside `inside`."""
    return _flattened(image, inside, grid, n_passes=2, ceiling=1.5).astype(np.float32)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill what is closed in space or in a slice: a dark middle may touch the lower edge of the image."""
    mask = ndimage.binary_fill_holes(mask)
    for axis in range(3):
        plane = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
        mask = ndimage.binary_fill_holes(mask, structure=plane)
    return mask


def _flattened(
    image: np.ndarray, inside: np.ndarray, grid: Grid, *, n_passes: int = 1, ceiling: float | None = None
) -> np.ndarray:
    """Divide by the local mean inside, then clip at `ceiling` medians; zero outside."""
    box = _box(inside, grid, 0.0)
    part, head = image[box], inside[box]
    sigma_vox = FLATTEN_MM / np.asarray(grid.zooms)
    weight = ndimage.gaussian_filter(head.astype(np.float32), sigma_vox, mode="nearest")
    part = np.where(head, part, 0)
    for _ in range(n_passes):
        level = ndimage.gaussian_filter(part.astype(np.float32), sigma_vox, mode="nearest")
        part = np.where(head, part * weight / np.maximum(level, np.finfo(np.float32).tiny), 0)
        if ceiling is not None:
            part = np.minimum(part, ceiling * np.median(part[head]))
    flat = np.zeros(image.shape, np.result_type(image, np.float32))
    flat[box] = part
    return flat


def otsu_threshold(image: np.ndarray, inside: np.ndarray | None = None) -> float:
    """Return Otsu's threshold of all or some voxels, blind to the brightest 2%."""
    values = image[inside] if inside is not None else image.ravel()
    top = np.percentile(values[values > values.min()], 98)
    values = np.clip(values, None, top).astype(np.float32)
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(sitk.GetImageFromArray(values.reshape(1, -1)))
    return float(threshold.GetThreshold())


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest piece of a mask; voxels touch by their faces."""
    labels, n_pieces = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n_pieces else mask


def _sizeable(mask: np.ndarray) -> np.ndarray:
    """Drop pieces below a twentieth of the largest: the skull may part scalp from brain, specks are noise."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(1, 0.05 * sizes.max()))[labels]


def eroded(mask: np.ndarray, grid: Grid, radius_mm: float) -> np.ndarray:
    """Return the voxels farther than `radius_mm` from what is outside; the border of the image is not."""
    box = _box(mask, grid, 0.0)
    core = np.zeros(mask.shape, bool)
    core[box] = ndimage.distance_transform_edt(mask[box], sampling=grid.zooms) > radius_mm
    return core


def dilated(mask: np.ndarray, grid: Grid, radius_mm: float) -> np.ndarray:
    """Return the voxels within `radius_mm` of the mask."""
    if not mask.any():
        return mask
    box = _box(mask, grid, radius_mm)
    near = np.zeros(mask.shape, bool)
    near[box] = ndimage.distance_transform_edt(~mask[box], sampling=grid.zooms) <= radius_mm
    return near


def _box(mask: np.ndarray, grid: Grid, margin_mm: float) -> tuple[slice, ...]:
    """Return the box of a mask, `margin_mm` and a voxel wider: what lies beyond only costs time."""
    found = ndimage.find_objects(mask.astype(np.int8))
    if not found:
        return (slice(None),) * mask.ndim
    margins = [int(margin_mm / zoom) + 1 for zoom in grid.zooms]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found[0], margins, strict=True))


def closed(mask: np.ndarray, grid: Grid, radius_mm: float) -> np.ndarray:
    """Fill gaps narrower than twice `radius_mm`, and holes."""
    return ndimage.binary_fill_holes(~dilated(~dilated(mask, grid, radius_mm), grid, radius_mm) | mask)
