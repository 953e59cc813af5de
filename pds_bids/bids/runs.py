"""Which files of one session are read together: echoes of a run, runs of a task, the two blip directions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.series import Series
from pds_bids.modalities import Modality
from pds_bids.options import EchoCombination

__all__ = ["join_echoes", "join_runs", "keep_apart", "without_opposite"]

# A remark on a file, or why it is passed over.
Remarks = list[tuple[Path, str]]

# Echo time of the strongest BOLD contrast, about T2* of grey matter, by field strength in tesla.
BEST_ECHO_TIME_S = {1.5: 0.045, 3.0: 0.030, 7.0: 0.025}
# Affines that differ by less (mm) are one grid; repetition times may differ by this share.
GRID_TOLERANCE_MM = 0.01
TR_TOLERANCE = 0.01
OPPOSITE = {"i": "i-", "j": "j-", "k": "k-", "i-": "i", "j-": "j", "k-": "k"}


def join_echoes(
    usable: Iterable[Series], combination: EchoCombination
) -> tuple[list[Series], Remarks, Remarks]:
    """Make one series of the echoes of each run.

    Parameters
    ----------
    usable : iterable of Series
        One for every file.
    combination : EchoCombination
        Combine them, or read the one nearest to the echo time of strongest BOLD contrast.

    Returns
    -------
    runs : list of Series
        One for every run; where echoes are combined `Series.echoes` has all of them.
    notes : list of (Path, str)
        Remarks on what is read.
    passed_over : list of (Path, str)
        Echoes that are not read, and why.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Series]] = {}
    for series in usable:
        groups.setdefault(tuple(_without(series, "echo").items()), []).append(series)
    runs: list[Series] = []
    notes: Remarks = []
    passed_over: Remarks = []
    for echoes in groups.values():
        run, note = _of_echoes(echoes, combination)
        runs.append(run)
        if note:
            notes.append((run.path, note))
        if not run.echoes:
            reason = f"another echo of the same run; echo-{run.entities.get('echo')} is read"
            passed_over += [(echo.path, reason) for echo in echoes if echo is not run]
    return runs, notes, passed_over


def join_runs(
    best: Series, runs: Iterable[Series], is_averaged: bool, pairs_directions: bool
) -> tuple[Series, Remarks, Remarks]:
    """Join to one run what is to be read with it.

    Parameters
    ----------
    best : Series
        The run that is read in any case.
    runs : iterable of Series
        All runs of the modality in the session.
    is_averaged : bool
        Join runs that differ in ``run-`` only.
    pairs_directions : bool
        Join the longest diffusion run of the opposite phase-encoding direction (with `is_averaged`, all).

    Returns
    -------
    series : Series
        `best`, with what is joined to it.
    notes, passed_over : list of (Path, str)
        As for `join_echoes`.
    """
    joined: list[Series] = []
    passed_over: Remarks = []
    has_opposite = False
    for run in sorted((r for r in runs if r is not best), key=lambda r: (-r.n_volumes, r.path.name)):
        is_opposite = pairs_directions and _is_opposite(best, run)
        if is_opposite and (is_averaged or not has_opposite):
            reason = _why_not_together(best, run, {"run", "dir"}) or _why_no_pair(best, run)
        elif is_averaged and not _is_opposite(best, run):
            reason = _why_not_together(best, run, {"run"})
        else:
            reason = _why_not_first(best, run)
        if reason:
            passed_over += [(path, reason) for path in run.images()]
        else:
            joined.append(run)
            has_opposite |= is_opposite
    if not joined:
        return best, [], passed_over
    joined.sort(key=lambda run: run.path.name)
    common = dict(set.intersection(*(set(run.entities.items()) for run in (best, *joined))))
    entities = {key: value for key, value in best.entities.items() if key in common}
    names = ", ".join(run.path.name for run in joined)
    how = "corrected for distortion together and averaged" if has_opposite else "averaged"
    note = f"{best.path.name} is read with {names}: they are {how}"
    return replace(best, entities=entities, joined=tuple(joined)), [(best.path, note)], passed_over


def without_opposite(series: Series) -> Series:
    """Return a series without the joined runs of the opposite phase-encoding direction."""
    kept = tuple(run for run in series.joined if not _is_opposite(series, run))
    if kept == series.joined:
        return series
    # What was dropped from the name of the pair is true of the rest.
    own = parse_entities(series.path)
    common = {key for key, value in own.items() if all(run.entities.get(key) == value for run in kept)}
    entities = {
        key: value for key, value in own.items() if key in common and (key != "echo" or not series.echoes)
    }
    return replace(series, joined=kept, entities=entities)


def keep_apart(runs: Sequence[Series]) -> list[Series]:
    """Give every run the entities that tell it from the others; a single run needs none."""
    keys = {key for run in runs for key in run.entities if key not in ("sub", "ses")}
    differing = {key for key in keys if len({run.entities.get(key) for run in runs}) > 1}
    return [
        replace(run, distinct={key: value for key, value in run.entities.items() if key in differing})
        for run in runs
    ]


