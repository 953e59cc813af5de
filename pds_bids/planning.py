"""Decide, from what a dataset holds, what will be done for every session, and why not."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pds_bids.bids.collect import Choice, Reading, choose_anatomy, choose_series
from pds_bids.bids.derivatives import (
    DerivativeDataset,
    Pipeline,
    Precomputed,
    find_derivatives,
    find_precomputed,
)
from pds_bids.bids.fieldmaps import Fieldmap, FieldmapKind, find_fieldmap
from pds_bids.bids.layout import DatasetFiles, check_dataset, find_files, index_dataset, select_participants
from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.runs import without_opposite
from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.exceptions import NothingSelectedError
from pds_bids.modalities import Direction, Modality
from pds_bids.options import Ignore, Runs, Synthesize
from pds_bids.plan import COMPLETE, Action, Plan, SessionPlan

__all__ = ["make_plan"]

LOGGER = logging.getLogger("pds_bids.plan")


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
    datasets = {
        Pipeline(name): find_derivatives(folder, Pipeline(name))
        for name, folder in config.derivatives_dirs().items()
    }
    sessions = [
        session
        for label in participants
        for session in _plan_participant(label, files[label], config, datasets)
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


def _plan_participant(
    label: str, files: DatasetFiles, config: RunConfig, datasets: dict[Pipeline, DerivativeDataset]
) -> list[SessionPlan]:
    """Plan the selected sessions of one participant."""
    sessions = [
        session for session in files.sessions() if not config.session_label or session in config.session_label
    ]
    if not sessions:
        asked = " of the sessions asked for" if config.session_label else ""
        return [SessionPlan(label, reason=f"no BOLD, DWI or T1w image{asked}")]
    return [
        _with_fieldmaps(_with_derivatives(planned, datasets), files, config)
        for session in sessions
        for planned in _apart(*_plan_session(label, session, files, config))
    ]


def _with_derivatives(planned: SessionPlan, datasets: dict[Pipeline, DerivativeDataset]) -> SessionPlan:
    """Look for the derivatives that were asked for; a session that they do not cover fails."""
    if planned.action is not Action.RUN:
        return planned
    found: dict[Modality, Precomputed] = {}
    for pipeline, dataset in datasets.items():
        series = planned.series(pipeline.modality)
        if series is not None:
            found[pipeline.modality] = find_precomputed(dataset, series)
    planned = replace(
        planned,
        bold_derivatives=found.get(Modality.BOLD),
        dwi_derivatives=found.get(Modality.DWI),
        notes=(*planned.notes, *(precomputed.listing() for precomputed in found.values())),
    )
    problems = [precomputed.problem for precomputed in found.values() if precomputed.problem]
    return replace(planned, action=Action.FAIL, reason="; ".join(problems)) if problems else planned


def _with_fieldmaps(planned: SessionPlan, files: DatasetFiles, config: RunConfig) -> SessionPlan:
    """Look for the fieldmaps of the series that are preprocessed here, and say what is not used."""
    own = files.of_session("fmap", planned.session)
    found: dict[Modality, Fieldmap] = {}
    chosen: dict[Modality, Series | None] = {}
    notes, not_used = list(planned.notes), list(planned.not_used)
    for modality in Modality:
        series = chosen[modality] = planned.series(modality)
        if planned.action is not Action.RUN or series is None or planned.derivatives(modality) is not None:
            continue
        fieldmap, reason = None, "--ignore fieldmaps"
        if Ignore.FIELDMAPS not in config.ignore:
            fieldmap, reason = _fieldmap_of(series, files.found["fmap"], config.bids_dir)
        if fieldmap is not None:
            found[modality] = fieldmap
            names = ", ".join(path.name for path in fieldmap.files)
            notes.append(f"{modality.upper()}: distortion is corrected with {fieldmap.kind} ({names})")
        else:
            notes.append(f"{modality.upper()}: susceptibility distortion is not corrected: {reason}")
        if modality is Modality.DWI and (why_not := _no_eddy(series, config)):
            notes.append(f"DWI: eddy currents are not corrected: {why_not}")
        is_pair = fieldmap is not None and fieldmap.kind is FieldmapKind.DWI_PAIR
        alone = series if is_pair else without_opposite(series)
        chosen[modality] = alone
        dropped = set(series.images()) - set(alone.images())
        why = f"of the opposite phase-encoding direction; without correction not joined: {reason}"
        not_used += [(path, why) for path in sorted(dropped)]
    used = {path for fieldmap in found.values() for path in fieldmap.files}
    not_used += [
        (path, "fieldmap; not needed, or of no series that is read") for path in own if path not in used
    ]
    return replace(
        planned,
        bold=chosen[Modality.BOLD],
        dwi=chosen[Modality.DWI],
        bold_fieldmap=found.get(Modality.BOLD),
        dwi_fieldmap=found.get(Modality.DWI),
        notes=tuple(notes),
        not_used=tuple(not_used),
    )


def _no_eddy(series: Series, config: RunConfig) -> str:
    """Return why eddy currents are not corrected, or an empty string."""
    if Ignore.EDDY in config.ignore:
        return "--ignore eddy"
    told = {"PhaseEncodingDirection", "PhaseEncodingAxis"} & series.metadata.keys()
    return "" if told else "the sidecar has no PhaseEncodingDirection and no PhaseEncodingAxis"


def _fieldmap_of(series: Series, fmap_files: Sequence[Path], root: Path) -> tuple[Fieldmap | None, str]:
    """Find the fieldmap of a series, by whichever of its echoes BIDS names."""
    reason = ""
    for candidate in (series, *(echo for echo in series.echoes if echo.path != series.path)):
        fieldmap, why = find_fieldmap(candidate, fmap_files, series.joined, root)
        if fieldmap is not None:
            return fieldmap, ""
        reason = reason or why
    return None, reason


def _apart(planned: SessionPlan, choices: dict[Modality, Choice]) -> list[SessionPlan]:
    """Return the plan of a session, and one for every further series that is read on its own."""
    plans = [planned]
    for direction in planned.directions:
        for series in choices[direction.source].apart:
            own = {"bold": planned.bold, "dwi": planned.dwi} | {str(direction.source): series}
            plans.append(replace(planned, bold=own["bold"], dwi=own["dwi"], directions=(direction,)))
    return plans


def _plan_session(
    participant: str,
    session: str | None,
    files: DatasetFiles,
    config: RunConfig,
) -> tuple[SessionPlan, dict[Modality, Choice]]:
    choices = {
        modality: choose_series(
            modality,
            files.of_session(modality, session),
            config.bids_dir,
            files.selected.__contains__,
            _reading(modality, config),
        )
        for modality in Modality
    }
    t1w, t1w_not_used = choose_anatomy(files.found["t1w"], session, files.selected.__contains__)
    t1w_session = parse_entities(t1w).get("ses") if t1w else None
    not_used = [item for choice in choices.values() for item in choice.not_used] + list(t1w_not_used)
    not_used += [(path, "a reference volume, not a series") for path in files.of_session("sbref", session)]
    directions, action, reason = _decide(choices, config.synthesize)
    planned = SessionPlan(
        participant,
        session,
        bold=choices[Modality.BOLD].series,
        dwi=choices[Modality.DWI].series,
        t1w=t1w,
        t1w_session=t1w_session,
        directions=directions,
        not_used=tuple(not_used),
        action=action,
        reason=reason,
        notes=_notes(choices, directions, session, t1w),
    )
    return planned, choices


def _reading(modality: Modality, config: RunConfig) -> Reading:
    """Return how several files of a modality are read; other pipelines have decided it for theirs."""
    if any(Pipeline(name).modality is modality for name in config.derivatives_dirs()):
        runs = Runs.ONE if config.runs is Runs.AVERAGE else config.runs
        return Reading(runs, config.combine_echoes, pairs_directions=False)
    return Reading(config.runs, config.combine_echoes, Ignore.FIELDMAPS not in config.ignore)


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
