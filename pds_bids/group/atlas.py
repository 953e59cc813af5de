"""The atlas of the parcels: AAL2, one of TemplateFlow's, or a file of the user's."""

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.metadata import split_name
from pds_bids.exceptions import TemplateError
from pds_bids.imaging.grid import Grid, resample, to_ras
from pds_bids.template import ATLAS_NAME, SPACE, Template

__all__ = ["Atlas", "load_atlas"]

# Of the labelled voxels, those that must lie in the template's brain.
SMALLEST_INSIDE = 0.5


@dataclass(frozen=True, eq=False)
class Atlas:
    """Parcels on the grid of the template.

    Parameters
    ----------
    name : str
        Letters and digits, for ``atlas-`` in file names.
    image : ndarray
        ``(X, Y, Z)`` int32, 0 for none.
    labels : dict of int to str
        Name of every parcel.
    origin : str
        Where it came from, in words.
    """

    name: str
    image: np.ndarray
    labels: dict[int, str]
    origin: str

    @property
    def names(self) -> list[str]:
        """Names of the parcels, by rising index."""
        return [self.labels[index] for index in sorted(self.labels)]


def load_atlas(choice: str, template: Template) -> Atlas:
    """Find an atlas by what the user wrote; nothing is fetched.

    Parameters
    ----------
    choice : str
        ``AAL`` (AAL2), a file, or a name of TemplateFlow's: ``Schaefer2018``, with more entities where
        several fit: ``Schaefer2018_desc-100Parcels7Networks``.
    template : Template
        On the model grid.

    Returns
    -------
    Atlas
        By nearest neighbour on the template's grid.

    Raises
    ------
    TemplateError
        If there is no such atlas, several fit, or it does not lie in the template's brain.
    """
    if choice.upper() in ("AAL", ATLAS_NAME):
        present = {k: v for k, v in template.atlas_labels.items() if k}
        return Atlas(template.atlas_name, template.atlas, present, template.origin)
    path = Path(choice).expanduser()
    if path.name.endswith((".nii", ".nii.gz")):
        return _read(path, template)
    return _read(_find(choice), template)


def _find(choice: str) -> Path:
    """Return TemplateFlow's file of an atlas in the space of the template."""
    home = os.environ.get("TEMPLATEFLOW_HOME")
    folder = (Path(home) if home else Path.home() / ".cache" / "templateflow") / f"tpl-{SPACE}"
    found = [p for p in sorted(folder.glob("*_dseg.nii.gz")) if p.stat().st_size]
    name, *more = choice.split("_")
    wanted = {"atlas": name} | dict(pair.split("-", 1) for pair in more if "-" in pair)
    entities = {path: split_name(path.name)[0] for path in found}
    fitting = [path for path in found if wanted.items() <= entities[path].items()]
    # The same parcels in several resolutions are one atlas.
    kinds = {tuple((k, v) for k, v in entities[path].items() if k != "res") for path in fitting}
    if len(kinds) == 1:
        return min(fitting, key=lambda path: abs(int(entities[path].get("res", "1")) - 2))
    have = ", ".join(sorted({path.name for path in fitting or found})) or "no atlas"
    problem = "several atlases fit" if fitting else "no such atlas"
    raise TemplateError(
        f"--atlas {choice}: {problem} in {folder}; there: {have}. Give AAL, a name as "
        "Schaefer2018_desc-100Parcels7Networks, or a file; atlases in another space do not fit"
    )


def _read(path: Path, template: Template) -> Atlas:
    try:
        image = nib.load(path)
        data, vox2ras, _ = to_ras(np.asanyarray(image.dataobj), image.affine)
    except (OSError, EOFError, ImageFileError) as error:
        raise TemplateError(f"--atlas {path}: cannot be read as an image: {error}") from error
    if data.ndim != 3 or not np.array_equal(data, np.round(data)):
        raise TemplateError(f"--atlas {path}: shape {data.shape}; expected one volume of whole numbers")
    grid = Grid(data.shape, vox2ras)
    onto = resample(data.astype(np.float32), grid.vox2ras, template.grid.points(), order=0).astype(np.int32)
    inside = float(template.mask[onto > 0].mean()) if (onto > 0).any() else 0.0
    if inside < SMALLEST_INSIDE:
        raise TemplateError(
            f"--atlas {path}: {inside:.0%} of its parcels lie in the brain of {SPACE}, at least "
            f"{SMALLEST_INSIDE:.0%} are expected; is it in another space?"
        )
    indices = [int(index) for index in np.unique(data) if index > 0]
    known = _labels(path)
    stem = path.name.split(".")[0]
    entities = split_name(path.name)[0]
    parts = [entities.get(key, "") for key in ("atlas", "seg", "scale", "desc")]
    name = "".join(parts) if entities.get("atlas") else stem
    return Atlas(
        re.sub("[^0-9A-Za-z]", "", name),
        onto,
        {index: known.get(index, f"parcel{index}") for index in indices},
        str(path),
    )


def _labels(path: Path) -> dict[int, str]:
    """Read names from a table beside the image; TemplateFlow's has no ``res-``."""
    stem = path.name.split(".")[0]
    for name in (stem, re.sub("_res-[^_]+", "", stem)):
        table = path.with_name(f"{name}.tsv")
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream, delimiter="\t"))
            try:
                return {int(row["index"]): row["name"] for row in rows}
            except (KeyError, TypeError, ValueError) as error:
                raise TemplateError(f"{table}: expected the columns index and name: {error!r}") from error
    return {}
