"""Whether a source is like anything that a model has seen: a few figures against their range in training."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from pds_bids.imaging.grid import Grid
from pds_bids.modalities import SOURCES, Contrast

__all__ = [
    "FEATURES",
    "PLACES",
    "describe_places",
    "describe_source",
    "find_oddities",
    "gather_ranges",
    "widened_by",
]

#: What is measured, and how a warning says it.
FEATURES = {
    "tissue_fit": "follows the template's tissues",
    "upright": "better fit to tissues than upside down",
    "grey_to_white": "grey over white matter",
    "fluid_to_white": "fluid over white matter",
    "mirror": "resemblance of the two sides",
    "spread": "spread of intensities",
    "largest_blob": "largest region unlike its tissue",
    "detail": "detail between neighbouring voxels",
    "likeness": "likeness to a T1w image",
}
#: What is measured at known places; physics alone sets the limits.
PLACES = {
    "pallidum_to_grey": "pallidum over grey matter",
    "spin_echo": "grey over white matter, times the fourth root of the lower temporal lobe over white matter",
}
DEVIATION = "deviation"
#: What needs no range of the training, and what a reader may make of it.
HINTS = dict.fromkeys(PLACES, "is it another kind of image? ") | {
    DEVIATION: "is there a lesion or an artefact? "
}
SENTENCES = FEATURES | PLACES | {DEVIATION: "largest deviation of a place from people"}
Ranges = Mapping[str, Mapping[str, Any]]
JOINT = "joint"
# Share of the people, those farthest from the rest, who do not count for how figures go together.
TRIMMED = 0.1
# How much farther than the farthest of them somebody may be.
REACH = 1.3

PURE = 0.7
BLOB_SIGMA_VOXELS = 2.5
# People of the training are few: their range is widened by this share on both sides.
LIMITS_PERCENT = (5, 95)
MARGIN = 0.5
# People that it takes to say how eight figures go together.
FEWEST = 24
# Nobody's image follows the tissues too well: a real T1w image is sharper than the simulated ones.
NEVER_TOO_HIGH = ("tissue_fit", "upright")
# Some people of the training have arbitrary contrasts, physics has not. Fluid outlasts tissue in T2 and T2*:
# at the echo times of EPI it is brighter than white matter, but for short repetition times, which take a
# fifth from it; any diffusion weighting, and a T1 weighting, turns that round.
FLUID_TO_WHITE = {
    Contrast.BOLD: (0.85, np.inf),
    Contrast.B0: (1.0, np.inf),
    Contrast.DWI: (-np.inf, 0.9),
    Contrast.T1W: (-np.inf, 0.9),
}
# Iron darkens the pallidum of adults at every echo time of an EPI, while its T1 is that of white matter. In
# DWI fluid between its folds darkens the cortex as well: there 1 in 20 of the simulated people is above 1.2.
PALLIDUM_TO_GREY = {
    Contrast.BOLD: (-np.inf, 1.05),
    Contrast.B0: (-np.inf, 1.05),
    Contrast.DWI: (-np.inf, 1.25),
    Contrast.T1W: (1.0, np.inf),
}
# T2* of grey and white matter are alike, their T2 are not, and only gradient echoes lose signal above the ear
# canals. Beyond this lie 3 of 141 simulated BOLD and 93 of 141 b = 0 images; of real ones none of four BOLD
# (1.15 at most) and all of five b = 0 images (1.20 at least).
SPIN_ECHO = {Contrast.BOLD: (-np.inf, 1.18)}
# Robust standard deviations, see `largest_deviation`: 2% of simulated people without lesions lie beyond.
# Their b = 0 images end at 6, but real distortions reach 7.5.
LARGEST_DEVIATION = {Contrast.BOLD: 8.0, Contrast.B0: 8.0, Contrast.DWI: 6.5, Contrast.T1W: 6.5}
# Whatever the people of the training; nobody's tissues may fit better upside down.
PHYSICS: dict[str, Mapping[Contrast, tuple[float, float]]] = {
    "fluid_to_white": FLUID_TO_WHITE,
    "upright": dict.fromkeys(Contrast, (0.0, np.inf)),
    "pallidum_to_grey": PALLIDUM_TO_GREY,
    "spin_echo": SPIN_ECHO,
    DEVIATION: {contrast: (-np.inf, limit) for contrast, limit in LARGEST_DEVIATION.items()},
}
# How far beyond a limit doubles the standard deviation, where no range tells.
WIDTHS = dict.fromkeys(PLACES, 0.25) | {DEVIATION: 5.0}
# Middles and half axes of ellipsoids in the template's space, mm, on both sides: the core of the pallidum,
# and the inferior temporal gyrus above the petrous bone.
PALLIDUM_MM = ((19.0, -3.0, -1.0), (4.5, 7.0, 5.0))
TEMPORAL_MM = ((48.0, -38.0, -24.0), (9.0, 12.0, 7.0))
# A place that less of it was acquired tells nothing.
SEEN = 0.5
# Largest factor on the standard deviation of what is synthesised from an unfamiliar source.
LARGEST_FACTOR = 3.0


def describe_source(image: np.ndarray, mask: np.ndarray, template: np.ndarray) -> dict[str, float]:
    """Measure an image in template space.

    Parameters
    ----------
    image : ndarray
        ``(X, Y, Z)``, in-brain mean 1, in a window that is symmetric about the middle of the brain.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain, not empty.
    template : ndarray
        ``(4, X, Y, Z)``: grey matter, white matter, fluid, T1w; zero outside of the template's brain.

    Returns
    -------
    dict of str to float
        `FEATURES`; 0 where one is not defined, as without grey matter.
    """
    tissues = template[:3]
    design = np.stack([np.ones(int(mask.sum())), *tissues[:, mask], template[3][mask]], 1).astype(np.float64)
    values = image[mask].astype(np.float64)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residual = np.zeros(mask.shape)
    residual[mask] = values - design @ coefficients
    spread = float(values.std())
    weight = ndimage.gaussian_filter(mask.astype(float), BLOB_SIGMA_VOXELS)
    blob = np.abs(ndimage.gaussian_filter(residual, BLOB_SIGMA_VOXELS)) / np.maximum(weight, 0.3)
    upright = mask & mask[:, :, ::-1]
    inner = ndimage.binary_erosion(mask, iterations=2)
    both = mask & mask[::-1]
    grey, white, fluid = (_mean(image, mask & (tissue > PURE)) for tissue in tissues)
    steps = [np.diff(image, axis=axis)[(mask & np.roll(mask, -1, axis)).take(range(n - 1), axis)]
             for axis, n in enumerate(mask.shape)]  # fmt: skip
    return {
        "tissue_fit": 1 - float(np.var(residual[mask])) / spread**2 if spread else 0.0,
        "upright": _fit(image, template, upright) - _fit(image[:, :, ::-1], template, upright),
        "grey_to_white": grey / white if white else 0.0,
        "fluid_to_white": fluid / white if white else 0.0,
        "mirror": _correlation(image[both], image[::-1][both]),
        "spread": spread,
        "largest_blob": float(blob[inner].max()) if inner.any() else 0.0,
        "detail": float(np.std(np.concatenate(steps))) / spread if spread else 0.0,
        "likeness": _correlation(values, template[3][mask]),
    }


def describe_places(
    image: np.ndarray, mask: np.ndarray, template: np.ndarray, grid: Grid
) -> dict[str, float]:
    """Measure an image at places that physics makes dark in some contrasts and not in others.

    Parameters
    ----------
    image, mask, template
        As of `describe_source`.
    grid : Grid
        Of all three, in the template's space.

    Returns
    -------
    dict of str to float
        `PLACES`, less those that cannot be measured.
    """
    grey, white = (_mean(image, mask & (tissue > PURE)) for tissue in template[:2])
    found: dict[str, float] = {}
    if not grey > 0 or not white > 0:
        return found
    pallidum, temporal = (_both_sides(grid, *place) for place in (PALLIDUM_MM, TEMPORAL_MM))
    if _share(mask, pallidum) > SEEN:
        found["pallidum_to_grey"] = _mean(image, mask & pallidum) / grey
    # Signal that is lost takes the voxel out of the mask: there it counts as zero.
    kept = _mean(np.where(mask, image, 0), temporal) / white if _share(mask, temporal) > SEEN else 1.0
    found["spin_echo"] = grey / white * kept**0.25
    return found


def _both_sides(grid: Grid, middle: tuple[float, ...], axes: tuple[float, ...]) -> np.ndarray:
    """Return two ellipsoids, mirrored at the midplane."""
    points = np.abs(grid.points() * [1, 0, 0]) + grid.points() * [0, 1, 1]
    return np.asarray((((points - middle) / axes) ** 2).sum(-1) < 1)


def _share(mask: np.ndarray, place: np.ndarray) -> float:
    return float(mask[place].mean()) if place.any() else 0.0


def gather_ranges(people: Iterable[Mapping[Contrast, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return the range of every figure over people, by contrast, from what `describe_source` gave.

    The range is that of the 5th to the 95th percentile, widened by half of it on both sides: the few people
    of the simulation whose contrast is arbitrary do not count.
    """
    found: dict[Contrast, list[dict[str, float]]] = {}
    for person in people:
        for contrast, figures in person.items():
            found.setdefault(contrast, []).append(figures)
    ranges: dict[str, dict[str, Any]] = {}
    for contrast in SOURCES:
        for name in FEATURES if contrast in found else ():
            low, high = np.percentile([figures[name] for figures in found[contrast]], LIMITS_PERCENT)
            reach = MARGIN * (high - low)
            limits = [round(float(low - reach), 4), round(float(high + reach), 4)]
            ranges.setdefault(str(contrast), {})[name] = limits
        if len(found.get(contrast, ())) > FEWEST:
            table = np.array([[figures[name] for name in FEATURES] for figures in found[contrast]])
            ranges[str(contrast)][JOINT] = _joint(table)
    return ranges


