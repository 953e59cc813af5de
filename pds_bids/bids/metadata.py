"""What belongs to a file in a BIDS dataset: its entities and, by inheritance, its sidecars.

PyBIDS can do this too, but one sidecar that is not JSON stops its whole index; here it stops one series.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pds_bids.exceptions import DataError

__all__ = [
    "inherited_files",
    "missing_content",
    "nearest_file",
    "parse_entities",
    "read_metadata",
    "split_name",
]

NIFTI_EXTENSIONS = (".nii.gz", ".nii")
# Unlocked git-annex and git-lfs files hold one of these where their content has not been fetched.
_POINTER_STARTS = (b"/annex/objects/", b"version https://git-lfs")


def split_name(name: str) -> tuple[dict[str, str], str, str]:
    """Split a BIDS file name.

    Parameters
    ----------
    name : str
        File name without folders.

    Returns
    -------
    entities : dict of str
        Keys as in the name (``sub``, ``ses``, ``task``), in the order of the name.
    suffix : str
        What stands after the last underscore.
    extension : str
        From the first dot on.

    Examples
    --------
    >>> split_name("sub-01_task-rest_run-02_bold.nii.gz")
    ({'sub': '01', 'task': 'rest', 'run': '02'}, 'bold', '.nii.gz')
    """
    stem, dot, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return entities, suffix, dot + extension


def parse_entities(path: Path) -> dict[str, str]:
    """Return the entities of a file name, in the order of the name."""
    return split_name(path.name)[0]


def inherited_files(path: Path, extension: str, root: Path) -> list[Path]:
    """Return the files that apply to `path` by the inheritance principle, the most general first.

    Parameters
    ----------
    path : Path
        Data file below `root`.
    extension : str
        ``.json``, ``.bval`` or ``.bvec``.
    root : Path
        Folder of the dataset.

    Returns
    -------
    list of Path
        Files of the same suffix, in the folder of `path` or above, whose entities are all among those of
        `path`.
    """
    entities, suffix, _ = split_name(path.name)
    folders = [root, *reversed([folder for folder in path.parents if root in folder.parents])]
    found = []
    for folder in folders:
        matches = []
        for candidate in folder.glob(f"*{suffix}{extension}"):
            own, own_suffix, own_extension = split_name(candidate.name)
            same_kind = own_suffix == suffix and own_extension == extension
            if same_kind and own.items() <= entities.items():
                matches.append((len(own), candidate.name, candidate))
        found += [match[-1] for match in sorted(matches)]
    return found


def nearest_file(path: Path, extension: str, root: Path) -> Path | None:
    """Return the most specific file that applies to `path`, or None."""
    files = inherited_files(path, extension, root)
    return files[-1] if files else None


def read_metadata(path: Path, root: Path) -> dict[str, Any]:
    """Return the merged sidecars of `path`; a more specific file wins key by key.

    Raises
    ------
    DataError
        If a sidecar is not a JSON object.
    """
    metadata: dict[str, Any] = {}
    for sidecar in inherited_files(path, ".json", root):
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{sidecar.relative_to(root)} cannot be read as JSON ({error}); repair it"
            ) from error
        if not isinstance(content, Mapping):
            raise DataError(
                f"{sidecar.relative_to(root)} holds a {type(content).__name__}, not a JSON object"
            )
        metadata.update(content)
    return metadata


def missing_content(path: Path) -> bool:
    """Tell whether a file is only a placeholder of git-annex, DataLad or git-lfs."""
    if not path.exists():
        return True
    size = path.stat().st_size
    if size > 1024:
        return False
    with path.open("rb") as stream:
        start = stream.read(32)
    return size == 0 or start.startswith(_POINTER_STARTS)
