"""Diffusion series of one virtual person: spin-echo echo-planar imaging."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid
from pds_bids.phantom import contrast
from pds_bids.phantom.coil import coil_field
from pds_bids.phantom.eddy import EddyCurrents
from pds_bids.phantom.epi import EpiOptions, Readout, named_draws, noise_sd, rician
from pds_bids.phantom.head_motion import rest2volumes
from pds_bids.phantom.orientation import fibre_axes
from pds_bids.phantom.person import Person, Scan
from pds_bids.phantom.tissue import FLUID, PROPERTIES

__all__ = ["DWI_EPI", "Diffusion", "DwiTruth", "dwi_series", "fractional_anisotropy"]

DWI_EPI = EpiOptions(readout_s=0.045, noise=0.03)
_MAX_FA = 0.85
# Compartments darker than this share of the brightest at b = 0 are not there: their tensor would be noise.
_AIR = 0.01
# Volume shares of the two parts of a tissue whose kurtosis is not 0.
_FAST, _SLOW = 0.7, 0.3


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Signal of a head at rest for any gradient, on its lattice.

    Parameters
    ----------
    water, tissue : ndarray
        ``(X, Y, Z)`` float32, signal at b = 0 of the two compartments; without a compartment of free water
        all signal is in the second.
    water_md : ndarray
        ``(X, Y, Z)`` um^2/ms.
    parallel, perpendicular : ndarray
        ``(X, Y, Z)`` float32, um^2/ms: the cylindrical tensor of the tissue.
    axis : ndarray
        ``(X, Y, Z, 3)`` float32 unit vectors.
    kurtosis : ndarray, optional
        ``(X, Y, Z)`` excess kurtosis of the tissue; None: the tensor is all.
    """

    water: np.ndarray
    tissue: np.ndarray
    water_md: np.ndarray
    parallel: np.ndarray
    perpendicular: np.ndarray
    axis: np.ndarray
    kurtosis: np.ndarray | None

    @classmethod
    def of(
        cls,
        rng: np.random.Generator,
        person: Person,
        seen: Scan,
        protocol: contrast.DwiProtocol,
        *,
        free_water: bool,
        kurtosis: bool,
    ) -> "Diffusion":
        """Compute what the fractions and latent fields of a person say; `rng` draws the fibres."""
        is_water = np.zeros((seen.fractions.shape[1], 1), np.float32)
        is_water[list(FLUID)] = free_water
        b0 = contrast.linearise(lambda p: contrast.b0_signal(p, protocol), person.tissue)
        md, water_md = (_mean(person, seen, "md_um2_ms", part) for part in (1 - is_water, is_water))
        fa = np.clip(_mean(person, seen, "fa", 1 - is_water), 0, _MAX_FA)
        parallel, perpendicular = contrast.axial_diffusivities(md, fa)
        return cls(
            seen.image(b0 * is_water),
            seen.image(b0 * (1 - is_water)),
            water_md,
            parallel.astype(np.float32),
            perpendicular.astype(np.float32),
            fibre_axes(rng, seen).astype(np.float32),
            _mean(person, seen, "kurtosis", 1 - is_water) if kurtosis else None,
        )

    def signal(self, b: float, direction: np.ndarray) -> np.ndarray:
        """Return the signal, ``(X, Y, Z)`` float32.

        ``S0 exp(-b g' D g)`` in the tissue. With a kurtosis K it has two parts of the shares 0.7 and 0.3
        whose diffusivities spread about D by ``sqrt(K / 3)``: to second order in b the signal of that
        kurtosis, and unlike the series cut off there it falls at every b.

        Parameters
        ----------
        b : float
            ms/um^2.
        direction : ndarray
            ``(3,)`` unit vector along the axes of the head at rest.
        """
        cosine2 = (self.axis @ np.asarray(direction, np.float32)) ** 2
        weight = np.float32(b) * (self.perpendicular + (self.parallel - self.perpendicular) * cosine2)
        if self.kurtosis is None:
            decay = np.exp(-weight)
        else:
            spread = np.sqrt(np.maximum(self.kurtosis, 0) / 3)
            fast, slow = 1 + spread * np.sqrt(_SLOW / _FAST), 1 - spread * np.sqrt(_FAST / _SLOW)
            decay = _FAST * np.exp(-fast * weight) + _SLOW * np.exp(-np.maximum(slow, 0) * weight)
        signal = self.tissue * decay
        if self.water.any():
            signal += self.water * np.exp(-np.float32(b) * self.water_md)
        return signal

    def tensor(self) -> np.ndarray:
        """Return the tensor of the tissue, ``(6, X, Y, Z)``: xx, xy, xz, yy, yz, zz."""
        pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        excess = self.parallel - self.perpendicular
        return np.stack(
            [excess * self.axis[..., i] * self.axis[..., j] + (i == j) * self.perpendicular for i, j in pairs]
        )


