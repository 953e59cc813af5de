"""The one table of modalities: BIDS names, image contrasts, and what each direction reads and writes."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ANATOMY",
    "CONTRASTS",
    "MAP_UNITS",
    "MODALITIES",
    "SOURCES",
    "TARGETS",
    "Contrast",
    "Direction",
    "Modality",
    "ModalitySpec",
    "field_prefix",
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

    The order of the members is the order of the channels in every tensor: mean BOLD, mean diffusion-weighted
    image (b > 0), mean b = 0 image, fractional anisotropy, mean diffusivity, T1w.
    """

    BOLD = "bold"
    DWI = "dwi"
    B0 = "b0"
    FA = "fa"
    MD = "md"
    T1W = "t1w"


CONTRASTS: tuple[Contrast, ...] = tuple(Contrast)
#: Never synthesised; read in every direction where it was acquired.
ANATOMY = Contrast.T1W
#: Maps have an absolute scale. A 1 of a network is worth this in files: FA without unit, MD in mm^2/s. All
#: other contrasts are divided by their in-brain mean, which for these is about 1, too.
MAP_UNITS: dict[Contrast, float] = {Contrast.FA: 0.25, Contrast.MD: 1e-3}


def field_prefix(contrast: Contrast) -> str:
    """Return what stands before the names of a contrast's fields in workflows; nothing for the main ones.

    Examples
    --------
    >>> field_prefix(Contrast.DWI) + "mean", field_prefix(Contrast.FA) + "mean"
    ('mean', 'fa_mean')
    """
    return "" if contrast in (Contrast.BOLD, Contrast.DWI) else f"{contrast}_"


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
        What is synthesised; the first one is the main output, the one the paper synthesises.
    sources : tuple of Contrast
        What is read when this modality was acquired, besides the anatomy.
    """

    datatype: str
    suffix: str
    ref_suffix: str
    contrasts: tuple[Contrast, ...]
    sources: tuple[Contrast, ...]


MODALITIES: dict[Modality, ModalitySpec] = {
    Modality.BOLD: ModalitySpec("func", "bold", "boldref", (Contrast.BOLD,), (Contrast.BOLD,)),
    Modality.DWI: ModalitySpec(
        "dwi",
        "dwi",
        "dwiref",
        (Contrast.DWI, Contrast.B0, Contrast.FA, Contrast.MD),
        (Contrast.DWI, Contrast.B0),
    ),
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
    def sources(self) -> tuple[Contrast, ...]:
        """Contrasts that a network may read."""
        return (*MODALITIES[self.source].sources, ANATOMY)

    @property
    def targets(self) -> tuple[Contrast, ...]:
        """Contrasts that a network writes.

        Examples
        --------
        >>> [str(contrast) for contrast in Direction.BOLD2DWI.targets]
        ['dwi', 'b0', 'fa', 'md']
        """
        return MODALITIES[self.target].contrasts

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


#: What a network may read, and what it writes, over all directions.
SOURCES = tuple(c for c in CONTRASTS if any(c in direction.sources for direction in Direction))
TARGETS = tuple(c for c in CONTRASTS if any(c in direction.targets for direction in Direction))
