"""Whole BIDS datasets of virtual people, with the truth beside them on request."""

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pds_bids.exceptions import UsageError
from pds_bids.phantom.anatomy import Anatomy, build_anatomies
from pds_bids.phantom.bidsfiles import Participant, write_dataset_files
from pds_bids.phantom.demographics import Diagnosis, deal, draw_traits
from pds_bids.phantom.parcels import Parcellation, parcellate
from pds_bids.phantom.person import draw_person
from pds_bids.phantom.protocols import SITES
from pds_bids.phantom.truth import write_planted
from pds_bids.phantom.visit import Visit, VisitOptions
from pds_bids.seeds import derive_seed

if TYPE_CHECKING:
    from pds_bids.template import Template

__all__ = ["CohortOptions", "listed_diagnoses", "missing_by_participant", "write_cohort"]

_LOGGER = logging.getLogger("pds_bids.phantom")
_LACKS = ("none", "bold", "dwi")
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CohortOptions:
    """What a cohort consists of.

    Parameters
    ----------
    participants, sessions : int
        How many; with one session the ``ses-`` level is left out.
    groups : tuple of str
        Diagnoses, ``NC``, ``MCI`` or ``AD``, dealt out evenly.
    ages_years : tuple of float
        Youngest and oldest.
    sites : int
        Number of scanners, each with its own protocol, dealt out evenly within each group.
    shuffle_labels : bool
        Whether ``participants.tsv`` holds the diagnoses in random order: a control cohort of the same images.
    missing : str
        ``none``, ``bold``, ``dwi``, ``random``, or a comma list that participants take turns in.
    seed : int
        Master seed.
    bold_volumes : int
        Length of BOLD.
    dwi_directions : int or tuple of int
        Of every shell, or of each; a b = 0 volume is added before every ten volumes and at the end.
    dwi_bvals : tuple of float, optional
        Shells, s/mm^2; None: those of the site, b = 1000 at the first.
    voxel_size_mm : float
        In plane at the first site, whose BOLD slices are 4/3 as thick.
    with_t1w : bool
        Whether T1w images are written.
    with_fieldmaps : bool
        Whether spin-echo pairs of opposite phase encoding are written.
    max_motion : float
        Largest translation in mm and rotation in degrees of slow head motion.
    spikes : int
        Volumes per series in which the head has jumped by 5 mm.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    participants: int = 2
    sessions: int = 1
    groups: tuple[str, ...] = ("NC",)
    ages_years: tuple[float, float] = (55.0, 90.0)
    sites: int = 1
    shuffle_labels: bool = False
    missing: str = "none"
    seed: int = 0
    bold_volumes: int = 40
    dwi_directions: int | tuple[int, ...] = 30
    dwi_bvals: tuple[float, ...] | None = None
    voxel_size_mm: float = 3.0
    with_t1w: bool = True
    with_fieldmaps: bool = False
    max_motion: float = 1.0
    spikes: int = 0

    def __post_init__(self) -> None:
        least = {
            "participants": 1,
            "sessions": 1,
            "bold_volumes": 2,
            "max_motion": 0,
            "spikes": 0,
            "sites": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; at least {low} is needed")
        if self.sites > len(SITES):
            raise UsageError(f"sites is {self.sites}; there are {len(SITES)} protocols")
        wrong = sorted(set(self.groups) - set(Diagnosis))
        if wrong or not self.groups:
            raise UsageError(f"groups {wrong or '(none)'}: choose from {', '.join(Diagnosis)}")
        if not 1 <= self.voxel_size_mm <= 10:
            raise UsageError(f"voxel size {self.voxel_size_mm} mm; expected 1 to 10")
        if not 18 <= self.ages_years[0] <= self.ages_years[1] <= 100:
            raise UsageError(f"ages {self.ages_years}: expected two numbers from 18 to 100 in order")
        self._check_shells()
        missing_by_participant(self.missing, 1, 0)

    @property
    def directions(self) -> tuple[int, ...]:
        """Directions of each shell, or one number for all."""
        return (self.dwi_directions,) if isinstance(self.dwi_directions, int) else self.dwi_directions

    def _check_shells(self) -> None:
        """Check directions and b-values."""
        counts, bvals = self.directions, self.dwi_bvals
        if not counts or min(counts) < 6:
            raise UsageError(f"dwi_directions is {counts}; at least 6 are needed in every shell")
        if bvals is not None and (not bvals or min(bvals) <= 50):
            raise UsageError(f"b-values {bvals}: expected numbers above 50 s/mm^2")
        if len(counts) > 1 and len(counts) != len(bvals or ()):
            raise UsageError(f"{len(counts)} numbers of directions for {len(bvals or ())} b-values")

    def visit(self) -> VisitOptions:
        """Return what is acquired in every session."""
        return VisitOptions(
            seed=self.seed,
            bold_volumes=self.bold_volumes,
            dwi_directions=self.directions,
            bvals_s_mm2=self.dwi_bvals,
            voxel_size_mm=self.voxel_size_mm,
            with_t1w=self.with_t1w,
            with_fieldmaps=self.with_fieldmaps,
            max_motion=self.max_motion,
            spikes=self.spikes,
        )


def missing_by_participant(missing: str, participants: int, seed: int) -> list[str]:
    """Return what every participant misses: ``none``, ``bold`` or ``dwi``.

    ``random`` deals the three out evenly, so that three participants have one of each.

    Examples
    --------
    >>> missing_by_participant("dwi,bold", 3, 0)
    ['dwi', 'bold', 'dwi']
    >>> sorted(missing_by_participant("random", 3, 0))
    ['bold', 'dwi', 'none']
    """
    if missing == "random":
        return deal(seed, "missing", _LACKS, participants)
    cycle = [item.strip() for item in missing.split(",")]
    wrong = sorted(set(cycle) - set(_LACKS))
    if wrong:
        raise UsageError(f"--missing {missing}: {wrong} unknown; use none, bold, dwi, random or a comma list")
    return [cycle[i % len(cycle)] for i in range(participants)]


def write_cohort(
    out_dir: Path,
    template: "Template",
    options: CohortOptions | None = None,
    *,
    cache_dir: Path,
    label_dir: Path | None = None,
    truth_dir: Path | None = None,
    n_procs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Write a BIDS dataset of virtual people; the same options give the same bytes.

    Parameters
    ----------
    out_dir : Path
        New or empty folder.
    template : Template
        On a 2 mm grid; its atlas holds the parcels.
    options : CohortOptions, optional
        What to write.
    cache_dir : Path
        Where anatomies are kept between calls.
    label_dir : Path, optional
        Whole-head label maps; None: all people come from the template's head.
    truth_dir : Path, optional
        Where the truth is written; ``docs/phantom.md`` says what.
    n_procs : int
        People who are simulated at a time, each in a process of its own; 1: in this one.
    progress : callable, optional
        Is told a line of text for everything that is done.

    Returns
    -------
    list of str
        Participants, ``sub-01`` and so on.

    Raises
    ------
    UsageError
        If `out_dir` is not empty.
    DataError
        If `label_dir` holds no label maps.
    """
    options = options or CohortOptions()
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise UsageError(f"{out_dir} is not empty; name a new folder")
    heads = _Heads(template, cache_dir, label_dir)
    positions = heads.choose(options)
    people = _recruit(options, [heads.name(position) for position in positions])
    true = [str(person.traits.diagnosis) for person in people]
    write_dataset_files(out_dir, people, listed_diagnoses(options, true))
    if truth_dir:
        write_planted(truth_dir, parcellate(template))
    lacks = missing_by_participant(options.missing, options.participants, options.seed)
    simulate = partial(_simulate, heads, options, out_dir, truth_dir)
    tell = progress or _LOGGER.info
    with _Workers(min(n_procs, options.participants)) as workers:
        wanted = sorted(set(positions))
        for done, position in enumerate(workers.map(heads.build, wanted), 1):
            tell(f"head {heads.name(position)} ready ({done} of {len(wanted)})")
        jobs = list(zip(people, positions, lacks, strict=True))
        for done, (name, lack) in enumerate(workers.map(simulate, jobs), 1):
            tell(f"{name} written, missing: {lack} ({done} of {len(jobs)})")
    return [person.name for person in people]


