"""What surrounds the graph: files of the dataset before it, records, reports and the verdict after it."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from pds_bids.bids.dataset import write_dataset_files
from pds_bids.bids.layout import check_dataset
from pds_bids.bids.names import find_outputs, log_dir, report_path
from pds_bids.bids.write import write_text
from pds_bids.cli.completion import record_done
from pds_bids.config import RunConfig
from pds_bids.exceptions import NothingSelectedError
from pds_bids.inference.card import WEIGHTS, default_model_dir, read_card
from pds_bids.plan import Action, Plan, SessionPlan

__all__ = ["begin", "finish", "rebuild_reports", "write_methods"]

# More participants than that: only the reports of failures are listed.
LISTED_REPORTS = 8


def begin(plan: Plan, config: RunConfig) -> None:
    """Write what describes the dataset and the run, before anything is computed."""
    description = check_dataset(config.bids_dir)
    write_dataset_files(config.output_dir, config.bids_dir, description, config.derivatives_dirs())
    for participant in _participants(plan):
        own = replace(plan, sessions=tuple(s for s in plan.sessions if s.participant == participant))
        own.save(config.output_dir / f"sub-{participant}" / "log" / f"plan_sub-{participant}.json")
        folder = config.output_dir / log_dir(participant, config.run_uuid)
        write_text(folder / "pds-bids.toml", config.to_toml())
        write_text(folder / "command.txt", shlex.join(sys.argv) + "\n")


def finish(plan: Plan, config: RunConfig, unfinished: frozenset[str], missing: dict[str, list[Path]]) -> int:
    """Record what is done, write methods and reports, and say how it ended.

    Parameters
    ----------
    plan : Plan
        What was to be done.
    config : RunConfig
        Options.
    unfinished : frozenset of str
        Workflow names of sessions with a failed step.
    missing : dict of str to list of Path
        Workflow name of a session to the outputs that it should have and has not.

    Returns
    -------
    int
        Exit code: 0 or 1.
    """
    from pds_bids.reports.assemble import assemble_report  # late: jinja2

    failures = {}
    for session in plan.sessions:
        if session.action is Action.FAIL:
            failures[session.label] = session.reason
        elif session.action is Action.RUN and (session.name in unfinished or missing[session.name]):
            failures[session.label] = _why(session, config, missing[session.name])
        elif session.action is Action.RUN:
            record_done(session, config, _outputs(session, config))
    write_methods(_as_it_went(plan, failures), config)
    for participant in _participants(plan):
        sessions = [s for s in plan.sessions if s.participant == participant]
        untouched = all(s.action in (Action.DONE, Action.SKIP) for s in sessions)
        if not (untouched and (config.output_dir / report_path(participant)).exists()):
            assemble_report(config.output_dir, participant)
    _summarise(plan, config, failures)
    return 1 if failures else 0


def write_methods(plan: Plan, config: RunConfig) -> None:
    """Write the methods text from what was done."""
    from pds_bids.reports.boilerplate import write_boilerplate

    card = read_card(config.model_dir or default_model_dir(config.method))
    model = {
        "Name": card["method"],
        "Version": card.get("version", ""),
        "WeightsSHA256": card["sha256"][WEIGHTS],
    }
    write_boilerplate(
        config.output_dir, plan, config, template_origin=_template_origin(config.output_dir), model=model
    )


def rebuild_reports(config: RunConfig) -> int:
    """Write the reports again from an output folder alone, also a copy of one.

    Raises
    ------
    NothingSelectedError
        If the folder holds no participant, or not all that were asked for.
    """
    from pds_bids.reports.assemble import assemble_report

    found = {path.name.removeprefix("sub-") for path in config.output_dir.glob("sub-*") if path.is_dir()}
    absent = sorted(set(config.participant_label) - found)
    if absent or not found:
        missing = ", ".join(f"sub-{label}" for label in absent) or "any participant"
        raise NothingSelectedError(
            f"{config.output_dir} holds no output of {missing}; --reports-only takes the output folder of an "
            "earlier run"
        )
    for participant in sorted(config.participant_label or found):
        print(assemble_report(config.output_dir, participant))
    return 0


def _participants(plan: Plan) -> list[str]:
    return list(dict.fromkeys(session.participant for session in plan.sessions))


def _outputs(session: SessionPlan, config: RunConfig) -> list[Path]:
    """Return the outputs of one session that lie in the folder."""
    files = find_outputs(config.output_dir, session.participant)
    return [path for path, name in files if name.entities.get("ses") == session.session]


def _why(session: SessionPlan, config: RunConfig, missing: list[Path]) -> str:
    """Return the error of a failed session, from its crash file."""
    from pds_bids.reports.records import Crash

    folder = config.output_dir / log_dir(session.participant, config.run_uuid)
    for path in sorted(folder.glob("crash-*.txt")):
        text = path.read_text(errors="replace")
        if session.name in text:
            return Crash(path, text).reason
    names = ", ".join(path.name for path in missing[:3])
    return f"incomplete, not there: {names}" if names else "a step before it failed"


def _as_it_went(plan: Plan, failures: dict[str, str]) -> Plan:
    sessions = [replace(s, action=Action.FAIL) if s.label in failures else s for s in plan.sessions]
    return replace(plan, sessions=tuple(sessions))


def _template_origin(output_dir: Path) -> str:
    # Descriptions of the tables of the level group have the suffix, too, and no template.
    contents = (json.loads(path.read_text()) for path in sorted(output_dir.glob("sub-*/**/*_qc.json")))
    return next((str(content["template_origin"]) for content in contents if "template_origin" in content), "")


def _summarise(plan: Plan, config: RunConfig, failures: dict[str, str]) -> None:
    """Say how it ended: numbers, what failed and why and where to look, and where the reports are."""
    done = sum(s.action in (Action.RUN, Action.DONE) and s.label not in failures for s in plan.sessions)
    kept = len(plan.with_action(Action.DONE))
    skipped = len(plan.with_action(Action.SKIP))
    print(f"\n{done} done ({kept} of them by an earlier run), {skipped} skipped, {len(failures)} failed.")
    failed = {session.label: session.participant for session in plan.sessions if session.label in failures}
    for label, reason in failures.items():
        print(f"  FAILED {label}: {reason}")
        folder = config.output_dir / log_dir(failed[label], config.run_uuid)
        crashes = len(list(folder.glob("crash-*.txt")))
        print(f"    crash files: {folder}" if crashes else "    nothing was computed for it")
    participants = _participants(plan)
    # A cohort's list of reports would push the failures off the screen.
    listed = participants if len(participants) <= LISTED_REPORTS else list(dict.fromkeys(failed.values()))
    for participant in listed[:LISTED_REPORTS]:
        print(f"  report: {config.output_dir / report_path(participant)}")
    if len(listed) < len(participants):
        print(f"  all reports: {config.output_dir / report_path('*')} ({len(participants)})")
