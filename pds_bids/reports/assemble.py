"""The page of one participant: ``OUT/sub-XX.html``, from the output folder alone.

The page needs no network: its scripts are its own, and NiiVue lies in the output folder. nireports' assembler
is not used: its page takes Bootstrap and jQuery from two public servers, drops figures that its specification
does not name, and puts errors last.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from pds_bids import __version__
from pds_bids.bids.write import write_text
from pds_bids.modalities import MODALITIES, Modality
from pds_bids.reports import quality
from pds_bids.reports.boilerplate import markdown_to_html, read_bibliography
from pds_bids.reports.judging import Judgement, judge, worst_verdict
from pds_bids.reports.ratings import FORMAT, Rating, RatingVerdict
from pds_bids.reports.records import Crash, FigureFile, Participant, QualityFile, Session, read_participant
from pds_bids.reports.verdict import GateStatus, Verdict
from pds_bids.reports.viewer import LIBRARY

__all__ = ["Light", "assemble_report", "page_environment"]

# "registration+below" is shown beneath "registration", with a slider between them.
_BELOW = "+below"


@dataclass(frozen=True)
class Light:
    """A traffic light: a colour class, a sign and a word, so that colour is never the only cue; and why."""

    kind: str
    text: str
    reason: str = ""

    @property
    def symbol(self) -> str:
        """Sign beside the colour."""
        return {"good": "✓", "doubt": "!", "bad": "✗", "idle": "–"}[self.kind]


def assemble_report(out_dir: Path, participant: str, *, command_line: str = "") -> Path:
    """Write the report of one participant.

    Parameters
    ----------
    out_dir : Path
        Derivative dataset.
    participant : str
        Label, with or without ``sub-``.
    command_line : str
        How the program was called; by default what the folder's log says.

    Returns
    -------
    Path
        ``OUT/sub-XX.html``, complete.
    """
    record = read_participant(out_dir, participant)
    page = out_dir / f"sub-{record.label}.html"
    judgement = judge(out_dir, record)
    text = render(record, judgement, _methods(out_dir), command_line or record.last_run.command_line)
    write_text(page, text)
    return page


def render(record: Participant, judgement: Judgement, methods: str, command_line: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    record : Participant
        What the folder holds.
    judgement : Judgement
        Viewers and ratings.
    methods : str
        Methods text as HTML, made by this package.
    command_line : str
        How the program was called.
    """
    sessions = [_session_view(session, record.last_run.crashes, judgement) for session in record.sessions]
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            sessions=sessions,
            overall=_overall(record, sessions),
            crashes=record.last_run.crashes,
            earlier=[crash for run in record.runs[:-1] for crash in run.crashes],
            models=_models(record),
            origins=_template_origins(record),
            rating_problem=judgement.problem,
            rating_format=FORMAT,
            library=LIBRARY,
            artefacts=_specification()["artefacts"],
            command_line=command_line,
            methods=methods,
            assembled_by=__version__,
        )
    )


