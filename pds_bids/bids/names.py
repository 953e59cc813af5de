"""Names of outputs, read and written through one table, ``data/io_spec.json``.

PyBIDS's path patterns and those of niworkflows insist on ``task-`` for functional files; a synthetic BOLD
reference has none, and inventing one would claim a task that nobody did.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

from pds_bids.bids.metadata import split_name
from pds_bids.modalities import MODALITIES, Modality

__all__ = [
    "OutputName",
    "bidsignore",
    "find_outputs",
    "identify",
    "is_on_template_grid",
    "log_dir",
    "modalities_of",
    "output_keys",
    "output_path",
    "report_path",
]

# Entities that derived names add to those of their source.
SPACE_ENTITIES = ("space", "res")
DERIVED_ENTITIES = ("space", "res", "atlas", "from", "to", "mode", "stat", "model", "param", "desc")


@dataclass(frozen=True)
class OutputName:
    """What an output is, as its name says.

    Parameters
    ----------
    key : str
        Row of the table: ``mean``, ``synthetic_segments``.
    entities : dict of str
        Entities of the source that the name keeps, short keys.
    modality : Modality or None
        Modality that the output shows; None for anatomy.
    in_template : bool
        Whether it is on the template grid.
    extension : str
        With the dot.
    free : dict of str
        Entities that the caller chose, for example ``{"atlas": "AAL"}``.
    """

    key: str
    entities: dict[str, str]
    modality: Modality | None = None
    in_template: bool = False
    extension: str = ".nii.gz"
    free: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path relative to the output folder."""
        return output_path(
            self.key,
            self.entities,
            self.modality,
            in_template=self.in_template,
            extension=self.extension,
            **self.free,
        )


@cache
def _spec() -> dict[str, Any]:
    return json.loads(files("pds_bids").joinpath("data/io_spec.json").read_text(encoding="utf-8"))


def output_keys() -> tuple[str, ...]:
    """Return the rows of the table."""
    return tuple(_spec()["outputs"])


def modalities_of(key: str) -> tuple[Modality | None, ...]:
    """Return the modalities for which an output exists; ``(None,)`` when it belongs to none."""
    names = _row(key).get("modalities", list(Modality))
    return tuple(map(Modality, names)) or (None,)


def output_path(
    key: str,
    entities: Mapping[str, str],
    modality: Modality | None = None,
    *,
    in_template: bool = False,
    extension: str | None = None,
    atlas: str | None = None,
    desc: str | None = None,
) -> Path:
    """Return the name of an output.

    Parameters
    ----------
    key : str
        Row of ``data/io_spec.json``.
    entities : Mapping of str to str
        Entities of the source, short keys (``sub``, ``ses``, ``task``); more than the output keeps may be
        given. A ``space`` (and ``res``) among them is that of images that are not on the template grid.
    modality : Modality or None
        Modality that the output shows: of a synthetic image the target. None where only one fits.
    in_template : bool
        Name the output on the template grid.
    extension : str or None
        With the dot; None for the main file, ``.json`` for its sidecar.
    atlas : str or None
        Label of the atlas, for tables of parcels.
    desc : str or None
        What a figure shows.

    Returns
    -------
    Path
        Relative to the output folder.

    Raises
    ------
    KeyError
        If the table has no such row, or an entity that the name needs is not given.
    ValueError
        If the output does not exist for the modality, the space or the extension.

    Examples
    --------
    >>> source = {"sub": "01", "ses": "1", "task": "rest"}
    >>> output_path("mean", source, Modality.BOLD).as_posix()
    'sub-01/ses-1/func/sub-01_ses-1_task-rest_desc-mean_boldref.nii.gz'
    >>> output_path("synthetic", {"sub": "01", "ses": "1"}, Modality.DWI, in_template=True).name
    'sub-01_ses-1_space-MNI152NLin2009cAsym_res-3_desc-synthetic_dwiref.nii.gz'
    """
    row = _row(key)
    possible = modalities_of(key)
    if modality is None and len(possible) == 1:
        modality = possible[0]
    if modality not in possible:
        raise ValueError(f"output {key!r} does not exist for modality {modality}; expected one of {possible}")
    allowed_templates = {"also": (True, False), "only": (True,)}.get(row.get("template", ""), (False,))
    if in_template not in allowed_templates:
        raise ValueError(f"output {key!r} with in_template={in_template} does not exist")
    extension = extension or row["extensions"][0]
    if extension not in row["extensions"]:
        raise ValueError(f"output {key!r} has extensions {row['extensions']}, not {extension!r}")
    needed = row.get("free", [])
    free = {
        name: value
        for name, value in (("atlas", atlas), ("desc", desc))
        if name in needed and value is not None
    }
    if len(free) < len(needed):
        raise KeyError(f"output {key!r} needs {', '.join(needed)}")
    parts = _kept(row, entities) | _fixed(row, modality) | free
    if in_template:
        parts |= _spec()["template_entities"]
    elif not row.get("is_image", "template" in row):
        parts = {key: value for key, value in parts.items() if key not in SPACE_ENTITIES}
    suffix = row["suffix"].format(**_words(modality))
    name = "_".join([*(f"{entity}-{parts[entity]}" for entity in _ordered(parts)), suffix])
    return _folder(row, modality, parts) / f"{name}{extension}"


