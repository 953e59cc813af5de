"""Choose one source series per session and modality, and say why the others are not used."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.metadata import missing_content, nearest_file, parse_entities, read_metadata
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality

__all__ = ["Choice", "Series", "choose_anatomy", "choose_series"]

NotUsed = tuple[tuple[Path, str], ...]

# Echo time of the strongest BOLD contrast, about T2* of grey matter, by field strength in tesla.
BEST_ECHO_TIME_S = {1.5: 0.045, 3.0: 0.030, 7.0: 0.025}
# b-values up to this count as b = 0, as in QSIPrep.
B0_MAX_S_MM2 = 100
# Beyond these b-values are in another unit: s/m2, or ms/um2.
BVAL_MAX_S_MM2 = 1e5
BVAL_MAX_MS_UM2 = 20.0
# b-vectors are printed with few digits.
LENGTH_TOLERANCE = 0.1
HOW_TO_CHOOSE = {
    Modality.BOLD: "choose with --task-id or --bids-filter-file",
    Modality.DWI: "choose with --bids-filter-file",
}


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
    """

    modality: Modality
    path: Path
    metadata: dict[str, Any]
    entities: dict[str, str]
    bval: Path | None = None
    bvec: Path | None = None
    n_volumes: int = 0

    @property
    def label(self) -> str:
        """Name without participant and session, for tables: ``task-rest run-1``."""
        return " ".join(f"{key}-{value}" for key, value in self.entities.items() if key not in ("sub", "ses"))


@dataclass(frozen=True)
class Choice:
    """Outcome of choosing among the files of one kind in one session.

    Parameters
    ----------
    series : Series or None
        What is read; None when there is nothing, or nothing usable.
    problem : str
        Why none of the files can be used; empty when there is none or the filters leave none.
    is_acquired : bool
        Whether the session has the modality at all, usable or not.
    not_used : tuple of (Path, str)
        Files passed over, with the reason.
    notes : tuple of str
        What a reader should know about the choice.
    """

    series: Series | None = None
    problem: str = ""
    is_acquired: bool = False
    not_used: NotUsed = ()
    notes: tuple[str, ...] = ()


def choose_series(
    modality: Modality,
    files: Iterable[Path],
    root: Path,
    is_selected: Callable[[Path], bool] = lambda _: True,
) -> Choice:
    """Choose the series of one modality in one session.

    The usable series with the most volumes wins, ties go to the first in name order; of a multi-echo run
    the echo nearest to the echo time of strongest BOLD contrast is read.

    Parameters
    ----------
    modality : Modality
        BOLD or DWI.
    files : iterable of Path
        All NIfTI files of the modality's suffix in the session.
    root : Path
        Folder of the dataset.
    is_selected : callable
        Whether the filters of the command line leave a file.

    Returns
    -------
    Choice
        The series or the problem, and what was passed over.
    """
    not_used: list[tuple[Path, str]] = []
    usable: list[Series] = []
    problems: list[str] = []
    acquired = []
    for path in sorted(files):
        reason = _never_read(path)
        if reason:
            not_used.append((path, reason))
            continue
        acquired.append(path)
        if not is_selected(path):
            not_used.append((path, "left out by the filters (--task-id, --bids-filter-file)"))
            continue
        try:
            usable.append(_inspect(modality, path, root))
        except DataError as error:
            problems.append(str(error))
            not_used.append((path, str(error)))
    if not usable:
        return Choice(None, "; ".join(problems), bool(acquired), tuple(not_used))
    best = min(usable, key=lambda series: (-series.n_volumes, series.path.name))
    echoes = [series for series in usable if _without_echo(series) == _without_echo(best)]
    chosen, notes = _choose_echo(echoes)
    for series in usable:
        if series is chosen:
            continue
        if series in echoes:
            reason = f"another echo of the same run; echo-{chosen.entities['echo']} is read"
        elif series.n_volumes == chosen.n_volumes:
            reason = "as many volumes as the series that is read, but later in name order"
        else:
            reason = (
                f"{series.n_volumes} volumes, fewer than the {chosen.n_volumes} of the series that is read"
            )
        not_used.append((series.path, f"{reason}; {HOW_TO_CHOOSE[modality]}"))
    return Choice(chosen, "", True, tuple(sorted(not_used)), notes)


