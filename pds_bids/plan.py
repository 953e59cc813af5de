"""Who has what, who misses what, what will be done, and why not."""

import json
import logging
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from pds_bids.bids.collect import Choice, Reading, choose_anatomy, choose_series
from pds_bids.bids.layout import DatasetFiles, check_dataset, find_files, index_dataset, select_participants
from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.series import Series
from pds_bids.bids.write import write_text
from pds_bids.config import Ignore, RunConfig, Synthesize
from pds_bids.exceptions import NothingSelectedError
from pds_bids.modalities import Direction, Modality

__all__ = ["Action", "Plan", "SessionPlan", "make_plan"]

LOGGER = logging.getLogger("pds_bids.plan")
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
            parts |= self.entities_of(direction)
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
        """Entities of what is synthesised: those of the session, and what tells its source from others."""
        source = self.series(direction.source)
        return self.entities | (source.distinct if source is not None else {})

    def series(self, modality: Modality) -> Series | None:
        """Return the series of one modality."""
        return self.bold if modality is Modality.BOLD else self.dwi

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are read, for provenance."""
        acquired = (self.bold, self.dwi)
        paths = [path for series in acquired if series is not None for path in series.files()]
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


def make_plan(config: RunConfig, problems: Sequence[str] = ()) -> Plan:
    """Decide what to do for every selected session.

    BOLD and DWI pair within a session; a T1w image may come from another session of the same participant.

    Parameters
    ----------
    config : RunConfig
        What was asked for.
    problems : sequence of str
        Findings of the BIDS validator, shown with the plan.

    Returns
    -------
    Plan
        Sessions that run, that are skipped, and that fail, with reasons.

    Raises
    ------
    InvalidBIDSError
        If the folder is not a BIDS dataset.
    NothingSelectedError
        If the participants, sessions or tasks asked for are not there, or no session has what is needed.
    UsageError
        If the filter file is not valid.
    """
    description = check_dataset(config.bids_dir)
    participants = select_participants(config.bids_dir, config.participant_label)
    files = find_files(index_dataset(config, participants), participants, config)
    _check_sessions(files, config.session_label)
    sessions = [
        session for label in participants for session in _plan_participant(label, files[label], config)
    ]
    for session in sessions:
        LOGGER.info("%s: %s, %s", session.label, session.action, session.reason)
    if all(session.action is Action.SKIP and session.reason != COMPLETE for session in sessions):
        raise NothingSelectedError(
            f"--synthesize {config.synthesize}: there is nothing to do it with in {config.bids_dir}: "
            + "; ".join(f"{session.label}: {session.reason}" for session in sessions[:5])
        )
    return Plan(
        str(description["Name"]), config.bids_dir, config.synthesize, tuple(sessions), tuple(problems)
    )


def _check_sessions(files: dict[str, DatasetFiles], labels: tuple[str, ...]) -> None:
    present = {session for own in files.values() for session in own.sessions() if session}
    absent = sorted(set(labels) - present)
    if absent:
        raise NothingSelectedError(
            f"no such session: {', '.join(absent)}; the selected participants have: "
            f"{', '.join(sorted(present)) or 'no sessions'}"
        )


def _plan_participant(label: str, files: DatasetFiles, config: RunConfig) -> list[SessionPlan]:
    """Plan the selected sessions of one participant."""
    sessions = [
        session for session in files.sessions() if not config.session_label or session in config.session_label
    ]
    if not sessions:
        asked = " of the sessions asked for" if config.session_label else ""
        return [SessionPlan(label, reason=f"no BOLD, DWI or T1w image{asked}")]
    return [own for session in sessions for own in _apart(*_plan_session(label, session, files, config))]


def _apart(planned: SessionPlan, choices: dict[Modality, Choice]) -> list[SessionPlan]:
    """Return the plan of a session, and one for every further series that is read on its own."""
    plans = [planned]
    for direction in planned.directions:
        for series in choices[direction.source].apart:
            own = {"bold": planned.bold, "dwi": planned.dwi} | {str(direction.source): series}
            plans.append(replace(planned, bold=own["bold"], dwi=own["dwi"], directions=(direction,)))
    return plans


def _plan_session(
    participant: str, session: str | None, files: DatasetFiles, config: RunConfig
) -> tuple[SessionPlan, dict[Modality, Choice]]:
    reading = Reading(config.runs, config.combine_echoes, Ignore.FIELDMAPS not in config.ignore)
    choices = {
        modality: choose_series(
            modality,
            files.of_session(modality, session),
            config.bids_dir,
            files.selected.__contains__,
            reading,
        )
        for modality in Modality
    }
    t1w, t1w_not_used = choose_anatomy(files.found["t1w"], session, files.selected.__contains__)
    t1w_session = parse_entities(t1w).get("ses") if t1w else None
    not_used = [item for choice in choices.values() for item in choice.not_used] + list(t1w_not_used)
    not_used += [(path, "a reference volume, not a series") for path in files.of_session("sbref", session)]
    not_used += [
        (path, "fieldmap; this version does not correct distortion")
        for path in files.of_session("fmap", session)
    ]
    directions, action, reason = _decide(choices, config.synthesize)
    planned = SessionPlan(
        participant,
        session,
        choices[Modality.BOLD].series,
        choices[Modality.DWI].series,
        t1w,
        t1w_session,
        directions,
        tuple(not_used),
        action,
        reason,
        _notes(choices, directions, session, t1w),
    )
    return planned, choices


def _decide(
    choices: dict[Modality, Choice], synthesize: Synthesize
) -> tuple[tuple[Direction, ...], Action, str]:
    """Return what is synthesised in a session, what happens to it, and why."""
    acquired = [modality for modality in Modality if choices[modality].is_acquired]
    if not acquired:
        return (), Action.SKIP, "neither BOLD nor DWI"
    if synthesize is Synthesize.MISSING:
        targets = [modality for modality in Modality if modality not in acquired]
        if not targets:
            return (), Action.SKIP, COMPLETE
    elif synthesize is Synthesize.BOTH:
        targets = list(Modality)
    else:
        targets = [Modality(synthesize)]
    failures, gaps, directions = [], [], []
    for target in targets:
        source = choices[target.other]
        name = target.other.upper()
        if source.series is not None:
            directions.append(Direction.to(target))
        elif source.problem:
            failures.append(f"{name} cannot be used: {source.problem}")
        elif source.is_acquired:
            gaps.append(f"the filters leave no {name} to synthesise {target.upper()} from")
        else:
            gaps.append(f"no {name} to synthesise {target.upper()} from")
    if failures:
        return (), Action.FAIL, "; ".join(failures)
    if not directions:
        return (), Action.SKIP, "; ".join(gaps)
    missing = [target.upper() for target in (d.target for d in directions) if target not in acquired]
    why = f"no {missing[0]} was acquired" if missing else f"asked for with --synthesize {synthesize}"
    return tuple(directions), Action.RUN, "; ".join([why, *gaps])


def _notes(
    choices: dict[Modality, Choice],
    directions: tuple[Direction, ...],
    session: str | None,
    t1w: Path | None,
) -> tuple[str, ...]:
    """Return what a reader should know about a session besides the reason."""
    notes = [note for choice in choices.values() for note in choice.notes]
    for direction in directions:
        target = choices[direction.target]
        if target.is_acquired and target.series is None:
            why = target.problem or "the filters leave none"
            notes.append(f"acquired {direction.target.upper()} is not compared with: {why}")
    if t1w is None:
        notes.append("no T1w image: the series are registered to the template directly")
    elif (other := parse_entities(t1w).get("ses")) != session:
        notes.append(f"T1w is from {f'ses-{other}' if other else 'outside of sessions'}")
    return tuple(notes)


def _restored(value: Any, hint: Any) -> Any:
    """Turn what `json` gives back into the type of a field: dataclasses, tuples, paths, members of enums."""
    if get_origin(hint) is UnionType:
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return None if value is None else _restored(value, kinds[0])
    if get_origin(hint) is tuple:
        each = get_args(hint)
        each = each[:1] * len(value) if each[-1] is Ellipsis else each
        return tuple(_restored(item, kind) for item, kind in zip(value, each, strict=True))
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
            lines += wrapper.wrap(remark)
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
