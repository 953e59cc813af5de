"""Find what fMRIPrep or QSIPrep has already made of an acquired series, and say what is missing.

The raw dataset remains the index of what was acquired; `pds_bids.bids.recipes` holds the names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pds_bids.bids.matching import LookUp, Search
from pds_bids.bids.metadata import split_name
from pds_bids.bids.recipes import RECIPES, Level, Pipeline
from pds_bids.bids.series import Series
from pds_bids.bids.sidecars import bids_uri
from pds_bids.exceptions import UsageError

__all__ = [
    "DerivativeDataset",
    "Level",
    "LookUp",
    "Pipeline",
    "Precomputed",
    "find_derivatives",
    "find_precomputed",
]

# Label of the resolution of our own grid in the template.
OWN_RESOLUTION = "3"
# Names that a listing shows at most.
LISTED = 20


@dataclass(frozen=True)
class DerivativeDataset:
    """A folder that a pipeline has written.

    Parameters
    ----------
    pipeline : Pipeline
        Which one.
    root : Path
        Folder with ``dataset_description.json``.
    version : str
        Version of the pipeline; empty if the description has none.
    """

    pipeline: Pipeline
    root: Path
    version: str = ""

    @property
    def source(self) -> str:
        """Name and version, for texts."""
        return f"{self.pipeline.official_name} {self.version}".strip()


@dataclass(frozen=True)
class Precomputed:
    """What a pipeline has made of one acquired series.

    Parameters
    ----------
    dataset : DerivativeDataset
        Where it was looked for.
    label : str
        The series: ``sub-01 ses-1 task-rest bold``.
    level : Level or None
        The set of files that is used; None if no set is complete.
    files : dict of str to Path
        Role to file, of that set.
    look_ups : tuple of LookUp
        Everything that was looked for, in order of preference up to the set that is used.
    nearby : tuple of str
        Names of the participant's files that could have been of use, for the listing.
    notes : tuple of str
        What a reader should know.
    """

    dataset: DerivativeDataset
    label: str
    level: Level | None = None
    files: dict[str, Path] = field(default_factory=dict)
    look_ups: tuple[LookUp, ...] = ()
    nearby: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_realigned(self) -> bool:
        """Whether a series without head motion is read in place of the raw one."""
        return "series" in self.files

    @property
    def transforms(self) -> tuple[Path, ...]:
        """Files that lead from the space of the series to the template, in the order of their names."""
        return tuple(self.files[role] for role in ("coreg", "anat") if role in self.files)

    @property
    def is_native(self) -> bool:
        """Whether the series lies in the space of the scan, so that native outputs belong to the raw data."""
        return self.level in (Level.ACQUIRED, Level.TRANSFORMS)

    @property
    def space(self) -> str:
        """Label for ``space-`` of what is not on the template grid; empty in the space of the scan."""
        if self.is_native or not self.is_realigned:
            return ""
        return split_name(self.files["series"].name)[0]["space"]

    @property
    def space_entities(self) -> dict[str, str]:
        """Entities of names that say where the series lies; none in the space of the scan."""
        if not self.space:
            return {}
        found = split_name(self.files["series"].name)[0]
        entities: dict[str, str] = {key: found[key] for key in ("space", "res") if key in found}
        if self.level is Level.TEMPLATE and found.get("res", OWN_RESOLUTION) == OWN_RESOLUTION:
            # Their grid, whatever it is called, is not ours.
            entities["res"] = "source"
        return entities

    @property
    def uris(self) -> list[str]:
        """BIDS URIs of the files that are read, in the dataset ``bids:fmriprep:`` or ``bids:qsiprep:``."""
        root, name = self.dataset.root, str(self.dataset.pipeline)
        return [bids_uri(path, root, name) for path in self.files.values()]

    @property
    def problem(self) -> str:
        """Why it cannot be used, in a sentence; empty if it can."""
        if self.level is not None:
            return ""
        lacking = {level: [look for look in looks if not look.is_usable] for level, looks in self._by_level()}
        nearest = min(lacking, key=lambda level: len(lacking[level]))
        missing = ", ".join(f"{look.role} ({look.problem or look.pattern})" for look in lacking[nearest])
        return (
            f"{self.dataset.source} derivatives in {self.dataset.root} do not cover {self.label}; "
            f"nearest to complete is the set '{nearest.text}', which lacks: {missing}. "
            f"Run {self.dataset.pipeline.official_name} on it, or leave out -d {self.dataset.pipeline}"
        )

    def listing(self) -> str:
        """Return what was looked for, what was found and what is needed, as plain text."""
        using = f"uses: {self.level.text}" if self.level else "no set of files is complete; one is needed"
        lines = [f"{self.label} from {self.dataset.source} ({self.dataset.root}): {using}"]
        for level, looks in self._by_level():
            lines.append(f"  {level.text}:")
            for look in looks:
                state = "found" if look.is_usable else "unusable" if look.path else "missing"
                name = str(look.path.relative_to(self.dataset.root)) if look.path else look.pattern
                lines.append(f"    {state:<8}  {look.role:<9}  {name}")
                if look.problem:
                    lines.append(f"    {'':<8}  {'':<9}  {look.problem}")
        if self.level is None:
            more = f" and {len(self.nearby) - LISTED} more" if len(self.nearby) > LISTED else ""
            lines.append(f"  files there: {', '.join(self.nearby[:LISTED]) or 'none'}{more}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def applied_to(self, series: Series) -> Series:
        """Return the series that is read: theirs if there is one, otherwise the raw one.

        Its path gives size and storage order; entities and metadata stay those of the acquisition, with the
        space that the series is in.
        """
        if not self.is_realigned:
            return series
        path = self.files["series"]
        image = nib.load(path)
        return replace(
            series,
            path=path,
            entities=series.entities | self.space_entities,
            n_volumes=image.shape[3],
            voxel_mm3=float(abs(np.linalg.det(image.affine[:3, :3]))),
            echoes=(),
            joined=(),
            bval=self.files.get("bval"),
            bvec=self.files.get("bvec"),
        )

    def _by_level(self) -> list[tuple[Level, list[LookUp]]]:
        levels = dict.fromkeys(look.level for look in self.look_ups)
        return [(level, [look for look in self.look_ups if look.level is level]) for level in levels]


def find_derivatives(root: Path, pipeline: Pipeline) -> DerivativeDataset:
    """Check that a folder is what a pipeline has written.

    Parameters
    ----------
    root : Path
        Folder with ``dataset_description.json`` and the ``sub-`` folders.
    pipeline : Pipeline
        What the user says it is.

    Returns
    -------
    DerivativeDataset

    Raises
    ------
    UsageError
        If the folder is not a derivative dataset, or of another pipeline.
    """
    file = root / "dataset_description.json"
    if not file.is_file():
        nested = [path for path in (root / pipeline, root / "derivatives" / pipeline) if path.is_dir()]
        hint = (
            f"did you mean -d {pipeline}={nested[0]}?" if nested else "give the folder with its sub- folders"
        )
        raise UsageError(f"-d {pipeline}={root}: no dataset_description.json there; {hint}")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"-d {pipeline}: {file} cannot be read as JSON ({error}); repair it") from error
    made_by = _made_by(description)
    if pipeline not in made_by:
        if not made_by and description.get("DatasetType", "raw") == "raw":
            what = "a raw dataset, not derivatives"
        else:
            what = f"made by {', '.join(made_by) or 'a pipeline that it does not name'}"
        also = next((other for other in Pipeline if other in made_by), None)
        advice = f"use -d {also}={root}" if also else f"give the output folder of {pipeline.official_name}"
        raise UsageError(f"-d {pipeline}={root}: {file.name} there says that it is {what}; {advice}")
    return DerivativeDataset(pipeline, root, made_by[pipeline])


def find_precomputed(dataset: DerivativeDataset, series: Series) -> Precomputed:
    """Look for what a pipeline has made of a series.

    The first complete set of files in the order of `RECIPES` is used. A realigned series comes before the raw
    one, since it may be corrected for slice timing and distortion; the space of the scan before others, so
    that what is synthesised there overlays the scan; then the T1w image's; then the template's, which needs
    the fewest files. All of them are interpolated once by the pipeline and once here.

    Parameters
    ----------
    dataset : DerivativeDataset
        From `find_derivatives`.
    series : Series
        Acquired series of the modality that the pipeline preprocesses.

    Returns
    -------
    Precomputed
        With its ``level`` None, a ``problem`` and a ``listing`` if no set is complete.

    Raises
    ------
    UsageError
        If the pipeline is not one for this modality.
    """
    if series.modality is not dataset.pipeline.modality:
        raise UsageError(
            f"{dataset.pipeline.official_name} does not preprocess {series.modality.upper()} series"
        )
    search = Search(dataset.root, dataset.pipeline, series)
    label = " ".join(f"{key}-{value}" for key, value in series.entities.items()) + f" {series.modality}"
    look_ups: list[LookUp] = []
    for level in RECIPES[dataset.pipeline]:
        found, notes = search.level(level)
        look_ups += found
        if all(look.is_usable for look in found):
            files = {look.role: look.path for look in found if look.path is not None}
            return Precomputed(dataset, label, level, files, tuple(look_ups), (), notes)
    return Precomputed(dataset, label, look_ups=tuple(look_ups), nearby=search.nearby())


def _made_by(description: Mapping[str, Any]) -> dict[str, str]:
    """Return lower-case pipeline names and their versions; until 2020 there was one, elsewhere."""
    entries = description.get("GeneratedBy") or [description.get("PipelineDescription") or {}]
    entries = entries if isinstance(entries, list) else [entries]
    named = [entry for entry in entries if isinstance(entry, Mapping) and entry.get("Name")]
    return {str(entry["Name"]).lower(): str(entry.get("Version", "")) for entry in named}
