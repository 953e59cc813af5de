"""Anatomies: fractions of tissue of whole heads, aligned with the template."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid, resample, to_ras
from pds_bids.phantom import labelmap
from pds_bids.phantom.align import register_to_template
from pds_bids.phantom.shell import fractions_from_template
from pds_bids.phantom.susceptibility import air_pockets, susceptibility_field
from pds_bids.phantom.tissue import BRAIN, GREY, WHITE, Tissue

if TYPE_CHECKING:
    from pds_bids.template import Template

__all__ = ["ANATOMY_GRID", "Anatomy", "build_anatomies"]

_LOGGER = logging.getLogger("pds_bids.phantom")
# Part of the name of every cached file: raise it when what is cached changes.
_CACHE_VERSION = 4
# Label maps have fluid up to the skull: as much of it is left as the maps of the template have.
_LABELS_MARGIN_VOXELS = 1

ANATOMY_GRID = Grid(
    (97, 115, 97),
    np.array([[2.0, 0, 0, -96.5], [0, 2.0, 0, -132.5], [0, 0, 2.0, -78.5], [0, 0, 0, 1]]),
)

# Iron-rich nuclei without a label: MNI centre (right side), radius in mm, strength.
_NUCLEI = (
    ((10.0, -17.0, -12.0), 3.5, 1.0),  # substantia nigra
    ((5.0, -20.0, -9.0), 3.0, 0.8),  # red nucleus
    ((15.0, -57.0, -35.0), 5.0, 0.8),  # dentate nucleus
)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head, affinely aligned with the template.

    Parameters
    ----------
    name : str
        Where it comes from.
    grid : Grid
        2 mm lattice in template space that holds the whole head.
    fractions : ndarray
        ``(X, Y, Z, 16)`` uint8, 255 is a full voxel; the last axis is
        :class:`~pds_bids.phantom.tissue.Tissue`, the remainder to 255 is air.
    residual_mm : ndarray
        ``(X, Y, Z, 3)`` float32: the template's point x is found in the head at ``x + residual_mm(x)``.
    field_hz : ndarray
        ``(X, Y, Z)`` float32, field offset at 3 T after shimming.
    """

    name: str
    grid: Grid
    fractions: np.ndarray
    residual_mm: np.ndarray
    field_hz: np.ndarray

    def fraction(self, *tissues: Tissue) -> np.ndarray:
        """Return the summed fraction of some tissues, ``(X, Y, Z)`` float32 in [0, 1]."""
        return self.fractions[..., list(tissues)].sum(-1, dtype=np.uint16).astype(np.float32) / 255

    @cached_property
    def brain(self) -> np.ndarray:
        """Fraction of brain with its fluid, smoothed over 2 mm, without the fluid far from the surface."""
        solid = self.fraction(*GREY, *WHITE, Tissue.VENTRICLE)
        near = ndimage.binary_dilation(solid > 0.5, iterations=2)
        near = ndimage.binary_fill_holes(near)
        return ndimage.gaussian_filter(np.where(near, self.fraction(*BRAIN), 0), 1.0).astype(np.float32)

    @cached_property
    def tract(self) -> np.ndarray:
        """Prior of fibre coherence, ``(X, Y, Z)`` float32 between about -1 and 2.

        High deep in white matter, in the callosum (white matter near the midline above the brainstem) and in
        the
        internal capsule (white matter between thalamus and caudate on one side, putamen and pallidum on the
        other), low below the cortex.
        """
        white = self.fraction(Tissue.WHITE)
        points = self.grid.points()
        depth = ndimage.gaussian_filter(white, 2.0)
        callosum = white * np.exp(-((points[..., 0] / 12) ** 2)) * (points[..., 2] > -8)
        medial = ndimage.gaussian_filter(self.fraction(Tissue.THALAMUS, Tissue.CAUDATE), 3.0)
        lateral = ndimage.gaussian_filter(self.fraction(Tissue.PUTAMEN, Tissue.PALLIDUM), 3.0)
        capsule = white * np.clip(np.sqrt(medial * lateral) * 8, 0, 1)
        total = 2.2 * (depth - 0.65) + 1.6 * callosum + 1.2 * capsule
        return np.clip(ndimage.gaussian_filter(total, 0.7), -1, 2).astype(np.float32)

    @cached_property
    def nuclei(self) -> np.ndarray:
        """Prior of iron in nuclei without a label, ``(X, Y, Z)`` float32 between 0 and 1."""
        points = self.grid.points()
        points[..., 0] = np.abs(points[..., 0])
        total = np.zeros(self.grid.shape)
        for centre, radius, strength in _NUCLEI:
            distance2 = ((points - centre) ** 2).sum(-1)
            total += strength * np.exp(-0.5 * distance2 / radius**2)
        return total.astype(np.float32)


