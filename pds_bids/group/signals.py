"""Signals of the parcels of every participant: tables, coverage, connectivity."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pds_bids.bids.names import output_path
from pds_bids.bids.sidecars import bids_uri
from pds_bids.bids.write import write_json, write_tsv
from pds_bids.group.atlas import Atlas
from pds_bids.group.images import Scan, load
from pds_bids.imaging.parcels import parcel_means
from pds_bids.modalities import Modality

__all__ = ["FLUID_MD_MM2_S", "MIN_SERIES", "Signals", "measure_scan", "table_sidecar", "write_tables"]

#: Volumes that a series needs for correlations; fewer say nothing about coupling.
MIN_SERIES = 20
#: Above this mean diffusivity a voxel is mostly fluid: tissue has 0.7 to 1.0, fluid 3.0e-3 mm^2/s.
FLUID_MD_MM2_S = 1.5e-3


@dataclass(frozen=True, eq=False)
class Signals:
    """Parcels of one scan.

    Parameters
    ----------
    scan : Scan
        Whose.
    means : ndarray
        ``(P,)`` of the whole series.
    series : ndarray
        ``(N, P)`` of the segments; no row where there are none.
    coverage : ndarray
        ``(P,)`` share of the voxels of a parcel that the brain mask holds.
    digest : str
        Checksum of the voxels.
    tissue : ndarray or None
        ``(P,)`` of FA and MD: means over the voxels that are not mostly fluid. How much fluid lies in a
        parcel differs so much between people that it hides what their tissue is like.
    """

    scan: Scan
    means: np.ndarray
    series: np.ndarray
    coverage: np.ndarray
    digest: str = field(default="")
    tissue: np.ndarray | None = None

    @property
    def features(self) -> np.ndarray:
        """``(P,)`` for classifiers: of tissue where that was measured."""
        return self.means if self.tissue is None else self.tissue


def measure_scan(scan: Scan, atlas: Atlas, fluid: np.ndarray | None = None) -> Signals:
    """Average a scan over the parcels inside its mask.

    Parameters
    ----------
    scan : Scan
        On the grid of the template.
    atlas : Atlas
        On the same grid.
    fluid : ndarray, optional
        ``(X, Y, Z)`` bool, voxels to leave out of `Signals.tissue`.

    Returns
    -------
    Signals
        nan for a parcel that the mask does not hold.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    labels = sorted(atlas.labels)
    image, mask = load(scan.image), load(scan.mask) > 0
    series = np.zeros((0, len(labels)))
    if scan.segments is not None:
        series = parcel_means(load(scan.segments), atlas.image, mask, labels)
    size = max(labels) + 1
    total = np.bincount(atlas.image.ravel(), minlength=size)[labels]
    inside = np.bincount(atlas.image[mask], minlength=size)[labels]
    coverage = np.divide(inside, total, out=np.zeros(len(labels)), where=total > 0)
    tissue = None if fluid is None else parcel_means(image[..., None], atlas.image, mask & ~fluid, labels)[0]
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return Signals(
        scan, parcel_means(image[..., None], atlas.image, mask, labels)[0], series, coverage, digest, tissue
    )


def write_tables(output_dir: Path, signals: Sequence[Signals], atlas: Atlas) -> list[Path]:
    """Write the tables of one participant; every row says whether it was acquired or synthetic.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset.
    signals : sequence of Signals
        All scans of the participant.
    atlas : Atlas
        For names.

    Returns
    -------
    list of Path
        What was written: means and series of each contrast, coverage of each series, and correlations of
        acquired BOLD series of 20 volumes or more.
    """
    written = []
    for own in signals:
        scan = own.scan
        rows = [("mean", own.means), *((f"segment{k:02d}", row) for k, row in enumerate(own.series, 1))]
        head = ["input", "contrast", "volume"]
        lines = [[scan.origin, scan.contrast, name, *row.tolist()] for name, row in rows]
        written.append(_table(output_dir, "roi", own, atlas, [*head, *atlas.names], lines))
        if scan.label in ("mean", "synthetic+mean"):
            line = [scan.origin, scan.contrast, *own.coverage.tolist()]
            written.append(_table(output_dir, "roi_coverage", own, atlas, [*head[:2], *atlas.names], [line]))
        # Segments of a synthetic BOLD image follow gradient directions, not time.
        if scan.modality is Modality.BOLD and not scan.is_synthetic and len(own.series) >= MIN_SERIES:
            with np.errstate(invalid="ignore", divide="ignore"):
                matrix = np.corrcoef(own.series.T)
            lines = [
                [scan.origin, name, *row] for name, row in zip(atlas.names, matrix.tolist(), strict=True)
            ]
            columns = ["input", "parcel", *atlas.names]
            written.append(_table(output_dir, "connectivity", own, atlas, columns, lines))
    return written


def table_sidecar(key: str, atlas: Atlas) -> dict[str, object]:
    """Return the description of a kind of table, which stands once, at the root of the dataset."""
    what = {
        "roi": "Mean of each parcel inside the brain mask, of the whole series and of its segments",
        "roi_coverage": "Share of the voxels of each parcel that the brain mask holds",
        "connectivity": "Pearson correlation of the mean courses of two parcels over segments",
    }
    return {
        "Description": what[key],
        "Atlas": atlas.name,
        "AtlasOrigin": atlas.origin,
        "input": "acquired: from a scan; synthetic: from an image that a model predicted",
        "contrast": "Image that was averaged; intensities are divided by their in-brain mean, FA has no "
        "unit, MD is in mm^2/s",
        "volume": "mean: the whole series; segment01 and so on: along time (BOLD) or gradients (DWI)",
    }


def _table(
    output_dir: Path,
    key: str,
    own: Signals,
    atlas: Atlas,
    columns: Sequence[str],
    lines: Sequence[Sequence[object]],
) -> Path:
    scan = own.scan
    name = output_path(key, scan.entities, scan.modality, in_template=True, atlas=atlas.name, desc=scan.label)
    path = output_dir / name
    write_tsv(path, columns, lines)
    if scan.is_synthetic:
        # Whoever copies one table out of the dataset takes the warning along.
        source = bids_uri(scan.image, output_dir)
        write_json(
            path.with_suffix(".json"), table_sidecar(key, atlas) | {"Synthetic": True, "Sources": [source]}
        )
    return path
