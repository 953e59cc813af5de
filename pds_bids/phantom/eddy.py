"""Eddy currents of diffusion gradients: a field that grows with the gradient and belongs to the scanner."""

from dataclasses import dataclass

import numpy as np

from pds_bids.exceptions import GeometryError

__all__ = ["EddyCurrents", "draw_eddy"]

_REFERENCE_BVAL = 1000.0


@dataclass(frozen=True, eq=False)
class EddyCurrents:
    """Field left over by diffusion gradients at b = 1000, per gradient along each axis of the scanner.

    Along the phase encoding the constant part shifts the image, the slope along that axis scales it, and
    the slopes along the other two shear it.

    Parameters
    ----------
    offset_hz : ndarray
        ``(3,)``: Hz in the centre of the field of view for a gradient along R, A, S.
    slope_hz_mm : ndarray
        ``(3, 3)``: row k holds Hz/mm along R, A, S for a gradient along axis k.

    Raises
    ------
    GeometryError
        If the shapes are not these.
    """

    offset_hz: np.ndarray
    slope_hz_mm: np.ndarray

    def __post_init__(self) -> None:
        if self.offset_hz.shape != (3,) or self.slope_hz_mm.shape != (3, 3):
            raise GeometryError(
                f"eddy currents {self.offset_hz.shape}, {self.slope_hz_mm.shape}: expected (3,) and (3, 3)"
            )

    def coefficients(self, bvals: np.ndarray, bvecs_ras: np.ndarray) -> np.ndarray:
        """Return the field of every volume.

        The gradient's strength is the square root of b, as in shells of one timing.

        Parameters
        ----------
        bvals : ndarray
            ``(V,)`` s/mm^2.
        bvecs_ras : ndarray
            ``(V, 3)`` along the axes of the scanner.

        Returns
        -------
        ndarray
            ``(V, 4)``: Hz, then Hz/mm along R, A, S; 0 at b = 0.

        Examples
        --------
        >>> eddy = EddyCurrents(np.array([8.0, 0, 0]), np.zeros((3, 3)))
        >>> eddy.coefficients(np.array([0.0, 4000]), np.array([[0.0, 0, 0], [1, 0, 0]]))[:, 0]
        array([ 0., 16.])
        """
        gradient = np.sqrt(np.asarray(bvals, float) / _REFERENCE_BVAL)[:, None] * bvecs_ras
        return np.concatenate([gradient @ self.offset_hz[:, None], gradient @ self.slope_hz_mm], 1)


def draw_eddy(rng: np.random.Generator, offset_hz: float = 8.0, slope_hz_mm: float = 0.06) -> EddyCurrents:
    """Draw the eddy currents of a scanner.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    offset_hz, slope_hz_mm : float
        Standard deviations for a gradient along one axis at b = 1000. At a readout of 45 ms and 2 mm voxels
        8 Hz shift an image by 0.7 mm, and 0.06 Hz/mm move its border by another 0.4 mm.

    Returns
    -------
    EddyCurrents
    """
    return EddyCurrents(offset_hz * rng.standard_normal(3), slope_hz_mm * rng.standard_normal((3, 3)))
