"""What will be done for every session: the plan as data, as JSON and as a table."""

import json
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from pds_bids.bids.derivatives import Precomputed
from pds_bids.bids.fieldmaps import Fieldmap
from pds_bids.bids.series import Series
from pds_bids.bids.write import write_text
from pds_bids.modalities import Direction, Modality
from pds_bids.options import Synthesize

__all__ = ["COMPLETE", "Action", "Plan", "SessionPlan"]

COMPLETE = "nothing is missing: BOLD and DWI are there (--synthesize both redoes them)"


class Action(StrEnum):
    """What happens to a session."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"
    DONE = "done"


@dataclass(frozen=True)
class SessionPlan:
    """What is done for one session of one participant.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``; None in a dataset without sessions.
    bold, dwi : Series or None
        Series that are read; None where there is none, or none usable.
    bold_derivatives, dwi_derivatives : Precomputed or None
        What another pipeline has made of a series, where it was asked for.
    bold_fieldmap, dwi_fieldmap : Fieldmap or None
        What the distortion of a series is corrected with.
    t1w : Path or None
        T1w image of the participant.
    t1w_session : str or None
        Session that the T1w image comes from.
    directions : tuple of Direction
        What is synthesised.
    not_used : tuple of (Path, str)
        Files passed over, with the reason and how to choose them.
    action : Action
        What happens.
    reason : str
        Why.
    notes : tuple of str
        What a reader should know besides.
    """

    participant: str
    session: str | None = None
    bold: Series | None = None
    dwi: Series | None = None
    bold_derivatives: Precomputed | None = None
    dwi_derivatives: Precomputed | None = None
    bold_fieldmap: Fieldmap | None = None
    dwi_fieldmap: Fieldmap | None = None
    t1w: Path | None = None
    t1w_session: str | None = None
    directions: tuple[Direction, ...] = ()
    not_used: tuple[tuple[Path, str], ...] = ()
    action: Action = Action.SKIP
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name for messages: ``sub-01 ses-1``, with ``run-2`` where runs are kept apart."""
        parts = self.entities
        for direction in self.directions:
            source = self.series(direction.source)
            parts |= source.distinct if source is not None else {}
        return " ".join(f"{key}-{value}" for key, value in parts.items())

    @property
    def name(self) -> str:
        """Name of the session's workflow: ``sub_01_ses_1_wf``; labels are alphanumeric, so it is unique."""
        return self.label.replace("-", "_").replace(" ", "_").replace("+", "_") + "_wf"

    @property
    def entities(self) -> dict[str, str]:
        """Entities of outputs that belong to the session as a whole."""
        return {"sub": self.participant} | ({"ses": self.session} if self.session else {})

    def entities_of(self, direction: Direction) -> dict[str, str]:
        """Entities of what is synthesised: those of the session, and what tells its source from others.

        With the space of the source, where that is not the space of its scan.
        """
        source, precomputed = self.series(direction.source), self.derivatives(direction.source)
        entities = self.entities | (source.distinct if source is not None else {})
        return entities | (precomputed.space_entities if precomputed is not None else {})

    def series(self, modality: Modality) -> Series | None:
        """Return the series of one modality."""
        return self.bold if modality is Modality.BOLD else self.dwi

    def derivatives(self, modality: Modality) -> Precomputed | None:
        """Return what another pipeline has made of the series of one modality."""
        return self.bold_derivatives if modality is Modality.BOLD else self.dwi_derivatives

    def fieldmap(self, modality: Modality) -> Fieldmap | None:
        """Return what the distortion of the series of one modality is corrected with."""
        return self.bold_fieldmap if modality is Modality.BOLD else self.dwi_fieldmap

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are read, for provenance."""
        acquired = (self.bold, self.dwi)
        paths = [path for series in acquired if series is not None for path in series.files()]
        for precomputed in (self.bold_derivatives, self.dwi_derivatives):
            paths += precomputed.files.values() if precomputed is not None else ()
        for fieldmap in (self.bold_fieldmap, self.dwi_fieldmap):
            paths += fieldmap.files if fieldmap is not None else ()
        return (*paths, *([self.t1w] if self.t1w else []))


@dataclass(frozen=True)
class Plan:
    """What is done for every session.

    Parameters
    ----------
    dataset : str
        Name of the dataset, from its description.
    bids_dir : Path
        Folder of the dataset.
    synthesize : Synthesize
        What was asked for.
    sessions : tuple of SessionPlan
        In the order of participants and sessions.
    problems : tuple of str
        What the BIDS validator found, for the reader; files that matter are checked by the plan itself.

    Examples
    --------
    >>> plan = Plan("demo", Path("/data"), Synthesize.MISSING, (SessionPlan("01", reason="nothing there"),))
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    dataset: str
    bids_dir: Path
    synthesize: Synthesize
    sessions: tuple[SessionPlan, ...]
    problems: tuple[str, ...] = ()

    def with_action(self, action: Action) -> tuple[SessionPlan, ...]:
        """Return the sessions to which `action` happens."""
        return tuple(session for session in self.sessions if session.action is action)

    def with_done(self, why_done: Callable[[SessionPlan], str]) -> Self:
        """Return the plan with finished sessions marked as done.

        Parameters
        ----------
        why_done : callable
            Given a session that would run, returns why it need not, or an empty string.
        """
        sessions = []
        for session in self.sessions:
            reason = why_done(session) if session.action is Action.RUN else ""
            sessions.append(replace(session, action=Action.DONE, reason=reason) if reason else session)
        return replace(self, sessions=tuple(sessions))

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan written by `to_json`."""
        content = json.loads(text)
        return cls(
            content["dataset"],
            Path(content["bids_dir"]),
            Synthesize(content["synthesize"]),
            tuple(_restored(session, SessionPlan) for session in content["sessions"]),
            tuple(content["problems"]),
        )

    def save(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_text(path, self.to_json())

    def table(self) -> str:
        """Return the plan as plain text, one line per session, with reasons and what is not used below."""
        return _render(self)


def _restored(value: Any, hint: Any) -> Any:
    """Turn what `json` gives back into the type of a field: dataclasses, tuples, paths, members of enums."""
    if get_origin(hint) is UnionType:
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return None if value is None else _restored(value, kinds[0])
    if get_origin(hint) is tuple:
        each = get_args(hint)
        each = each[:1] * len(value) if each[-1] is Ellipsis else each
        return tuple(_restored(item, kind) for item, kind in zip(value, each, strict=True))
    if get_origin(hint) is dict:
        return {key: _restored(item, get_args(hint)[1]) for key, item in value.items()}
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return cast(Any, hint)(**{name: _restored(item, hints[name]) for name, item in value.items()})
    if isinstance(hint, type) and issubclass(hint, (Path, StrEnum)):
        return hint(value)
    return value


def _render(plan: Plan) -> str:
    rows: list[tuple[str, ...]] = [("PARTICIPANT", "SESSION", "BOLD", "DWI", "T1W", "PLAN")]
    for session in plan.sessions:
        doing = " and ".join(direction.target.upper() for direction in session.directions)
        rows.append(
            (
                f"sub-{session.participant}",
                f"ses-{session.session}" if session.session else "-",
                *(_cell(session, modality) for modality in Modality),
                "yes" if session.t1w else "-",
                f"synthesise {doing}" if session.action is Action.RUN else str(session.action).upper(),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{plan.dataset} ({plan.bids_dir}), --synthesize {plan.synthesize}", ""]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.append(table[0])
    # Paths stay whole, so that they can be copied.
    wrapper = textwrap.TextWrapper(
        110, initial_indent="    ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
    for line, session in zip(table[1:], plan.sessions, strict=True):
        lines.append(line)
        remarks = [session.reason, *session.notes]
        for reason in dict.fromkeys(why for _, why in session.not_used if why not in session.reason):
            names = ", ".join(path.name for path, own in session.not_used if own == reason)
            remarks.append(f"not used: {names}: {reason}")
        for remark in remarks:
            # A listing has lines of its own.
            lines += (
                wrapper.wrap(remark) if "\n" not in remark else textwrap.indent(remark, "    ").split("\n")
            )
    counts = Counter(session.action for session in plan.sessions)
    lines += ["", ", ".join(f"{counts[action]} to {action}" for action in Action if counts[action])]
    if plan.problems:
        lines += ["", "The BIDS validator says:", *(f"    {problem}" for problem in plan.problems)]
    return "\n".join(lines)


def _cell(session: SessionPlan, modality: Modality) -> str:
    series = session.series(modality)
    if series is None:
        is_there = any(path.name.split(".")[0].endswith(f"_{modality}") for path, _ in session.not_used)
        return "not read" if is_there else "-"
    return f"{series.label} ({series.total_volumes} vol.)".strip()
