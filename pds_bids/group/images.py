"""Which images on the template's grid a participant has, acquired and synthetic, contrast by contrast."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from pds_bids.bids.names import OutputName, identify
from pds_bids.exceptions import DataError
from pds_bids.modalities import MODALITIES, Modality
from pds_bids.template import SPACE

__all__ = ["Scan", "find_scans", "load"]

# Outputs that are no contrast of their own.
_NO_CONTRAST = ("mask", "segments", "std")


@dataclass(frozen=True)
class Scan:
    """One contrast of one series, on the grid of the template.

    Parameters
    ----------
    entities : dict of str
        Of the file that it comes from.
    modality : Modality
        What it shows.
    contrast : str
        ``bold``, ``dwi``, ``b0``, ``fa``, ``md``, or whatever else the app writes.
    label : str
        For ``desc-`` of tables: ``mean``, ``b0``, ``synthetic+mean``.
    is_synthetic : bool
        Whether a model made it.
    image, mask : Path
        Files.
    std, segments : Path or None
        Uncertainty of a synthetic image; volumes along time or gradients.
    """

    entities: dict[str, str]
    modality: Modality
    contrast: str
    label: str
    is_synthetic: bool
    image: Path
    mask: Path
    std: Path | None = None
    segments: Path | None = None

    @property
    def session(self) -> str:
        """Label without ``ses-``; empty where there are no sessions."""
        return self.entities.get("ses", "")

    @property
    def origin(self) -> str:
        """``acquired`` or ``synthetic``."""
        return "synthetic" if self.is_synthetic else "acquired"


def find_scans(output_dir: Path, participant: str) -> tuple[list[Scan], list[str]]:
    """List the scans of a participant.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    participant : str
        Without ``sub-``.

    Returns
    -------
    scans : list of Scan
        Sorted by file; every contrast that has the names of an acquired or synthetic image.
    left_out : list of str
        Images without a mask, with the reason.
    """
    found: dict[tuple[bool, Modality, tuple[tuple[str, str], ...]], dict[str, Path]] = {}
    entities: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for path, name in _template_images(output_dir, participant):
        if name.modality is None:
            continue
        is_synthetic = name.key.startswith("synthetic")
        kind = name.key.removeprefix("synthetic").removeprefix("_") or "mean"
        own = tuple(sorted(name.entities.items()))
        entities[own] = name.entities
        found.setdefault((is_synthetic, name.modality, own), {})[kind] = path
    scans, left_out = [], []
    for (is_synthetic, modality, own), kinds in found.items():
        for kind, path in kinds.items():
            if kind in _NO_CONTRAST or (kind.endswith("std") and kind.removesuffix("std") in kinds):
                continue
            if "mask" not in kinds:
                left_out.append(f"{path.name}: there is no brain mask beside it")
                continue
            main = str(MODALITIES[modality].contrasts[0])
            scans.append(
                Scan(
                    entities[own],
                    modality,
                    main if kind == "mean" else kind,
                    f"synthetic+{kind}" if is_synthetic else kind,
                    is_synthetic,
                    path,
                    kinds["mask"],
                    kinds.get("std" if kind == "mean" else f"{kind}std") if is_synthetic else None,
                    kinds.get("segments") if kind == "mean" else None,
                )
            )
    return sorted(scans, key=lambda scan: str(scan.image)), left_out


def load(path: Path) -> np.ndarray:
    """Read an image, float32.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return np.asarray(nib.load(path).dataobj, np.float32)
    except (OSError, EOFError, ImageFileError) as error:
        raise DataError(f"{path.name} cannot be read: {error}; run the participant again") from error


def _template_images(output_dir: Path, participant: str) -> Iterator[tuple[Path, OutputName]]:
    for path in sorted((output_dir / f"sub-{participant}").glob(f"**/*_space-{SPACE}_*.nii.gz")):
        name = identify(path.relative_to(output_dir))
        if name is not None and name.in_template:
            yield path, name
