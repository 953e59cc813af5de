"""What readers of the reports thought of synthetic images: ``OUT/ratings/*_rating.json``.

The form of a participant's report saves one file per session and reader. It names the SHA-256 of each image
that was rated, so that a rating of an image that has been made again since is known to be stale.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from pds_bids.bids.metadata import parse_entities
from pds_bids.bids.names import identify
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality

__all__ = ["FORMAT", "Rating", "RatingVerdict", "image_sha256", "read_ratings"]

FORMAT = "pds-bids rating 1"
FOLDER = "ratings"


class RatingVerdict(StrEnum):
    """What a reader decided."""

    ACCEPT = "accept"
    DOUBT = "doubt"
    REJECT = "reject"


@dataclass(frozen=True)
class Rating:
    """One reader's verdict on one synthetic image.

    Parameters
    ----------
    participant : str
        Without ``sub-``.
    session : str or None
        Without ``ses-``.
    image : Path
        The image, relative to the output folder.
    sha256 : str
        Checksum of the image that was rated.
    verdict : RatingVerdict
        The decision.
    artefacts : tuple of str
        Boxes that were ticked, see ``artefacts`` in ``data/reports-spec.yml``.
    comment : str
        Free text.
    rater : str
        Who rated; empty when the reader did not say.
    rated_at : str
        ISO 8601 with time zone.
    file : Path
        Where it was read from, relative to the output folder.
    is_stale : bool
        Whether the folder no longer holds the image that was rated.
    """

    participant: str
    session: str | None
    image: Path
    sha256: str
    verdict: RatingVerdict
    artefacts: tuple[str, ...]
    comment: str
    rater: str
    rated_at: str
    file: Path
    is_stale: bool

    @property
    def modality(self) -> Modality:
        """The modality that the image shows."""
        return _modality(self.image)


def read_ratings(output_dir: Path, participant: str | None = None) -> list[Rating]:
    """Read the ratings of an output folder.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset; its folder ``ratings`` holds ``sub-X[_ses-Y][_rater-Z]_rating.json``. What a
        browser adds to a second download (``_rating (1).json``) does no harm.
    participant : str, optional
        Only this one, without ``sub-``.

    Returns
    -------
    list of Rating
        Sorted by participant, session, image and rater. Of several ratings of an image by the same rater the
        newest counts. Empty when nobody has rated.

    Raises
    ------
    DataError
        If a file is no rating; the message names every such file and what is wrong with it.
    """
    pattern = f"sub-{participant or '*'}_*rating*.json"
    found: list[Rating] = []
    problems = []
    for path in sorted((output_dir / FOLDER).glob(pattern)):
        try:
            found += _read(path, output_dir)
        except (OSError, ValueError) as error:
            problems.append(f"{path.relative_to(output_dir)}: {error}")
    if problems:
        raise DataError(
            f"ratings that cannot be read in {output_dir}; save them again with the form of the report, or "
            "remove them:\n  " + "\n  ".join(problems)
        )
    return _newest(found)


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as a rating names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _newest(ratings: Iterable[Rating]) -> list[Rating]:
    newest = {(r.image, r.rater): r for r in sorted(ratings, key=lambda rating: rating.rated_at)}
    return sorted(newest.values(), key=lambda r: (r.participant, r.session or "", str(r.image), r.rater))


def _read(path: Path, output_dir: Path) -> list[Rating]:
    """Return the ratings of one file; a ValueError says what is wrong with it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'it is not a JSON object with "format": "{FORMAT}"')
    participant, session = _text(content, "participant"), content.get("session")
    named = parse_entities(path)
    if (named.get("sub"), named.get("ses")) != (participant, session):
        raise ValueError(f"its name says {named}, its content participant {participant}, session {session}")
    entries = content.get("ratings")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError('"ratings" is not a list of objects')
    about = (participant, session, _text(content, "rater"), _text(content, "rated_at"))
    return [_rating(entry, about, path, output_dir) for entry in entries]


def _rating(
    entry: Mapping[str, Any], about: tuple[str, str | None, str, str], path: Path, output_dir: Path
) -> Rating:
    participant, session, rater, rated_at = about
    image, sha256, artefacts = _text(entry, "image"), _text(entry, "sha256"), entry.get("artefacts", [])
    parts = PurePosixPath(image).parts
    if parts[:1] != (f"sub-{participant}",) or ".." in parts:
        raise ValueError(f'"image" {image!r} is not an image of sub-{participant}')
    if not isinstance(artefacts, list) or not all(isinstance(item, str) for item in artefacts):
        raise ValueError('"artefacts" is not a list of words')
    if (verdict := _text(entry, "verdict")) not in set(RatingVerdict):
        raise ValueError(f'"verdict" {verdict!r} is not one of {", ".join(RatingVerdict)}')
    _modality(Path(image))
    present = output_dir / image
    return Rating(
        participant=participant,
        session=session,
        image=Path(image),
        sha256=sha256,
        verdict=RatingVerdict(verdict),
        artefacts=tuple(artefacts),
        comment=_text(entry, "comment"),
        rater=rater,
        rated_at=rated_at,
        file=path.relative_to(output_dir),
        is_stale=not present.is_file() or image_sha256(present) != sha256,
    )


def _modality(image: Path) -> Modality:
    name = identify(image)
    if name is None or name.modality is None or not name.key.startswith("synthetic"):
        raise ValueError(f'"image" {image} is not the name of a synthetic image')
    return name.modality


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" is missing or not a text')  # noqa: TRY004 - a file of the wrong content
    return value
