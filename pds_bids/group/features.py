"""From the measurements of people to the features of classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pds_bids.evaluation.schemes import Blocks, Origin
from pds_bids.group.participants import Measured
from pds_bids.group.people import People
from pds_bids.group.signals import MIN_SERIES, Signals
from pds_bids.modalities import Modality

__all__ = ["acquired_courses", "acquired_parcels", "choose_parcels", "gather_blocks", "gather_voxels"]

Table = dict[tuple[Modality, Origin], np.ndarray]


def gather_blocks(
    measured: Sequence[Measured], people: People, *, all_acquired: bool = False
) -> tuple[Blocks, dict[Modality, list[str]]]:
    """Collect parcel means by modality and origin.

    Parameters
    ----------
    measured : sequence of Measured
        Participants.
    people : People
        Who is who.
    all_acquired : bool
        Take acquired contrasts that nobody synthesises (FA and MD, by some models) as well; by default only
        those that exist with both origins, so that one can stand in for the other, or all contrasts of a
        modality that is only acquired, or only synthetic, throughout the cohort.

    Returns
    -------
    blocks : Blocks
        Rows in the order of `measured`.
    contrasts : dict of Modality to list of str
        What the columns are: parcels of the first contrast, then of the second.
    """
    there: dict[Modality, dict[str, set[str]]] = {}
    for person in measured:
        for own in person.signals:
            kinds = there.setdefault(own.scan.modality, {})
            kinds.setdefault(own.scan.contrast, set()).add(own.scan.origin)
    contrasts = {
        modality: sorted(
            name
            for name, origins in kinds.items()
            # Of a modality that nobody has with the other origin, whatever there is.
            if origins == set().union(*kinds.values()) or (all_acquired and "acquired" in origins)
        )
        for modality, kinds in sorted(there.items())
    }
    width = len(next(own.means for person in measured for own in person.signals))
    tables: Table = {}
    for modality, names in contrasts.items():
        for origin in (Origin.ACQUIRED, Origin.SYNTHETIC):
            if names:
                parts = [_column(measured, name, str(origin), width) for name in names]
                tables[modality, origin] = np.concatenate(parts, 1)
    return Blocks(tuple(people.person_of(person.label) for person in measured), tables), contrasts


def acquired_parcels(measured: Sequence[Measured], contrast: str) -> np.ndarray:
    """Return ``(N, P)`` acquired parcel means of one contrast, nan for who lacks it."""
    width = len(next(own.means for person in measured for own in person.signals))
    return _column(measured, contrast, str(Origin.ACQUIRED), width)


def choose_parcels(measured: Sequence[Measured], places: Sequence[int]) -> list[Measured]:
    """Return the measurements of some parcels alone.

    Parameters
    ----------
    measured : sequence of Measured
        Participants.
    places : sequence of int
        Columns to keep.
    """
    own = list(places)

    def chosen(signals: Signals) -> Signals:
        """Return some columns of everything."""
        tissue = None if signals.tissue is None else signals.tissue[own]
        return replace(
            signals,
            means=signals.means[own],
            series=signals.series[:, own],
            coverage=signals.coverage[own],
            tissue=tissue,
        )

    return [replace(person, signals=tuple(map(chosen, person.signals))) for person in measured]


def acquired_courses(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Return what the course of the acquired BOLD signal says of each parcel.

    Parameters
    ----------
    measured : sequence of Measured
        Participants.

    Returns
    -------
    dict of str to ndarray
        ``(N, P)``: ``amplitude``, the logarithm of the standard deviation over the mean; ``connectivity``,
        the mean Fisher z of the correlations with all other parcels. nan for who has no series of 20
        segments or more; empty when that is everybody. Means over runs.
    """
    width = len(next(own.means for person in measured for own in person.signals))
    tables = {name: np.full((len(measured), width), np.nan) for name in ("amplitude", "connectivity")}
    for place, person in enumerate(measured):
        scans = person.chosen(str(Modality.BOLD), str(Origin.ACQUIRED))
        runs = [own for own in scans if len(own.series) >= MIN_SERIES]
        for name, measure in (("amplitude", _amplitude), ("connectivity", _strength)):
            if runs:
                tables[name][place] = np.mean([measure(own.series) for own in runs], 0)
    return {name: table for name, table in tables.items() if np.isfinite(table).any()}


def _amplitude(series: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(series.std(0) / series.mean(0))
    return np.where(np.isfinite(found), found, np.nan)


def _strength(series: np.ndarray) -> np.ndarray:
    """Return the mean Fisher z of each column with the others that vary; nan for one that does not."""
    varies = series.std(0) > 0
    found = np.full(len(varies), np.nan)
    if varies.sum() > 1:
        matrix = np.corrcoef(series[:, varies].T)
        np.fill_diagonal(matrix, 0)
        # Parcels of one voxel may have the same course.
        found[varies] = np.arctanh(matrix.clip(-0.999, 0.999)).sum(1) / (varies.sum() - 1)
    return found


def _column(measured: Sequence[Measured], contrast: str, origin: str, width: int) -> np.ndarray:
    """Return the mean over runs of each person's parcels, nan for nobody's."""
    rows = np.full((len(measured), width), np.nan)
    for place, person in enumerate(measured):
        found = [own.features for own in person.chosen(contrast, origin)]
        if found:
            n = np.isfinite(found).sum(0)
            rows[place] = np.divide(np.nansum(found, 0), n, out=np.full(width, np.nan), where=n > 0)
    return rows


def gather_voxels(
    measured: Sequence[Measured], people: People, contrasts: Mapping[Modality, Sequence[str]], n_voxels: int
) -> Blocks:
    """Collect coarse voxels as `gather_blocks` collects parcels, of the same contrasts."""
    tables: Table = {}
    for modality, names in contrasts.items():
        for origin in (Origin.ACQUIRED, Origin.SYNTHETIC):
            empty = np.full(n_voxels, np.nan, np.float32)
            rows = [
                np.concatenate([person.volumes.get((name, str(origin)), empty) for name in names])
                for person in measured
            ]
            tables[modality, origin] = np.array(rows)
    return Blocks(tuple(people.person_of(person.label) for person in measured), tables)
