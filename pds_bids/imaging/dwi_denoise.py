"""Noise and Gibbs ringing of a diffusion series, removed before anything interpolates.

Both rest on how the image was acquired: noise that is independent from voxel to voxel, and a k-space that was
cut off at its edge. Interpolation destroys the first, zero filling on the scanner both, and partial Fourier
the second. Order: noise, then ringing, then everything else.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.masks import head_mask
from pds_bids.imaging.series import Series, volume_blocks
from pds_bids.options import DenoiseMethod

__all__ = [
    "Denoised",
    "denoise",
    "denoise_caution",
    "denoise_problem",
    "patch_radius",
    "remove_gibbs_ringing",
    "slice_axis_ras",
]

# Patches are cubes of this many voxels either side of the centre, as in Veraart et al. 2016.
PATCH_RADII = (2, 3, 4)
# Of fewer volumes neither method can tell signal from noise: noise is what the others do not predict.
N_VOLUMES_MIN = 10
# With fewer weighted volumes Patch2Self also takes away what only one direction shows: on a real series of
# 20, FA fell by 12% and the tensor fitted worse (dipy issue 3619 has the same).
N_WEIGHTED_CAUTION = 60
# Patch2Self predicts b0s from b0s only; fewer than these are left alone.
N_GROUP_MIN = 5
# Voxels whose products are summed at once.
SAMPLES_AT_ONCE = 100_000
# Slices denoised at once; patches reach over their ends, so that this changes memory but no value.
SLAB = 12


@dataclass(frozen=True, eq=False)
class Denoised:
    """A series without its noise.

    Parameters
    ----------
    data : ndarray
        ``(X, Y, Z, N)`` float32, not negative.
    noise_sd : ndarray
        ``(X, Y, Z)`` float32, standard deviation of the noise in the unit of the data; 0 where none was
        estimated. MP-PCA: from the eigenvalues; Patch2Self: of what was removed.
    """

    data: np.ndarray
    noise_sd: np.ndarray


def denoise_problem(method: DenoiseMethod, shape: tuple[int, ...]) -> str:
    """Say why a series of a given shape cannot be denoised.

    Parameters
    ----------
    method : DenoiseMethod
        How.
    shape : tuple of int
        ``(X, Y, Z, N)``.

    Returns
    -------
    str
        Empty when it can.

    Examples
    --------
    >>> denoise_problem(DenoiseMethod.PATCH2SELF, (64, 64, 40, 7))
    '7 volumes, at least 10 needed'
    >>> denoise_problem(DenoiseMethod.MPPCA, (64, 64, 4, 30))
    'patches of 5 x 5 x 5 voxels do not fit into volumes of 64 x 64 x 4'
    """
    volumes = shape[3]
    if method is DenoiseMethod.NONE:
        return ""
    if volumes < N_VOLUMES_MIN:
        return f"{volumes} volumes, at least {N_VOLUMES_MIN} needed"
    if method is DenoiseMethod.PATCH2SELF:
        return ""
    radius = patch_radius(volumes)
    if radius is None:
        largest = (2 * PATCH_RADII[-1] + 1) ** 3
        return f"{volumes} volumes, fewer than the {largest} voxels of the largest patch needed"
    width = 2 * radius + 1
    if min(shape[:3]) < width:
        sizes = " x ".join(map(str, shape[:3]))
        return f"patches of {width} x {width} x {width} voxels do not fit into volumes of {sizes}"
    return ""


def denoise_caution(method: DenoiseMethod, bvals: np.ndarray, b0_threshold: float = 50.0) -> str:
    """Say what a reader of the report should know about the method on this series; mostly nothing.

    Parameters
    ----------
    method : DenoiseMethod
        How.
    bvals : ndarray
        ``(N,)`` s/mm2.
    b0_threshold : float
        Volumes up to this b-value are b0s.

    Returns
    -------
    str
        Empty when there is nothing to say.
    """
    n_weighted = int((np.asarray(bvals) > b0_threshold).sum())
    if method is DenoiseMethod.PATCH2SELF and n_weighted < N_WEIGHTED_CAUTION:
        return (
            f"Patch2Self with {n_weighted} weighted volumes (fewer than {N_WEIGHTED_CAUTION}) may remove "
            "what only one direction shows and lower FA; MP-PCA does not"
        )
    return ""


def patch_radius(n_volumes: int) -> int | None:
    """Return the radius of the smallest patch with more voxels than there are volumes; None if none has.

    Examples
    --------
    >>> [patch_radius(n) for n in (30, 123, 124, 342, 1000)]
    [2, 2, 3, 4, None]
    """
    # One sample goes into the mean.
    return next((radius for radius in PATCH_RADII if (2 * radius + 1) ** 3 - 1 > n_volumes), None)


def denoise(
    series: Series,
    vox2ras: np.ndarray,
    method: DenoiseMethod,
    bvals: np.ndarray,
    *,
    b0_threshold: float = 50.0,
    name: str = "dwi",
) -> Denoised:
    """Remove noise from an acquired series, before any interpolation.

    MP-PCA [1]_ removes the principal components of a patch that random matrix theory assigns to noise; it
    needs noise that does not correlate between voxels. Patch2Self [2]_ predicts each volume from all others
    and keeps what can be predicted; it makes no assumption on the noise, but mixes volumes that differ by
    head motion.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``, as acquired.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    method : DenoiseMethod
        How; ``none`` returns the series.
    bvals : ndarray
        ``(N,)`` s/mm2.
    b0_threshold : float
        Volumes up to this b-value are b0s.
    name : str
        What the messages call the series.

    Returns
    -------
    Denoised
        Away from the head MP-PCA leaves the data as they are.

    Raises
    ------
    DataError
        If the series does not suit the method, see `denoise_problem`.
    GeometryError
        If there is not one b-value for each volume.

    References
    ----------
    .. [1] Veraart et al., NeuroImage 2016, doi:10.1016/j.neuroimage.2016.08.016.
    .. [2] Fadnavis et al., NeurIPS 2020, arXiv:2011.01355.
    """
    if len(bvals) != series.shape[3]:
        raise GeometryError(f"{name}: {series.shape[3]} volumes != {len(bvals)} b-values")
    problem = denoise_problem(method, series.shape)
    if problem:
        raise DataError(f"{name} cannot be denoised by {method}: {problem}; leave denoising out")
    if method is DenoiseMethod.NONE:
        data = np.empty(series.shape, np.float32)
        for index, block in volume_blocks(series):
            data[..., index] = block
        return Denoised(data, np.zeros(series.shape[:3], np.float32))
    radius = patch_radius(series.shape[3])
    if method is DenoiseMethod.MPPCA and radius is not None:
        return _mppca(series, vox2ras, radius)
    return _patch2self(series, vox2ras, np.asarray(bvals, float), b0_threshold)


def remove_gibbs_ringing(data: np.ndarray, slice_axis: int) -> np.ndarray:
    """Remove Gibbs ringing within slices by local subvoxel shifts.

    Parameters
    ----------
    data : ndarray
        ``(X, Y, Z)`` or ``(X, Y, Z, N)`` float32, as acquired or denoised, never interpolated.
    slice_axis : int
        Axis that counts slices, see `slice_axis_ras`.

    Returns
    -------
    ndarray
        Of the same shape, float32, not negative. Not valid along the phase-encoding axis of a partial Fourier
        acquisition, whose ringing is wider: there some of it stays.

    Raises
    ------
    GeometryError
        If the axis is not 0, 1 or 2.

    References
    ----------
    Kellner et al., Magn Reson Med 2016, doi:10.1002/mrm.26054.
    """
    from dipy.denoise.gibbs import gibbs_removal

    if slice_axis not in (0, 1, 2):
        raise GeometryError(f"slice axis {slice_axis}: expected 0, 1 or 2")
    cleaned = np.empty(data.shape, np.float32)
    for k in np.ndindex(data.shape[3:]):
        # A pool of processes cannot be started from a worker of the workflow; one volume at a time.
        volume = np.asarray(data[(..., *k)], dtype=np.float64)
        cleaned[(..., *k)] = gibbs_removal(volume, slice_axis=slice_axis, inplace=False, num_processes=1)
    return np.clip(cleaned, 0, None, out=cleaned)


def slice_axis_ras(stored_vox2ras: np.ndarray, stored_axis: int = 2) -> int:
    """Return which axis counts slices once an image is reoriented to RAS+.

    Parameters
    ----------
    stored_vox2ras : ndarray
        ``(4, 4)`` affine of the image as stored, before any reorientation.
    stored_axis : int
        The axis of slices as stored: the third, unless ``SliceEncodingDirection`` says otherwise.

    Returns
    -------
    int
        0, 1 or 2.

    Examples
    --------
    Sagittal slices stored as ASL (anterior, superior, left):

    >>> slice_axis_ras(np.array([[0, 0, -3, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]]))
    0
    """
    return int(nib.io_orientation(stored_vox2ras)[stored_axis, 0])


def _mppca(series: Series, vox2ras: np.ndarray, radius: int) -> Denoised:
    """Denoise slab by slab; a slab sees two patch radii of its neighbours, which makes it exact."""
    from dipy.denoise.localpca import mppca

    head = _head(series, vox2ras)
    depth = series.shape[2]
    data = np.empty(series.shape, np.float32)
    noise = np.zeros(series.shape[:3], np.float32)
    for start in range(0, depth, SLAB):
        stop = min(start + SLAB, depth)
        low, high = max(0, start - 2 * radius), min(depth, stop + 2 * radius)
        # At the ends of the volume a short slab is widened to the size of a patch.
        low, high = max(0, min(low, high - 2 * radius - 1)), min(depth, max(high, low + 2 * radius + 1))
        slab = _slices(series, low, high)
        inside = head[:, :, low:high]
        clean, sd = slab, np.zeros(inside.shape, np.float32)
        if inside.any():
            # Voxels outside of all patches are 0 / 0 in dipy; they keep their value below.
            with np.errstate(invalid="ignore"):
                clean, sd = mppca(
                    slab, mask=inside, patch_radius=radius, return_sigma=True, suppress_warning=True
                )
        here = slice(start - low, stop - low)
        done = (inside & np.isfinite(clean).all(3) & np.isfinite(sd))[:, :, here]
        data[:, :, start:stop] = np.where(done[..., None], clean[:, :, here], slab[:, :, here])
        noise[:, :, start:stop] = np.where(done, sd[:, :, here], 0)
    return Denoised(np.clip(data, 0, None, out=data), noise)


def _patch2self(series: Series, vox2ras: np.ndarray, bvals: np.ndarray, b0_threshold: float) -> Denoised:
    """Predict each volume linearly from the others of its kind.

    The published estimator with patches of one voxel, in closed form. dipy 1.12.1 has it, but takes the mean
    off the result in its first version (dipy issue 3967), and draws a random sketch in its third.
    """
    head = _head(series, vox2ras)
    is_b0 = bvals <= b0_threshold
    data = np.empty(series.shape, np.float32)
    squares = np.zeros(series.shape[:3])
    groups = [np.flatnonzero(~is_b0), np.flatnonzero(is_b0)]
    models = [(group, *_leave_one_out(series, head, group)) for group in groups if len(group) >= N_GROUP_MIN]
    for start in range(0, series.shape[2], SLAB):
        slab = _slices(series, start, min(start + SLAB, series.shape[2]))
        clean = slab.copy()
        for group, mean, predictor in models:
            clean[..., group] = (slab[..., group] - mean) @ predictor.T + mean
        here = slice(start, start + slab.shape[2])
        data[:, :, here] = np.clip(clean, 0, None)
        squares[:, :, here] = ((slab - clean).astype(float) ** 2).sum(3)
    n_predicted = sum(len(group) for group, _, _ in models)
    return Denoised(data, np.sqrt(squares / max(n_predicted, 1)).astype(np.float32))


def _leave_one_out(series: Series, inside: np.ndarray, volumes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means ``(n,)`` of volumes in a mask and ``(n, n)`` weights to predict each from the others.

    With P the inverse of the covariance, least squares predicts volume i by -P_ij / P_ii of every other j.
    """
    samples = np.concatenate([block[inside] for _, block in volume_blocks(series, volumes.tolist())], axis=1)
    mean = samples.mean(0, dtype=np.float64)
    covariance = np.zeros((len(volumes), len(volumes)))
    for rows in np.array_split(samples, max(1, len(samples) // SAMPLES_AT_ONCE)):
        centred = rows - mean
        covariance += centred.T @ centred
    # Copies of one volume would leave no inverse.
    precision = np.linalg.inv(covariance + 1e-9 * np.trace(covariance) / len(volumes) * np.eye(len(volumes)))
    predictor = -precision / np.diag(precision)[:, None]
    np.fill_diagonal(predictor, 0)
    return mean, predictor


def _head(series: Series, vox2ras: np.ndarray) -> np.ndarray:
    """Return the head with a margin, from the mean of the series."""
    total = np.zeros(series.shape[:3])
    for _, block in volume_blocks(series):
        total += block.sum(3)
    mean = (total / series.shape[3]).astype(np.float32)
    head = head_mask(mean, Grid(mean.shape, vox2ras))
    return ndimage.binary_dilation(head, iterations=2)


def _slices(series: Series, low: int, high: int) -> np.ndarray:
    """Read slices `low` to `high` of all volumes, float32."""
    slab = np.empty((*series.shape[:2], high - low, series.shape[3]), np.float32)
    for index, block in volume_blocks(series):
        slab[..., index] = block[:, :, low:high]
    return slab
