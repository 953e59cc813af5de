"""Find the files of a BIDS dataset with PyBIDS."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pds_bids.bids.metadata import NIFTI_EXTENSIONS, parse_entities
from pds_bids.config import RunConfig
from pds_bids.exceptions import InvalidBIDSError, NothingSelectedError, UsageError

if TYPE_CHECKING:
    from bids import BIDSLayout

__all__ = ["DatasetFiles", "check_dataset", "find_files", "index_dataset", "select_participants"]

LOGGER = logging.getLogger("pds_bids.bids")

# What each kind of file is called; a filter file adds to these.
QUERIES: dict[str, dict[str, Any]] = {
    "bold": {"datatype": "func", "suffix": "bold"},
    "dwi": {"datatype": "dwi", "suffix": "dwi"},
    "t1w": {"datatype": "anat", "suffix": "T1w"},
}
# Never a source, but worth a line in the plan.
BESIDE: dict[str, dict[str, Any]] = {
    "sbref": {"suffix": "sbref"},
    "fmap": {"datatype": "fmap"},
}
# Keys that a filter file written for fMRIPrep may have and that select nothing here.
FILTER_KEYS_OF_OTHERS = {"fmap", "sbref", "flair", "t2w", "roi", "asl", "pet"}
READ_FOLDERS = ("anat", "func", "dwi", "fmap")


@dataclass(frozen=True)
class DatasetFiles:
    """Files of one participant, by kind: ``bold``, ``dwi``, ``t1w``, ``sbref``, ``fmap``.

    Parameters
    ----------
    found : dict
        Every NIfTI file of a kind, as far as the dataset goes.
    selected : frozenset of Path
        The images of all participants that the filters of the command line leave.
    """

    found: dict[str, tuple[Path, ...]]
    selected: frozenset[Path]

    def of_session(self, kind: str, session: str | None) -> list[Path]:
        """Return the files of one kind in one session."""
        return [path for path in self.found[kind] if parse_entities(path).get("ses") == session]

    def sessions(self) -> list[str | None]:
        """Return the sessions that have any file; None stands for files outside of session folders."""
        labels = {parse_entities(path).get("ses") for kind in QUERIES for path in self.found[kind]}
        return sorted(labels, key=lambda label: label or "")


def check_dataset(bids_dir: Path) -> dict[str, Any]:
    """Check that a folder is a BIDS dataset and return its description.

    Raises
    ------
    InvalidBIDSError
        If the folder or its ``dataset_description.json`` is not there or cannot be read.
    """
    if not bids_dir.is_dir():
        raise InvalidBIDSError(f"{bids_dir} is not a folder; give the folder of a BIDS dataset")
    description_file = bids_dir / "dataset_description.json"
    try:
        description = json.loads(description_file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidBIDSError(
            f"{bids_dir} has no dataset_description.json, so it is not a BIDS dataset; give the folder that "
            "holds that file and the sub- folders"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidBIDSError(f"{description_file} cannot be read as JSON ({error}); repair it") from error
    if not isinstance(description, Mapping) or not description.get("Name"):
        raise InvalidBIDSError(f"{description_file} has no Name; BIDS requires Name and BIDSVersion")
    return dict(description)


def select_participants(bids_dir: Path, labels: Iterable[str]) -> list[str]:
    """Return the participants to process, sorted.

    Raises
    ------
    NothingSelectedError
        If a label is not in the dataset, or the dataset has no participant.
    """
    present = sorted(folder.name[4:] for folder in bids_dir.glob("sub-*") if folder.is_dir())
    if not present:
        raise NothingSelectedError(f"{bids_dir} has no sub- folder; there is nothing to process")
    asked = sorted(set(labels))
    absent = [label for label in asked if label not in present]
    if absent:
        raise NothingSelectedError(
            f"no such participant: {', '.join(absent)}; the dataset has: {_shorten(present)}"
        )
    return asked or present


def index_dataset(config: RunConfig, participants: Iterable[str]) -> "BIDSLayout":
    """Index the images of the selected participants.

    With a database folder everything is indexed, since later calls may select other participants.

    Raises
    ------
    InvalidBIDSError
        If PyBIDS cannot index the dataset, or its database cannot be used.
    """
    from bids import BIDSLayout, BIDSLayoutIndexer

    labels = "|".join(map(re.escape, participants))
    ignore = [
        re.compile(r"^/(code|stimuli|sourcedata|models|derivatives|phenotype)(/|$)"),
        re.compile(r"/\."),
        re.compile(rf"^/sub-[^/]+/(ses-[^/]+/)?(?!ses-)(?!({'|'.join(READ_FOLDERS)})(/|$))[^/]+/"),
    ]
    if config.bids_database_dir is None:
        ignore.append(re.compile(rf"^/sub-(?!({labels})(/|$))"))
    # Sidecars are read file by file in `metadata`: one broken sidecar must not stop the index.
    indexer = BIDSLayoutIndexer(validate=False, ignore=ignore, index_metadata=False)
    try:
        return BIDSLayout(
            str(config.bids_dir),
            database_path=str(config.bids_database_dir) if config.bids_database_dir else None,
            indexer=indexer,
            derivatives=False,
        )
    except (OSError, ValueError) as error:
        raise InvalidBIDSError(f"{config.bids_dir} cannot be indexed: {error}") from error


def find_files(
    layout: "BIDSLayout", participants: Iterable[str], config: RunConfig
) -> dict[str, DatasetFiles]:
    """Return what is there, and what the filters leave, for every participant.

    Raises
    ------
    UsageError
        If the filter file is not valid or filters by something that the dataset does not have.
    NothingSelectedError
        If no series has one of the tasks asked for.
    """
    participants = list(participants)
    filters = read_filters(config.bids_filter_file) if config.bids_filter_file else {}
    found = {kind: _query(layout, participants, query) for kind, query in (QUERIES | BESIDE).items()}
    selected: set[Path] = set()
    for kind, query in QUERIES.items():
        own = filters.get(kind, {})
        left = _query(layout, participants, query | own) if own else found[kind]
        if kind == "bold" and config.task_id:
            tasks = sorted({parse_entities(path).get("task", "") for path in found[kind]})
            left = [path for path in left if parse_entities(path).get("task") in config.task_id]
            if not left:
                raise NothingSelectedError(
                    f"no BOLD series of task {', '.join(config.task_id)}; "
                    f"the selected participants have: {', '.join(tasks) or 'none at all'}"
                )
        selected.update(left)
    return _by_participant(participants, found, selected)


def _by_participant(
    participants: list[str], found: dict[str, list[Path]], selected: set[Path]
) -> dict[str, DatasetFiles]:
    files: dict[str, dict[str, list[Path]]] = {label: {kind: [] for kind in found} for label in participants}
    for kind, paths in found.items():
        for path in paths:
            files[parse_entities(path)["sub"]][kind].append(path)
    return {
        label: DatasetFiles({kind: tuple(paths) for kind, paths in kinds.items()}, frozenset(selected))
        for label, kinds in files.items()
    }


def read_filters(path: Path) -> dict[str, dict[str, Any]]:
    """Read a filter file: ``{"bold": {"session": "01", "run": null}, "t1w": {"acquisition": "*"}}``.

    ``null`` stands for the absence of an entity, ``"*"`` for its presence with any value.

    Raises
    ------
    UsageError
        If the file cannot be read or is not of this form.
    """
    from bids.layout import Query

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--bids-filter-file {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Mapping) for value in content.values()):
        raise UsageError(
            f'--bids-filter-file {path} is not of the form {{"bold": {{"session": "01"}}}}; '
            f"keys: {', '.join(QUERIES)}"
        )
    unknown = sorted(set(content) - set(QUERIES) - FILTER_KEYS_OF_OTHERS)
    if unknown:
        raise UsageError(f"--bids-filter-file {path} has unknown keys {unknown}; known: {', '.join(QUERIES)}")
    special = {None: Query.NONE, "*": Query.ANY, "Query.NONE": Query.NONE, "Query.ANY": Query.ANY}
    return {
        kind: {
            entity: special.get(value, value) if value is None or isinstance(value, str) else value
            for entity, value in content[kind].items()
        }
        for kind in QUERIES
        if kind in content
    }


def _query(layout: "BIDSLayout", participants: list[str], query: Mapping[str, Any]) -> list[Path]:
    """Return the NIfTI files that match, sorted."""
    from bids.exceptions import BIDSValidationError

    fixed = {"subject": participants, "extension": list(NIFTI_EXTENSIONS), "return_type": "filename"}
    try:
        files = layout.get(**{**query, **fixed})
    except (ValueError, TypeError, BIDSValidationError) as error:
        raise UsageError(f"--bids-filter-file: PyBIDS cannot apply {dict(query)}: {error}") from error
    return sorted(Path(file) for file in files)


def _shorten(labels: list[str], limit: int = 20) -> str:
    """Join labels, leaving out the end of a long list."""
    more = len(labels) - limit
    return ", ".join(labels[:limit]) + (f" and {more} more" if more > 0 else "")
