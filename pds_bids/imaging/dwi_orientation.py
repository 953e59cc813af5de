"""Do the gradient directions fit the image? Fibres go on in the direction in which they point."""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid

__all__ = ["TableVerdict", "judge_table"]

# Voxels of this anisotropy have one dominant fibre direction.
FA_MIN = 0.25
# Two neighbours belong to one fibre when both point along the line between them, up to this angle.
ANGLE_DEG = 20.0
# What is judged: so many voxels, directions, and so much difference between the best table and the median
# of all 24. Five real series of 12 to 20 directions reach 1.27 to 1.45 and lead the second by a factor of
# 1.13 to 1.23. With 6 directions a wrong table led by a hair once.
N_VOXELS_MIN = 500
N_DIRECTIONS_MIN = 10
CONTRAST_MIN = 1.2
# Another table must be better by this factor before the one given is doubted.
MARGIN = 1.05

AXES = ("left-right", "posterior-anterior", "inferior-superior")


@dataclass(frozen=True)
class TableVerdict:
    """Whether the gradient directions fit the image.

    Parameters
    ----------
    is_judged : bool
        False when there is too little to go by; `note` says what.
    is_consistent : bool
        False when another order or sign of the components gives fibres that continue better. True when not
        judged: absence of evidence is not a warning.
    best : str
        What would have to be done to the components, in words; ``as given`` when nothing.
    coherence : float
        Fibre coherence of the table as given, in units of the median over all 24 tables; nan when there are
        no voxels.
    best_coherence : float
        Of the best table.
    note : str
        One sentence for the quality file.
    """

    is_judged: bool
    is_consistent: bool
    best: str
    coherence: float
    best_coherence: float
    note: str


def judge_table(
    direction: np.ndarray, fa: np.ndarray, mask: np.ndarray, grid: Grid, n_directions: int
) -> TableVerdict:
    """Compare the gradient table with its 23 flips and permutations by how well fibres continue.

    A table with permuted or flipped components gives the same FA and MD, but principal directions that are
    permuted or flipped in the same way: the tensor need not be fitted again. In the right table, neighbours
    along a fibre point at each other; the index counts such pairs, weighted with their FA [1]_ [2]_. Nothing
    is corrected.

    Parameters
    ----------
    direction : ndarray
        ``(V, 3)`` principal directions in the mask, along RAS+ axes (`pds_bids.imaging.dwi_maps.TensorMaps`).
    fa : ndarray
        ``(V,)`` fractional anisotropy.
    mask : ndarray
        ``(X, Y, Z)`` bool; brain, V voxels.
    grid : Grid
        Of the mask, RAS+.
    n_directions : int
        Distinct gradient directions that were fitted.

    Returns
    -------
    TableVerdict

    Raises
    ------
    GeometryError
        If the arrays do not fit the mask.

    References
    ----------
    .. [1] Schilling et al., Magn Reson Imaging 2019, doi:10.1016/j.mri.2019.01.018.
    .. [2] Aganj, Sci Rep 2018, doi:10.1038/s41598-018-34940-4.
    """
    n_voxels = int(mask.sum())
    if direction.shape != (n_voxels, 3) or fa.shape != (n_voxels,) or mask.shape != grid.shape:
        raise GeometryError(
            f"directions {direction.shape} and FA {fa.shape} in a mask {mask.shape} of {n_voxels} voxels on "
            f"grid {grid.shape}: expected one direction per voxel of the mask"
        )
    n_anisotropic = int((fa > FA_MIN).sum())
    if n_directions < N_DIRECTIONS_MIN or n_anisotropic < N_VOXELS_MIN:
        note = (
            f"gradient directions not checked against the image: {n_directions} directions and "
            f"{n_anisotropic} voxels with FA > {FA_MIN:g}; {N_DIRECTIONS_MIN} and {N_VOXELS_MIN} are needed"
        )
        return TableVerdict(False, True, "as given", np.nan, np.nan, note)
    tables = _tables()
    scores = _coherence(direction, fa, mask, grid, tables)
    # Of no structure at all the median is 0.
    scores = scores / max(float(np.median(scores)), np.finfo(float).tiny)
    best = int(np.argmax(scores))
    given, top = float(scores[0]), float(scores[best])
    if top < CONTRAST_MIN or not np.isfinite(top):
        note = (
            "gradient directions not checked against the image: no order or sign of their components makes "
            f"fibres continue (best {top:.2f} times the median, {CONTRAST_MIN:g} needed)"
        )
        return TableVerdict(False, True, "as given", given, top, note)
    words = _in_words(tables[best])
    if top > MARGIN * given:
        note = (
            f"gradient directions do not fit the image: fibres continue better after this change of the "
            f"b-vectors: {words} (coherence {top:.2f} instead of {given:.2f}). Check how the b-vectors were "
            "written. FA and MD do not depend on it, directions and tractography do"
        )
        return TableVerdict(True, False, words, given, top, note)
    note = f"gradient directions fit the image (fibre coherence {given:.2f} times the median of 24 tables)"
    return TableVerdict(True, True, "as given", given, top, note)