def choose_anatomy(
    files: Iterable[Path],
    session: str | None,
    is_selected: Callable[[Path], bool] = lambda _: True,
) -> tuple[Path | None, NotUsed]:
    """Choose the T1w image of a participant for one session.

    One of the same session wins, then the first session in name order; within a session the first in name
    order. Images whose content is not here, or that are not three-dimensional, are passed over.

    Parameters
    ----------
    files : iterable of Path
        All T1w images of the participant.
    session : str or None
        Label of the session to serve.
    is_selected : callable
        Whether the filters of the command line leave an image.

    Returns
    -------
    path : Path or None
        None when there is no usable image.
    not_used : tuple of (Path, str)
        Unusable images that would have come first, and usable ones of the same session.
    """

    def is_other(path: Path) -> bool:
        return parse_entities(path).get("ses") != session

    chosen: Path | None = None
    not_used: list[tuple[Path, str]] = []
    for path in sorted(filter(is_selected, files), key=lambda path: (is_other(path), path.name)):
        if chosen is None:
            try:
                shape = _read_shape(path)
            except DataError as error:
                not_used.append((path, str(error)))
                continue
            wrong = "" if len(shape) == 3 else f"{path.name} has shape {shape}, expected 3D"
            reason = _never_read(path) or wrong
            if reason:
                not_used.append((path, reason))
            else:
                chosen = path
        elif not is_other(path):
            not_used.append((path, "another T1w comes first; choose with --bids-filter-file"))
    return chosen, tuple(not_used)


def _never_read(path: Path) -> str:
    """Return why a file of the right suffix is no candidate, or an empty string."""
    entities = parse_entities(path)
    if entities.get("part", "mag") != "mag":
        return f"part-{entities['part']}: only magnitude images are read"
    if "desc" in entities:
        return "desc-: a derived file among the raw data"
    return ""


def _read_shape(path: Path) -> tuple[int, ...]:
    if missing_content(path):
        raise DataError(f"the content of {path.name} is not here; fetch it with: datalad get {path}")
    try:
        return nib.load(path).shape
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(f"{path.name} cannot be read as NIfTI ({error}); copy or convert it again") from error


def _inspect(modality: Modality, path: Path, root: Path) -> Series:
    """Read headers and tables of a candidate; raise DataError if it cannot be a source."""
    shape = _read_shape(path)
    volumes = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or volumes < 2:
        raise DataError(
            f"{path.name} has shape {shape}; a {modality.upper()} series is 4D with at least 2 volumes"
        )
    metadata = read_metadata(path, root)
    entities = parse_entities(path)
    if modality is Modality.BOLD:
        return Series(modality, path, metadata, entities, n_volumes=volumes)
    bval, bvec = (nearest_file(path, extension, root) for extension in (".bval", ".bvec"))
    if bval is None or bvec is None:
        absent = " and ".join(
            extension for extension, file in ((".bval", bval), (".bvec", bvec)) if file is None
        )
        raise DataError(
            f"{path.name} has no {absent} file, not even higher up in the dataset; convert it again"
        )
    _check_gradients(path, bval, bvec, volumes)
    return Series(modality, path, metadata, entities, bval, bvec, volumes)


def _check_gradients(path: Path, bval: Path, bvec: Path, volumes: int) -> None:
    """Raise DataError unless the gradient table fits the series and has diffusion weighting."""
    tables = {}
    for table in (bval, bvec):
        if missing_content(table):
            raise DataError(f"the content of {table.name} is not here; fetch it with: datalad get {table}")
        try:
            tables[table] = np.loadtxt(table, ndmin=2)
        except ValueError as error:
            raise DataError(f"{table.name} is not a table of numbers ({error}); convert it again") from error
    bvals_s_mm2, vectors = tables[bval].ravel(), tables[bvec]
    if len(bvals_s_mm2) != volumes:
        swapped = len(bvals_s_mm2) == 3 * volumes and vectors.size == volumes
        raise DataError(
            f"{path.name} has {volumes} volumes but {bval.name} has {len(bvals_s_mm2)} b-values; "
            + ("its bval and bvec files are exchanged" if swapped else "convert it again")
        )
    if vectors.shape not in ((3, volumes), (volumes, 3)):
        raise DataError(
            f"{path.name} has {volumes} volumes but {bvec.name} has shape {vectors.shape}, expected "
            f"(3, {volumes}); convert it again"
        )
    problem = _bval_problem(bvals_s_mm2) or _bvec_problem(bvals_s_mm2, vectors)
    if problem:
        raise DataError(f"{path.name} {problem}")


