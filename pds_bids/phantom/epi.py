"""What echo-planar imaging does to a head: distortion, point spread, receive field, noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import GeometryError, UsageError
from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.rigid import grid_centre
from pds_bids.phantom.moving_head import evaluate, finer_along, spline
from pds_bids.phantom.person import Scan
from pds_bids.phantom.tissue import BRAIN, Tissue
from pds_bids.seeds import derive_seed

__all__ = ["EpiOptions", "Readout", "ghosted", "named_draws", "noise_sd", "remap", "rician"]

_DIRECTIONS = ("i", "i-", "j", "j-", "k", "k-")
# From full width at half maximum to standard deviation, and the standard deviation of a box of width 1.
_FWHM_TO_SD, _BOX_SD = 0.42466, 0.28868
# T2* whose decay during the readout blurs along the phase encoding.
_BLUR_T2S_S = 0.045
# Narrower than this (voxels) a cell has no width over which its signal could be shared.
_NARROW = 1e-6
# The frequency of fat is 3.4 ppm below that of water; at 3 T, Hz.
_FAT_HZ = -434.0


@dataclass(frozen=True)
class EpiOptions:
    """How an echo-planar series is read out; the defaults are a usual protocol at 3 T.

    Parameters
    ----------
    readout_s : float
        Total readout time, seconds; 0: no distortion.
    phase_encoding : str
        ``i``, ``i-``, ``j``, ``j-``: axis of the RAS+ array of the series. A field of ``+1 / readout_s`` Hz
        displaces signal by one voxel, upwards without the minus.
    psf_voxels : float
        Full width of the point spread in plane, in voxels; 0: voxels are points. K-space is kept to its
        border, where a Gaussian of 0.7 voxels keeps two thirds and one of a voxel less than half.
    slice_thickness_mm : float, optional
        None: no gap between slices.
    field_strength : float
        Off-resonance relative to solid pockets of air; 0: a perfect shim, no dropout.
    coil : float
        Strength of the receive field: 1 as an array of loops receives it, 0 even.
    lowest_loops : float
        Where the array ends below, from 0.9 to -0.9: 0 beside the middle of the head, -1 would be below it.
    noise : float
        Standard deviation of the thermal noise, relative to the mean signal of the head; 0: none.
    oversampling : int
        Cells per voxel along the phase encoding.
    ghost : float
        Amplitude of the ghost half a field of view away along the phase encoding, relative to the signal.
    fat : float
        Signal of the fat of the scalp that its suppression has left, relative to fully relaxed water.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    readout_s: float = 0.03
    phase_encoding: str = "j-"
    psf_voxels: float = 0.7
    slice_thickness_mm: float | None = None
    field_strength: float = 0.8
    coil: float = 0.4
    lowest_loops: float = -0.55
    noise: float = 0.015
    oversampling: int = 2
    ghost: float = 0.01
    fat: float = 0.01

    def __post_init__(self) -> None:
        if self.phase_encoding not in _DIRECTIONS:
            raise UsageError(f"phase encoding {self.phase_encoding!r}; expected one of {_DIRECTIONS}")
        for name in ("readout_s", "psf_voxels", "field_strength", "coil", "noise", "ghost", "fat"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not -0.9 <= self.lowest_loops <= 0.9:
            raise UsageError(f"lowest_loops is {self.lowest_loops}; expected -0.9 to 0.9")
        if self.ghost > 1:
            raise UsageError(f"ghost is {self.ghost}; expected at most 1, where nothing else is seen")
        if self.oversampling < 1:
            raise UsageError(f"oversampling is {self.oversampling}; expected 1 or more")

    @classmethod
    def ideal(cls) -> "EpiOptions":
        """Return a readout that does nothing: no distortion, dropout, blur, receive field, noise, ghost."""
        return cls(
            readout_s=0, psf_voxels=0, field_strength=0, coil=0, noise=0, oversampling=1, ghost=0, fat=0
        )

    @property
    def encoding(self) -> PhaseEncoding:
        """Axis and signed readout time, as the app's own undistortion takes them."""
        sign = -1.0 if self.phase_encoding.endswith("-") else 1.0
        return PhaseEncoding("ijk".index(self.phase_encoding[0]), sign * self.readout_s)

    def blur_mm(self, grid: Grid) -> np.ndarray:
        """Return the standard deviations ``(3,)`` of the blur that comes before the voxels are summed up.

        In plane a Gaussian of `psf_voxels`; along the phase encoding also the decay during the readout,
        ``readout / (pi T2*)`` voxels wide, less the box that summing up cells applies; across slices the
        standard deviation of a box of their thickness.
        """
        if self.psf_voxels == 0:
            return np.zeros(3)
        sd = np.full(3, _FWHM_TO_SD * self.psf_voxels)
        axis = self.encoding.axis
        decay = _FWHM_TO_SD * self.readout_s / (np.pi * _BLUR_T2S_S)
        sd[axis] = np.sqrt(max(sd[axis] ** 2 + decay**2 - _BOX_SD**2, 0))
        sd *= grid.zooms
        if axis != 2:
            sd[2] = _BOX_SD * (self.slice_thickness_mm or grid.zooms[2])
        return sd


def named_draws(rng: np.random.Generator) -> Callable[..., np.random.Generator]:
    """Return a function from a name to its own generator: a draw more elsewhere changes nothing here.

    Examples
    --------
    >>> draw = named_draws(np.random.default_rng(0))
    >>> bool(draw("noise").random() == draw("noise").random())
    True
    """
    master = int(rng.integers(2**62))

    def draw(*names: str | int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(master, *names))

    return draw


def remap(signal: np.ndarray, landing: np.ndarray, n_voxels: int) -> np.ndarray:
    """Move cells along a line and sum up what lands in every voxel; the sum of a line is conserved.

    Each cell is spread evenly between the places where its two ends land, so the signal of a stretched cell
    thins out and that of a squeezed one piles up, and cells that the field has folded over add up. What
    leaves the field of view comes back at the other end, as it does along a phase encoding.

    Parameters
    ----------
    signal : ndarray
        ``(..., M)``, the signal of each cell.
    landing : ndarray
        ``(..., M + 1)``, where the ends of the cells land, in voxels: voxel 0 reaches from -0.5 to 0.5.
    n_voxels : int
        Length of the result.

    Returns
    -------
    ndarray
        ``(..., n_voxels)`` float64.

    Examples
    --------
    >>> remap(np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 2, 3, 4]) - 0.25, 4)
    array([0.75, 0.25, 0.  , 0.  ])
    """
    if landing.shape != (*signal.shape[:-1], signal.shape[-1] + 1):
        raise GeometryError(
            f"{landing.shape} ends for cells {signal.shape}: expected one more end than cells"
        )
    ends = landing + 0.5
    low = np.minimum(ends[..., :-1], ends[..., 1:]).ravel()
    # A cell without width has all its signal in one place.
    wide = np.maximum(np.abs(np.diff(ends, axis=-1)).ravel(), _NARROW)
    n_lines = signal.size // signal.shape[-1]
    line = np.repeat(np.arange(n_lines) * n_voxels, signal.shape[-1])
    left = (signal.ravel().astype(np.float64), line, np.floor(low).astype(np.int64), low, wide)
    total = np.zeros(n_lines * n_voxels)
    while left[0].size:
        mass, line, voxel, low, wide = left
        share = (np.minimum(low + wide, voxel + 1) - np.maximum(low, voxel)) / wide
        total += np.bincount(line + voxel % n_voxels, mass * share, len(total))
        reaches = np.flatnonzero(low + wide > voxel + 1)
        left = (mass[reaches], line[reaches], voxel[reaches] + 1, low[reaches], wide[reaches])
    return total.reshape(*signal.shape[:-1], n_voxels)


def ghosted(volume: np.ndarray, axis: int, amplitude: float) -> np.ndarray:
    """Add the ghost of an echo-planar readout whose odd and even lines differ by a constant phase.

    With phases of plus and minus ``asin(amplitude)`` a real image keeps ``sqrt(1 - amplitude^2)`` of itself,
    and `amplitude` of it comes back half a field of view away, a quarter turn out of phase.

    Parameters
    ----------
    volume : ndarray
        ``(X, Y, Z)``, not negative.
    axis : int
        Phase encoding. Along an odd number of voxels half of them is between two.
    amplitude : float
        0 to 1.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` magnitude, dtype of `volume`.

    References
    ----------
    Buonocore and Gao 1997, Magn Reson Med.
    """
    half = volume.shape[axis] // 2
    away = (np.roll(volume, half, axis) + np.roll(volume, -half, axis)) / 2
    return np.hypot(np.sqrt(1 - amplitude**2) * volume, amplitude * away).astype(volume.dtype)


@dataclass(frozen=True, eq=False)
class Readout:
    """Turns a head on its lattice into volumes.

    Parameters
    ----------
    grid, lattice : Grid
        Grid of the volumes; lattice of the head at rest.
    field_hz : ndarray
        On the lattice, float32: off-resonance, which moves with the head.
    encoding : PhaseEncoding
        Axis and signed readout time.
    blur_mm : ndarray
        ``(3,)`` from `EpiOptions.blur_mm`.
    parts : int
        Cells per voxel along the phase encoding.
    ghost : float
        From `EpiOptions`.
    fat : ndarray, optional
        On the lattice, float32: signal of fat, the same in all volumes; diffusion weighting leaves it.
    fat_hz : float
        Its chemical shift.
    """

    grid: Grid
    lattice: Grid
    field_hz: np.ndarray
    encoding: PhaseEncoding
    blur_mm: np.ndarray
    parts: int
    ghost: float = 0.0
    fat: np.ndarray | None = None
    fat_hz: float = 0.0

    @classmethod
    def of(cls, seen: Scan, grid: Grid, epi: EpiOptions, field_t: float) -> "Readout":
        """Return the readout of a person at a field strength."""
        strength = np.float32(epi.field_strength * field_t / 3.0)
        field_hz = strength * seen.maps["field_hz"].reshape(seen.grid.shape)
        fat = None
        if epi.fat:
            # Vessels of the brain are of the same tissue as the scalp.
            scalp = np.where(seen.share(*BRAIN) > 0, 0, seen.share(Tissue.SOFT))
            blur = epi.blur_mm(grid) / seen.grid.zooms
            fat = ndimage.gaussian_filter((epi.fat * scalp).astype(np.float32), blur)
        return cls(
            grid,
            seen.grid,
            field_hz,
            epi.encoding,
            epi.blur_mm(grid),
            epi.oversampling,
            ghost=epi.ghost,
            fat=fat,
            fat_hz=_FAT_HZ * field_t / 3.0,
        )

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the blurred spline of an image on the lattice, as `volume` takes it."""
        x, y, z = (float(v) for v in self.blur_mm / self.lattice.zooms)
        return spline(image, (x, y, z))

    def volume(
        self,
        coefficients: np.ndarray,
        rest2volume: np.ndarray,
        factor: np.ndarray | None = None,
        extra_hz: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return one volume.

        Parameters
        ----------
        coefficients : ndarray
            From `prepare`.
        rest2volume : ndarray
            ``(4, 4)`` pose of the head.
        factor : ndarray, optional
            ``(X, Y, Z)`` on the grid, multiplies the signal where it truly is: receive field, activity.
        extra_hz : ndarray, optional
            ``(4,)``: a field of the scanner, Hz in the centre of the grid and Hz/mm along R, A, S.

        Returns
        -------
        ndarray
            ``(X, Y, Z)`` float32.
        """
        axis = self.encoding.axis
        cells = finer_along(self.grid, axis, self.parts)
        landing = self._landing(rest2volume, extra_hz)
        # A spline swings below zero beside an edge.
        water = np.maximum(evaluate(coefficients, self.lattice, cells, rest2volume, order=3), 0)
        volume = self._read(water, factor, landing)
        if self.fat is not None:
            fat = evaluate(self.fat, self.lattice, cells, rest2volume, order=1)
            shift = self.fat_hz * self.encoding.readout_s
            volume += self._read(fat, factor, landing if landing is None else landing + shift)
        return ghosted(volume, axis, self.ghost) if self.ghost else volume

    def _read(self, cells: np.ndarray, factor: np.ndarray | None, landing: np.ndarray | None) -> np.ndarray:
        """Return the volume that cells add up to, ``(X, Y, Z)`` float32."""
        axis = self.encoding.axis
        values = cells / self.parts
        if factor is not None:
            values *= np.repeat(factor, self.parts, axis)
        values = np.moveaxis(values, axis, -1)
        if landing is None:
            volume = values.reshape(*values.shape[:-1], -1, self.parts).sum(-1)
        else:
            volume = remap(values, np.moveaxis(landing, axis, -1), self.grid.shape[axis])
        return np.moveaxis(volume, -1, axis).astype(np.float32)

    def undistorted(self, image: np.ndarray) -> np.ndarray:
        """Return what a readout without off-resonance shows of an image on the lattice, at rest."""
        plain = PhaseEncoding(self.encoding.axis, 0.0)
        still = Readout(self.grid, self.lattice, self.field_hz, plain, self.blur_mm, self.parts)
        return still.volume(self.prepare(image), np.eye(4))

    def field_on_grid(self) -> np.ndarray:
        """Return the field of the head at rest on the grid of the volumes, ``(X, Y, Z)`` float32 Hz."""
        return evaluate(self.field_hz, self.lattice, self.grid, np.eye(4), order=1, mode="nearest")

    def _landing(self, rest2volume: np.ndarray, extra_hz: np.ndarray | None) -> np.ndarray | None:
        """Return where the borders of the cells land, in voxels; None if nothing moves them."""
        axis, readout_s = self.encoding.axis, self.encoding.readout_s
        has_extra = extra_hz is not None and np.any(extra_hz)
        if readout_s == 0 or not (self.field_hz.any() or has_extra or self.fat is not None):
            return None
        edges = finer_along(self.grid, axis, self.parts, edges=True)
        hz = evaluate(self.field_hz, self.lattice, edges, rest2volume, order=1, mode="nearest").astype(float)
        if extra_hz is not None:
            slopes = extra_hz[1:] @ edges.vox2ras[:3, :3]
            hz += extra_hz[0] + extra_hz[1:] @ (edges.vox2ras[:3, 3] - grid_centre(self.grid))
            for k, n in enumerate(edges.shape):
                hz += (slopes[k] * np.arange(n)).reshape([-1 if j == k else 1 for j in range(3)])
        place = np.arange(edges.shape[axis]) / self.parts - 0.5
        return readout_s * hz + place.reshape([-1 if j == axis else 1 for j in range(3)])


def noise_sd(image: np.ndarray, share: float) -> float:
    """Return the standard deviation of noise that is a share of the mean of the head."""
    return share * float(image[image > 0.3 * image.max()].mean())


def rician(rng: np.random.Generator, image: np.ndarray, sd: float) -> np.ndarray:
    """Return the magnitude of an image with complex Gaussian noise; the image itself if `sd` is 0.

    Where there is no signal the mean is ``sd sqrt(pi / 2)``.

    References
    ----------
    Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618.
    """
    if sd == 0:
        return image
    real = image + np.float32(sd) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(sd) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)