def _tables() -> np.ndarray:
    """Return the 24 matrices, identity first; a common sign of all components changes nothing."""
    tables = [
        np.eye(3)[list(order)] * np.array([[*signs, 1.0]]).T
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=2)
    ]
    return np.array(tables)


def _coherence(
    direction: np.ndarray, fa: np.ndarray, mask: np.ndarray, grid: Grid, tables: np.ndarray
) -> np.ndarray:
    """Return for each table the FA of neighbours that point at each other, summed over pairs."""
    # Mistakes are made along voxel axes: of an oblique image, along oblique axes.
    left, _, right = np.linalg.svd(grid.vox2ras[:3, :3] / np.asarray(grid.zooms))
    field = np.zeros((*grid.shape, 3), np.float32)
    field[mask] = direction @ (left @ right)
    weight = np.zeros(grid.shape, np.float32)
    weight[mask] = np.where(fa > FA_MIN, fa, 0)
    scores = np.zeros(len(tables))
    limit = np.cos(np.deg2rad(ANGLE_DEG))
    for step in _steps():
        one, other = _pairs(step, grid.shape)
        both = (weight[one] > 0) & (weight[other] > 0)
        fibres = field[one][both], field[other][both]
        strength = weight[one][both] + weight[other][both]
        line = np.asarray(step) * grid.zooms
        line = line / np.linalg.norm(line)
        for number, table in enumerate(tables):
            # (table @ v) . line = v . (table.T @ line)
            along = [np.abs(fibre @ (table.T @ line).astype(np.float32)) > limit for fibre in fibres]
            scores[number] += strength[along[0] & along[1]].sum(dtype=float)
    return scores


def _steps() -> list[tuple[int, int, int]]:
    """Return the steps to half of the 26 neighbours; the others are the same pairs."""
    sides = (-1, 0, 1)
    return [(x, y, z) for x in sides for y in sides for z in sides if (x, y, z) > (0, 0, 0)]


def _pairs(
    step: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where in an array the first and the second voxels of all pairs at a step lie."""
    one = tuple(slice(max(0, -k), n - max(0, k)) for k, n in zip(step, shape, strict=True))
    other = tuple(slice(max(0, k), n - max(0, -k)) for k, n in zip(step, shape, strict=True))
    return one, other


def _in_words(table: np.ndarray) -> str:
    """Say what a table does to the components along the anatomical axes."""
    order = np.abs(table).argmax(1)
    # All signs may be reversed: tell the shorter story.
    signs = table.sum(1) if (table.sum(1) < 0).sum() < 2 else -table.sum(1)
    parts = [
        f"{AXES[axis]} from {AXES[source]}" for axis, source in enumerate(order.tolist()) if axis != source
    ]
    parts += [f"flip {AXES[axis]}" for axis in range(3) if signs[axis] < 0]
    return ", ".join(parts) or "as given"
