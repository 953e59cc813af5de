"""The synthetic images of a session as a reader judges them: with source, uncertainty and checksum."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pds_bids.bids.names import OutputName, find_outputs, identify
from pds_bids.modalities import Modality
from pds_bids.reports.ratings import image_sha256
from pds_bids.reports.records import Session, read_json

__all__ = ["SyntheticImage", "synthetic_images"]


@dataclass(frozen=True)
class SyntheticImage:
    """One synthetic image: what a reader judges, and what it is judged by.

    Parameters
    ----------
    name : OutputName
        What its name says.
    sha256 : str
        Checksum of its file.
    std, mask, source, acquired : Path or None
        Uncertainty, brain mask, acquired mean of the source, and of the target where it was acquired;
        relative to the output folder, on the same grid; None where the folder has none, or it is not clear
        which.
    """

    name: OutputName
    sha256: str
    std: Path | None = None
    mask: Path | None = None
    source: Path | None = None
    acquired: Path | None = None

    @property
    def modality(self) -> Modality:
        """The modality that it shows."""
        return self.name.modality or Modality.DWI

    @property
    def path(self) -> Path:
        """The image, relative to the output folder."""
        return self.name.path


def synthetic_images(out_dir: Path, participant: str, session: Session) -> list[SyntheticImage]:
    """Return the synthetic images of a session: on the template grid, or else in the native space.

    Parameters
    ----------
    out_dir : Path
        Derivative dataset.
    participant : str
        Label without ``sub-``.
    session : Session
        What its folder holds.

    Returns
    -------
    list of SyntheticImage
        One per direction and run.
    """
    names = [name for name in map(identify, session.synthetic) if name is not None]
    on_template = {(name.modality, _of_run(name)) for name in names if name.in_template}
    chosen = [n for n in names if n.in_template or (n.modality, _of_run(n)) not in on_template]
    means = [
        name
        for path, name in find_outputs(out_dir, participant)
        if name.key == "mean" and name.entities.get("ses") == session.label and path.name.endswith(".nii.gz")
    ]
    return [_image(out_dir, name, means) for name in chosen]


def _image(out_dir: Path, name: OutputName, means: Iterable[OutputName]) -> SyntheticImage:
    own = [mean for mean in means if mean.in_template == name.in_template]
    sources = [mean for mean in own if mean.modality is not name.modality]
    # Both were made from the same files.
    from_files = _sidecar(out_dir, name).get("Sources")
    told = [mean for mean in sources if from_files and _sidecar(out_dir, mean).get("Sources") == from_files]
    # In its native space a synthetic image lies on the grid of its source, where the target never was.
    targets = [mean for mean in own if mean.modality is name.modality] if name.in_template else []
    return SyntheticImage(
        name,
        image_sha256(out_dir / name.path),
        _there(out_dir, replace(name, key="synthetic_std")),
        _there(out_dir, replace(name, key="synthetic_mask")),
        _only(told or _fitting(sources, name)),
        _only(_fitting(targets, name)),
    )


def _fitting(means: Iterable[OutputName], name: OutputName) -> list[OutputName]:
    """Return the means none of whose entities contradicts those of the synthetic image."""
    own = name.entities
    return [m for m in means if all(own.get(key, value) == value for key, value in m.entities.items())]


def _only(means: list[OutputName]) -> Path | None:
    return means[0].path if len(means) == 1 else None


def _of_run(name: OutputName) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in name.entities.items() if key not in ("space", "res"))


def _there(out_dir: Path, name: OutputName) -> Path | None:
    return name.path if (out_dir / name.path).is_file() else None


def _sidecar(out_dir: Path, name: OutputName) -> dict[str, Any]:
    return read_json(out_dir / replace(name, extension=".json").path)
