"""Susceptibility distortion: how far off-resonance moves voxels of an echo-planar volume.

An echo-planar volume is true to shape along two axes. Along the third, that of phase encoding, a voxel whose
spins precess by ``hz`` faster than the scanner expects is displaced by ``hz`` times the readout time, in
voxels. The head carries its field with it, so one field in the reference position serves all volumes; the
direction and the readout time may differ from volume to volume (blips up and blips down in one series).
Eddy currents of diffusion gradients displace along the same axis, by a field that stays with the scanner: one
affine map per volume, which comes first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.grid import Grid, apply_affine

__all__ = ["Distortion", "PhaseEncoding", "phase_encoding", "phase_encoding_axis", "with_eddy_currents"]

# A voxel that the field squeezes below a tenth or stretches beyond five times has no content of its own.
SMALLEST_DENSITY, LARGEST_DENSITY = 0.1, 5.0


@dataclass(frozen=True)
class PhaseEncoding:
    """Direction and duration of the readout of an echo-planar series.

    Parameters
    ----------
    axis : int
        Axis of the RAS+ array along which the image is distorted: 0, 1 or 2.
    readout_s : float
        Total readout time, seconds; negative when phase encoding runs towards smaller indices of the RAS+
        array. A field of +1 / readout_s Hz displaces a voxel by one index upwards.
    """

    axis: int
    readout_s: float


def phase_encoding(metadata: Mapping[str, Any], vox2ras: np.ndarray) -> PhaseEncoding:
    """Read the phase encoding of a series from its sidecar.

    Parameters
    ----------
    metadata : Mapping
        BIDS sidecar with ``PhaseEncodingDirection`` (an axis of the stored array) and ``TotalReadoutTime``.
    vox2ras : ndarray
        ``(4, 4)`` affine of the image as stored, before any reorientation.

    Returns
    -------
    PhaseEncoding

    Raises
    ------
    DataError
        If one of the two is missing or is not what BIDS says.

    Examples
    --------
    In an image stored LAS, ``i`` runs to the left: down the first axis of the RAS+ array.

    >>> metadata = {"PhaseEncodingDirection": "i", "TotalReadoutTime": 0.05}
    >>> phase_encoding(metadata, np.diag([-2.0, 2, 2, 1]))
    PhaseEncoding(axis=0, readout_s=-0.05)
    """
    direction, readout_s = (metadata.get(name) for name in ("PhaseEncodingDirection", "TotalReadoutTime"))
    if direction is None or readout_s is None:
        absent = [n for n in ("PhaseEncodingDirection", "TotalReadoutTime") if metadata.get(n) is None]
        raise DataError(f"the sidecar has no {' and no '.join(absent)}")
    is_number = isinstance(readout_s, (int, float)) and np.isfinite(readout_s) and readout_s > 0
    if direction not in ("i", "i-", "j", "j-", "k", "k-") or not is_number:
        raise DataError(
            f"PhaseEncodingDirection {direction!r} and TotalReadoutTime {readout_s!r}: expected i, j or k, "
            "with or without a minus, and seconds above 0; correct the sidecar"
        )
    to, sign = nib.io_orientation(vox2ras)["ijk".index(direction[0])]
    backwards = -1 if direction.endswith("-") else 1
    return PhaseEncoding(int(to), float(backwards * sign * readout_s))


def phase_encoding_axis(metadata: Mapping[str, Any], vox2ras: np.ndarray) -> int | None:
    """Read along which axis phase was encoded, which some scanners tell without the sign.

    Parameters
    ----------
    metadata : Mapping
        BIDS sidecar with ``PhaseEncodingDirection``, or with ``PhaseEncodingAxis`` as dcm2niix writes it.
    vox2ras : ndarray
        ``(4, 4)`` affine of the image as stored, before any reorientation.

    Returns
    -------
    int or None
        Axis of the RAS+ array; None if the sidecar does not tell.

    Examples
    --------
    >>> phase_encoding_axis({"PhaseEncodingAxis": "j"}, np.diag([-2.0, 2, 2, 1]))
    1
    """
    said = metadata.get("PhaseEncodingDirection") or metadata.get("PhaseEncodingAxis")
    if not isinstance(said, str) or said.removesuffix("-") not in ("i", "j", "k"):
        return None
    return int(nib.io_orientation(vox2ras)["ijk".index(said[0])][0])


@dataclass(frozen=True, eq=False)
class Distortion:
    """Off-resonance in the reference position, and the readout of every volume of a series.

    Parameters
    ----------
    hz : ndarray
        ``(X, Y, Z)`` float32, off-resonance in Hz where the head truly is (not where the image shows it).
    grid : Grid
        Lattice of `hz`, in the space of the reference.
    axes : ndarray
        ``(N,)`` int, axis of phase encoding of each volume, as in `PhaseEncoding`.
    readout_s : ndarray
        ``(N,)`` float64, signed readout time of each volume; 0 for a volume without distortion.
    eddy : ndarray, optional
        ``(N, 4, 4)`` from `EddyCurrents.affines`, RAS+ mm.

    Raises
    ------
    GeometryError
        If the arrays do not fit together.
    """

    hz: np.ndarray
    grid: Grid
    axes: np.ndarray
    readout_s: np.ndarray
    eddy: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.hz.shape != self.grid.shape or self.axes.shape != self.readout_s.shape:
            raise GeometryError(
                f"field {self.hz.shape} on a grid {self.grid.shape}, axes {self.axes.shape}, readout times "
                f"{self.readout_s.shape}: expected a field on its grid and one axis and time per volume"
            )
        if self.eddy is not None and self.eddy.shape != (self.axes.size, 4, 4):
            raise GeometryError(
                f"eddy currents {self.eddy.shape} of {self.axes.size} volumes: expected a 4 x 4 matrix each"
            )

    def at(self, points: np.ndarray, vox2ras: np.ndarray) -> "SampledDistortion":
        """Look the field up at points, once for all volumes.

        Parameters
        ----------
        points : ndarray
            ``(P, 3)`` RAS+ mm in the reference.
        vox2ras : ndarray
            ``(4, 4)`` affine of the volumes that are distorted.

        Returns
        -------
        SampledDistortion
        """
        index = apply_affine(self.grid.ras2vox, points).T
        hz = ndimage.map_coordinates(self.hz, index, order=1, mode="nearest", output=np.float32)
        slopes: dict[int, np.ndarray] = {}
        for axis in np.unique(self.axes).tolist():
            # Half a voxel of the volume to either side: a field on a coarser lattice has a slope there, too.
            step = self.grid.ras2vox[:3, :3] @ vox2ras[:3, axis] / 2
            ends = [
                ndimage.map_coordinates(
                    self.hz, index + s * step[:, None], order=1, mode="nearest", output=np.float32
                )
                for s in (1, -1)
            ]
            slopes[axis] = ends[0] - ends[1]
        eddy = None if self.eddy is None else np.linalg.inv(vox2ras) @ self.eddy @ vox2ras
        return SampledDistortion(hz, slopes, self.axes, self.readout_s, eddy)


@dataclass(frozen=True, eq=False)
class SampledDistortion:
    """A `Distortion` at points.

    Parameters
    ----------
    hz : ndarray
        ``(P,)`` float32.
    slopes : dict of int to ndarray
        Axis to ``(P,)``: change of `hz` per voxel along that axis.
    axes, readout_s : ndarray
        As in `Distortion`.
    eddy : ndarray, optional
        ``(N, 4, 4)`` affine maps of voxel indices.
    """

    hz: np.ndarray
    slopes: dict[int, np.ndarray]
    axes: np.ndarray
    readout_s: np.ndarray
    eddy: np.ndarray | None = None

    def move(self, index: np.ndarray, k: int) -> np.ndarray:
        """Return the ``(3, P)`` voxel indices at which volume `k` shows what belongs at `index`."""
        moved = index.copy()
        if self.eddy is not None:
            moved = self.eddy[k, :3, :3] @ index + self.eddy[k, :3, 3:]
        moved[self.axes[k]] += self.readout_s[k] * self.hz
        return moved

    def density(self, k: int) -> np.ndarray:
        """Return the ``(P,)`` factor that undoes the piling up of signal where voxels are squeezed.

        Where the displacement grows by half a voxel per voxel the image is stretched 1.5 times, and its
        signal is thinned out by that much.
        """
        factor = 1 + self.readout_s[k] * self.slopes[int(self.axes[k])]
        if self.eddy is not None:
            # Both displace along one axis, so that their slopes add.
            factor = factor + np.linalg.det(self.eddy[k]) - 1
        return np.clip(factor, SMALLEST_DENSITY, LARGEST_DENSITY).astype(np.float32)


def with_eddy_currents(distortion: Distortion | None, eddy: np.ndarray) -> Distortion:
    """Add eddy currents to a distortion; without one they stand alone.

    Parameters
    ----------
    distortion : Distortion or None
        Of susceptibility.
    eddy : ndarray
        ``(N, 4, 4)`` from `EddyCurrents.affines`.

    Returns
    -------
    Distortion

    Raises
    ------
    GeometryError
        If the numbers of volumes differ.
    """
    if distortion is not None:
        return replace(distortion, eddy=eddy)
    nowhere = Grid((1, 1, 1), np.eye(4))
    still = np.zeros(len(eddy))
    return Distortion(np.zeros((1, 1, 1), np.float32), nowhere, still.astype(int), still, eddy)
