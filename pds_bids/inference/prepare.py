"""From arrays on the model grid to what a network reads, the same for training and for use."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.modalities import MAP_UNITS, Contrast

__all__ = ["DEFAULT_WINDOW", "Window", "scale_contrast", "scale_template", "scale_to_mean"]


@dataclass(frozen=True)
class Window:
    """The part of the model grid that the network sees.

    Parameters
    ----------
    start, shape : tuple of int
        First voxel and number of voxels along each axis.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the window in an array on the grid."""
        x, y, z = (slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))
        return x, y, z

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Cut the window out of the last three axes."""
        return image[(..., *self.slices)]

    def paste(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Undo `crop` on a background of zeros.

        Examples
        --------
        >>> window = Window((1, 0, 0), (1, 1, 1))
        >>> window.paste(np.ones((1, 1, 1)), Grid((3, 1, 1), np.eye(4))).ravel()
        array([0., 1., 0.])
        """
        full = np.zeros((*image.shape[:-3], *grid.shape), image.dtype)
        full[(..., *self.slices)] = image
        return full

    def check(self, grid: Grid) -> None:
        """Raise `GeometryError` if the window reaches beyond `grid`."""
        ends = [a + n for a, n in zip(self.start, self.shape, strict=True)]
        if min(self.start) < 0 or any(end > n for end, n in zip(ends, grid.shape, strict=True)):
            raise GeometryError(f"window {self.start}+{self.shape} reaches beyond a grid of {grid.shape}")


#: Covers the template's brain with two voxels to spare and is symmetric about x = 0.5 mm, so that the mirror
#: image of a brain lies where the brain was.
DEFAULT_WINDOW = Window((5, 6, 0), (56, 64, 56))


def scale_to_mean(image: np.ndarray, mask: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """Mask an image and divide it by its in-brain mean.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``, any positive unit.
    mask : ndarray
        ``(X, Y, Z)`` bool.
    name : str
        What the image is, for messages.

    Returns
    -------
    scaled : ndarray
        float32, in-brain mean 1, zero outside the mask.
    scale : float
        The mean that was divided out; ``scaled * scale`` undoes it.

    Raises
    ------
    DataError
        If the mask is empty, a voxel in it is not finite, or the mean is not positive.
    """
    inside = image[mask].astype(np.float64)
    if not inside.size:
        raise DataError(f"{name}: the brain mask is empty; check the registration")
    n_bad = int((~np.isfinite(inside)).sum())
    if n_bad:
        raise DataError(f"{name}: {n_bad} of {inside.size} voxels in the brain are not finite")
    scale = float(inside.mean())
    if scale <= 0:
        raise DataError(f"{name}: in-brain mean {scale:g}, expected a positive number; is the image empty?")
    scaled = np.zeros(image.shape, np.float32)
    scaled[mask] = inside / scale
    return scaled, scale


def scale_contrast(
    image: np.ndarray, mask: np.ndarray, contrast: Contrast, name: str
) -> tuple[np.ndarray, float]:
    """Mask an image and bring it to the units of a network.

    Parameters
    ----------
    image, mask, name
        As in `scale_to_mean`.
    contrast : Contrast
        Maps are divided by their unit, see `MAP_UNITS`, all others by their in-brain mean.

    Returns
    -------
    scaled : ndarray
        float32, zero outside the mask.
    scale : float
        What was divided out.

    Raises
    ------
    DataError
        As `scale_to_mean`; a map may be zero.
    """
    if contrast not in MAP_UNITS:
        return scale_to_mean(image, mask, name)
    if not np.isfinite(image[mask]).all():
        raise DataError(f"{name}: voxels in the brain are not finite")
    unit = MAP_UNITS[contrast]
    return np.where(mask, image / unit, 0).astype(np.float32), unit


def scale_template(channels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mask the template channels and divide the last one, T1w, by its mean in the mask.

    Parameters
    ----------
    channels : ndarray
        ``(4, X, Y, Z)``: grey matter, white matter, CSF, T1w in any unit, with or without skull.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain of the subject, not empty.

    Returns
    -------
    ndarray
        ``(4, X, Y, Z)`` float32; the T1w is left at zero where it is empty, as with a withheld template.
    """
    scaled = np.where(mask, np.nan_to_num(channels), 0).astype(np.float32)
    mean = float(scaled[-1][mask].mean(dtype=np.float64))
    if mean > 0:
        scaled[-1] /= mean
    return scaled
