"""Choose one source series per session and modality, and say why the others are not used."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.doubts import sidecar_doubts
from pds_bids.bids.metadata import missing_content, nearest_file, parse_entities, read_metadata
from pds_bids.bids.runs import join_echoes, join_runs, keep_apart
from pds_bids.bids.series import Series
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality
from pds_bids.options import EchoCombination, Runs

__all__ = ["Choice", "Reading", "choose_anatomy", "choose_series"]

NotUsed = tuple[tuple[Path, str], ...]

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
class Choice:
    """Outcome of choosing among the files of one kind in one session.

    Parameters
    ----------
    series : Series or None
        What is read; None when there is nothing, or nothing usable.
    apart : tuple of Series
        Further series that are each read on their own.
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
    apart: tuple[Series, ...] = ()
    problem: str = ""
    is_acquired: bool = False
    not_used: NotUsed = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How several files of one modality in one session are read.

    Parameters
    ----------
    runs : Runs
        The longest one, all that differ in ``run-`` only as one series, or each on its own.
    combine_echoes : EchoCombination
        What is made of echoes.
    pairs_directions : bool
        DWI: whether a series of the opposite phase-encoding direction is joined, which makes sense only when
        distortion is corrected.
    """

    runs: Runs = Runs.ONE
    combine_echoes: EchoCombination = EchoCombination.T2STAR
    pairs_directions: bool = True


def choose_series(
    modality: Modality,
    files: Iterable[Path],
    root: Path,
    is_selected: Callable[[Path], bool] = lambda _: True,
    reading: Reading | None = None,
) -> Choice:
    """Choose the series of one modality in one session.

    The usable run with the most volumes wins, ties go to the first in name order. What else is read with it,
    `reading` says.

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
    reading : Reading, optional
        What is made of echoes and of several runs.

    Returns
    -------
    Choice
        The series or the problem, and what was passed over.
    """
    reading = reading or Reading()
    usable, not_used, problems, is_acquired = _usable(modality, files, root, is_selected)
    if not usable:
        return Choice(None, (), "; ".join(problems), is_acquired, tuple(not_used))
    runs, notes, passed_over = join_echoes(usable, reading.combine_echoes)
    best = min(runs, key=lambda series: (-series.n_volumes, series.path.name))
    apart: tuple[Series, ...] = ()
    if reading.runs is Runs.SEPARATE:
        best, *rest = keep_apart([best, *(run for run in runs if run is not best)])
        apart = tuple(rest)
    else:
        is_joined = (reading.runs is Runs.AVERAGE, reading.pairs_directions)
        best, more_notes, more_passed_over = join_runs(best, runs, *is_joined)
        notes, passed_over = notes + more_notes, passed_over + more_passed_over
        how = f"; {HOW_TO_CHOOSE[modality]}"
        passed_over = [(path, reason + how) for path, reason in passed_over]
    read = {path for series in (best, *apart) for path in series.images()}
    said = tuple(note for path, note in notes if path in read)
    said += tuple(doubt for series in (best, *apart) for doubt in sidecar_doubts(series))
    return Choice(best, apart, "", True, tuple(sorted(not_used + passed_over)), said)


def _usable(
    modality: Modality, files: Iterable[Path], root: Path, is_selected: Callable[[Path], bool]
) -> tuple[list[Series], list[tuple[Path, str]], list[str], bool]:
    """Return what can be read, what is passed over, the problems, and whether anything was acquired."""
    usable: list[Series] = []
    not_used: list[tuple[Path, str]] = []
    problems: list[str] = []
    is_acquired = False
    for path in sorted(files):
        reason = _never_read(path)
        if reason:
            not_used.append((path, reason))
            continue
        is_acquired = True
        if not is_selected(path):
            not_used.append((path, "left out by the filters (--task-id, --bids-filter-file)"))
            continue
        try:
            usable.append(_inspect(modality, path, root))
        except DataError as error:
            problems.append(str(error))
            not_used.append((path, str(error)))
    return usable, not_used, problems, is_acquired


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
                shape, _ = _read_header(path)
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


def _read_header(path: Path) -> tuple[tuple[int, ...], float]:
    """Return the shape of an image and the volume of a voxel in mm3."""
    if missing_content(path):
        raise DataError(f"the content of {path.name} is not here; fetch it with: datalad get {path}")
    try:
        image = nib.load(path)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(f"{path.name} cannot be read as NIfTI ({error}); copy or convert it again") from error
    return image.shape, float(abs(np.linalg.det(image.affine[:3, :3])))


def _inspect(modality: Modality, path: Path, root: Path) -> Series:
    """Read headers and tables of a candidate; raise DataError if it cannot be a source."""
    shape, voxel_mm3 = _read_header(path)
    volumes = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or volumes < 2:
        raise DataError(
            f"{path.name} has shape {shape}; a {modality.upper()} series is 4D with at least 2 volumes"
        )
    metadata = read_metadata(path, root)
    entities = parse_entities(path)
    if modality is Modality.BOLD:
        return Series(modality, path, metadata, entities, n_volumes=volumes, voxel_mm3=voxel_mm3)
    bval, bvec = (nearest_file(path, extension, root) for extension in (".bval", ".bvec"))
    if bval is None or bvec is None:
        absent = " and ".join(
            extension for extension, file in ((".bval", bval), (".bvec", bvec)) if file is None
        )
        raise DataError(
            f"{path.name} has no {absent} file, not even higher up in the dataset; convert it again"
        )
    _check_gradients(path, bval, bvec, volumes)
    return Series(modality, path, metadata, entities, bval, bvec, volumes, voxel_mm3)


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
