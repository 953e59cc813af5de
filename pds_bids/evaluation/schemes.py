"""What a classifier of diagnoses is trained on and what it is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pds_bids.exceptions import GeometryError
from pds_bids.modalities import Modality

__all__ = ["Blocks", "Imputation", "Input", "Origin", "Scheme", "default_schemes"]


class Origin(StrEnum):
    """Where the features of a modality come from."""

    ACQUIRED = "acquired"
    SYNTHETIC = "synthetic"
    #: Acquired where there is a scan, synthetic elsewhere.
    FILLED = "acquired or synthetic"


class Imputation(StrEnum):
    """What stands in for the features of a modality that was not acquired, in place of a synthetic image."""

    NONE = "none"
    MEAN = "mean"
    NEIGHBOURS = "neighbours"


@dataclass(frozen=True)
class Input:
    """Features of one modality."""

    modality: Modality
    origin: Origin


@dataclass(frozen=True)
class Scheme:
    """One row of the table of diagnoses.

    Parameters
    ----------
    name : str
        For the table.
    train, test : tuple of Input
        The same modalities in the same order.
    imputation : Imputation
        For people who lack an acquired modality; `NONE` leaves them out.
    paper : str
        Which scheme of the paper's Table V this is, as far as its text tells.
    """

    name: str
    train: tuple[Input, ...]
    test: tuple[Input, ...]
    imputation: Imputation = Imputation.NONE
    paper: str = ""

    def __post_init__(self) -> None:
        if [i.modality for i in self.train] != [i.modality for i in self.test]:
            raise GeometryError(f"scheme {self.name}: training and test have other modalities")

    @property
    def has_synthetic(self) -> bool:
        """Whether a synthetic image may enter."""
        return any(i.origin is not Origin.ACQUIRED for i in (*self.train, *self.test))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Features of all people, by modality and origin.

    Parameters
    ----------
    people : tuple of str
        Who each row is of.
    tables : mapping of (Modality, Origin) to ndarray
        ``(N, F)``; acquired and synthetic of a modality have the same columns; a row without any number is
        a person without that image.
    """

    people: tuple[str, ...]
    tables: Mapping[tuple[Modality, Origin], np.ndarray]

    def __post_init__(self) -> None:
        for key, table in self.tables.items():
            if table.ndim != 2 or len(table) != len(self.people):
                raise GeometryError(
                    f"features {key}: shape {table.shape}, expected {len(self.people)} rows, one per person"
                )

    def has(self, part: Input) -> np.ndarray:
        """Return who has the features, ``(N,)`` bool."""
        if part.origin is Origin.FILLED:
            return np.any([self.has(Input(part.modality, o)) for o in (Origin.ACQUIRED, Origin.SYNTHETIC)], 0)
        table = self.tables.get((part.modality, part.origin))
        return np.zeros(len(self.people), bool) if table is None else np.isfinite(table).any(1)

    def take(self, parts: Sequence[Input]) -> np.ndarray:
        """Return the features of several modalities beside each other, nan where there are none."""
        return np.concatenate([self._block(part) for part in parts], axis=1)

    def origin_of(self, part: Input, row: int) -> Origin:
        """Return what a row of `take` really is: acquired or synthetic."""
        if part.origin is not Origin.FILLED:
            return part.origin
        is_acquired = bool(self.has(Input(part.modality, Origin.ACQUIRED))[row])
        return Origin.ACQUIRED if is_acquired else Origin.SYNTHETIC

    def _block(self, part: Input) -> np.ndarray:
        width = next((t.shape[1] for (m, _), t in self.tables.items() if m is part.modality), 0)
        empty = np.full((len(self.people), width), np.nan)
        if part.origin is not Origin.FILLED:
            return self.tables.get((part.modality, part.origin), empty)
        acquired, synthetic = (
            self.tables.get((part.modality, o), empty) for o in (Origin.ACQUIRED, Origin.SYNTHETIC)
        )
        return np.where(self.has(Input(part.modality, Origin.ACQUIRED))[:, None], acquired, synthetic)


def default_schemes() -> tuple[Scheme, ...]:
    """Return all schemes: acquired alone, those of the paper, hybrids, and what a sceptic asks for."""
    bold, dwi = Modality.BOLD, Modality.DWI
    acquired, synthetic, filled = Origin.ACQUIRED, Origin.SYNTHETIC, Origin.FILLED

    def pair(b: Origin, d: Origin) -> tuple[Input, ...]:
        return Input(bold, b), Input(dwi, d)

    def one(modality: Modality, origin: Origin) -> tuple[Input, ...]:
        return (Input(modality, origin),)

    both = pair(acquired, acquired)
    schemes = [Scheme(f"acquired {m}", one(m, acquired), one(m, acquired)) for m in (bold, dwi)]
    schemes.append(Scheme("acquired both", both, both))
    schemes += [Scheme(f"synthetic {m}", one(m, synthetic), one(m, synthetic)) for m in (bold, dwi)]
    for modality, number in ((bold, "S1"), (dwi, "S3")):
        made, real = one(modality, synthetic), one(modality, acquired)
        schemes.append(Scheme(f"train synthetic, test acquired {modality}", made, real, paper=number))
    mixed = {
        "synthetic both": pair(synthetic, synthetic),
        "acquired bold + synthetic dwi": pair(acquired, synthetic),
        "synthetic bold + acquired dwi": pair(synthetic, acquired),
    }
    for name, parts in mixed.items():
        number = "S2" if name == "synthetic both" else "S7-S9"
        schemes.append(Scheme(f"train {name}, test acquired both", parts, both, paper=number))
    for modality, number in ((bold, "S4"), (dwi, "S6")):
        made, real = one(modality, synthetic), one(modality, acquired)
        schemes.append(Scheme(f"train acquired, test synthetic {modality}", real, made, paper=number))
    for name, parts in mixed.items():
        number = "S5" if name == "synthetic both" else "S7-S9"
        schemes.append(Scheme(f"train acquired both, test {name}", both, parts, paper=number))
    for name, parts in list(mixed.items())[1:]:
        schemes.append(Scheme(f"hybrid {name}", parts, parts))
    whole = pair(filled, filled)
    schemes.append(Scheme("hybrid: missing modality synthetic", whole, whole))
    for imputation, word in ((Imputation.MEAN, "mean"), (Imputation.NEIGHBOURS, "nearest neighbours")):
        schemes.append(Scheme(f"missing modality by {word}", both, both, imputation))
    return tuple(schemes)
