"""One pass over the images of each participant, several participants at a time."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pds_bids.exceptions import DataError
from pds_bids.group.atlas import Atlas
from pds_bids.group.compare import Comparison, compare_scans
from pds_bids.group.images import Scan, find_scans, load
from pds_bids.group.signals import FLUID_MD_MM2_S, Signals, measure_scan, write_tables
from pds_bids.modalities import Contrast, Modality
from pds_bids.template import Template

__all__ = ["Measured", "Reading", "coarse_mask", "measure_participants"]

LOGGER = logging.getLogger("pds_bids.group")
#: Edge of a coarse voxel in voxels of the model grid: 6 mm.
COARSE = 2


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured in the images of one participant, in the session that has most.

    Parameters
    ----------
    label : str
        Without ``sub-``.
    session : str
        Without ``ses-``; empty for none.
    signals : tuple of Signals
        Of all scans of all sessions.
    comparisons : tuple of Comparison
        Of all sessions.
    volumes : dict of (str, str) to ndarray
        By contrast and origin: ``(V,)`` float32 coarse voxels inside the mask of the template.
    problems : tuple of str
        What could not be used, and why.
    """

    label: str
    session: str = ""
    signals: tuple[Signals, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    volumes: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def chosen(self, contrast: str, origin: str) -> list[Signals]:
        """Return the signals of a contrast in the session that has most."""
        return [
            own
            for own in self.signals
            if own.scan.contrast == contrast
            and own.scan.origin == origin
            and own.scan.session == self.session
        ]


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read and how.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    atlas : Atlas
        Parcels.
    template : Template
        On the model grid.
    data_range : mapping of str to float
        By contrast.
    with_volumes : bool
        Whether coarse voxels are kept.
    """

    output_dir: Path
    atlas: Atlas
    template: Template
    data_range: Mapping[str, float]
    with_volumes: bool = False


def measure_participants(
    labels: Sequence[str],
    reading: Reading,
    n_procs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Measured]:
    """Measure the images of all participants and write the tables of each.

    Parameters
    ----------
    labels : sequence of str
        Without ``sub-``.
    reading : Reading
        What is read and how.
    n_procs : int
        Participants at a time.
    progress : callable, optional
        Is told how many are done.

    Returns
    -------
    list of Measured
        In the order of `labels`; an image that cannot be used is a problem of its participant.
    """
    from joblib import Parallel, delayed  # late: half a second

    jobs = (delayed(_measure)(label, reading) for label in labels)
    results = []
    for done, result in enumerate(Parallel(n_jobs=n_procs, return_as="generator")(jobs), 1):
        results.append(result)
        if progress:
            progress(done)
    return results


def coarse_mask(template: Template) -> np.ndarray:
    """Return the brain on the coarse grid, bool."""
    return _coarse(template.mask.astype(np.float32)) > 0.5


def _measure(label: str, reading: Reading) -> Measured:
    scans, problems = find_scans(reading.output_dir, label)
    signals: list[Signals] = []
    diffusivity = {_series_of(scan): scan.image for scan in scans if scan.contrast == Contrast.MD}
    for scan in scans:
        try:
            fluid = None
            if scan.contrast in (Contrast.FA, Contrast.MD) and _series_of(scan) in diffusivity:
                fluid = load(diffusivity[_series_of(scan)]) > FLUID_MD_MM2_S
            signals.append(measure_scan(scan, reading.atlas, fluid))
        except DataError as error:
            problems.append(str(error))
    write_tables(reading.output_dir, signals, reading.atlas)
    used = [own.scan for own in signals]
    session = _fullest_session(used)
    comparisons = []
    for acquired, synthetic in _pairs(used):
        try:
            comparisons.append(
                compare_scans(acquired, synthetic, reading.atlas, reading.template, reading.data_range)
            )
        except DataError as error:
            problems.append(str(error))
    volumes: dict[tuple[str, str], np.ndarray] = {}
    if reading.with_volumes:
        mask = coarse_mask(reading.template)
        for scan in used:
            if scan.session == session:
                volumes.setdefault((scan.contrast, scan.origin), _coarse(load(scan.image))[mask])
    for problem in problems:
        LOGGER.warning("sub-%s: %s", label, problem)
    return Measured(label, session, tuple(signals), tuple(comparisons), volumes, tuple(problems))


def _series_of(scan: Scan) -> tuple[bool, tuple[tuple[str, str], ...]]:
    """Return what images of one series, or one synthesis, have in common."""
    return scan.is_synthetic, tuple(sorted(scan.entities.items()))


def _fullest_session(scans: Sequence[Scan]) -> str:
    """Return the session with most acquired modalities, the first of equals."""
    acquired: dict[str, set[Modality]] = {}
    for scan in scans:
        own = acquired.setdefault(scan.session, set())
        if not scan.is_synthetic:
            own.add(scan.modality)
    return max(sorted(acquired), key=lambda name: len(acquired[name]), default="")


def _pairs(scans: Sequence[Scan]) -> list[tuple[Scan, Scan]]:
    """Return acquired and synthetic scans of one contrast and session; of several runs the first."""
    first: dict[tuple[str, str], Scan] = {}
    for scan in scans:
        if not scan.is_synthetic:
            first.setdefault((scan.session, scan.contrast), scan)
    synthetic = [scan for scan in scans if scan.is_synthetic]
    return [
        (first[scan.session, scan.contrast], scan)
        for scan in synthetic
        if (scan.session, scan.contrast) in first
    ]


def _coarse(image: np.ndarray) -> np.ndarray:
    """Average cubes of voxels."""
    padded = np.pad(image, [(0, -n % COARSE) for n in image.shape])
    x, y, z = (n // COARSE for n in padded.shape)
    cubes = padded.reshape(x, COARSE, y, COARSE, z, COARSE)
    return cubes.mean((1, 3, 5), dtype=np.float32)