@dataclass(frozen=True, eq=False)
class DwiTruth:
    """What a diffusion series was made from, at rest and without distortion; computed when it is asked for.

    Parameters
    ----------
    diffusion : Diffusion
        The head at rest.
    readout : Readout
        What makes voxels of it.
    eddy_hz : ndarray
        ``(V, 4)`` from `EddyCurrents.coefficients`.
    rest2volume : ndarray
        ``(V, 4, 4)``: a point of the head at rest to where it is in each volume, RAS+ mm.
    """

    diffusion: Diffusion
    readout: Readout
    eddy_hz: np.ndarray
    rest2volume: np.ndarray

    @cached_property
    def field_hz(self) -> np.ndarray:
        """Off-resonance of the head, ``(X, Y, Z)``."""
        return self.readout.field_on_grid()

    @cached_property
    def b0(self) -> np.ndarray:
        """Signal at b = 0 of all that is in the voxel, without receive field and noise, ``(X, Y, Z)``."""
        tissue, water = self._compartments
        return tissue + water

    @cached_property
    def free_water(self) -> np.ndarray:
        """Share of the signal at b = 0 that free water has; 0 without that compartment, ``(X, Y, Z)``."""
        share = self._compartments[1] / np.maximum(self.b0, 1e-12)
        return np.where(self.b0 < self._darkest, 0, share).astype(np.float32)

    @cached_property
    def fa(self) -> np.ndarray:
        """FA of the tensor of the voxel, ``(X, Y, Z)`` float32.

        The mean tensor of what its point spread covers, weighted by signal at b = 0, which is the tensor
        that weak diffusion weighting shows. With a compartment of free water, it is that of the other one;
        where there is none, FA is 0 and MD that of the water. 0 in air.
        """
        return fractional_anisotropy(self._eigensystem[0]).astype(np.float32)

    @cached_property
    def md_um2_ms(self) -> np.ndarray:
        """MD of that tensor, ``(X, Y, Z)`` float32."""
        tissue, water = self._compartments
        is_water = (tissue < self._darkest) & (water >= self._darkest)
        fluid = self.readout.undistorted(self.diffusion.water * self.diffusion.water_md)
        fluid = fluid / np.where(is_water, water, 1)
        return np.where(is_water, fluid, self._eigensystem[0].mean(-1)).astype(np.float32)

    @property
    def axis_ras(self) -> np.ndarray:
        """Its principal axis, ``(X, Y, Z, 3)`` unit vectors along R, A, S; the sign is arbitrary."""
        return self._eigensystem[1][..., -1].astype(np.float32)

    @cached_property
    def _compartments(self) -> tuple[np.ndarray, np.ndarray]:
        """Signal of tissue and of free water in the voxels at b = 0."""
        return self.readout.undistorted(self.diffusion.tissue), self.readout.undistorted(self.diffusion.water)

    @cached_property
    def _darkest(self) -> float:
        return float(_AIR * self.b0.max())

    @cached_property
    def _eigensystem(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and vectors of the tensor of the tissue."""
        diffusion, tissue = self.diffusion, self._compartments[0]
        is_absent = tissue < self._darkest
        # What is not negative is not clipped by the readout.
        offset = 2 * float(diffusion.parallel.max())
        parts = [
            self.readout.undistorted(diffusion.tissue * (part + offset)) / np.where(is_absent, 1, tissue)
            - offset
            for part in diffusion.tensor()
        ]
        xx, xy, xz, yy, yz, zz = (np.where(is_absent, 0, part).astype(float) for part in parts)
        matrix = np.stack([np.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))], -2)
        eigenvalues, vectors = np.linalg.eigh(matrix)
        return eigenvalues, vectors


def dwi_series(
    rng: np.random.Generator,
    person: Person,
    seen: Scan,
    motion: np.ndarray,
    bvals: np.ndarray,
    bvecs_ras: np.ndarray,
    protocol: contrast.DwiProtocol,
    epi: EpiOptions | None = None,
    *,
    eddy: EddyCurrents | None = None,
    free_water: bool = True,
    kurtosis: bool = False,
    fibres: np.random.Generator | None = None,
    grid: Grid | None = None,
) -> tuple[np.ndarray, DwiTruth]:
    """Simulate a diffusion series.

    Parameters
    ----------
    rng, person, seen, motion, grid
        As `pds_bids.phantom.bold.bold_series`.
    bvals : ndarray
        ``(V,)`` s/mm^2.
    bvecs_ras : ndarray
        ``(V, 3)`` unit vectors along the axes of the scanner; zero at b = 0.
    protocol : DwiProtocol
        Echo and repetition time.
    epi : EpiOptions, optional
        The readout; `DWI_EPI` by default.
    eddy : EddyCurrents, optional
        None: no eddy currents.
    free_water : bool
        Whether fluid is a compartment of its own; otherwise each point of the head has one tensor.
    kurtosis : bool
        Whether tissue decays more slowly than its tensor says when the weighting is strong.
    fibres : Generator, optional
        Draws the axes of the tensors. They belong to the person: pass one with the same seed for each of
        the person's series. None: drawn from `rng`.

    Returns
    -------
    series : ndarray
        ``(X, Y, Z, V)`` float32.
    truth : DwiTruth

    Raises
    ------
    GeometryError
        If motion, b-values and directions are not of one length.
    """
    epi, grid = epi or DWI_EPI, grid or seen.grid
    bvals, bvecs_ras = np.asarray(bvals, float), np.asarray(bvecs_ras, float)
    poses = rest2volumes(motion)
    if not len(poses) == len(bvals) == len(bvecs_ras):
        raise GeometryError(
            f"{len(poses)} poses, {len(bvals)} b-values, {len(bvecs_ras)} directions: expected one each"
        )
    draw = named_draws(rng)
    diffusion = Diffusion.of(
        fibres or draw("fibres"), person, seen, protocol, free_water=free_water, kurtosis=kurtosis
    )
    readout = Readout.of(seen, grid, epi, protocol.field_t)
    coil = coil_field(draw("coil"), grid, epi.coil, epi.lowest_loops)
    b0 = diffusion.water + diffusion.tissue
    sd, noise = noise_sd(b0, epi.noise), draw("noise")
    eddy_hz = np.zeros((len(bvals), 4)) if eddy is None else eddy.coefficients(bvals, bvecs_ras)
    unweighted = readout.prepare(b0)
    series = np.empty((*grid.shape, len(bvals)), np.float32)
    for v, pose in enumerate(poses):
        coefficients = unweighted
        if bvals[v] > 0:
            # The gradient is fixed to the scanner: seen from the head it turns the other way.
            coefficients = readout.prepare(diffusion.signal(bvals[v] / 1000, pose[:3, :3].T @ bvecs_ras[v]))
        series[..., v] = rician(noise, readout.volume(coefficients, pose, coil, eddy_hz[v]), sd)
    return series, DwiTruth(diffusion, readout, eddy_hz, poses)


def fractional_anisotropy(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the FA of ``(..., 3)`` eigenvalues; 0 where they are all 0.

    Examples
    --------
    >>> float(fractional_anisotropy(np.array([1.0, 0.0, 0.0])))
    1.0
    """
    spread = eigenvalues - eigenvalues.mean(-1, keepdims=True)
    size = (eigenvalues**2).sum(-1)
    return np.sqrt(1.5 * (spread**2).sum(-1) / np.where(size > 0, size, 1))


def _mean(person: Person, seen: Scan, name: str, part: np.ndarray) -> np.ndarray:
    """Return a property of some of the tissues, averaged over their fractions, ``(X, Y, Z)`` float32."""
    column = PROPERTIES.index(name)
    table = contrast.linearise(lambda p: p[..., column], person.tissue)
    share = (seen.fractions @ part[:, 0]).reshape(seen.grid.shape)
    return (seen.image(table * part) / np.maximum(share, 1e-3)).astype(np.float32)
