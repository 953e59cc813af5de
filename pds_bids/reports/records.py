"""What an output folder says about one participant: figures, quality, plan, provenance, crashes.

Everything is read from the folder alone, so a report can be built again from a copy of it. Parts that are
missing or unreadable are told, never guessed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.names import is_on_template_grid
from pds_bids.modalities import MODALITIES, Direction

__all__ = [
    "Crash",
    "FigureFile",
    "Participant",
    "QualityFile",
    "Run",
    "Session",
    "read_json",
    "read_participant",
]

# What a reader of the summary need not see: our own class, and where the picture lies that the page shows.
_OWN_ERROR = re.compile(r"^(pds_bids\.exceptions|concurrent\.futures\.process)\.\w+: |; picture: \S+$")
_CRASH_SESSION = re.compile(r"sub_\w+?_wf")


@dataclass(frozen=True)
class FigureFile:
    """A figure: path below the output folder, entities and suffix of its name, size in pixels if known."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class QualityFile:
    """A quality file: path below the output folder, entities of its name, content (empty if unreadable)."""

    path: Path
    entities: Mapping[str, str]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Crash:
    """Text of a crash file, where it lies, and the workflow of the session it belongs to, if it says so."""

    path: Path
    text: str
    session_workflow: str = ""

    @property
    def node(self) -> str:
        """Name of the node that crashed, empty when the text does not say."""
        found = re.search(r"^Node: (\S+)", self.text, re.MULTILINE)
        return found.group(1) if found else ""

    @property
    def last_line(self) -> str:
        """The line that names the error: the last one of the traceback."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        # Python's own errors first, then any dotted class with a message; Nipype adds remarks of its own.
        for pattern in (r"[\w.]*(Error|Exception|Interrupt)\b", r"\w+(\.\w+)+: "):
            if named := [line for line in lines if re.match(pattern, line.strip())]:
                return named[-1].strip()
        return lines[-1].strip() if lines else "the crash file is empty"

    @property
    def reason(self) -> str:
        """Say why, for a summary: `last_line` without what only the author of the code needs.

        Examples
        --------
        >>> Crash(Path("crash.txt"), "pds_bids.exceptions.DataError: no volume; picture: /out/a.png").reason
        'no volume'
        """
        return _OWN_ERROR.sub("", self.last_line)


@dataclass(frozen=True)
class Run:
    """One run of the program on this participant: its name, options as TOML, command line, crashes."""

    uuid: str
    options: str = ""
    command_line: str = ""
    crashes: tuple[Crash, ...] = ()


@dataclass(frozen=True)
class Session:
    """One session: what was planned and what lies in the folder.

    Parameters
    ----------
    label : str or None
        Without ``ses-``; None where the dataset has no sessions.
    plan : mapping
        The session's part of the plan as JSON; empty when there is no plan.
    figures : tuple of FigureFile
        In no particular order.
    quality : tuple of QualityFile
        Of both modalities.
    synthetic : tuple of Path
        Synthetic images in the folder, relative to it.
    sidecars : tuple of mapping
        Sidecars of `synthetic`.
    """

    label: str | None
    plan: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[FigureFile, ...] = ()
    quality: tuple[QualityFile, ...] = ()
    synthetic: tuple[Path, ...] = ()
    sidecars: tuple[Mapping[str, Any], ...] = ()

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What the plan wants to be synthesised."""
        known = set(Direction)
        return tuple(Direction(name) for name in self.plan.get("directions") or () if name in known)

    def missing(self) -> list[str]:
        """Return the modalities that were to be synthesised and of which no image lies in the folder."""
        targets = Counter(direction.target for direction in self.directions)
        in_template = Counter(path.parent.name for path in self.synthetic if is_on_template_grid(path))
        present = Counter(path.parent.name for path in self.synthetic) - in_template
        return [
            target.upper()
            for target, count in targets.items()
            if max(counts[MODALITIES[target].datatype] for counts in (present, in_template)) < count
        ]


@dataclass(frozen=True)
class Participant:
    """Everything that the folder holds about one participant; `runs` are sorted, the last is the newest."""

    label: str
    sessions: tuple[Session, ...]
    runs: tuple[Run, ...] = ()
    dataset: str = ""
    version: str = ""
    has_plan: bool = False

    @property
    def last_run(self) -> Run:
        """The newest run."""
        return self.runs[-1] if self.runs else Run("")


