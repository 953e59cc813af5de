"""From FreeSurfer-like label maps of whole heads to fractions of tissue on a template grid."""

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.phantom.tissue import N_TISSUES, Tissue

__all__ = ["AIR", "TISSUE_OF_LABEL", "fractions_from_labels", "open_sulci", "paint_t1w"]

AIR = N_TISSUES
# Fluid of closed sulci: the distance to white matter is at least that of thin cortex, and hardly grows.
_LEAST_CORTEX_MM, _CREST_SLOPE = 1.9, 0.7

# FreeSurfer numbers; 502-530 are the extra-cerebral classes of whole-head training label maps.
TISSUE_OF_LABEL: dict[Tissue, tuple[int, ...]] = {
    Tissue.WHITE: (2, 41, 25, 57, 77, 85, 136, 163, 251, 252, 253, 254, 255, 530),
    Tissue.CORTEX: (3, 42),
    Tissue.VENTRICLE: (4, 43, 5, 44, 14, 15, 31, 63, 72),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.CEREBELLAR_GREY: (8, 47),
    Tissue.THALAMUS: (10, 49),
    Tissue.CAUDATE: (11, 50),
    Tissue.PUTAMEN: (12, 51, 26, 58),
    Tissue.PALLIDUM: (13, 52),
    Tissue.BRAINSTEM: (16,),
    Tissue.LIMBIC: (17, 53, 18, 54, 137, 164),
    Tissue.CSF: (24, 30, 62),
    Tissue.VENTRAL_DC: (28, 60),
    Tissue.EYE: (506,),
    Tissue.BONE: (515, 516, 165),
    Tissue.SOFT: (502, 507, 508, 509, 511, 512, 514, 258),
}

# Intensities of a T1-weighted image, for registration to a T1-weighted template only.
_T1W = np.zeros(N_TISSUES + 1, np.float32)
for _tissue, _value in {
    Tissue.WHITE: 1.0,
    Tissue.CORTEX: 0.68,
    Tissue.LIMBIC: 0.68,
    Tissue.CSF: 0.22,
    Tissue.VENTRICLE: 0.18,
    Tissue.THALAMUS: 0.86,
    Tissue.CAUDATE: 0.74,
    Tissue.PUTAMEN: 0.78,
    Tissue.PALLIDUM: 0.94,
    Tissue.VENTRAL_DC: 0.94,
    Tissue.BRAINSTEM: 0.95,
    Tissue.CEREBELLAR_GREY: 0.68,
    Tissue.CEREBELLAR_WHITE: 0.98,
}.items():
    _T1W[_tissue] = _value


def _tissue_index(labels: np.ndarray) -> np.ndarray:
    """Map labels to tissue numbers; unknown labels are air."""
    table = np.full(max(1024, int(labels.max()) + 1), AIR, np.uint8)
    for tissue, numbers in TISSUE_OF_LABEL.items():
        table[list(numbers)] = tissue
    return table[labels]


def paint_t1w(labels: np.ndarray) -> np.ndarray:
    """Paint a T1-like image of the brain, without the skull.

    Parameters
    ----------
    labels : ndarray
        ``(X, Y, Z)`` integer.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, white matter 1, outside the brain 0.
    """
    return _T1W[_tissue_index(labels)]


def open_sulci(labels: np.ndarray, zooms: tuple[float, ...]) -> np.ndarray:
    """Put fluid between banks of cortex that touch each other.

    Label maps lose what is narrower than their voxels: sulci, whose mean width is 1 to 3 mm from youth to age
    (Kochunov et al. 2005, Hum Brain Mapp 26:210). Where two banks meet, the distance to white matter has
    a crest, on which its gradient vanishes.

    Parameters
    ----------
    labels : ndarray
        ``(X, Y, Z)`` integer.
    zooms : tuple of float
        Voxel sizes, mm.

    Returns
    -------
    ndarray
        A copy in which cortex on a crest is fluid.
    """
    tissue = _tissue_index(labels)
    opened = labels.copy()
    for box in ndimage.find_objects(np.isin(tissue, (Tissue.CORTEX, Tissue.WHITE)).astype(np.uint8)):
        distance = ndimage.distance_transform_edt(tissue[box] != Tissue.WHITE, sampling=zooms)
        slope = np.sqrt(sum(np.square(along) for along in np.gradient(distance, *zooms)))
        crest = (slope < _CREST_SLOPE) & (distance >= _LEAST_CORTEX_MM) & (tissue[box] == Tissue.CORTEX)
        opened[box][crest] = TISSUE_OF_LABEL[Tissue.CSF][0]
    return opened


def fractions_from_labels(
    labels: np.ndarray, vox2ras: np.ndarray, grid: Grid, grid2native: np.ndarray, subdivision: int = 3
) -> np.ndarray:
    """Count the tissues inside every voxel of a grid.

    Parameters
    ----------
    labels : ndarray
        ``(X, Y, Z)`` integer.
    vox2ras : ndarray
        ``(4, 4)`` affine of `labels`.
    grid : Grid
        Where the fractions are wanted.
    grid2native : ndarray
        ``(4, 4)``, points of the grid's space to points of the label map's space.
    subdivision : int
        Each voxel is sampled at ``subdivision ** 3`` points.

    Returns
    -------
    ndarray
        ``(*grid.shape, 16)`` uint8; 255 is a voxel full of the tissue, the remainder to 255 is air.
    """
    tissue = _tissue_index(labels)
    centres = np.moveaxis(np.indices(grid.shape, dtype=np.float32), 0, -1).reshape(-1, 3)
    index2voxel = (np.linalg.inv(vox2ras) @ grid2native @ grid.vox2ras).astype(np.float32)
    start = apply_affine(index2voxel, centres)
    counts = np.zeros((len(centres), N_TISSUES + 1), np.uint8)
    rows = np.arange(len(centres))
    offsets = (np.arange(subdivision) + 0.5) / subdivision - 0.5
    limit = np.array(tissue.shape)
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        voxel = np.rint(start + (index2voxel[:3, :3] @ offset).astype(np.float32)).astype(np.int32)
        inside = ((voxel >= 0) & (voxel < limit)).all(1)
        voxel[~inside] = 0
        found = tissue[voxel[:, 0], voxel[:, 1], voxel[:, 2]]
        counts[rows, np.where(inside, found, AIR)] += 1
    scaled = counts[:, :N_TISSUES].astype(np.float32) * (255.0 / subdivision**3)
    return np.floor(scaled).astype(np.uint8).reshape(*grid.shape, N_TISSUES)
