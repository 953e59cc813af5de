"""A cohort to train on: visits of a derivative tree of this app that have both modalities."""

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.names import OutputName, find_outputs
from pds_bids.bids.write import write_tsv
from pds_bids.exceptions import DataError, NothingSelectedError, UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.inference.prepare import scale_contrast
from pds_bids.modalities import CONTRASTS, Contrast, Modality
from pds_bids.options import FAMILY_COLUMNS
from pds_bids.phantom.stream import template_channels
from pds_bids.seeds import derive_seed
from pds_bids.template import MODEL_GRID, Template
from pds_bids.training.data import ContrastPair, Split, split_subjects
from pds_bids.training.people import People

__all__ = ["CohortPairs", "Visit", "find_visits", "load_cohort", "read_diagnoses", "read_families"]

LOGGER = logging.getLogger("pds_bids.training")
# What a visit needs; the registration's verdict stands in the quality files.
NEEDED = (
    ("mean", Modality.BOLD),
    ("mask", Modality.BOLD),
    ("mean", Modality.DWI),
    ("b0", Modality.DWI),
    ("mask", Modality.DWI),
)
# What a network reads or learns where it is there.
OPTIONAL = {Contrast.FA: ("fa", Modality.DWI), Contrast.MD: ("md", Modality.DWI), Contrast.T1W: ("t1w", None)}
# Less than this share of overlap (Dice) and the two brains are not aligned with each other.
SMALLEST_OVERLAP = 0.8
# Shares of people that are held out, and the fewest people to train with.
VALIDATION_SHARE, TEST_SHARE, FEWEST = 0.15, 0.2, 3
CACHED_VISITS = 48
# Visits of the validation split that errors and pictures are of.
N_LOOKED_AT = 8