def _joint(table: np.ndarray) -> dict[str, Any]:
    """Return centre, precision and limit of how the figures ``(N, F)`` of people go together."""
    kept = table
    for _ in range(2):
        centre = kept.mean(0)
        spread = np.cov(kept.T) + np.diag(1e-6 + 1e-3 * kept.var(0))
        precision = np.linalg.inv(spread)
        distances = _distances(table, centre, precision)
        kept = table[distances <= np.quantile(distances, 1 - TRIMMED)]
    return {
        "centre": np.round(centre, 5).tolist(),
        "precision": np.round(precision, 4).tolist(),
        "limit": round(REACH * float(_distances(kept, centre, precision).max()), 3),
    }


def _distances(table: np.ndarray, centre: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return Mahalanobis distances of the rows."""
    off = table - centre
    return np.sqrt(np.einsum("ni,ij,nj->n", off, precision, off))


def _joint_excess(named: Mapping[str, float], joint: Mapping[str, Any] | None) -> float:
    """Return the distance from training people in units of its limit; 0 where nothing is known."""
    if not joint:
        return 0.0
    row = np.array([[named[name] for name in FEATURES]])
    found = _distances(row, np.array(joint["centre"]), np.array(joint["precision"]))
    return float(found[0]) / joint["limit"]


def find_oddities(figures: Mapping[Contrast, dict[str, float]], ranges: Ranges) -> list[str]:
    """Return one sentence per figure that lies outside of its range; empty for a familiar source."""
    apart = [
        f"source {contrast}: its figures do not go together as in training people ({excess:.1f} times the "
        "limit of their distance); look at the synthetic image with suspicion"
        for contrast, named in figures.items()
        for excess in [_joint_excess(named, ranges.get(str(contrast), {}).get(JOINT))]
        if excess > 1
    ]
    return apart + [
        f"source {contrast}: {SENTENCES[name]} is {value:.2f}, expected {_words(limits)}; "
        f"{HINTS.get(name, '')}look at the synthetic image with suspicion"
        for contrast, named in figures.items()
        for name, value in named.items()
        for limits in [_limits(ranges, contrast, name)]
        if not limits[0] <= value <= limits[1]
    ]


def _words(limits: tuple[float, float]) -> str:
    low, high = limits
    if np.isinf(low):
        return f"at most {high:.2f}"
    return f"at least {low:.2f}" if np.isinf(high) else f"{low:.2f} to {high:.2f}"


def widened_by(figures: Mapping[Contrast, dict[str, float]], ranges: Ranges) -> float:
    """Return the factor on standard deviations: 1 within all ranges, at most 3.

    It grows with the distance from the range in units of the range.
    """
    excess = 0.0
    for contrast, named in figures.items():
        excess = max(excess, _joint_excess(named, ranges.get(str(contrast), {}).get(JOINT)) - 1)
        for name, value in named.items():
            low, high = _limits(ranges, contrast, name)
            ends = ranges.get(str(contrast), {}).get(name, (0.0, WIDTHS.get(name, 0.0)))
            width = max(ends[1] - ends[0], 1e-6)
            excess = max(excess, (low - value) / width, (value - high) / width)
    return float(min(1 + excess, LARGEST_FACTOR))


def _limits(ranges: Ranges, contrast: Contrast, name: str) -> tuple[float, float]:
    """Return the range of a figure; without an end where nothing is known."""
    known = ranges.get(str(contrast), {})
    if name not in known and (name not in HINTS or not known):
        return -np.inf, np.inf
    low, high = known.get(name, (-np.inf, np.inf))
    physics = PHYSICS.get(name, {}).get(contrast, (-np.inf, np.inf))
    return max(low, physics[0]), np.inf if name in NEVER_TOO_HIGH else min(high, physics[1])


def _fit(image: np.ndarray, template: np.ndarray, where: np.ndarray) -> float:
    """Return the share of the variance that the template explains."""
    values = image[where].astype(np.float64)
    if values.size < 2 or not values.std():
        return 0.0
    design = np.stack([np.ones(values.size), *template[:, where]], 1).astype(np.float64)
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return 1 - float(rest.var() / values.var())


def _mean(image: np.ndarray, where: np.ndarray) -> float:
    return float(image[where].mean()) if where.any() else 0.0


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.size < 2 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
