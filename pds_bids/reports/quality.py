"""Read quality files for people: gates as traffic lights, fidelity beside baselines, the rest as a table.

A quality file is a JSON object. Some keys have a meaning, all optional:

``registration``, and every key that starts so
    Figures of a gate: ``{"passed": bool, "stage": str, "reason": str, ...numbers}``, or with ``"status":
    "passed" | "fallback" | "failed"`` in place of the first two.
``fidelity``
    One object per predictor, ``{"target": "dwi", "predictor": "unet", "is_model": true, "psnr_db": 18.2}``,
    in a list, or nested mappings ``{"dwi": {"unet": {"psnr_db": 18.2}}}``.
``warnings``
    List of str.
``template_origin``
    str.

Everything else is shown as it is.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pds_bids.reports.verdict import Verdict

__all__ = ["FidelityRow", "FidelityTable", "fidelity", "format_value", "measures", "verdicts", "warnings"]

_SPECIAL = ("fidelity", "warnings", "template_origin")
# Higher is better in all of them.
_MAIN_METRICS = ("psnr_brain", "ssim_brain", "psnr_db", "psnr", "ssim")
# Longer lists are for machines.
_LONGEST_LIST = 12


@dataclass(frozen=True)
class FidelityRow:
    """How close one predictor comes to the acquired target."""

    predictor: str
    is_model: bool
    values: Mapping[str, float]


@dataclass(frozen=True)
class FidelityTable:
    """Predictors of one target, the model first."""

    target: str
    rows: tuple[FidelityRow, ...]
    columns: tuple[str, ...] = field(default=())

    @property
    def main_columns(self) -> tuple[str, ...]:
        """What is worth a place on the page: metrics inside the brain; all, where none says so."""
        return tuple(name for name in self.columns if name.endswith("_brain")) or self.columns

    def shortfall(self) -> str:
        """Say by how much the model misses the best trivial baseline on the first main metric, if it does."""
        headlines = self.headlines()
        return headlines[0][1] if headlines and " below " in headlines[0][1] else ""

    def verdict(self, column: str) -> str:
        """Say whether the model clears the best trivial baseline in `column`; higher must be better."""
        model = [row.values[column] for row in self.rows if row.is_model and column in row.values]
        others = [
            (row.values[column], row.predictor)
            for row in self.rows
            if not row.is_model and math.isfinite(row.values.get(column, math.nan))
        ]
        if not model or not others or not math.isfinite(model[0]):
            return ""
        best, name = max(others)
        gain = model[0] - best
        unit = " dB" if "psnr" in column.lower() else ""
        relation = "above" if gain > 0 else "below"
        return f"the model is {abs(gain):.2f}{unit} {relation} the best trivial baseline ({name})"

    def headlines(self) -> list[tuple[str, str]]:
        """Return the verdicts on the main metrics, those inside the brain, with their columns."""
        found = [(column, self.verdict(column)) for column in _MAIN_METRICS if column in self.columns]
        return [(column, text) for column, text in found if text]


def verdicts(content: Mapping[str, Any]) -> list[tuple[str, Verdict]]:
    """Return what the gates of a quality file said; the name tells several apart, empty for the main one."""
    return [
        (key.removeprefix("registration").strip("_ "), Verdict.from_gate(value))
        for key, value in content.items()
        if _is_gate(key, value)
    ]


def warnings(content: Mapping[str, Any]) -> list[str]:
    """Return the warnings of a quality file."""
    entry = content.get("warnings") or []
    return [str(item) for item in ([entry] if isinstance(entry, str) else entry)]


def fidelity(content: Mapping[str, Any]) -> list[FidelityTable]:
    """Return one table per target that was acquired and synthesised.

    Examples
    --------
    >>> tables = fidelity({"fidelity": {"dwi": {"source": {"psnr_db": 15}, "unet": {"psnr_db": 18}}}})
    >>> [row.predictor for row in tables[0].rows], tables[0].verdict("psnr_db")
    (['unet', 'source'], 'the model is 3.00 dB above the best trivial baseline (source)')
    """
    targets: dict[str, list[FidelityRow]] = {}
    for target, predictor, entry in _predictions(content.get("fidelity")):
        values = {key: float(value) for key, value in entry.items() if _is_number(value)}
        # JSON has no nan: an undefined metric is null.
        values |= {key: math.nan for key, value in entry.items() if value is None}
        is_model = bool(entry.get("is_model", predictor.lower() in ("model", "unet", "pds", "synthetic")))
        targets.setdefault(target, []).append(FidelityRow(predictor, is_model, values))
    tables = []
    for target, rows in targets.items():
        ordered = sorted(rows, key=lambda row: not row.is_model)
        columns = tuple(dict.fromkeys(key for row in ordered for key in row.values))
        tables.append(FidelityTable(target, tuple(ordered), columns))
    return tables


def measures(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of everything else, nested names joined by a dot."""
    gates = {
        key: {name: item for name, item in value.items() if name not in ("status", "passed", "reason")}
        for key, value in content.items()
        if _is_gate(key, value)
    }
    rest = {key: value for key, value in content.items() if key not in gates and key not in _SPECIAL}
    return list(_flat(gates | rest))


def format_value(value: Any) -> str:
    """Return a value as a reader wants it: numbers to four digits, nan and null as ``n/a``."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _predictions(entry: Any, names: tuple[str, ...] = ()) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Walk both forms of the fidelity entry: target, predictor, values."""
    if isinstance(entry, list):
        for item in entry:
            if isinstance(item, Mapping):
                yield str(item.get("target", "")), str(item.get("predictor", "?")), item
    elif isinstance(entry, Mapping) and any(_is_number(value) for value in entry.values()):
        *above, predictor = names or ("?",)
        yield " ".join(above), predictor, entry
    elif isinstance(entry, Mapping):
        for name, item in entry.items():
            yield from _predictions(item, (*names, str(name)))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            is_short = len(value) <= _LONGEST_LIST and not any(isinstance(v, list | dict) for v in value)
            yield name, ", ".join(map(format_value, value)) if is_short else f"{len(value)} values"
        else:
            yield name, format_value(value)


def _is_gate(key: str, value: Any) -> bool:
    return key.startswith("registration") and isinstance(value, Mapping)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
