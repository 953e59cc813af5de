"""How much of the brain a field of view covers, and what it misses."""

import re
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid, PointMap, apply_affine
from pds_bids.imaging.series import Series, volume_blocks
from pds_bids.imaging.tissues import Template

__all__ = ["Coverage", "brain_coverage", "seen_planes"]

# Less than this share of the brain outside of the field of view is the uncertainty of the registration.
MISSING_MIN = 0.02
# A parcel counts as missed when less than this share of it was seen.
PARCEL_MIN = 0.5
# Planes without signal are worth a word when they cost this share of the brain.
BLANKED_MIN = 0.001
# A brain mask that is cut off by the edge of the field of view over this share of its largest section.
EDGE_SECTION_MIN = 0.3
N_PARCELS_TOLD = 4
ENDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


@dataclass(frozen=True)
class Coverage:
    """What a field of view covers of the template's brain.

    Parameters
    ----------
    brain : float
        Share of the brain that was acquired, 0 to 1.
    tissues : dict of str to float
        The same of grey matter (``gm``), white matter (``wm``) and cerebrospinal fluid (``csf``), by
        probability.
    ends : dict of str to float
        Share of the brain that lies beyond each end (``superior``, ``inferior``, ``left``, ...), only those
        with some; a point beyond two ends counts at both.
    parcels : dict of str to float
        Parcels of which less than half was acquired, with the share that was.
    n_empty_planes : int
        Planes inside the nominal field of view that hold no signal; they count as not acquired.
    cut_ends : dict of str to float
        Ends at which the brain mask runs into the edge of the field of view: area there, as a share of its
        largest section in that direction. Independent of the registration, which can hide a cut by
        stretching. Empty without a mask.
    note : str
        One sentence for the quality file.
    """

    brain: float
    tissues: dict[str, float]
    ends: dict[str, float]
    parcels: dict[str, float]
    n_empty_planes: int
    cut_ends: dict[str, float]
    note: str

    @property
    def is_complete(self) -> bool:
        """Whether nothing worth a warning is missing."""
        return self.brain > 1 - MISSING_MIN and not self.parcels and not self.cut_ends


def brain_coverage(
    template: Template,
    template2native: PointMap,
    native: Grid,
    *,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
) -> Coverage:
    """Measure how much of the template's brain lies in an acquired field of view.

    Parameters
    ----------
    template : Template
        Brain mask, tissue maps and atlas.
    template2native : PointMap
        Point map on the template's grid.
    native : Grid
        Acquired lattice, in any storage order.
    seen : tuple of ndarray, optional
        Per axis ``(X,)``, ``(Y,)``, ``(Z,)`` bool: planes with signal, from `seen_planes`. All when omitted.
    mask : ndarray, optional
        ``(X, Y, Z)`` bool brain mask on the acquired lattice, which tells of a cut without the registration.

    Returns
    -------
    Coverage

    Raises
    ------
    GeometryError
        If the map, the planes or the mask do not fit.
    """
    if template2native.grid != template.grid:
        raise GeometryError("template2native is not on the template's grid; load the template on the map's")
    if seen is None:
        x, y, z = (np.ones(n, bool) for n in native.shape)
        seen = (x, y, z)
    if tuple(map(len, seen)) != native.shape or (mask is not None and mask.shape != native.shape):
        raise GeometryError(
            f"planes {tuple(map(len, seen))} or the mask do not fit the acquired grid {native.shape}"
        )
    points = template2native.points[template.mask].astype(float)
    index = apply_affine(native.ras2vox, points)
    first, last = _limits(seen)
    nearest = np.clip(np.rint(index).astype(int), 0, np.asarray(native.shape) - 1)
    in_gap = np.any([~planes[nearest[:, axis]] for axis, planes in enumerate(seen)], axis=0)
    below, above = index < first - 0.5, index > last + 0.5
    inside = ~(below.any(1) | above.any(1) | in_gap)
    codes = nib.aff2axcodes(native.vox2ras)
    beyond = {ENDS[code]: above[:, axis] for axis, code in enumerate(codes)}
    beyond |= {
        ENDS[code]: below[:, axis]
        for axis, code in enumerate(nib.aff2axcodes(native.vox2ras @ np.diag([-1.0, -1, -1, 1])))
    }
    ends = {name: float(outside.mean()) for name, outside in beyond.items() if outside.any()}
    tissues = {
        name: float(np.average(inside, weights=getattr(template, name)[template.mask] + 1e-9))
        for name in ("gm", "wm", "csf")
    }
    parcels = _missed_parcels(template, inside)
    n_empty = sum(int((~planes).sum()) for planes in seen)
    cut_ends = {} if mask is None else _cut_ends(mask, native, first, last)
    brain = float(inside.mean())
    limits = np.asarray(native.shape) - 0.5
    is_nominal = ((index >= -0.5) & (index <= limits)).all(1)
    # Planes blanked beyond the head cost nothing and are no news.
    blanked = float((is_nominal & ~inside).mean())
    note = _sentence(brain, ends, parcels, n_empty if blanked > BLANKED_MIN else 0, cut_ends)
    return Coverage(brain, tissues, ends, parcels, n_empty, cut_ends, note)