@dataclass(frozen=True)
class Visit:
    """A session in which both modalities were acquired, preprocessed and registered.

    Parameters
    ----------
    participant : str
        ``sub-01``.
    label : str
        ``sub-01 ses-1``.
    bold, bold_mask, dwi, b0, dwi_mask : Path
        Images on the model grid.
    more : tuple of (Contrast, Path)
        FA, MD and T1w, those that are there.
    """

    participant: str
    label: str
    bold: Path
    bold_mask: Path
    dwi: Path
    b0: Path
    dwi_mask: Path
    more: tuple[tuple[Contrast, Path], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        needed = (self.bold, self.bold_mask, self.dwi, self.b0, self.dwi_mask)
        return (*needed, *(path for _, path in self.more))


def find_visits(tree: Path, participants: Sequence[str] = ()) -> tuple[list[Visit], list[tuple[str, str]]]:
    """List the visits of a derivative tree that a method can be trained on, and why others cannot.

    Parameters
    ----------
    tree : Path
        Written by ``pds-bids ... participant``.
    participants : sequence of str
        Labels without ``sub-``; empty for everybody.

    Returns
    -------
    visits : list of Visit
        Sorted. Synthetic images are never among them.
    left_out : list of (str, str)
        Visit and reason.
    """
    found: dict[str, dict[tuple[str, Modality | None], list[Path]]] = {}
    verdicts: dict[str, list[Path]] = {}
    for path, name in find_outputs(tree):
        if participants and name.entities["sub"] not in participants:
            continue
        kinds = found.setdefault(_label(name), {})
        if name.key == "qc":
            verdicts.setdefault(_label(name), []).append(path)
        elif name.in_template and path.name.endswith(".nii.gz"):
            kinds.setdefault((name.key, name.modality), []).append(path)
    visits, left_out = [], []
    for label, kinds in sorted(found.items()):
        reason = _reason(kinds, verdicts.get(label, []))
        if reason:
            left_out.append((label, reason))
            continue
        # Of several runs, the first of each modality; files are sorted by name.
        files = {needed: kinds[needed][0] for needed in NEEDED}
        bold, bold_mask, dwi, b0, dwi_mask = (files[needed] for needed in NEEDED)
        more = tuple((contrast, kinds[key][0]) for contrast, key in OPTIONAL.items() if key in kinds)
        visits.append(Visit(label.split()[0], label, bold, bold_mask, dwi, b0, dwi_mask, more))
    return visits, left_out


def _label(name: OutputName) -> str:
    return " ".join(f"{key}-{name.entities[key]}" for key in ("sub", "ses") if key in name.entities)


def _reason(kinds: dict[tuple[str, Modality | None], list[Path]], verdicts: Sequence[Path]) -> str:
    """Return why a visit cannot be used; empty if it can."""
    acquired = [modality for modality in Modality if ("mean", modality) in kinds]
    if not acquired:
        return "no acquired image in template space"
    if len(acquired) == 1:
        return f"only {acquired[0]} was acquired, or the other one was not preprocessed"
    missing = [f"{key} of {modality}" for key, modality in NEEDED if (key, modality) not in kinds]
    if missing:
        return f"in template space there is no {', no '.join(missing)}"
    for path in verdicts:
        try:
            status = json.loads(path.read_text())["registration"]["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{path.name} does not say whether the registration passed"
        if status == "failed":
            return f"the registration failed its gate ({path.name})"
    return ""


class CohortPairs:
    """Pairs of acquired images; every person comes once per round, in an order drawn anew for each.

    Parameters
    ----------
    visits : sequence of Visit
        All visits of some people.
    template : Template
        On the model grid.
    seed : int
        Of the orders.
    """

    def __init__(self, visits: Sequence[Visit], template: Template, seed: int) -> None:
        self.visits = tuple(visits)
        self.template = template_channels(template)
        self.seed = seed
        self._read = lru_cache(CACHED_VISITS)(read_visit)

    def __len__(self) -> int:
        """Return the number of visits."""
        return len(self.visits)

    def __getstate__(self) -> dict[str, object]:
        # Worker processes start with an empty cache.
        return {key: value for key, value in self.__dict__.items() if key != "_read"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._read = lru_cache(CACHED_VISITS)(read_visit)

    def visit(self, index: int) -> Visit:
        """Return whose pair `index` is; the first ``len(self)`` are in the order of names."""
        turn, place = divmod(index, len(self.visits))
        if not turn:
            return self.visits[place]
        rng = np.random.default_rng(derive_seed(self.seed, "round", turn))
        return self.visits[int(rng.permutation(len(self.visits))[place])]

    def pair(self, index: int) -> ContrastPair:
        """Return pair number `index`: the acquired images are both source and target."""
        visit = self.visit(index)
        images, mask, there = self._read(visit)
        return ContrastPair(images, images, mask, self.template, visit.label, there, there)


def read_visit(visit: Visit) -> tuple[np.ndarray, np.ndarray, frozenset[Contrast]]:
    """Read the images of a visit.

    Parameters
    ----------
    visit : Visit
        Files on the model grid.

    Returns
    -------
    images : ndarray
        ``(C, X, Y, Z)`` float32 in the order of `CONTRASTS`, in the units of a network, zero outside the
        mask and where there is none.
    mask : ndarray
        ``(X, Y, Z)`` bool, brain in both modalities.
    there : frozenset of Contrast
        What there is.

    Raises
    ------
    DataError
        If a file cannot be read, lies on another grid, or the two brains do not overlap.
    """
    needed = (visit.bold, visit.bold_mask, visit.dwi, visit.b0, visit.dwi_mask)
    bold, bold_mask, dwi, b0, dwi_mask = (_read_image(path) for path in needed)
    one, other = bold_mask > 0, dwi_mask > 0
    mask = one & other
    overlap = 2 * mask.sum() / max(one.sum() + other.sum(), 1)
    if overlap < SMALLEST_OVERLAP:
        raise DataError(
            f"{visit.label}: brain masks of BOLD and DWI overlap by {overlap:.2f} (Dice), expected "
            f"{SMALLEST_OVERLAP} or more; look at the report of the registration"
        )
    given = {Contrast.BOLD: bold, Contrast.DWI: dwi, Contrast.B0: b0}
    given |= {contrast: _read_image(path) for contrast, path in visit.more}
    images = np.zeros((len(CONTRASTS), *mask.shape), np.float32)
    for contrast, image in given.items():
        name = f"{visit.label}, {contrast}"
        images[CONTRASTS.index(contrast)] = scale_contrast(image, mask, contrast, name)[0]
    return images, mask, frozenset(given)


def _read_image(path: Path) -> np.ndarray:
    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete it and run the participant level"
        ) from error
    if data.ndim != 3 or Grid(data.shape, image.affine) != MODEL_GRID:
        raise DataError(f"{path}: shape {data.shape}, expected a volume on the model grid {MODEL_GRID.shape}")
    return data


def load_cohort(
    tree: Path,
    template: Template,
    seed: int,
    record: Path,
    *,
    participants: Sequence[str] = (),
    split: Split | None = None,
    diagnoses: dict[str, str] | None = None,
    families: dict[str, str] | None = None,
) -> People:
    """Read who can be trained on, split by person, and write who was used and why others were not.

    Parameters
    ----------
    tree : Path
        Derivative tree.
    template : Template
        On the model grid.
    seed : int
        Of the split and of the order.
    record : Path
        TSV to write: visit, part of the split or ``left out``, reason.
    participants : sequence of str
        Labels without ``sub-``; empty for everybody.
    split : Split, optional
        Names as ``sub-01``; drawn at random by default.
    diagnoses : dict of str to str, optional
        By participant, for the weights of parcels.
    families : dict of str to str, optional
        By participant; relatives are not parted by a split that is drawn.

    Returns
    -------
    People
        See there.

    Raises
    ------
    NothingSelectedError
        If fewer than three people have both modalities.
    UsageError
        If the split names people that are not there.
    """
    visits, left_out = find_visits(tree, participants)
    visits, unreadable = _readable(visits)
    left_out += unreadable
    names = sorted({visit.participant for visit in visits})
    split = split or _drawn_split(tree, names, left_out, seed, families or {})
    part_of = {name: part for part, members in asdict(split).items() for name in members}
    absent = sorted(set(part_of) - set(names))
    if absent:
        raise UsageError(f"--splits: {', '.join(absent)} cannot be used; {tree} has: {', '.join(names)}")
    parts = [(visit.label, part_of.get(visit.participant, "left out")) for visit in visits]
    rows = [(label, part, "not in the split" if part == "left out" else "") for label, part in parts]
    rows += [(label, "left out", reason) for label, reason in left_out]
    write_tsv(record, ("visit", "part", "reason"), sorted(rows))
    train, validation, test = (
        CohortPairs([v for v in visits if v.participant in members], template, derive_seed(seed, part))
        for part, members in asdict(split).items()
    )
    known = [(diagnoses or {}).get(visit.participant, "") for visit in train.visits]
    description = {
        "data": f"{len(part_of)} people of a cohort ({len(visits)} visits), acquired images",
        "fingerprint": fingerprint([visit for visit in visits if visit.participant in part_of]),
    }
    LOGGER.info("%d visits to train on, %d left out, see %s", len(train), len(left_out), record)
    return People(
        split,
        train,
        validation,
        test,
        template,
        atlas_indices=range(len(train)),
        n_validation=min(len(validation), N_LOOKED_AT),
        description=description,
        groups=known if all(known) and len(set(known)) > 1 else (),
    )


def _drawn_split(
    tree: Path, names: list[str], left_out: list[tuple[str, str]], seed: int, families: dict[str, str]
) -> Split:
    """Return a random split of the people, of whom there must be enough."""
    if len(names) < FEWEST:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in left_out[:10])
        raise NothingSelectedError(
            f"{tree}: {len(names)} people have both modalities preprocessed, training needs {FEWEST} or "
            f"more. Left out: {reasons or 'nobody, the folder holds no outputs'}"
        )
    n_validation, n_test = (max(1, round(share * len(names))) for share in (VALIDATION_SHARE, TEST_SHARE))
    # Where everybody is made of one head, it tells nobody apart.
    kin = families if len({families.get(name, name) for name in names}) > 1 else None
    return split_subjects(names, seed, n_validation, n_test, families=kin)


def _readable(visits: Sequence[Visit]) -> tuple[list[Visit], list[tuple[str, str]]]:
    """Tell visits whose images can be used from others, with the reason."""
    usable, left_out = [], []
    for visit in visits:
        try:
            read_visit(visit)
        except DataError as error:
            left_out.append((visit.label, str(error)))
        else:
            usable.append(visit)
    return usable, left_out


def fingerprint(visits: Sequence[Visit]) -> str:
    """Return a checksum of names and content of all files; no name of a person can be read from it."""
    digest = hashlib.sha256()
    for visit in visits:
        for path in visit.files:
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_diagnoses(dataset: Path) -> dict[str, str]:
    """Return column ``diagnosis`` or ``group`` of ``participants.tsv``; empty where there is none."""
    return _read_column(dataset, ("diagnosis", "group"))


def read_families(dataset: Path) -> dict[str, str]:
    """Return the first of `FAMILY_COLUMNS` in ``participants.tsv`` that varies, as the level group does."""
    columns = (_read_column(dataset, (name,)) for name in FAMILY_COLUMNS)
    return next((column for column in columns if len(set(column.values())) > 1), {})


def _read_column(dataset: Path, names: Sequence[str]) -> dict[str, str]:
    try:
        with (dataset / "participants.tsv").open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except OSError:
        return {}
    column = next((name for name in names if rows and name in rows[0]), None)
    if column is None:
        return {}
    return {row["participant_id"]: row[column] for row in rows if row.get(column) not in (None, "", "n/a")}
