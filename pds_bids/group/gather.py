"""Read quality, plans and provenance of all participants into two tables; nobody is dropped in silence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pds_bids.exceptions import NothingSelectedError
from pds_bids.modalities import MAP_UNITS, MODALITIES, Modality
from pds_bids.reports import quality
from pds_bids.reports.records import Participant, QualityFile, Session, read_participant
from pds_bids.reports.verdict import GateStatus

__all__ = ["OUTLIER_Z", "Gathered", "flag_outliers", "gather", "robust_z"]

#: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers.
OUTLIER_Z = 3.5
#: Fewer values than this have no outliers.
FEWEST = 8
#: Numbers of a quality file that are settings or seeds, not quality.
NOT_QUALITY = ("n_volumes", "n_runs", "n_segments", "intensity_scale")
STATES = ("complete", "incomplete", "failed", "skipped", "no output")


@dataclass(frozen=True, eq=False)
class Gathered:
    """What all participants' folders say.

    Parameters
    ----------
    quality : DataFrame
        One row per image series, acquired or synthetic, and one per session or participant without any.
    synthetic : DataFrame
        One row per synthetic contrast.
    fidelity : DataFrame
        One row per synthetic contrast that was acquired too, predictor and metric.
    incomplete : DataFrame
        Sessions that are not complete: participant_id, session_id, state, reason.
    """

    quality: pd.DataFrame
    synthetic: pd.DataFrame
    fidelity: pd.DataFrame
    incomplete: pd.DataFrame


def gather(output_dir: Path, listed: Sequence[str] = (), participants: Sequence[str] = ()) -> Gathered:
    """Read all participants of an output folder.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    listed : sequence of str
        Participants of the input dataset, without ``sub-``; those without a folder are listed as such.
    participants : sequence of str
        Who is wanted; empty for everybody.

    Returns
    -------
    Gathered
        Sorted by participant.

    Raises
    ------
    NothingSelectedError
        If the folder holds no participant that is wanted.
    """
    there = {path.name.removeprefix("sub-") for path in output_dir.glob("sub-*") if path.is_dir()}
    wanted = (there | set(listed)) & set(participants) if participants else there | set(listed)
    if not there & wanted:
        raise NothingSelectedError(
            f"{output_dir} holds no outputs of the participants asked for; run the level participant first"
        )
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for label in sorted(wanted):
        if label not in there:
            rows.append(_row(label, None, "no output", "no folder of this participant among the outputs"))
            continue
        record = read_participant(output_dir, label)
        if not record.sessions:
            rows.append(_row(label, None, "no output", "the participant's folder holds no session"))
        for session in record.sessions:
            state, reason = _state(session, record)
            own = [_quality_row(label, session, file, state, reason) for file in session.quality]
            rows += own or [_row(label, session.label, state, reason)]
            images += _synthetic_rows(label, session)
            scores += _fidelity_rows(label, session)
    table = flag_outliers(pd.DataFrame(rows), ("modality", "input"))
    bad = table[table["state"] != "complete"]
    columns = ["participant_id", "session_id", "state", "reason"]
    return Gathered(
        table,
        flag_outliers(pd.DataFrame(images), ("target",)) if images else pd.DataFrame(),
        pd.DataFrame(scores),
        bad[columns].drop_duplicates().reset_index(drop=True),
    )


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return ``0.6745 (x - median) / MAD``; nan where fewer than eight values or no spread.

    Examples
    --------
    >>> robust_z(np.array([1, 2, 3, 4, 5, 6, 7, 8, 50.0]))[-1].round(1)
    np.float64(15.2)
    """
    numbers = np.asarray(values, np.float64)
    known = numbers[np.isfinite(numbers)]
    if len(known) < FEWEST:
        return np.full(len(numbers), np.nan)
    middle = np.median(known)
    mad = np.median(np.abs(known - middle))
    if not mad > 0:
        return np.full(len(numbers), np.nan)
    return 0.6744897501960817 * (numbers - middle) / mad


