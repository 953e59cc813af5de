"""Match the files of a derivative dataset with what is needed of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.metadata import missing_content, split_name
from pds_bids.bids.recipes import DERIVED_KEYS, NATIVE_LABELS, RECIPES, Level, Need, Pipeline
from pds_bids.bids.series import Series
from pds_bids.modalities import MODALITIES

__all__ = ["LookUp", "Search"]

# What a pipeline may leave out of a name: fMRIPrep combines echoes, QSIPrep joins series of one session.
DROPPED = {
    Pipeline.FMRIPREP: frozenset({"echo", "part"}),
    Pipeline.QSIPREP: frozenset({"echo", "part", "run", "dir", "acq", "rec"}),
}
# Voxels of the model grid, mm, with some room for rounding in headers.
MODEL_VOXEL_MM = 3.01


@dataclass(frozen=True)
class LookUp:
    """One file that was looked for.

    Parameters
    ----------
    level : Level
        Set that it belongs to.
    role : str
        What it is for, see `pds_bids.bids.recipes.Need`.
    pattern : str
        Name that was looked for, below the dataset.
    path : Path or None
        What was found.
    problem : str
        Why what was found cannot be used; empty otherwise.
    """

    level: Level
    role: str
    pattern: str
    path: Path | None = None
    problem: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether it was found and can be used."""
        return self.path is not None and not self.problem


@dataclass(frozen=True)
class _File:
    """A file of the participant, with its name taken apart."""

    path: Path
    entities: dict[str, str]
    suffix: str
    extension: str

    @property
    def acquired(self) -> dict[str, str]:
        """Entities that stem from the acquisition."""
        return _normal({key: value for key, value in self.entities.items() if key not in DERIVED_KEYS})