def _of_echoes(echoes: list[Series], combination: EchoCombination) -> tuple[Series, str]:
    """Return the series of one run, and a remark on it."""
    if len(echoes) == 1:
        return echoes[0], ""
    timed = [series for series in echoes if isinstance(series.metadata.get("EchoTime"), (int, float))]
    if not timed:
        middle = echoes[(len(echoes) - 1) // 2]
        return middle, (
            f"echo-{middle.entities['echo']} of {len(echoes)} is read, the middle one: no EchoTime is given"
        )
    field_t = timed[0].metadata.get("MagneticFieldStrength")
    known = BEST_ECHO_TIME_S if isinstance(field_t, (int, float)) else {3.0: BEST_ECHO_TIME_S[3.0]}
    best_s = known[min(known, key=lambda strength: abs(strength - (field_t or strength)))]
    chosen = min(timed, key=lambda series: (abs(series.metadata["EchoTime"] - best_s), series.path.name))
    milliseconds = f"{1000 * chosen.metadata['EchoTime']:g} ms"
    why_not = "" if len(timed) == len(echoes) else "some echoes have no EchoTime"
    why_not = why_not or next((r for e in echoes if (r := _other_grid(chosen, e))), "")
    if combination is EchoCombination.ONE or why_not:
        why = why_not or "--combine-echoes one"
        return chosen, (
            f"echo-{chosen.entities['echo']} ({milliseconds}) of {len(echoes)} is read, the nearest to "
            f"{1000 * best_s:g} ms; echoes are not combined: {why}"
        )
    ordered = tuple(sorted(echoes, key=lambda series: series.metadata["EchoTime"]))
    times = ", ".join(f"{1000 * series.metadata['EchoTime']:g}" for series in ordered)
    weights = "weights from T2*" if combination is EchoCombination.T2STAR else "equal weights"
    note = (
        f"{len(echoes)} echoes ({times} ms) are combined with {weights}; head motion is found on "
        f"echo-{chosen.entities['echo']}"
    )
    return replace(chosen, entities=_without(chosen, "echo"), echoes=ordered), note


def _is_opposite(one: Series, other: Series) -> bool:
    """Whether two diffusion series have opposite phase-encoding directions."""
    directions = [series.metadata.get("PhaseEncodingDirection") for series in (one, other)]
    return one.modality is Modality.DWI and OPPOSITE.get(str(directions[0])) == directions[1]


def _why_no_pair(one: Series, other: Series) -> str:
    """Return why opposite directions cannot be corrected together."""
    for series in (one, other):
        if not series.metadata.get("TotalReadoutTime"):
            return (
                f"of the opposite phase-encoding direction, but {series.path.name} has no TotalReadoutTime, "
                "so that distortion cannot be corrected with the two"
            )
    return ""


def _why_not_together(one: Series, other: Series, may_differ: set[str]) -> str:
    """Return why two series are not one, or an empty string."""
    keys = [*one.entities, *other.entities]
    differ = sorted({k for k in keys if one.entities.get(k) != other.entities.get(k)} - may_differ)
    if differ:
        return f"differs in {', '.join(f'{key}-' for key in differ)} from {one.path.name}, which is read"
    if len(one.echoes) != len(other.echoes):
        return f"has another number of echoes than {one.path.name}, which is read"
    times = [series.metadata.get("RepetitionTime") for series in (one, other)]
    tr_s, other_tr_s = (float(t) if isinstance(t, (int, float)) else float("nan") for t in times)
    if abs(tr_s - other_tr_s) > TR_TOLERANCE * tr_s:
        return f"has a RepetitionTime of {other_tr_s:g} s and {one.path.name}, which is read, {tr_s:g} s"
    directions = [series.metadata.get("PhaseEncodingDirection") for series in (one, other)]
    if directions[0] != directions[1] and not _is_opposite(one, other):
        return f"has another phase-encoding direction than {one.path.name}, which is read"
    return _other_grid(one, other)


def _other_grid(one: Series, other: Series) -> str:
    """Return how the grid of another series differs, or an empty string."""
    first, second = (nib.load(series.path) for series in (one, other))
    if first.shape[:3] != second.shape[:3] or not np.allclose(
        first.affine, second.affine, atol=GRID_TOLERANCE_MM
    ):
        return f"is not on the grid of {one.path.name}, which is read"
    return ""


def _why_not_first(best: Series, run: Series) -> str:
    if run.n_volumes == best.n_volumes:
        return "as many volumes as the series that is read, but later in name order"
    return f"{run.n_volumes} volumes, fewer than the {best.n_volumes} of the series that is read"


def _without(series: Series, key: str) -> dict[str, str]:
    return {name: value for name, value in series.entities.items() if name != key}