def build_anatomies(
    label_dir: Path | None,
    cache_dir: Path,
    template: "Template",
    *,
    only: Collection[int] | None = None,
    deformable: bool = True,
) -> list[Anatomy]:
    """Build the anatomies that virtual people are made of, or load them from the cache.

    Parameters
    ----------
    label_dir : Path, optional
        Folder of whole-head label maps with FreeSurfer numbers (``*.nii.gz``), each registered to the
        template. None: one head from the template's own tissue maps.
    cache_dir : Path
        Where the results are kept, one file per head.
    template : Template
        On any grid; one of 2 mm registers better than one of 3 mm.
    only : collection of int, optional
        Positions of the label maps that are wanted; None: all.
    deformable : bool
        False: register affinely only, three times faster; ``residual_mm`` is zero then.

    Returns
    -------
    list of Anatomy
        In the order of the file names.

    Raises
    ------
    DataError
        If `label_dir` holds no label maps, or one without a brain.
    """
    if label_dir is None:
        return [_cached(cache_dir, "template", _digest(template.gm), partial(_from_template, template))]
    paths = sorted(Path(label_dir).glob("*.nii.gz"))
    if not paths:
        raise DataError(f"{label_dir} holds no label maps (*.nii.gz)")
    key = _digest(template.t1w) + ("" if deformable else "-affine")
    chosen = paths if only is None else [paths[index] for index in sorted(set(only))]
    return [
        _cached(
            cache_dir,
            path.name.removesuffix(".nii.gz"),
            key,
            partial(_from_labels, path, template, deformable),
        )
        for path in chosen
    ]


def _digest(array: np.ndarray) -> str:
    """Return a short name for what an array holds."""
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()[:10]


def _cached(cache_dir: Path, name: str, key: str, build: Callable[[], Anatomy]) -> Anatomy:
    """Load an anatomy from the cache, or build it and put it there."""
    path = Path(cache_dir) / f"anatomy-v{_CACHE_VERSION}_{name}_{key}.npz"
    if not path.exists():
        anatomy = build()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that a killed run leaves no half file at the final name.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as handle:
            np.savez_compressed(
                handle,
                fractions=anatomy.fractions,
                residual_mm=anatomy.residual_mm.astype(np.float16),
                field_hz=anatomy.field_hz,
            )
        os.replace(handle.name, path)
        _LOGGER.info("anatomy %s built", name)
    # Read back even when just built: what is stored is rounded, and a first run must equal a second one.
    with np.load(path) as saved:
        return Anatomy(
            name,
            ANATOMY_GRID,
            saved["fractions"],
            saved["residual_mm"].astype(np.float32),
            saved["field_hz"],
        )


def _from_labels(path: Path, template: "Template", deformable: bool) -> Anatomy:
    """Register one label map to the template and count its tissues."""
    image = nib.load(path)
    labels, vox2ras, _ = to_ras(np.asanyarray(image.dataobj).astype(np.int32), image.affine)
    t1w = resample(template.t1w * template.mask, template.grid.vox2ras, ANATOMY_GRID.points(), order=1)
    painted = labelmap.paint_t1w(labels)
    if not painted.any():
        raise DataError(
            f"{path} has no label of a brain (FreeSurfer numbers are expected, it has "
            f"{labels.min()} to {labels.max()})"
        )
    template2native, residual_mm = register_to_template(t1w, ANATOMY_GRID, painted, vox2ras, deformable)
    opened = labelmap.open_sulci(labels, tuple(np.linalg.norm(vox2ras[:3, :3], axis=0)))
    fractions = labelmap.fractions_from_labels(opened, vox2ras, ANATOMY_GRID, template2native)
    return _with_field(path.name.removesuffix(".nii.gz"), fractions, residual_mm, _LABELS_MARGIN_VOXELS)


def _from_template(template: "Template") -> Anatomy:
    """Put the template's tissue maps into a simple head."""
    fractions = fractions_from_template(template, ANATOMY_GRID)
    return _with_field("template", fractions, np.zeros((*ANATOMY_GRID.shape, 3), np.float32), 0)


def _drained(fractions: np.ndarray, margin_voxels: int) -> np.ndarray:
    """Turn fluid outside the folds of the brain, and a margin, into bone: meninges are dark in EPI."""
    solid = fractions[..., [*GREY, *WHITE, Tissue.VENTRICLE]].sum(-1, dtype=np.uint16) > 127
    closed = ndimage.binary_closing(np.pad(solid, 4), iterations=3)[4:-4, 4:-4, 4:-4]
    hull = ndimage.binary_fill_holes(closed)
    if margin_voxels:
        hull = ndimage.binary_dilation(hull, iterations=margin_voxels)
    inside = ndimage.gaussian_filter(hull.astype(np.float32), 0.8)
    outer = (fractions[..., Tissue.CSF] * np.clip(1 - 1.6 * inside, 0, 1)).astype(np.uint8)
    drained = fractions.copy()
    drained[..., Tissue.CSF] -= outer
    drained[..., Tissue.BONE] += outer
    return drained


def _with_field(name: str, fractions: np.ndarray, residual_mm: np.ndarray, margin_voxels: int) -> Anatomy:
    """Compute the field of a head and put all together."""
    zoom = ANATOMY_GRID.zooms[0]
    field = susceptibility_field(air_pockets(fractions, zoom), fractions)
    return Anatomy(name, ANATOMY_GRID, _drained(fractions, margin_voxels), residual_mm, field)