class Search:
    """The files of one participant, asked for one series.

    Parameters
    ----------
    root : Path
        Derivative dataset.
    pipeline : Pipeline
        What wrote it.
    series : Series
        Acquired series.
    """

    def __init__(self, root: Path, pipeline: Pipeline, series: Series) -> None:
        self._root, self._pipeline, self._series = root, pipeline, series
        folder = root / f"sub-{series.entities['sub']}"
        datatype = MODALITIES[series.modality].datatype
        sessions = [folder, *sorted(folder.glob("ses-*"))]
        own = folder / f"ses-{series.entities['ses']}" if "ses" in series.entities else folder
        self._in_anat = _list(session / "anat" for session in sessions)
        self._beside = _list([own / datatype])

    def level(self, level: Level) -> tuple[list[LookUp], tuple[str, ...]]:
        """Look for one set of files; the series first, since the others must fit to it.

        Returns
        -------
        look_ups : list of LookUp
            One for every file of the set.
        notes : tuple of str
            What a reader should know about the choice.
        """
        look_ups: list[LookUp] = []
        notes: list[str] = []
        series: _File | None = None
        for need in RECIPES[self._pipeline][level]:
            space = series.entities.get("space") if series else None
            chosen, problem = self._choose(need, series, notes)
            if chosen and not problem and need.role == "series":
                series, problem = chosen, self._check_series(chosen, notes)
            pattern = need.pattern(self._series.entities, self._series.modality, space)
            look_ups.append(LookUp(level, need.role, pattern, chosen.path if chosen else None, problem))
        if level is Level.TRANSFORMS:
            notes += self._fieldmap_note()
        return look_ups, tuple(notes)

    def nearby(self) -> tuple[str, ...]:
        """Return the names of images, tables and transforms that could have been of use."""
        kinds = {need.suffixes for needs in RECIPES[self._pipeline].values() for need in needs}
        suffixes = {suffix for names in kinds for suffix in names}
        files = [*self._beside, *self._in_anat]
        return tuple(
            str(file.path.relative_to(self._root))
            for file in files
            if file.suffix in suffixes and file.extension != ".json"
        )

    def _choose(self, need: Need, series: _File | None, notes: list[str]) -> tuple[_File | None, str]:
        """Return the file that fits best and why it cannot be used, or the empty string."""
        space = series.entities.get("space") if series else None
        fitting = [
            file
            for file in (self._in_anat if need.in_anat else self._beside)
            if need.fits(file.entities, file.suffix, file.extension, space)
        ]
        rank = self._anatomy_rank if need.in_anat else self._rank(series)
        ranked = [(order, file) for file in fitting if (order := rank(file)) is not None]
        if not ranked:
            return None, ""
        best = min(order for order, _ in ranked)
        equal = [file for order, file in ranked if order == best]
        if len(equal) > 1:
            equal = _by_resolution(equal, need, notes)
        if len(equal) > 1:
            names = ", ".join(file.path.name for file in equal)
            return equal[0], f"{len(equal)} files fit and none fits better: {names}; remove all but one"
        if need.in_anat and equal[0].entities.get("ses") not in (None, self._series.entities.get("ses")):
            notes.append(f"the T1w image's way to the template is from ses-{equal[0].entities['ses']}")
        absent = missing_content(equal[0].path)
        return equal[
            0
        ], f"its content is not here; fetch it with: datalad get {equal[0].path}" if absent else ""

    def _rank(self, series: _File | None) -> Callable[[_File], tuple[int, bool, bool] | None]:
        """Return the order among files of the acquisition: lower is better, None does not fit."""
        base = series.acquired if series else _normal(self._series.entities)
        may_drop = DROPPED[self._pipeline] if series is None else frozenset({"echo", "part"})
        res = series.entities.get("res") if series else None

        def rank(file: _File) -> tuple[int, bool, bool] | None:
            """Return how well a file fits, lower is better; None if it belongs to something else."""
            own = file.acquired
            dropped = base.keys() - own.keys()
            if not own.items() <= base.items() or not dropped <= may_drop:
                return None
            # The combination of the echoes of a run is better than one of them.
            other_res = series is not None and file.entities.get("res") != res
            return len(dropped - {"echo", "part"}), "echo" in own, other_res

        return rank

    def _anatomy_rank(self, file: _File) -> tuple[int, bool, bool]:
        """Prefer the same session, then files outside of sessions, then another session."""
        order = (self._series.entities.get("ses"), None)
        label = file.entities.get("ses")
        return order.index(label) if label in order else len(order), False, False

    def _check_series(self, file: _File, notes: list[str]) -> str:
        """Return why a series cannot be the one that was acquired, or the empty string."""
        try:
            shape = nib.load(file.path).shape
        except (OSError, EOFError, ValueError, ImageFileError) as error:
            return f"it cannot be read as NIfTI ({error}); copy it again"
        if len(shape) != 4:
            return f"it has shape {shape}, expected a series (X, Y, Z, N)"
        dropped = _normal(self._series.entities).keys() - file.acquired.keys()
        joined = sorted(dropped - {"echo", "part"})
        made_by = self._pipeline.official_name
        if joined:
            notes.append(f"{made_by} names no {', '.join(joined)}: several acquired series may be joined")
        elif self._series.n_volumes not in (0, shape[3]):
            return f"it has {shape[3]} volumes, the acquired series {self._series.n_volumes}: another scan?"
        if "echo" in dropped:
            notes.append(f"{made_by}'s combination of the echoes is read")
        return ""

    def _fieldmap_note(self) -> list[str]:
        known = {"T1w", "orig", *NATIVE_LABELS}
        rank = self._rank(None)
        has_fieldmap = any(
            file.suffix == "xfm"
            and file.entities.get("from") in NATIVE_LABELS
            and file.entities.get("to") not in known
            and rank(file) is not None
            for file in self._beside
        )
        made_by = self._pipeline.official_name
        note = f"{made_by} found a fieldmap, but its correction of distortion is not in the raw series"
        return [note] if has_fieldmap else []


def _list(folders: Iterable[Path]) -> list[_File]:
    """Take the names in some folders apart; folders that are not there are empty."""
    paths = sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return [_File(path, *split_name(path.name)) for path in paths if path.name.startswith("sub-")]


def _normal(entities: Mapping[str, str]) -> dict[str, str]:
    """Make ``run-01`` and ``run-1`` the same."""
    return {key: str(int(value)) if value.isdecimal() else value for key, value in entities.items()}


def _by_resolution(files: list[_File], need: Need, notes: list[str]) -> list[_File]:
    """Choose among files that differ only in ``res-``; return all where they differ otherwise."""
    others = {tuple(sorted({**file.entities, "res": ""}.items())) for file in files}
    if len(others) > 1 or need.in_anat:
        return files
    if need.role != "series":
        return files[:1]

    def order(file: _File) -> tuple[bool, float, str]:
        """Put the largest voxels up to those of the model grid first, unreadable files last."""
        try:
            voxel_mm = float(max(nib.load(file.path).header.get_zooms()[:3]))
        except (OSError, EOFError, ValueError, ImageFileError):
            return True, float("inf"), file.path.name
        is_coarse = voxel_mm > MODEL_VOXEL_MM
        return is_coarse, voxel_mm if is_coarse else -voxel_mm, file.path.name

    # Finer voxels than the model grid's cost time and memory and add nothing; coarser ones lose detail.
    best = min(files, key=order)
    notes.append(f"of {len(files)} resolutions, {best.path.name} is read: nearest to the model grid")
    return [best]
