"""Field inhomogeneity from air inside the head, and what it does to a gradient echo."""

import numpy as np
from scipy import ndimage

from pds_bids.phantom.tissue import BRAIN

__all__ = ["air_pockets", "dropout", "echo_shift", "field_gradient", "susceptibility_field"]

# Proton frequency times the susceptibility difference of air and tissue: 42.577 MHz/T x 9.4 ppm.
_HZ_PER_T = 42.577 * 9.4
# Gaps of the head up to twice this wide are inside it; air nearer to the surface than the second is outside.
_CLOSING_MM = 10.0
_SKIN_MM = 5.0


def air_pockets(fractions: np.ndarray, zoom_mm: float) -> np.ndarray:
    """Return the share of air inside the head: sinuses, mastoid cells, ear canals.

    Parameters
    ----------
    fractions : ndarray
        ``(X, Y, Z, 16)`` uint8.
    zoom_mm : float
        Voxel size.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32 between 0 and 1.
    """
    filled = fractions.sum(-1, dtype=np.uint16).astype(np.float32) / 255
    radius = round(_CLOSING_MM / zoom_mm)
    padded = np.pad(filled > 0.5, radius, mode="edge")
    # Dilation and erosion by distance are much faster than by a large structuring element.
    near = ndimage.distance_transform_edt(~padded) <= radius
    deep = ndimage.distance_transform_edt(near) > radius + _SKIN_MM / zoom_mm
    inner = tuple(slice(radius, -radius) for _ in range(3))
    air = np.where(deep[inner], 1 - np.clip(filled, 0, 1), 0)
    # Rounding of the fractions leaves up to a few percent of "air" in full voxels.
    return np.where(air > 0.1, air, 0).astype(np.float32)


def susceptibility_field(air: np.ndarray, fractions: np.ndarray, field_t: float = 3.0) -> np.ndarray:
    """Return the static field offset after shimming, for a main field along the third axis.

    Voxels are isotropic; their size does not matter, since the dipole kernel has no scale.

    Parameters
    ----------
    air : ndarray
        ``(X, Y, Z)`` share of air inside the head.
    fractions : ndarray
        ``(X, Y, Z, 16)`` uint8; the shim is fitted in the brain.
    field_t : float
        Field strength.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, Hz.
    """
    shape = [n + 32 for n in air.shape]
    kx, ky, kz = np.meshgrid(
        np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]), indexing="ij"
    )
    k2 = kx**2 + ky**2 + kz**2
    k2[0, 0, 0] = 1
    kernel = 1 / 3 - kz**2 / k2
    kernel[0, 0, 0] = 0
    pad = [(16, 16)] * 3
    spectrum = np.fft.rfftn(np.pad(air.astype(np.float64), pad)) * kernel
    field = np.fft.irfftn(spectrum, shape, axes=(0, 1, 2))[16:-16, 16:-16, 16:-16]
    # Air is less diamagnetic than tissue.
    return _shim(field * _HZ_PER_T * field_t, fractions).astype(np.float32)


def _shim(field_hz: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Subtract the second-order polynomial that fits best in the brain."""
    brain = fractions[..., list(BRAIN)].sum(-1, dtype=np.uint16) > 127
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in field_hz.shape], indexing="ij")
    x, y, z = axes
    terms = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2], -1)
    some = np.flatnonzero(brain)[::17]
    # Shims follow the bulk of the brain, not the spikes above the sinuses.
    values = np.clip(field_hz.ravel()[some], -60, 60)
    fit, *_ = np.linalg.lstsq(terms.reshape(-1, terms.shape[-1])[some], values, rcond=None)
    return field_hz - terms @ fit


def field_gradient(field_hz: np.ndarray, zoom_mm: float) -> np.ndarray:
    """Return how fast the field changes across a voxel, Hz/mm.

    The slice direction counts in full; in plane the read-out refocuses about half of it.
    """
    gx, gy, gz = np.gradient(field_hz, zoom_mm)
    return np.sqrt(gz**2 + 0.25 * (gx**2 + gy**2)).astype(np.float32)


def dropout(gradient_hz_mm: np.ndarray, te_ms: float | np.ndarray, thickness_mm: float) -> np.ndarray:
    """Return the share of a gradient-echo signal that is left after dephasing across the slice.

    Gaussian form of ``|sinc(G dz TE)|``: ``exp(-(pi G dz TE)^2 / 6)``.

    Examples
    --------
    >>> float(dropout(np.zeros(1), 30, 3)[0])
    1.0
    """
    turns = gradient_hz_mm * (thickness_mm * te_ms / 1000)
    return np.exp(-((np.pi * turns) ** 2) / 6)


def echo_shift(slope: np.ndarray, te_ms: float) -> np.ndarray:
    """Return when a gradient of the field along the phase encoding lets each voxel's echo come.

    A field that grows by f' Hz per voxel moves the centre of k-space of that voxel by
    ``-f' TE / (1 + s)`` cycles per voxel, and its echo to ``TE / (1 + s)``, where ``s = readout f'`` is how
    much the voxel is stretched.

    Parameters
    ----------
    slope : ndarray
        s, change of the displacement (voxels) per voxel along the phase encoding.
    te_ms : float
        Nominal echo time.

    Returns
    -------
    ndarray
        Echo times, ms; infinite where the voxel is folded.

    References
    ----------
    Deichmann et al. 2002, doi:10.1006/nimg.2001.0985.

    Examples
    --------
    >>> echo_shift(np.array([0.0, 0.5, -2.0]), 30.0)
    array([30., 20., inf])
    """
    stretched = 1 + np.asarray(slope, float)
    return np.where(stretched > 0, te_ms / np.where(stretched > 0, stretched, 1), np.inf)