def flag_outliers(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Add ``outliers``: columns whose value lies far from those of the same kind of image.

    Parameters
    ----------
    table : DataFrame
        One row per image.
    by : sequence of str
        Columns within which rows are comparable.

    Returns
    -------
    DataFrame
        A copy with ``outliers``, for example ``fd_mean_mm (z 5.1)``, and ``largest_z``.
    """
    numbers = [
        column
        for column in table.columns
        if pd.api.types.is_float_dtype(table[column]) and column not in ("largest_z", *NOT_QUALITY)
    ]
    z = np.full((len(table), len(numbers)), np.nan)
    for places in table.groupby(list(by), dropna=False).indices.values():
        for k, column in enumerate(numbers):
            z[places, k] = robust_z(table[column].to_numpy(float)[places])
    far = np.abs(z) > OUTLIER_Z
    texts = [
        "; ".join(f"{numbers[k]} (z {z[row, k]:.1f})" for k in np.flatnonzero(far[row]).tolist())
        for row in range(len(table))
    ]
    largest = [float(np.nanmax(np.abs(own))) if np.isfinite(own).any() else np.nan for own in z]
    return table.assign(outliers=texts, largest_z=largest)


def _row(label: str, session: str | None, state: str, reason: str) -> dict[str, Any]:
    return {
        "participant_id": f"sub-{label}",
        "session_id": f"ses-{session}" if session else None,
        "state": state,
        "reason": reason,
        "modality": None,
        "input": None,
        "series": None,
    }


def _state(session: Session, record: Participant) -> tuple[str, str]:
    """Say what became of a session, from its plan, its files and the crashes of the last run."""
    own = f"_ses_{session.label}_".replace("+", "_") if session.label else "_wf"
    crashes = [crash for crash in record.last_run.crashes if own in crash.session_workflow]
    action, why = session.plan.get("action", ""), str(session.plan.get("reason", ""))
    if crashes or action == "fail":
        return "failed", crashes[0].reason if crashes else why
    if missing := session.missing():
        return "incomplete", f"no synthetic {' and '.join(missing)} in the folder"
    if broken := [file.path.name for file in session.quality if not file.content]:
        return "incomplete", f"{', '.join(broken)} cannot be read"
    if not session.plan:
        return "incomplete", "there is no plan of this session: what was asked for is not known"
    if action == "skip" and not session.synthetic:
        return "skipped", why
    return "complete", ""


def _modality_of(file: QualityFile) -> Modality:
    return next(m for m, spec in MODALITIES.items() if spec.datatype == file.path.parent.name)


def _is_synthetic(file: QualityFile) -> bool:
    return file.entities.get("desc", "").startswith("synthetic")


def _quality_row(label: str, session: Session, file: QualityFile, state: str, reason: str) -> dict[str, Any]:
    content = file.content
    said = [verdict for _, verdict in quality.verdicts(content)]
    worst = next((s for s in (GateStatus.FAILED, GateStatus.FALLBACK) if s in {v.status for v in said}), None)
    notes = quality.warnings(content)
    series = "_".join(f"{k}-{v}" for k, v in file.entities.items() if k not in ("sub", "ses", "desc"))
    return _row(label, session.label, state, reason) | {
        "modality": str(_modality_of(file)),
        "input": "synthetic" if _is_synthetic(file) else "acquired",
        "series": series or None,
        "registration": str(worst or (said[0].status if said else GateStatus.UNKNOWN)) if said else None,
        "n_warnings": len(notes),
        "warnings": " | ".join(notes) or None,
        **dict(_numbers({k: v for k, v in content.items() if k not in ("fidelity", "warnings")})),
    }


def _numbers(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    """Return the numbers of nested objects, names joined by a dot; lists are left to the quality files."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _synthetic_rows(label: str, session: Session) -> list[dict[str, Any]]:
    """Return one row per synthetic target: how it was made, and how close it came where that is known."""
    sidecars = {
        path.parent.name: sidecar for path, sidecar in zip(session.synthetic, session.sidecars, strict=False)
    }
    rows = []
    for file in session.quality:
        if not _is_synthetic(file):
            continue
        target = _modality_of(file)
        sidecar = sidecars.get(MODALITIES[target].datatype, {})
        model = sidecar.get("GenerativeModel") or {}
        row = {
            "participant_id": f"sub-{label}",
            "session_id": f"ses-{session.label}" if session.label else None,
            "target": str(target),
            "input": "synthetic",
            "made_from": f"acquired {target.other}",
            "is_target_acquired": bool(file.content.get("acquired_target")),
            "model": model.get("Name"),
            "weights_sha256": model.get("WeightsSHA256"),
            "random_seed": sidecar.get("RandomSeed"),
            **{
                name: float(file.content[name])
                for name in ("synthetic_mean", "synthetic_std", "uncertainty_median")
                if isinstance(file.content.get(name), int | float)
            },
        }
        for table in quality.fidelity(file.content):
            for metric in ("psnr_brain", "ssim_brain", "mae_brain"):
                values = {r.is_model: r.values.get(metric, math.nan) for r in table.rows[::-1] if r.is_model}
                row[f"{table.target}.{metric}"] = values.get(True, math.nan)
                others = [r.values.get(metric, math.nan) for r in table.rows if not r.is_model]
                known = [value for value in others if math.isfinite(value)]
                if metric == "psnr_brain" and known:
                    row[f"{table.target}.psnr_gain_db"] = values.get(True, math.nan) - max(known)
        rows.append(row)
    return rows


def _fidelity_rows(label: str, session: Session) -> list[dict[str, Any]]:
    units = {str(contrast): unit for contrast, unit in MAP_UNITS.items()}
    return [
        {
            "participant_id": f"sub-{label}",
            "session_id": f"ses-{session.label}" if session.label else None,
            "modality": str(_modality_of(file)),
            "contrast": table.target,
            "predictor": "model" if row.is_model else row.predictor,
            "metric": metric,
            # Quality files compare maps in the units of a network.
            "value": value * units.get(table.target, 1.0) if metric.startswith("mae") else value,
        }
        for file in session.quality
        if _is_synthetic(file)
        for table in quality.fidelity(file.content)
        for row in table.rows
        for metric, value in row.values.items()
    ]
