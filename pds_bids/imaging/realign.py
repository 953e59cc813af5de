"""Resample each volume of a series once, and average as it streams by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.distortion import Distortion
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.series import Series, volume_blocks

__all__ = ["realigned_mean", "realigned_timeseries", "segment_means"]


def segment_means(
    series: Series,
    vox2ras: np.ndarray,
    ref2volume: np.ndarray,
    segments: Sequence[Sequence[int]],
    points: np.ndarray,
    bias: np.ndarray | None = None,
    order: int = 3,
    *,
    distortion: Distortion | None = None,
) -> np.ndarray:
    """Average each segment at given points, with one interpolation per volume from the acquired grid.

    Parameters
    ----------
    series : Series
        ``(X, Y, Z, N)``.
    vox2ras : ndarray
        ``(4, 4)`` affine of a volume, mm.
    ref2volume : ndarray
        ``(N, 4, 4)`` head motion.
    segments : sequence of sequence of int
        0-based volumes of each segment. A volume may belong to several; it is resampled once.
    points : ndarray
        ``(..., 3)`` RAS+ mm in the space of the reference: the points of a `PointMap`, or those in a mask.
    bias : ndarray, optional
        ``(X, Y, Z)`` bias field on the acquired grid; every volume is divided by it. It belongs to the
        coil, so it does not move with the head.
    order : int
        Spline order.
    distortion : Distortion, optional
        Off-resonance at the reference, one entry per volume: every volume is sampled where the field has
        displaced each point, and its signal is rescaled by how much the field squeezes it there.

    Returns
    -------
    ndarray
        ``(len(segments), *points.shape[:-1])`` float32. Each point is averaged over the volumes whose field
        of view contains it; 0 where none does.

    Raises
    ------
    DataError
        If a segment is empty.
    GeometryError
        If the arrays do not fit together.
    """
    if any(len(segment) == 0 for segment in segments):
        raise DataError("a segment has no volume: nothing to average")
    member = np.zeros((len(segments), series.shape[3]), dtype=bool)
    for row, segment in zip(member, segments, strict=True):
        row[list(segment)] = True
    flat = np.asarray(points).reshape(-1, 3)
    total = np.zeros((len(segments), len(flat)))
    count = np.zeros((len(segments), len(flat)), dtype=np.int32)
    wanted = np.flatnonzero(member.any(0)).tolist()
    source = _Source(series, vox2ras, ref2volume, bias, distortion)
    for k, values, inside in _resampled(source, wanted, flat, order):
        for number in np.flatnonzero(member[:, k]).tolist():
            total[number] += values
            count[number] += inside
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return mean.astype(np.float32).reshape(len(segments), *np.shape(points)[:-1])


def realigned_mean(
    series: Series,
    vox2ras: np.ndarray,
    ref2volume: np.ndarray,
    volumes: Sequence[int] | None = None,
    bias: np.ndarray | None = None,
    order: int = 3,
    *,
    distortion: Distortion | None = None,
) -> np.ndarray:
    """Average volumes on their own grid, in the position of the reference.

    Parameters
    ----------
    series, vox2ras, ref2volume, bias, order, distortion
        As in `segment_means`.
    volumes : sequence of int, optional
        Which volumes; all of them when omitted.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32.

    Raises
    ------
    DataError
        If there are no volumes.
    GeometryError
        If the arrays do not fit together.
    """
    points = Grid(_volume_shape(series), vox2ras).points()
    chosen = range(series.shape[3]) if volumes is None else volumes
    return segment_means(series, vox2ras, ref2volume, [chosen], points, bias, order, distortion=distortion)[0]


def realigned_timeseries(
    series: Series,
    vox2ras: np.ndarray,
    ref2volume: np.ndarray,
    points: np.ndarray,
    order: int = 3,
    *,
    distortion: Distortion | None = None,
) -> np.ndarray:
    """Follow points of the reference through the series.

    Parameters
    ----------
    series, vox2ras, ref2volume, order, distortion
        As in `segment_means`.
    points : ndarray
        ``(V, 3)`` RAS+ mm in the space of the reference, for example ``grid.points()[mask]``.

    Returns
    -------
    ndarray
        ``(V, N)`` float32; a point outside the field of view takes the value at the border.

    Raises
    ------
    GeometryError
        If the arrays do not fit together.
    """
    n_volumes = series.shape[3]
    timeseries = np.empty((len(points), n_volumes), dtype=np.float32)
    volumes = list(range(n_volumes))
    source = _Source(series, vox2ras, ref2volume, None, distortion)
    for k, values, _ in _resampled(source, volumes, points, order, is_bounded=False):
        timeseries[:, k] = values
    return timeseries


@dataclass(frozen=True, eq=False)
class _Source:
    """What a series is resampled from; parameters as in `segment_means`."""

    series: Series
    vox2ras: np.ndarray
    ref2volume: np.ndarray
    bias: np.ndarray | None
    distortion: Distortion | None

    def __post_init__(self) -> None:
        shape, n_volumes = _volume_shape(self.series), self.series.shape[3]
        if np.shape(self.ref2volume) != (n_volumes, 4, 4):
            raise GeometryError(
                f"motion of shape {np.shape(self.ref2volume)} for a series of {n_volumes} volumes: "
                "expected one 4 x 4 matrix each"
            )
        if self.bias is not None and self.bias.shape != shape:
            raise GeometryError(
                f"bias field {self.bias.shape} on a series with volumes {shape}: expected the same grid"
            )
        if self.distortion is not None and self.distortion.axes.size != n_volumes:
            raise GeometryError(
                f"distortion of {self.distortion.axes.size} volumes for a series of {n_volumes}"
            )


def _resampled(
    source: _Source,
    volumes: Sequence[int],
    points: np.ndarray,
    order: int,
    *,
    is_bounded: bool = True,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the number, the values at the points, and which points are in view, of each volume in turn."""
    ras2vox = np.linalg.inv(np.asarray(source.vox2ras, float))
    limit = np.asarray(_volume_shape(source.series))[:, None] - 0.5
    columns = np.ascontiguousarray(np.asarray(points, dtype=np.float64).T)
    field = None if source.distortion is None else source.distortion.at(columns.T, source.vox2ras)
    for numbers, block in volume_blocks(source.series, volumes):
        for position, k in enumerate(numbers.tolist()):
            volume = block[..., position] if source.bias is None else block[..., position] / source.bias
            ref2index = ras2vox @ source.ref2volume[k]
            index = ref2index[:3, :3] @ columns + ref2index[:3, 3:]
            if field is not None:
                index = field.move(index, k)
            values = _interpolate(volume, index, order)
            if field is not None:
                values *= field.density(k)
            inside = ((index >= -0.5) & (index <= limit)).all(0)
            if is_bounded:
                values = np.where(inside, values, np.float32(0))
            yield k, values, inside


def _interpolate(volume: np.ndarray, index: np.ndarray, order: int) -> np.ndarray:
    """Sample a volume at ``(3, P)`` voxel indices, clipped to its range so that edges do not ring."""
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    if order < 2:
        return ndimage.map_coordinates(volume, index, order=order, mode="nearest", output=np.float32)
    # Mirror boundaries need no padding by 12 voxels, which would treble the cost of the prefilter.
    spline = ndimage.spline_filter(volume, order=order, output=np.float32, mode="mirror")
    index = np.clip(index, 0, np.asarray(volume.shape)[:, None] - 1)
    values = ndimage.map_coordinates(
        spline, index, order=order, mode="mirror", prefilter=False, output=np.float32
    )
    return np.clip(values, volume.min(), volume.max())


def _volume_shape(series: Series) -> tuple[int, int, int]:
    """Return ``(X, Y, Z)``."""
    x, y, z = series.shape[:3]
    return x, y, z
