"""What an acquired series is: its files, its metadata, and what is read together with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_bids.modalities import Modality

__all__ = ["Series"]


@dataclass(frozen=True)
class Series:
    """An acquired series that is read.

    Parameters
    ----------
    modality : Modality
        BOLD or DWI.
    path : Path
        NIfTI file.
    metadata : dict
        Sidecar with what it inherits.
    entities : dict of str
        Entities of the file name, short keys, in BIDS order: ``{"sub": "01", "task": "rest"}``.
    bval, bvec : Path or None
        Gradient table of a DWI series, possibly inherited.
    n_volumes : int
        Length of the fourth axis.
    voxel_mm3 : float
        Volume of a voxel, for estimates of memory.
    echoes : tuple of Series
        All echoes of the run by echo time, when they are combined; empty otherwise. `path` is the echo on
        which head motion is found.
    joined : tuple of Series
        Further runs that are read as the continuation of this one. `entities` are then what all have in
        common.
    distinct : dict of str
        Entities that tell this series from others of its session that are kept apart; they go into the names
        of what is synthesised from it.
    """

    modality: Modality
    path: Path
    metadata: dict[str, Any]
    entities: dict[str, str]
    bval: Path | None = None
    bvec: Path | None = None
    n_volumes: int = 0
    voxel_mm3: float = 27.0
    echoes: tuple["Series", ...] = ()
    joined: tuple["Series", ...] = ()
    distinct: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> tuple["Series", ...]:
        """The series itself and those joined to it."""
        return (self, *self.joined)

    @property
    def total_volumes(self) -> int:
        """Volumes of all runs."""
        return sum(run.n_volumes for run in self.runs)

    def images(self) -> tuple[Path, ...]:
        """Return every image that is read: runs, and their echoes."""
        return tuple(dict.fromkeys(s.path for run in self.runs for s in (run, *run.echoes)))

    def files(self) -> tuple[Path, ...]:
        """Return every file that is read: images, then gradient tables."""
        tables = [table for run in self.runs for table in (run.bval, run.bvec) if table is not None]
        return (*self.images(), *dict.fromkeys(tables))

    @property
    def label(self) -> str:
        """Name without participant and session, for tables: ``task-rest run-1``."""
        return " ".join(f"{key}-{value}" for key, value in self.entities.items() if key not in ("sub", "ses"))