def seen_planes(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the planes of a series, or of a volume with a fourth axis of 1, that hold signal.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)`` as acquired; resampled images have something everywhere.

    Returns
    -------
    tuple of ndarray
        ``(X,)``, ``(Y,)``, ``(Z,)`` bool. A plane without signal is constant, or not finite, in each of a few
        volumes.

    Examples
    --------
    >>> padded = np.zeros((4, 4, 5, 1))
    >>> padded[..., 1:4, :] = np.arange(4)[:, None, None, None] + np.arange(4)[:, None, None]
    >>> seen_planes(padded)[2]
    array([False,  True,  True,  True, False])
    """
    volumes = np.unique(np.linspace(0, series.shape[3] - 1, 8).round().astype(int))
    seen = [np.zeros(n, bool) for n in series.shape[:3]]
    for _, block in volume_blocks(series, volumes.tolist()):
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            finite = np.nan_to_num(block, posinf=0, neginf=0)
            seen[axis] |= (finite.max(others) > finite.min(others)).any(1)
    return seen[0], seen[1], seen[2]


def _limits(seen: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last plane with signal of each axis."""
    if not all(planes.any() for planes in seen):
        raise GeometryError("the image holds no signal: no plane was acquired")
    where = [np.flatnonzero(planes) for planes in seen]
    return np.array([planes[0] for planes in where]), np.array([planes[-1] for planes in where])


def _missed_parcels(template: Template, inside: np.ndarray) -> dict[str, float]:
    """Return the acquired share of parcels of which less than half was acquired."""
    atlas = template.atlas[template.mask]
    top = max(template.atlas_labels, default=0) + 1
    known = np.where(atlas < top, atlas, 0)
    total = np.bincount(known, minlength=top)
    got = np.bincount(known, weights=inside, minlength=top)
    return {
        name: float(got[label] / total[label])
        for label, name in template.atlas_labels.items()
        if label > 0 and total[label] and got[label] < PARCEL_MIN * total[label]
    }


def _cut_ends(mask: np.ndarray, grid: Grid, first: np.ndarray, last: np.ndarray) -> dict[str, float]:
    """Return the ends at which much of a brain mask lies in the outermost plane."""
    cut = {}
    for axis in range(3):
        areas = mask.sum(tuple(a for a in range(3) if a != axis))
        for plane, sign in ((first[axis], -1.0), (last[axis], 1.0)):
            share = float(areas[plane] / max(areas.max(), 1))
            if share > EDGE_SECTION_MIN:
                code = nib.aff2axcodes(grid.vox2ras @ np.diag([sign, sign, sign, 1.0]))[axis]
                cut[ENDS[code]] = share
    return cut


def _sentence(
    brain: float,
    ends: dict[str, float],
    parcels: dict[str, float],
    n_empty: int,
    cut_ends: dict[str, float],
) -> str:
    parts = []
    if brain <= 1 - MISSING_MIN:
        worst = sorted((end for end in ends if ends[end] >= MISSING_MIN), key=lambda end: -ends[end])
        where = f" at the {_listed(worst)} end" if worst else ""
        parts.append(f"misses {100 * (1 - brain):.0f}% of the brain{where}")
    if parcels:
        parts.append(f"sees less than half of {_named(parcels)}")
    if cut_ends:
        parts.append(f"cuts the brain mask at the {_listed(sorted(cut_ends))} end")
    if n_empty:
        parts.append(f"holds {n_empty} plane{'s' * (n_empty > 1)} without signal")
    return f"field of view {'; '.join(parts)}" if parts else "field of view covers the whole brain"


def _named(parcels: dict[str, float]) -> str:
    """Name parcels without sides and numbers, the cerebellum as one."""
    names = []
    for name in sorted(parcels, key=lambda name: parcels[name]):
        plain = re.sub(r"_(L|R)$", "", name)
        plain = "cerebellum" if re.match(r"Cerebel|Vermis", plain, re.IGNORECASE) else plain
        if plain not in names:
            names.append(plain)
    told, more = names[:N_PARCELS_TOLD], len(names) - N_PARCELS_TOLD
    return _listed(told) if more <= 0 else f"{', '.join(told)} and {more} more"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