def _recruit(options: CohortOptions, anatomies: Sequence[str]) -> list[Participant]:
    """Draw the rows of the table of participants."""
    width = max(2, len(str(options.participants)))
    names = [f"sub-{i + 1:0{width}d}" for i in range(options.participants)]
    groups = [Diagnosis(group) for group in options.groups]
    traits = draw_traits(options.seed, names, groups, options.ages_years)
    kinds = [site.name for site in SITES[: options.sites]]
    dealt = {group: iter(deal(options.seed, f"site {group}", kinds, len(names))) for group in groups}
    return [
        Participant(name, who, next(dealt[who.diagnosis]), anatomy)
        for name, who, anatomy in zip(names, traits, anatomies, strict=True)
    ]


def listed_diagnoses(options: CohortOptions, true: Sequence[str]) -> list[str]:
    """Return the column of diagnoses as it is written: true, or in a control cohort in random order."""
    if not options.shuffle_labels:
        return list(true)
    order = np.random.default_rng(derive_seed(options.seed, "shuffled labels")).permutation(len(true))
    return [true[int(k)] for k in order]


@dataclass(frozen=True, eq=False)
class _Heads:
    """The heads that people are made from."""

    template: "Template"
    cache_dir: Path
    label_dir: Path | None

    def choose(self, options: CohortOptions) -> list[int]:
        """Return the position of the head of every participant."""
        if self.label_dir is None:
            return [0] * options.participants
        n_maps = max(len(self._paths()), 1)
        start = derive_seed(options.seed, "anatomy") % n_maps
        return [(start + i) % n_maps for i in range(options.participants)]

    def build(self, position: int) -> int:
        """Put a head into the cache."""
        self.load(position)
        return position

    def load(self, position: int) -> Anatomy:
        """Return a head."""
        only = [position]
        return build_anatomies(self.label_dir, self.cache_dir, self.template, only=only, deformable=False)[0]

    def name(self, position: int) -> str:
        """Return the name of a head."""
        paths = self._paths()
        return paths[position].name.removesuffix(".nii.gz") if paths else "template"

    def _paths(self) -> list[Path]:
        return sorted(Path(self.label_dir).glob("*.nii.gz")) if self.label_dir else []


