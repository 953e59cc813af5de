"""What readers decided, beside the quality of each image; rejected images are never used in silence."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from pds_bids.group.images import Scan
from pds_bids.group.participants import Measured
from pds_bids.modalities import Modality
from pds_bids.reports.ratings import Rating, RatingVerdict

__all__ = ["Exclusion", "add_ratings", "exclude", "exclude_scores", "exclusions"]

#: Participant, session (empty for none), modality, whether synthetic; and the reason.
Exclusion = dict[tuple[str, str, Modality, bool], str]

_WORSE = (RatingVerdict.REJECT, RatingVerdict.DOUBT, RatingVerdict.ACCEPT)


def add_ratings(table: pd.DataFrame, ratings: Sequence[Rating], modality_column: str) -> pd.DataFrame:
    """Add ``rating`` (the worst of several readers), ``raters`` and ``rating_notes`` to synthetic images.

    A rating of an image that has been made again since counts for nothing; the notes say so.
    """
    found: dict[tuple[str, str | None, str], list[Rating]] = {}
    for rating in ratings:
        key = (f"sub-{rating.participant}", _session(rating.session), str(rating.modality))
        found.setdefault(key, []).append(rating)
    columns: dict[str, list[str | None]] = {"rating": [], "raters": [], "rating_notes": []}
    for row in table.to_dict("records"):
        session = row["session_id"] if isinstance(row["session_id"], str) else None
        key = (row["participant_id"], session, str(row[modality_column]))
        own = found.get(key, []) if row["input"] == "synthetic" else []
        fresh = [rating for rating in own if not rating.is_stale]
        columns["rating"].append(str(_worst(fresh)) if fresh else None)
        columns["raters"].append(", ".join(sorted({r.rater or "unnamed" for r in fresh})) or None)
        notes = ["; ".join([*r.artefacts, r.comment]).strip("; ") for r in fresh]
        notes += [f"stale rating of {r.rater or 'unnamed'} ({r.verdict})" for r in own if r.is_stale]
        columns["rating_notes"].append(" | ".join(note for note in notes if note) or None)
    return table.assign(**{name: pd.Series(own, table.index, object) for name, own in columns.items()})


def exclusions(quality: pd.DataFrame, ratings: Sequence[Rating], *, drop_rejected: bool) -> Exclusion:
    """Return which images must not enter fidelity and diagnosis, and why.

    Parameters
    ----------
    quality : DataFrame
        See `pds_bids.group.gather.Gathered`.
    ratings : sequence of Rating
        Of all participants.
    drop_rejected : bool
        Whether images that a reader rejected are left out, too.
    """
    found: Exclusion = {}
    failed = quality[(quality["registration"] == "failed")] if "registration" in quality else quality[:0]
    for row in failed.to_dict("records"):
        label, modality = row["participant_id"].removeprefix("sub-"), Modality(row["modality"])
        session = row["session_id"].removeprefix("ses-") if isinstance(row["session_id"], str) else ""
        reason = f"the registration of {modality} failed its gate"
        found[label, session, modality, False] = reason
        found[label, session, modality.other, True] = reason
    for rating in ratings if drop_rejected else ():
        if rating.verdict is RatingVerdict.REJECT and not rating.is_stale:
            key = (rating.participant, rating.session or "", rating.modality, True)
            found[key] = f"rejected by {rating.rater or 'an unnamed reader'}"
    return found


def exclude(measured: Iterable[Measured], excluded: Exclusion) -> list[Measured]:
    """Return the measurements without excluded images."""

    def is_kept(label: str, scan: Scan) -> bool:
        return (label, scan.session, scan.modality, scan.is_synthetic) not in excluded

    kept = []
    for person in measured:
        label = person.label
        dropped = {
            (own.scan.contrast, own.scan.origin)
            for own in person.signals
            if own.scan.session == person.session and not is_kept(label, own.scan)
        }
        kept.append(
            replace(
                person,
                signals=tuple(own for own in person.signals if is_kept(label, own.scan)),
                comparisons=tuple(
                    own
                    for own in person.comparisons
                    if is_kept(label, own.scan)
                    and (label, own.scan.session, own.scan.modality, False) not in excluded
                ),
                volumes={key: value for key, value in person.volumes.items() if key not in dropped},
            )
        )
    return kept


def exclude_scores(reported: pd.DataFrame, excluded: Exclusion) -> pd.DataFrame:
    """Return the scores of quality files without those of excluded images; see `Gathered.fidelity`."""
    if not len(reported):
        return reported
    labels = reported["participant_id"].str.removeprefix("sub-")
    sessions = reported["session_id"].fillna("").astype(str).str.removeprefix("ses-")
    keys = list(zip(labels, sessions, map(Modality, reported["modality"]), strict=True))
    is_kept = [all((*key, is_made) not in excluded for is_made in (True, False)) for key in keys]
    return reported[is_kept]


def _worst(ratings: Sequence[Rating]) -> RatingVerdict:
    return next(verdict for verdict in _WORSE if any(r.verdict is verdict for r in ratings))


def _session(label: Any) -> str | None:
    return f"ses-{label}" if label else None
