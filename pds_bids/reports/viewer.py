"""Data of the interactive viewer: volumes as scripts, since a page from disk may load scripts but not files.

The viewer is NiiVue; its one copy lies in ``OUT/assets``. The volumes of an image are loaded when its viewer
is opened, so that the page itself stays light.
"""

import base64
import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from pds_bids.bids.names import output_path
from pds_bids.bids.write import replacing, write_text
from pds_bids.imaging.intensity import to_units
from pds_bids.modalities import Modality
from pds_bids.reports.figures import STD_SHARE, upper_limit
from pds_bids.reports.images import SyntheticImage

__all__ = ["LIBRARY", "write_library", "write_volumes"]

LIBRARY = Path("assets", "niivue-0.69.0.js")
_WHAT = {Modality.BOLD: "mean BOLD", Modality.DWI: "mean DWI"}
_LARGEST_INT16 = 32767


@dataclass(frozen=True)
class _Panel:
    """One volume of the viewer, as the page's script reads it; `base64` is a compressed NIfTI file."""

    key: str
    label: str
    is_synthetic: bool
    colour_map: str
    maximum: float
    base64: str


def write_library(out_dir: Path) -> None:
    """Write NiiVue and its licence into the output folder, unless they are there."""
    data = files("pds_bids")
    if not (out_dir / LIBRARY).is_file():
        with replacing(out_dir / LIBRARY) as scratch:
            scratch.write_bytes(gzip.decompress(data.joinpath("data/viewer/niivue.umd.js.gz").read_bytes()))
    licences = data.joinpath("data/viewer/LICENSES.txt").read_text(encoding="utf-8")
    write_text(out_dir / LIBRARY.with_suffix(".LICENSES.txt"), licences)


def write_volumes(out_dir: Path, image: SyntheticImage) -> Path | None:
    """Write the volumes that the viewer of a synthetic image shows.

    Synthetic and acquired volumes share one scale, in units of the mean inside the brain; the scale of the
    uncertainty is a fixed share of it, as in the figures.

    Parameters
    ----------
    out_dir : Path
        Derivative dataset.
    image : SyntheticImage
        What is shown.

    Returns
    -------
    Path or None
        A script, relative to the output folder; None when the image has no mask or cannot be read.
    """
    import nibabel as nib  # late: the page can be made without

    if image.mask is None:
        return None
    try:
        loaded = {
            key: nib.load(out_dir / path)
            for key, path in (
                ("source", image.source),
                ("synthetic", image.path),
                ("acquired", image.acquired),
                ("std", image.std),
            )
            if path is not None
        }
        volumes = {key: np.asarray(volume.dataobj, np.float32) for key, volume in loaded.items()}
        mask = np.asarray(nib.load(out_dir / image.mask).dataobj) > 0
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError):
        return None
    vox2ras = loaded["synthetic"].affine
    panels = _panels(volumes, mask, vox2ras, image.modality)
    path = output_path("figure", image.name.entities, image.modality, extension=".js", desc="viewer")
    content = {"image": image.path.as_posix(), "panels": [asdict(panel) for panel in panels]}
    write_text(out_dir / path, f"pdsViewer.receive({json.dumps(content)});\n")
    return path


def _panels(
    volumes: dict[str, np.ndarray], mask: np.ndarray, vox2ras: np.ndarray, target: Modality
) -> Iterable[_Panel]:
    # As in the figures: what was acquired is scaled inside the brain of the source.
    shown = {k: to_units(v, mask)[0] if k in ("source", "acquired") else v for k, v in volumes.items()}
    top = upper_limit(shown.get("acquired", shown["synthetic"]), mask)
    about: dict[str, tuple[str, str, float]] = {
        "source": (f"source: acquired {_WHAT[target.other]}", "gray", 0.0),
        "synthetic": (f"SYNTHETIC {_WHAT[target]}: predicted, not measured", "gray", top),
        "acquired": (f"acquired {_WHAT[target]}, same scale", "gray", top),
        "std": (
            f"uncertainty of the synthetic {_WHAT[target]} (standard deviation)",
            "inferno",
            STD_SHARE * top,
        ),
    }
    for key, volume in shown.items():
        label, colour_map, maximum = about[key]
        yield _Panel(
            key,
            label,
            key == "synthetic",
            colour_map,
            maximum or upper_limit(volume, mask),
            _packed(volume, vox2ras),
        )


def _packed(volume: np.ndarray, vox2ras: np.ndarray) -> str:
    """Return a volume as compressed 16-bit NIfTI in base64; values that are not numbers become zero."""
    import nibabel as nib  # late, as above

    finite = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
    step = max(float(np.abs(finite).max()), 1e-6) / _LARGEST_INT16
    # Eight bits are enough for the eye; the lower ones are noise that does not compress.
    rounded = np.round(finite / step / 32) * 32
    image: Any = nib.Nifti1Image(np.clip(rounded, -_LARGEST_INT16, _LARGEST_INT16).astype(np.int16), vox2ras)
    image.header.set_slope_inter(step, 0)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode()