@lru_cache(maxsize=1)
def _head_and_parcels(heads: _Heads, position: int) -> tuple[Anatomy, Parcellation]:
    """Return a head and the atlas; many people may come from the same one."""
    return heads.load(position), parcellate(heads.template)


def _simulate(
    heads: _Heads,
    options: CohortOptions,
    out_dir: Path,
    truth_dir: Path | None,
    job: tuple[Participant, int, str],
) -> tuple[str, str]:
    """Write all sessions of one participant; return the name and what is missing."""
    participant, position, lack = job
    rng = np.random.default_rng(derive_seed(options.seed, participant.name, "person"))
    anatomy, atlas = _head_and_parcels(heads, position)
    person = draw_person(rng, anatomy, participant.traits, atlas)
    site = next(site for site in SITES if site.name == participant.site)
    for session in range(1, options.sessions + 1):
        parts = (participant.name,) if options.sessions == 1 else (participant.name, f"ses-{session}")
        visit = Visit(out_dir, truth_dir, parts, person, site, options.visit())
        visit.write(lack)
        if visit.truth:
            visit.truth.person(person, participant)
    return participant.name, lack


class _Workers:
    """Processes of one thread each, or this process alone."""

    def __init__(self, count: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            # Forked processes would inherit the locks of threads that are not there.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, mp_context=context)

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[_Job], _Result], jobs: Iterable[_Job]) -> Iterable[_Result]:
        """Return the results in order, as they are ready."""
        alone = partial(_one_thread, work)
        return self._pool.map(alone, jobs) if self._pool else map(alone, jobs)


def _one_thread(work: Callable[[_Job], _Result], job: _Job) -> _Result:
    """Work with one thread: sums of several threads are rounded in another order."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return work(job)