@cache
def page_environment() -> jinja2.Environment:
    """Return what pages are rendered with: files of this package, everything escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pds_bids.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = lambda path: quote(Path(path).as_posix())
    environment.filters["number"] = quality.format_value
    environment.filters["rating_light"] = _rating_light
    return environment


@cache
def _specification() -> dict[str, Any]:
    text = files("pds_bids.data").joinpath("reports-spec.yml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@cache
def _figure_kinds() -> dict[str, dict[str, str]]:
    """Return the figures of the specification by their desc, in its order."""
    return {entry["desc"]: entry for entry in _specification()["figures"]}


def _session_view(session: Session, crashes: Iterable[Crash], judgement: Judgement) -> dict[str, Any]:
    """Return what the page shows of a session."""
    own = f"_ses_{session.label}_".replace("+", "_") if session.label else "_wf"
    is_own = [c for c in crashes if own in c.session_workflow]
    gates = [
        (f"{_name(file)} {name}".strip(), verdict)
        for file in session.quality
        for name, verdict in quality.verdicts(file.content)
    ]
    figures = _ordered_figures(session.figures)
    warnings = _warnings(session)
    return {
        "label": session.label or "",
        "title": f"Session {session.label}" if session.label else "Scans",
        "anchor": f"ses-{session.label}" if session.label else "scans",
        "has_plan": bool(session.plan),
        "notes": [note for note in _notes(session.plan) if not any(note in told for told in warnings)],
        "acquired": {modality.upper(): _acquired(session, modality) for modality in Modality},
        "t1w": _anatomy(session.plan),
        "targets": [direction.target.upper() for direction in session.directions],
        "light": _rated(_session_light(session, is_own), judgement.current(session.label)),
        "judged": judgement.sessions.get(session.label, []),
        "gates": [(name, verdict, _gate_light(verdict)) for name, verdict in gates],
        "fidelity": [table for file in session.quality for table in quality.fidelity(file.content)],
        "warnings": warnings,
        "measures": [(_name(file), file.path, quality.measures(file.content)) for file in session.quality],
        "results": [figure for figure in figures if figure["is_synthetic"]],
        "steps": [figure for figure in figures if not figure["is_synthetic"]],
        "synthetic": session.synthetic,
        "crashes": is_own,
    }


def _warnings(session: Session) -> list[str]:
    """Return the warnings of the quality files, each with the series that it speaks of."""
    told = []
    for file in session.quality:
        for warning in quality.warnings(file.content):
            is_named = warning.startswith(tuple(modality.upper() for modality in Modality))
            told.append(warning if is_named else f"{_name(file)}: {warning}")
    return list(dict.fromkeys(told))


def _session_light(session: Session, crashes: list[Crash]) -> Light:
    """Say what became of a session; a file that is not there is never called done."""
    action, missing = session.plan.get("action", ""), session.missing()
    why = str(session.plan.get("reason", ""))
    if crashes and not missing and session.synthetic:
        return Light("doubt", "crashed", f"images are there, but the last run crashed: {crashes[0].reason}")
    if crashes or action == "fail":
        return Light("bad", "failed", crashes[0].reason if crashes else why)
    if missing:
        return Light("bad", "not done", f"no synthetic {' and '.join(missing)} in the folder")
    said = {v.status for file in session.quality for _, v in quality.verdicts(file.content)}
    if GateStatus.FAILED in said and session.synthetic:
        return Light("bad", "do not use", "synthesised, but a registration failed its gate")
    if session.synthetic:
        if GateStatus.FALLBACK in said:
            return Light("doubt", "look", "done, with a fallback: look at the registration")
        if not said:
            return Light("doubt", "look", "images are there, but no verdict on their registration")
        if worse := _shortfalls(session):
            return Light("doubt", "look", f"done, but {worse}")
        of_synthetic = [f for f in session.quality if f.entities.get("desc", "").startswith("synthetic")]
        if any(quality.warnings(file.content) for file in of_synthetic):
            return Light("doubt", "look", "done, but with warnings about the synthetic image")
        return Light("good", "done", why)
    if action == "skip":
        return Light("idle", "skipped", why)
    return Light("idle", "nothing", why or "no plan and no synthetic image")


def _shortfalls(session: Session) -> str:
    """Say where the model is worse than a trivial baseline."""
    tables = [table for file in session.quality for table in quality.fidelity(file.content)]
    return "; ".join(f"synthetic {t.target.upper()}: {t.shortfall()}" for t in tables if t.shortfall())


def _rating_light(rating: Rating) -> Light:
    kinds = {RatingVerdict.ACCEPT: "good", RatingVerdict.DOUBT: "doubt", RatingVerdict.REJECT: "bad"}
    return Light("idle" if rating.is_stale else kinds[rating.verdict], str(rating.verdict))


def _rated(light: Light, ratings: Iterable[Rating]) -> Light:
    """Let readers overrule what the gates said, for the worse only."""
    worst = worst_verdict(ratings)
    if worst not in (RatingVerdict.REJECT, RatingVerdict.DOUBT) or light.kind == "bad":
        return light
    who = ", ".join(rating.rater or "a reader" for rating in ratings if rating.verdict is worst)
    if worst is RatingVerdict.REJECT:
        return Light("bad", "rejected", f"a synthetic image was rejected by {who}")
    return Light("doubt", "in doubt", f"a synthetic image was doubted by {who}")


def _overall(record: Participant, sessions: list[dict[str, Any]]) -> Light:
    """Say what became of all sessions: the colour of the worst, and how many of each there are."""
    lights = [view["light"] for view in sessions]
    kinds = ("bad", "doubt", "good", "idle")
    worst = min((kinds.index(light.kind) for light in lights), default=len(kinds) - 1)
    text = "nothing was synthesised"
    if kinds[worst] != "idle":
        counts = Counter(light.text for light in sorted(lights, key=lambda light: kinds.index(light.kind)))
        words = {"look": "to look at"}
        told = [f"{count} {words.get(text, text)}" for text, count in counts.items()]
        text = f"sessions: {', '.join(told)}" if len(lights) > 1 else told[0].removeprefix("1 ")
    crashes = record.last_run.crashes
    if crashes and not any(view["crashes"] for view in sessions):
        text = f"{text}; the last run crashed"
    return Light("bad" if crashes else kinds[worst], text)


def _gate_light(found: Verdict) -> Light:
    kind = {GateStatus.PASSED: "good", GateStatus.FALLBACK: "doubt", GateStatus.FAILED: "bad"}
    return Light(kind.get(found.status, "idle"), str(found.status))


def _notes(plan: Mapping[str, Any]) -> list[str]:
    """Return what the plan says besides the reason: remarks, and files that were passed over."""
    not_used: dict[str, list[str]] = {}
    for path, reason in plan.get("not_used") or ():
        not_used.setdefault(str(reason), []).append(Path(path).name)
    left_out = [f"not used: {', '.join(names)}: {reason}" for reason, names in not_used.items()]
    return [*map(str, plan.get("notes") or ()), *left_out]


def _acquired(session: Session, modality: Modality) -> str:
    """Describe the acquired series of a modality; empty when there is none."""
    series = session.plan.get(modality)
    if not isinstance(series, Mapping):
        return ""
    entities = series.get("entities") or {}
    label = " ".join(f"{key}-{value}" for key, value in entities.items() if key not in ("sub", "ses"))
    count = series.get("n_volumes")
    told = [label, f"{count} volumes" if count else ""]
    return ", ".join(filter(None, told)) or Path(str(series.get("path", ""))).name


def _anatomy(plan: Mapping[str, Any]) -> str:
    if not plan.get("t1w"):
        return ""
    session = plan.get("t1w_session")
    return f"from ses-{session}" if session and session != plan.get("session") else "yes"


def _name(file: QualityFile) -> str:
    """Name a quality file by its modality and the entities that tell it from others."""
    rest = " ".join(f"{k}-{v}" for k, v in file.entities.items() if k not in ("sub", "ses", "desc"))
    folder = {spec.datatype: modality.upper() for modality, spec in MODALITIES.items()}
    kind = "synthetic " if file.entities.get("desc", "").startswith("synthetic") else ""
    return f"{kind}{folder.get(file.path.parent.name, file.path.parent.name)} {rest}".strip()


def _ordered_figures(figures: Sequence[FigureFile]) -> list[dict[str, Any]]:
    """Return figures in the order of the specification; unknown ones last, never dropped."""
    kinds = _figure_kinds()
    order = list(kinds)
    views = []
    below = {str(f.path).replace(_BELOW, ""): f for f in figures if _BELOW in str(f.path)}
    for figure in figures:
        # "synthetic+segments" is a kind of "synthetic".
        desc = figure.entities.get("desc", "")
        if desc.endswith(_BELOW) and str(figure.path).replace(_BELOW, "") in {str(f.path) for f in figures}:
            continue
        known = desc if desc in kinds else desc.split("+")[0]
        kind = kinds.get(known, {"title": desc or figure.path.stem, "caption": "", "reject": ""})
        rest = [f"{k}-{v}" for k, v in figure.entities.items() if k not in ("sub", "ses", "desc")]
        views.append(
            {
                "rank": (order.index(known) if known in kinds else len(order), str(figure.path)),
                "path": figure.path,
                "below": below[str(figure.path)].path if str(figure.path) in below else None,
                "size": figure.size,
                "title": kind["title"],
                "detail": " ".join([*rest, figure.suffix]),
                "caption": kind["caption"],
                "reject": kind["reject"],
                "is_synthetic": kind.get("is_result", desc.startswith("synthetic")),
            }
        )
    return sorted(views, key=lambda view: view["rank"])


def _models(record: Participant) -> list[list[tuple[str, str]]]:
    """Return how the synthetic images were made, by their sidecars; equal descriptions once."""
    wanted = ("SyntheticFrom", "GenerativeModel", "RandomSeed", "Device", "GeneratedBy")
    models = []
    for session in record.sessions:
        for sidecar in session.sidecars:
            entry = quality.measures({key: sidecar[key] for key in wanted if key in sidecar})
            if entry and entry not in models:
                models.append(entry)
    return models


def _template_origins(record: Participant) -> list[str]:
    found = [file.content.get("template_origin") for s in record.sessions for file in s.quality]
    return list(dict.fromkeys(str(origin) for origin in found if origin))


def _methods(out_dir: Path) -> str:
    """Return the methods text of the folder as HTML, escaped; empty when it was not written."""
    try:
        text = (out_dir / "logs" / "CITATION.md").read_text(encoding="utf-8")
    except OSError:
        return ""
    return markdown_to_html(text, read_bibliography())