def identify(path: PurePath) -> OutputName | None:
    """Return what a file of an output folder is; None for what is not in the table.

    Parameters
    ----------
    path : PurePath
        Its last parts must be those of `output_path`.

    Examples
    --------
    >>> name = identify(Path("sub-01/dwi/sub-01_desc-synthetic+std_dwiref.nii.gz"))
    >>> name.key, name.entities, str(name.modality)
    ('synthetic_std', {'sub': '01'}, 'dwi')
    """
    entities, _, extension = split_name(path.name)
    own = {key: value for key, value in entities.items() if key not in DERIVED_ENTITIES}
    if "sub" not in own:
        return None
    in_template = is_on_template_grid(path)
    if not in_template:
        own |= {key: entities[key] for key in SPACE_ENTITIES if key in entities}
    for key in output_keys():
        row = _row(key)
        free = {name: entities[name] for name in row.get("free", ()) if name in entities}
        for modality in modalities_of(key):
            name = OutputName(key, own, modality, in_template, extension, free)
            try:
                expected = name.path
            except (KeyError, ValueError):
                continue
            if path.parts[-len(expected.parts) :] == expected.parts:
                return name
    return None


def is_on_template_grid(path: PurePath) -> bool:
    """Whether an output's name says that it is on the template grid.

    Examples
    --------
    >>> is_on_template_grid(Path("sub-01_space-MNI152NLin2009cAsym_res-3_desc-mean_boldref.nii.gz"))
    True
    >>> is_on_template_grid(Path("sub-01_space-T1w_desc-mean_boldref.nii.gz"))
    False
    """
    return _spec()["template_entities"].items() <= split_name(path.name)[0].items()


def find_outputs(output_dir: Path, participant: str = "*") -> Iterator[tuple[Path, OutputName]]:
    """Yield the outputs that are there, sorted, each with what its name says."""
    for path in sorted(output_dir.glob(f"sub-{participant}/**/sub-*")):
        name = identify(path.relative_to(output_dir)) if path.is_file() else None
        if name is not None:
            yield path, name


def report_path(participant: str) -> Path:
    """Return the name of a participant's report, relative to the output folder."""
    return Path(f"sub-{participant}.html")


def log_dir(participant: str, run_uuid: str) -> Path:
    """Return the folder of one run's log files of a participant, relative to the output folder."""
    return Path(f"sub-{participant}", "log", run_uuid)


def bidsignore() -> str:
    """Return the text of ``.bidsignore``: what the BIDS validator does not know yet."""
    # A trailing slash matches at the root only, so nested log and figures folders go without. BIDS wants a
    # task- in the name of a functional mask, which a synthetic one has not.
    return "\n".join(_spec()["bidsignore"]) + "\n"


def _row(key: str) -> dict[str, Any]:
    try:
        return _spec()["outputs"][key]
    except KeyError:
        raise KeyError(
            f"no output {key!r} in io_spec.json; expected one of {', '.join(output_keys())}"
        ) from None


def _words(modality: Modality | None) -> dict[str, str]:
    if modality is None:
        return {}
    spec = MODALITIES[modality]
    return {"datatype": spec.datatype, "ref": spec.ref_suffix}


def _kept(row: Mapping[str, Any], entities: Mapping[str, str]) -> dict[str, str]:
    keeps = ("sub", "ses") if row["entities"] == "session" else _spec()["entity_order"]
    kept = {entity: entities[entity] for entity in keeps if entity in entities}
    return {"sub": entities["sub"]} | kept


def _fixed(row: Mapping[str, Any], modality: Modality | None) -> dict[str, str]:
    return {key: value.format(**_words(modality)) for key, value in row.get("fixed", {}).items()}


def _ordered(entities: Mapping[str, str]) -> list[str]:
    order = _spec()["entity_order"]
    return sorted(entities, key=order.index)


def _folder(row: Mapping[str, Any], modality: Modality | None, entities: Mapping[str, str]) -> Path:
    subject = Path(f"sub-{entities['sub']}")
    folder = row["folder"].format(**_words(modality))
    if folder == "figures":
        return subject / folder
    return subject / f"ses-{entities['ses']}" / folder if "ses" in entities else subject / folder