def read_participant(out_dir: Path, participant: str) -> Participant:
    """Read what an output folder holds about one participant.

    Parameters
    ----------
    out_dir : Path
        Derivative dataset.
    participant : str
        Label, with or without ``sub-``.

    Returns
    -------
    Participant
        With no sessions when the folder has nothing.
    """
    label = participant.removeprefix("sub-")
    folder = out_dir / f"sub-{label}"
    plan = read_json(folder / "log" / f"plan_sub-{label}.json")
    planned: dict[str | None, dict[str, Any]] = {}
    for entry in plan.get("sessions") or ():
        if isinstance(entry, dict) and entry.get("participant") == label:
            name = entry.get("session")
            planned[name] = _together(planned[name], entry) if name in planned else entry
    present: set[str | None] = {
        path.name.removeprefix("ses-") for path in folder.glob("ses-*") if path.is_dir()
    }
    if any((folder / datatype).is_dir() for datatype in ("func", "dwi")):
        present.add(None)
    figures = tuple(_figure_files(out_dir, folder))
    present |= {figure.entities.get("ses") for figure in figures}
    labels = sorted(present | set(planned), key=lambda name: name or "")
    description = read_json(out_dir / "dataset_description.json")
    generators = description.get("GeneratedBy") or [{}]
    return Participant(
        label,
        tuple(_read_session(out_dir, folder, name, planned.get(name, {}), figures) for name in labels),
        tuple(_read_run(out_dir, place) for place in sorted(folder.glob("log/*")) if place.is_dir()),
        str(plan.get("dataset", "")),
        str(generators[0].get("Version", "")) if isinstance(generators[0], dict) else "",
        bool(plan),
    )


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two parts of a plan, for runs of one session that are kept apart, say together."""
    merged = dict(one)
    for name in ("notes", "not_used"):
        said = one.get(name) or []
        merged[name] = [*said, *(item for item in other.get(name) or () if item not in said)]
    merged["directions"] = [*(one.get("directions") or ()), *(other.get("directions") or ())]
    # The worse of the two decides: a session with a run that failed is not done.
    actions = ("fail", "run", "done", "skip")
    worse = min((one, other), key=lambda part: actions.index(part.get("action", "skip")))
    return merged | {name: worse.get(name) for name in ("action", "reason")}


def _read_session(
    out_dir: Path,
    folder: Path,
    label: str | None,
    plan: Mapping[str, Any],
    figures: Iterable[FigureFile],
) -> Session:
    own = folder / f"ses-{label}" if label else folder
    # The level group leaves descriptions of its tables of parcels (`stat-coverage`) beside them.
    quality = sorted(
        path
        for datatype in ("func", "dwi")
        for path in own.glob(f"{datatype}/*_qc.json")
        if "stat" not in parse_entities(path)
    )
    synthetic = sorted(own.glob("func/*_desc-synthetic_boldref.nii.gz"))
    synthetic += sorted(own.glob("dwi/*_desc-synthetic_dwiref.nii.gz"))
    sidecars = [read_json(path.with_name(path.name.replace(".nii.gz", ".json"))) for path in synthetic]
    return Session(
        label,
        plan,
        tuple(figure for figure in figures if figure.entities.get("ses") == label),
        tuple(QualityFile(p.relative_to(out_dir), parse_entities(p), read_json(p)) for p in quality),
        tuple(path.relative_to(out_dir) for path in synthetic),
        tuple(sidecar for sidecar in sidecars if sidecar),
    )


def _figure_files(out_dir: Path, folder: Path) -> Iterable[FigureFile]:
    for path in sorted((folder / "figures").glob("*")):
        if path.suffix in (".svg", ".png") and not path.name.startswith("."):
            suffix = path.stem.rsplit("_", 1)[-1]
            yield FigureFile(path.relative_to(out_dir), parse_entities(path), suffix, _picture_size(path))


def _picture_size(path: Path) -> tuple[int, int] | None:
    """Read width and height from the head of a PNG or SVG, so that a page keeps room while it loads."""
    with path.open("rb") as stream:
        head = stream.read(2000)
    if path.suffix == ".png" and head[12:16] == b"IHDR":
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    found = re.search(rb'<svg[^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    # Matplotlib writes points; browsers lay out 96 pixels to 72 points.
    return (round(float(found[1]) * 4 / 3), round(float(found[2]) * 4 / 3)) if found else None


def _read_run(out_dir: Path, folder: Path) -> Run:
    options = "\n".join(_read_text(path) for path in sorted(folder.glob("*.toml")))
    command = "\n".join(_read_text(path) for path in sorted(folder.glob("command*.txt"))).strip()
    crashes = []
    for path in sorted(folder.rglob("crash-*.txt")):
        text = _read_text(path)
        found = _CRASH_SESSION.search(text) or _CRASH_SESSION.search(path.name)
        crashes.append(Crash(path.relative_to(out_dir), text, found.group(0) if found else ""))
    return Run(folder.name, options, command, tuple(crashes))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"{path.name} cannot be read: {error}"


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty when the file is not there, broken or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
