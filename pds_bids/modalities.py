"""The one table of modalities: BIDS names, image contrasts, and which contrast a direction maps to."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CONTRASTS",
    "MODALITIES",
    "Contrast",
    "Direction",
    "Modality",
    "ModalitySpec",
]


class Modality(StrEnum):
    """A kind of acquisition that may be missing."""

    BOLD = "bold"
    DWI = "dwi"

    @property
    def other(self) -> "Modality":
        """The modality that is synthesised from this one.

        Examples
        --------
        >>> Modality.BOLD.other
        <Modality.DWI: 'dwi'>
        """
        return Modality.DWI if self is Modality.BOLD else Modality.BOLD


class Contrast(StrEnum):
    """A three-dimensional image that a network reads or writes.

    The order of the members is the order of the channels in every tensor:
    mean BOLD, mean diffusion-weighted image (b > 0), mean b = 0 image.
    """

    BOLD = "bold"
    DWI = "dwi"
    B0 = "b0"


CONTRASTS: tuple[Contrast, ...] = tuple(Contrast)


@dataclass(frozen=True)
class ModalitySpec:
    """How one modality is called in BIDS and which contrasts it consists of.

    Parameters
    ----------
    datatype : str
        BIDS folder, ``func`` or ``dwi``.
    suffix : str
        Suffix of the acquired series.
    ref_suffix : str
        Suffix of reference (mean) volumes; also of synthetic volumes, which are never series.
    contrasts : tuple of Contrast
        The first one is the main output, the one the paper synthesises.
    """

    datatype: str
    suffix: str
    ref_suffix: str
    contrasts: tuple[Contrast, ...]


MODALITIES: dict[Modality, ModalitySpec] = {
    Modality.BOLD: ModalitySpec("func", "bold", "boldref", (Contrast.BOLD,)),
    Modality.DWI: ModalitySpec("dwi", "dwi", "dwiref", (Contrast.DWI, Contrast.B0)),
}


class Direction(StrEnum):
    """Which modality is read and which is written; the code of a member feeds the direction embedding."""

    BOLD2DWI = "bold2dwi"
    DWI2BOLD = "dwi2bold"

    @property
    def source(self) -> Modality:
        """The acquired modality."""
        return Modality(self.value.split("2")[0])

    @property
    def target(self) -> Modality:
        """The synthesised modality."""
        return Modality(self.value.split("2")[1])

    @property
    def code(self) -> int:
        """Position in the direction embedding: 0 for BOLD to DWI, 1 for DWI to BOLD."""
        return list(Direction).index(self)

    @classmethod
    def to(cls, target: Modality) -> "Direction":
        """Return the direction that writes `target`.

        Examples
        --------
        >>> Direction.to(Modality.DWI)
        <Direction.BOLD2DWI: 'bold2dwi'>
        """
        return cls(f"{target.other}2{target}")
