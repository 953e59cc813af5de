"""A head from the template's own tissue maps, when there are no label maps."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, resample
from pds_bids.phantom.tissue import N_TISSUES, Tissue

if TYPE_CHECKING:
    from pds_bids.template import Template

__all__ = ["fractions_from_template"]

# Structures that the three tissue maps do not tell apart: MNI centre (right side), half axes in mm.
_DEEP: dict[Tissue, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    Tissue.THALAMUS: (((12.0, -18.0, 7.0), (10.0, 15.0, 10.0)),),
    Tissue.CAUDATE: (((13.0, 14.0, 8.0), (6.0, 14.0, 11.0)), ((15.0, -4.0, 20.0), (4.0, 14.0, 6.0))),
    Tissue.PUTAMEN: (((27.0, 2.0, 1.0), (7.0, 18.0, 11.0)), ((11.0, 11.0, -7.0), (6.0, 6.0, 6.0))),
    Tissue.PALLIDUM: (((19.0, -4.0, -1.0), (5.0, 9.0, 6.0)),),
    Tissue.VENTRAL_DC: (((10.0, -15.0, -10.0), (8.0, 9.0, 6.0)),),
    Tissue.LIMBIC: (((26.0, -20.0, -15.0), (8.0, 18.0, 7.0)), ((23.0, -4.0, -19.0), (8.0, 8.0, 8.0))),
    Tissue.BRAINSTEM: (((0.0, -27.0, -36.0), (18.0, 14.0, 27.0)),),
}
# Air: sphenoid and ethmoid, frontal sinus, mastoid cells.
_AIR = (
    ((0.0, 30.0, -42.0), (13.0, 20.0, 12.0)),
    ((0.0, 72.0, -14.0), (16.0, 5.0, 8.0)),
    ((50.0, -26.0, -42.0), (8.0, 11.0, 8.0)),
)
_SKULL_MM, _SCALP_MM, _FLUID_MM = 6.0, 6.0, 2.0


def fractions_from_template(template: "Template", grid: Grid) -> np.ndarray:
    """Return fractions of tissue of the template's head.

    Parameters
    ----------
    template : Template
        Tissue maps and mask, on any grid.
    grid : Grid
        Grid of the result.

    Returns
    -------
    ndarray
        ``(*grid.shape, 16)`` uint8, 255 is a full voxel.
    """
    points = grid.points().astype(np.float32)
    grey, white, fluid, mask = (
        resample(np.asarray(m, np.float32), template.grid.vox2ras, points, order=1)
        for m in (template.gm, template.wm, template.csf, template.mask)
    )
    total = np.maximum(grey + white + fluid, 1e-3)
    inside = np.clip(mask, 0, 1)
    scale = inside / np.maximum(total, 0.5)
    grey, white, fluid = grey * scale, white * scale, fluid * scale
    fractions = np.zeros((*grid.shape, N_TISSUES), np.float32)
    mirrored = points.copy()
    mirrored[..., 0] = np.abs(mirrored[..., 0])
    _split_brain(fractions, mirrored, grey, white, fluid)
    # What the three maps leave of the mask is fluid between brain and skull.
    fractions[..., Tissue.CSF] += np.clip(inside - fractions.sum(-1), 0, 1)
    _add_shell(fractions, mirrored, inside, grid.zooms[0])
    return np.floor(255 * np.clip(fractions, 0, 1)).astype(np.uint8)


def _split_brain(
    fractions: np.ndarray, mirrored: np.ndarray, grey: np.ndarray, white: np.ndarray, fluid: np.ndarray
) -> None:
    """Share grey, white and fluid among the structures of the brain."""
    solid = grey + white
    left = np.ones(grey.shape, np.float32)
    for tissue, parts in _DEEP.items():
        share = np.clip(sum(_ellipsoid(mirrored, *part) for part in parts), 0, 1)
        if tissue in (Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.LIMBIC):
            # Their border is seen in the grey matter map, so the ellipsoid only names it.
            share = share * np.clip(grey / np.maximum(solid, 1e-3), 0, 1)
        fractions[..., tissue] = left * share * solid
        left = left * (1 - share)
    behind = _sigmoid(-34 - mirrored[..., 1], 2) * _sigmoid(
        -15 - mirrored[..., 2] - 0.25 * (mirrored[..., 1] + 50), 2
    )
    fractions[..., Tissue.CEREBELLAR_GREY] = left * behind * grey
    fractions[..., Tissue.CEREBELLAR_WHITE] = left * behind * white
    fractions[..., Tissue.CORTEX] = left * (1 - behind) * grey
    fractions[..., Tissue.WHITE] = left * (1 - behind) * white
    inner = _ellipsoid(mirrored, (0.0, -15.0, 12.0), (32.0, 48.0, 24.0))
    fractions[..., Tissue.VENTRICLE] = inner * fluid
    fractions[..., Tissue.CSF] = (1 - inner) * fluid


def _add_shell(fractions: np.ndarray, mirrored: np.ndarray, inside: np.ndarray, zoom_mm: float) -> None:
    """Add fluid, bone and scalp around the brain, and air in the sinuses."""
    distance = ndimage.distance_transform_edt(inside < 0.5) * zoom_mm
    outside = 1 - inside
    edges = np.cumsum([_FLUID_MM, _SKULL_MM, _SCALP_MM])
    reach = [1.0 - _sigmoid(distance - edge, 0.7) for edge in edges]
    air = np.clip(sum(_ellipsoid(mirrored, *part) for part in _AIR), 0, 1)
    fractions[..., Tissue.CSF] += outside * reach[0]
    fractions[..., Tissue.BONE] = outside * (reach[1] - reach[0]) * (1 - air)
    scalp = reach[2] - reach[1]
    # Neck and face: soft tissue below the brain and in front of it.
    axes = mirrored / [72.0, 95.0, 100.0]
    below = _sigmoid(1 - np.sqrt((axes**2).sum(-1)), 0.03) * (mirrored[..., 2] < -20) * (1 - reach[2])
    fractions[..., Tissue.SOFT] = outside * (scalp + below) * (1 - air)


def _ellipsoid(
    points: np.ndarray, centre: tuple[float, float, float], half_axes: tuple[float, float, float]
) -> np.ndarray:
    """Return a soft indicator of an ellipsoid."""
    scaled = (points - np.asarray(centre, np.float32)) / np.asarray(half_axes, np.float32)
    radius = np.sqrt(np.einsum("...k,...k->...", scaled, scaled))
    return _sigmoid((1 - radius) * min(half_axes), 1.0)


def _sigmoid(value: np.ndarray, width: float) -> np.ndarray:
    """Return a soft step from 0 to 1 at 0."""
    return (0.5 * (1 + np.tanh(value / (2 * width)))).astype(np.float32)