def _bval_problem(bvals_s_mm2: np.ndarray) -> str:
    """Say what is wrong with b-values; empty when nothing is."""
    if not np.isfinite(bvals_s_mm2).all() or (bvals_s_mm2 < 0).any():
        return "has b-values that are negative or not finite; convert it again"
    largest = bvals_s_mm2.max()
    if largest > BVAL_MAX_S_MM2:
        return f"has b-values up to {largest:g}, expected s/mm2; if they are in s/m2, divide them by 1e6"
    if largest <= B0_MAX_S_MM2:
        may_be_ms = 0 < largest < BVAL_MAX_MS_UM2
        hint = f"; if {largest:g} means ms/um2, multiply b-values by 1000" if may_be_ms else ""
        return f"has no diffusion weighting: all b-values are up to {B0_MAX_S_MM2} s/mm2{hint}"
    if bvals_s_mm2.min() > B0_MAX_S_MM2:
        return (
            f"has no b = 0 volume: the smallest b-value is {bvals_s_mm2.min():g} s/mm2; add the b0 of the "
            "same session to the series"
        )
    return ""


def _bvec_problem(bvals_s_mm2: np.ndarray, vectors: np.ndarray) -> str:
    """Say what is wrong with b-vectors of the right shape; empty when nothing is."""
    # A table of three volumes can be read both ways: the right one has lengths of 1.
    readings = [
        np.linalg.norm(vectors, axis=axis) for axis in (0, 1) if vectors.shape[1 - axis] == len(bvals_s_mm2)
    ]
    weighted = bvals_s_mm2 > B0_MAX_S_MM2
    lengths = min((norms[weighted] for norms in readings), key=lambda norms: np.abs(norms - 1).max())
    if (np.abs(lengths - 1) <= LENGTH_TOLERANCE).all():
        return ""
    if np.nan_to_num(lengths).min() < LENGTH_TOLERANCE:
        return (
            "has weighted volumes without a direction (zero or not finite); a trace image does not belong "
            "into the series: remove it and its b-value"
        )
    return (
        f"has b-vectors of length {lengths.min():.3g} to {lengths.max():.3g}, expected 1; normalise them, "
        "after multiplying b by the squared length if that is how the scanner codes b"
    )


def _without_echo(series: Series) -> dict[str, str]:
    return {key: value for key, value in series.entities.items() if key != "echo"}


def _choose_echo(echoes: list[Series]) -> tuple[Series, tuple[str, ...]]:
    """Choose among the echoes of one run."""
    if len(echoes) == 1:
        return echoes[0], ()
    timed = [series for series in echoes if isinstance(series.metadata.get("EchoTime"), (int, float))]
    if not timed:
        middle = echoes[(len(echoes) - 1) // 2]
        note = (
            f"echo-{middle.entities['echo']} of {len(echoes)} is read, the middle one: no EchoTime is given"
        )
        return middle, (note,)
    field_t = timed[0].metadata.get("MagneticFieldStrength")
    known = BEST_ECHO_TIME_S if isinstance(field_t, (int, float)) else {3.0: BEST_ECHO_TIME_S[3.0]}
    nearest_field = min(known, key=lambda strength: abs(strength - (field_t or strength)))
    best_s = known[nearest_field]
    chosen = min(timed, key=lambda series: (abs(series.metadata["EchoTime"] - best_s), series.path.name))
    milliseconds = f"{1000 * chosen.metadata['EchoTime']:g} ms"
    note = (
        f"echo-{chosen.entities['echo']} ({milliseconds}) of {len(echoes)} is read, the nearest to "
        f"{1000 * best_s:g} ms; echoes are not combined"
    )
    return chosen, (note,)
