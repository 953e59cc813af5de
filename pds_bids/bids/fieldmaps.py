"""Which fieldmap BIDS says belongs to a series, and why there is none.

In this order: what the series names by ``B0FieldSource``; for diffusion, a second series of the session with
opposite phase encoding; what names the series by ``IntendedFor``. Of several, images with opposite phase
encoding win over a field in Hz, and that over phases of gradient echoes; then the first in name order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.collect import B0_MAX_S_MM2
from pds_bids.bids.metadata import missing_content, parse_entities, read_metadata, split_name
from pds_bids.bids.readout import OPPOSITE, EchoPlanar, is_number, readout
from pds_bids.bids.series import Series
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality

__all__ = ["EchoPlanar", "Fieldmap", "FieldmapKind", "find_fieldmap", "readout"]

NONE_SAYS_SO = "no fieldmap in BIDS says that it belongs to it"
# Grids of a pair may differ by what a float32 header loses (mm).
SAME_GRID_MM = 0.05


class FieldmapKind(StrEnum):
    """How a field is made."""

    DWI_PAIR = "two diffusion series with opposite phase encoding"
    EPI_PAIR = "two echo-planar images with opposite phase encoding"
    EPI_AND_SERIES = "an echo-planar image with the phase encoding opposite to the series"
    DIRECT = "a field measured by the scanner"
    PHASEDIFF = "the phase difference of two gradient echoes"
    PHASES = "the phases of two gradient echoes"


# What comes first when BIDS offers several.
PRIORITY = list(FieldmapKind)


@dataclass(frozen=True)
class Fieldmap:
    """A fieldmap that can be used for a series.

    Parameters
    ----------
    kind : FieldmapKind
        How the field is made.
    how : str
        What in BIDS ties it to the series: ``B0FieldSource``, ``IntendedFor``, or ``same session``.
    series : EchoPlanar
        The series itself and its readout.
    phases : tuple of Path
        One difference, or the phases of first and second echo.
    echo_times_s : tuple of float
        Of the two echoes.
    units : str
        Of phase or field, as the sidecar has it; empty when it has none.
    magnitude : Path or None
        Magnitude of the gradient echo.
    field : Path or None
        A field in `units`.
    epis : tuple of EchoPlanar
        Images whose directions differ: of fmap/, or the second diffusion series.
    partner : Series or None
        The second diffusion series.
    notes : tuple of str
        What a reader should know: what was passed over, a shim that has changed since.
    """

    kind: FieldmapKind
    how: str
    series: EchoPlanar
    phases: tuple[Path, ...] = ()
    echo_times_s: tuple[float, float] = (0.0, 0.0)
    units: str = ""
    magnitude: Path | None = None
    field: Path | None = None
    epis: tuple[EchoPlanar, ...] = ()
    partner: Series | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        singles = [path for path in (self.magnitude, self.field) if path is not None]
        return (*self.phases, *singles, *(epi.path for epi in self.epis))


def find_fieldmap(
    series: Series, fmap_files: Iterable[Path], others: Iterable[Series], root: Path
) -> tuple[Fieldmap | None, str]:
    """Find the fieldmap of a series.

    Parameters
    ----------
    series : Series
        The series to correct.
    fmap_files : iterable of Path
        NIfTI files in ``fmap/`` of its participant, of all sessions: ``IntendedFor`` may cross sessions.
    others : iterable of Series
        The other usable series of its session.
    root : Path
        Folder of the dataset.

    Returns
    -------
    fieldmap : Fieldmap or None
        None when nothing belongs to the series, or what does cannot be used.
    reason : str
        Why there is none; empty when there is one.
    """
    try:
        candidates = [_Image(path, read_metadata(path, root)) for path in sorted(fmap_files)]
    except DataError as error:
        return None, f"a sidecar in fmap/ cannot be read: {error}"
    others = [other for other in others if other.path != series.path]
    source = _as_list(series.metadata.get("B0FieldSource"))
    pair, pair_reason = _diffusion_pair(series, others)
    if source:
        # A series may itself be part of the field's sources.
        candidates += [_Image(o.path, o.metadata) for o in (series, *others)]
        chosen = [c for c in candidates if set(source) & set(_as_list(c.metadata.get("B0FieldIdentifier")))]
        if not chosen:
            return None, f"B0FieldSource names {', '.join(source)}, but no file is its B0FieldIdentifier"
        how = "B0FieldSource"
        if pair and pair.partner and pair.partner.path in [image.path for image in chosen]:
            return replace(pair, how=how), ""
    elif pair is not None:
        return pair, ""
    else:
        chosen = [c for c in candidates if _is_intended(c, series, root)]
        how = "IntendedFor"
        if not chosen:
            return None, f"{NONE_SAYS_SO}{'; ' + pair_reason if pair_reason else ''}"
    try:
        own = readout(series.metadata, series.path)
    except DataError as error:
        names = ", ".join(c.path.name for c in chosen if c.path != series.path)
        return None, f"{names}: belongs to it by {how}, but {error}"
    found, problems = _assembled(chosen, candidates, series, own, how)
    if not found:
        return None, "; ".join(problems) or NONE_SAYS_SO
    return _first(found), ""


@dataclass(frozen=True)
class _Image:
    path: Path
    metadata: Mapping[str, Any]

    @property
    def suffix(self) -> str:
        return split_name(self.path.name)[1]

    @property
    def group(self) -> tuple[str, ...]:
        """What the files of one fieldmap have in common."""
        entities = parse_entities(self.path)
        return tuple(f"{k}-{v}" for k, v in entities.items() if k not in ("dir", "echo", "part"))


def _assembled(
    chosen: Sequence[_Image], candidates: Sequence[_Image], series: Series, own: EchoPlanar, how: str
) -> tuple[list[Fieldmap], list[str]]:
    """Put files together to fieldmaps; return also why some could not be."""
    found: list[Fieldmap] = []
    problems: list[str] = []
    groups: dict[Any, list[_Image]] = {}
    for image in chosen:
        groups.setdefault("" if how == "B0FieldSource" else image.group, []).append(image)
    for members in groups.values():
        by_suffix: dict[str, list[_Image]] = {}
        for image in members:
            by_suffix.setdefault(image.suffix, []).append(image)
        for build in (_of_blips, _of_field, _of_phases):
            try:
                fieldmap = build(by_suffix, candidates, series, own, how)
            except DataError as error:
                problems.append(str(error))
            else:
                found += [fieldmap] if fieldmap else []
    if not found and not problems:
        names = ", ".join(image.path.name for image in chosen)
        problems.append(f"{names}: belongs to it by {how}, but is no fieldmap that can be used")
    return found, problems


def _of_blips(
    by_suffix: Mapping[str, list[_Image]],
    candidates: Sequence[_Image],
    series: Series,
    own: EchoPlanar,
    how: str,
) -> Fieldmap | None:
    """Two opposite echo-planar images, or one that is opposite to the series."""
    del candidates
    images = [
        i for s in ("epi", "sbref", "dwi", "bold") for i in by_suffix.get(s, []) if i.path != series.path
    ]
    if not images:
        return None
    epis = [readout(image.metadata, _present(image.path)) for image in images]
    notes = _shim_notes(images, series)
    for number, one in enumerate(epis):
        for other in epis[number + 1 :]:
            if other.direction == OPPOSITE[one.direction]:
                return Fieldmap(FieldmapKind.EPI_PAIR, how, own, epis=(one, other), notes=notes)
    for one in epis:
        if one.direction == OPPOSITE[own.direction]:
            return Fieldmap(FieldmapKind.EPI_AND_SERIES, how, own, epis=(one,), notes=notes)
    names = ", ".join(f"{epi.path.name} ({epi.direction})" for epi in epis)
    raise DataError(
        f"{names}: no two opposite directions, neither among them nor with the series ({own.direction})"
    )


def _of_field(
    by_suffix: Mapping[str, list[_Image]],
    candidates: Sequence[_Image],
    series: Series,
    own: EchoPlanar,
    how: str,
) -> Fieldmap | None:
    """A field in Hz, rad/s or tesla with its magnitude."""
    if "fieldmap" not in by_suffix:
        return None
    image = by_suffix["fieldmap"][0]
    units = str(image.metadata.get("Units", ""))
    if not units:
        raise DataError(f"{image.path.name} has no Units")
    magnitude = _sibling(image, ("magnitude", "magnitude1"), candidates)
    return Fieldmap(
        FieldmapKind.DIRECT,
        how,
        own,
        units=units,
        magnitude=magnitude,
        field=_present(image.path),
        notes=_shim_notes([image], series),
    )


def _of_phases(
    by_suffix: Mapping[str, list[_Image]],
    candidates: Sequence[_Image],
    series: Series,
    own: EchoPlanar,
    how: str,
) -> Fieldmap | None:
    """A phase difference, or the phases of two echoes."""
    if "phasediff" in by_suffix:
        image = by_suffix["phasediff"][0]
        times = [image.metadata.get(name) for name in ("EchoTime1", "EchoTime2")]
        phases: tuple[Path, ...] = (_present(image.path),)
        kind = FieldmapKind.PHASEDIFF
    elif "phase1" in by_suffix or "phase2" in by_suffix:
        image = (by_suffix.get("phase1") or by_suffix["phase2"])[0]
        both = [_sibling_image(image, (suffix,), candidates) for suffix in ("phase1", "phase2")]
        times = [one.metadata.get("EchoTime") for one in both]
        phases, kind = tuple(_present(one.path) for one in both), FieldmapKind.PHASES
    else:
        return None
    first_s, second_s = times
    if not (is_number(first_s) and is_number(second_s) and first_s != second_s):
        raise DataError(f"{image.path.name} has no two echo times: {times}")
    magnitude = _sibling(image, ("magnitude1", "magnitude2", "magnitude"), candidates)
    units = str(image.metadata.get("Units", ""))
    notes = _shim_notes([image], series)
    return Fieldmap(kind, how, own, phases, (float(first_s), float(second_s)), units, magnitude, notes=notes)


def _diffusion_pair(series: Series, others: Sequence[Series]) -> tuple[Fieldmap | None, str]:
    """Return the pair with another diffusion series of opposite direction, or why there is none."""
    if series.modality is not Modality.DWI:
        return None, ""
    problems = []
    for other in sorted(others, key=lambda other: other.path.name):
        directions = (
            series.metadata.get("PhaseEncodingDirection"),
            other.metadata.get("PhaseEncodingDirection"),
        )
        if other.modality is not Modality.DWI or OPPOSITE.get(str(directions[0])) != directions[1]:
            continue
        try:
            own, opposite = (
                readout(series.metadata, series.path),
                readout(other.metadata, _present(other.path)),
            )
        except DataError as error:
            problems.append(str(error))
            continue
        problem = _no_pair(series, other)
        if problem:
            problems.append(f"{other.path.name} has the opposite phase encoding, but {problem}")
            continue
        notes = _shim_notes([_Image(other.path, other.metadata)], series)
        return Fieldmap(
            FieldmapKind.DWI_PAIR, "same session", own, epis=(opposite,), partner=other, notes=notes
        ), ""
    return None, "; ".join(problems)


def _no_pair(series: Series, other: Series) -> str:
    """Return why two diffusion series cannot be used together."""
    try:
        one, two = nib.load(series.path), nib.load(other.path)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        return f"it cannot be read ({error})"
    if one.shape[:3] != two.shape[:3]:
        return f"its volumes are {two.shape[:3]}, not {one.shape[:3]}"
    far_mm = np.abs(one.affine - two.affine).max()
    if far_mm > SAME_GRID_MM:
        return f"it lies on another grid ({far_mm:.2f} mm apart)"
    for bval in (series.bval, other.bval):
        if bval is None or not (np.loadtxt(bval, ndmin=1) <= B0_MAX_S_MM2).any():
            return f"{bval.name if bval else 'one'} has no b = 0"
    return ""


def _first(found: Sequence[Fieldmap]) -> Fieldmap:
    """Return the fieldmap of the best kind, and note the others."""
    best, *rest = sorted(found, key=lambda fieldmap: (PRIORITY.index(fieldmap.kind), fieldmap.files))
    unused = tuple(f"not used: {other.kind} ({other.files[0].name})" for other in rest)
    return replace(best, notes=best.notes + unused)


def _is_intended(image: _Image, series: Series, root: Path) -> bool:
    """Tell whether ``IntendedFor`` names the series, by a path in the subject folder or a BIDS URI."""
    series_name = series.path.relative_to(root).as_posix()
    subject = series_name.split("/", 1)[0]
    for entry in _as_list(image.metadata.get("IntendedFor")):
        name = entry.rsplit(":", 1)[1] if entry.startswith("bids:") else entry
        name = name.lstrip("./")
        if name == series_name or f"{subject}/{name}" == series_name:
            return True
    return False


def _sibling_image(image: _Image, suffixes: Sequence[str], candidates: Sequence[_Image]) -> _Image:
    for suffix in suffixes:
        for other in candidates:
            same_folder = other.path.parent == image.path.parent
            if other.suffix == suffix and same_folder and other.group == image.group:
                return other
    raise DataError(f"{image.path.name} is there, but no {' or '.join(suffixes)} beside it")


def _sibling(image: _Image, suffixes: Sequence[str], candidates: Sequence[_Image]) -> Path:
    return _present(_sibling_image(image, suffixes, candidates).path)


def _present(path: Path) -> Path:
    if missing_content(path):
        raise DataError(f"the content of {path.name} is not here; fetch it with: datalad get {path}")
    return path


def _shim_notes(images: Sequence[_Image], series: Series) -> tuple[str, ...]:
    """Say when the scanner was shimmed anew between fieldmap and series: the field is then another one."""
    own = series.metadata.get("ShimSetting")
    names = [i.path.name for i in images if own and i.metadata.get("ShimSetting") not in (None, own)]
    if not names:
        return ()
    return (f"the shim of {', '.join(names)} is not that of the series: the fields differ smoothly",)


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(entry) for entry in value]
