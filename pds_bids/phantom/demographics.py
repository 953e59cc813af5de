"""Who takes part: diagnosis, age and sex, and what age and sex do to a head."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pds_bids.exceptions import UsageError
from pds_bids.phantom.tissue import LATENTS, Latent
from pds_bids.seeds import derive_seed

__all__ = [
    "REFERENCE_AGE_YEARS",
    "Aging",
    "Diagnosis",
    "Sex",
    "Traits",
    "aging",
    "deal",
    "draw_traits",
    "head_scale",
]


class Diagnosis(StrEnum):
    """Diagnostic group."""

    NC = "NC"
    MCI = "MCI"
    AD = "AD"


class Sex(StrEnum):
    """Sex, as BIDS writes it."""

    FEMALE = "F"
    MALE = "M"


@dataclass(frozen=True)
class Traits:
    """What a table of participants says about a person.

    Parameters
    ----------
    diagnosis : Diagnosis
        Group.
    age_years : float
        Age.
    sex : Sex
        Sex.

    Raises
    ------
    UsageError
        If the age is none of an adult.
    """

    diagnosis: Diagnosis
    age_years: float
    sex: Sex

    def __post_init__(self) -> None:
        if not 18 <= self.age_years <= 100:
            raise UsageError(f"age {self.age_years}: expected 18 to 100 years")


#: Up to this age nothing changes: tissue is as in the literature on young adults.
REFERENCE_AGE_YEARS = 40.0
# Men's heads are longer by 3.6% along each axis: 11% more volume, Ruigrok et al. 2014,
# doi:10.1016/j.neubiorev.2013.12.004.
_MALE_SCALE = 1.036
# Units of a latent field per decade. In white matter they make FA fall by 2.5% and MD rise by 1.7% per decade
# (course: Lebel et al. 2012, doi:10.1016/j.neuroimage.2011.11.094), T2* of the putamen fall by 2.9% (iron:
# Hallgren and Sourander 1958, doi:10.1111/j.1471-4159.1958.tb12607.x).
_LATENT_PER_DECADE = {Latent.IRON: 0.2, Latent.MYELIN: -0.15, Latent.WATER: 0.25}
# Cortex gets thinner by about 1.5% per decade, Salat et al. 2004, doi:10.1093/cercor/bhh032; the hippocampus
# shrinks faster, and from the sixth decade on, Raz et al. 2005, doi:10.1093/cercor/bhi044.
_CORTEX_PER_DECADE, _HIPPOCAMPUS_PER_DECADE, _HIPPOCAMPUS_FROM_YEARS = 0.015, 0.04, 50.0
_VENTRICLE_MM_PER_DECADE = 0.25


@dataclass(frozen=True, eq=False)
class Aging:
    """What age has done.

    Parameters
    ----------
    latents : ndarray
        ``(5,)`` float32, added to the latent fields everywhere.
    ventricle_mm : float
        Outward shift of the walls of the ventricles.
    hippocampus, cortex : float
        Share of the tissue turned into fluid.
    """

    latents: np.ndarray
    ventricle_mm: float
    hippocampus: float
    cortex: float


def aging(age_years: float) -> Aging:
    """Return what is expected at an age; nothing up to `REFERENCE_AGE_YEARS`.

    Examples
    --------
    >>> round(aging(80).cortex, 3), round(aging(80).hippocampus, 3)
    (0.06, 0.12)
    """
    decades = max(0.0, age_years - REFERENCE_AGE_YEARS) / 10
    latents = np.zeros(len(LATENTS), np.float32)
    for latent, slope in _LATENT_PER_DECADE.items():
        latents[latent] = slope * decades
    late = max(0.0, age_years - _HIPPOCAMPUS_FROM_YEARS) / 10
    return Aging(
        latents,
        _VENTRICLE_MM_PER_DECADE * decades,
        _HIPPOCAMPUS_PER_DECADE * late,
        _CORTEX_PER_DECADE * decades,
    )


def head_scale(sex: Sex | None) -> float:
    """Return the length of a head relative to the mean of both sexes; 1 for None.

    Examples
    --------
    >>> round((head_scale(Sex.MALE) / head_scale(Sex.FEMALE)) ** 3, 2)
    1.11
    """
    if sex is None:
        return 1.0
    return _MALE_SCALE**0.5 if sex is Sex.MALE else _MALE_SCALE**-0.5


def deal(seed: int, what: str, kinds: Sequence[str], count: int) -> list[str]:
    """Deal kinds to people in random order, every kind once before any comes twice.

    Parameters
    ----------
    seed : int
        Master seed.
    what : str
        Name of the draw.
    kinds : sequence of str
        What is dealt.
    count : int
        Number of people; with more people the first ones keep what they have.

    Returns
    -------
    list of str

    Examples
    --------
    >>> sorted(deal(1, "group", ["NC", "MCI", "AD"], 6))
    ['AD', 'AD', 'MCI', 'MCI', 'NC', 'NC']
    """
    dealt: list[str] = []
    for block in range(-(-count // len(kinds))):
        order = np.random.default_rng(derive_seed(seed, what, block)).permutation(len(kinds))
        dealt += [kinds[int(k)] for k in order]
    return dealt[:count]


def draw_traits(
    seed: int, names: Sequence[str], groups: Sequence[Diagnosis], ages_years: tuple[float, float]
) -> list[Traits]:
    """Draw the participants of a cohort.

    Groups are balanced, sexes are balanced within each group, and age has the same distribution in all
    groups: a triangle over `ages_years` with its top at six tenths.

    Parameters
    ----------
    seed : int
        Master seed.
    names : sequence of str
        Participants.
    groups : sequence of Diagnosis
        Groups that are dealt out.
    ages_years : tuple of float
        Lowest and highest age.

    Returns
    -------
    list of Traits
        One per name.
    """
    low, high = ages_years
    diagnoses = [Diagnosis(text) for text in deal(seed, "group", list(groups), len(names))]
    sexes = {group: iter(deal(seed, f"sex {group}", list(Sex), len(names))) for group in set(diagnoses)}
    people = []
    for name, diagnosis in zip(names, diagnoses, strict=True):
        rng = np.random.default_rng(derive_seed(seed, name, "age"))
        age = rng.triangular(low, low + 0.6 * (high - low), high) if high > low else low
        people.append(Traits(diagnosis, round(float(age), 1), Sex(next(sexes[diagnosis]))))
    return people
