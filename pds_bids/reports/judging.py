"""What a reader judges the synthetic images of a participant by: viewer, checksums, earlier ratings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pds_bids.exceptions import DataError
from pds_bids.reports.images import SyntheticImage, synthetic_images
from pds_bids.reports.ratings import Rating, RatingVerdict, read_ratings
from pds_bids.reports.records import Participant
from pds_bids.reports.viewer import write_library, write_volumes

__all__ = ["Judged", "Judgement", "judge", "worst_verdict"]


@dataclass(frozen=True)
class Judged:
    """One synthetic image, the script with its volumes if there is one, and its ratings."""

    image: SyntheticImage
    volumes: Path | None
    ratings: tuple[Rating, ...] = ()

    @property
    def title(self) -> str:
        """Name for readers, with the entities that tell it from others."""
        rest = [f"{k}-{v}" for k, v in self.image.name.entities.items() if k not in ("sub", "ses")]
        return " ".join(["synthetic", self.image.modality.upper(), *rest])


@dataclass(frozen=True)
class Judgement:
    """The images of a participant by session, and what is wrong with the files of ratings."""

    sessions: dict[str | None, list[Judged]]
    problem: str = ""

    def current(self, session: str | None) -> list[Rating]:
        """Return the ratings of a session that are about the images in the folder."""
        return [r for judged in self.sessions.get(session, ()) for r in judged.ratings if not r.is_stale]


def judge(out_dir: Path, record: Participant) -> Judgement:
    """Write the viewers of a participant, and gather what a reader needs.

    Parameters
    ----------
    out_dir : Path
        Derivative dataset.
    record : Participant
        What it holds.

    Returns
    -------
    Judgement
    """
    problem = ""
    ratings: list[Rating] = []
    try:
        ratings = read_ratings(out_dir, record.label)
    except DataError as error:
        problem = str(error)
    sessions = {
        session.label: [
            Judged(image, write_volumes(out_dir, image), tuple(r for r in ratings if r.image == image.path))
            for image in synthetic_images(out_dir, record.label, session)
        ]
        for session in record.sessions
    }
    if any(judged.volumes for images in sessions.values() for judged in images):
        write_library(out_dir)
    return Judgement(sessions, problem)


def worst_verdict(ratings: Iterable[Rating]) -> RatingVerdict | None:
    """Return the worst verdict; None without ratings."""
    said = {rating.verdict for rating in ratings}
    return next((verdict for verdict in reversed(RatingVerdict) if verdict in said), None)
