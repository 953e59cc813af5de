"""Distortion against heads that are evaluated where the field moves them, so that nothing is interpolated."""

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.distortion import Distortion, phase_encoding
from pds_bids.imaging.grid import apply_affine, to_ras
from pds_bids.imaging.realign import realigned_mean, segment_means
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices

READOUT_S = 0.05


def field_hz(points):
    """A smooth field with up to 80 Hz: 4 voxels."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 80 * np.exp(-0.5 * ((x - 10) ** 2 + (y - 40) ** 2 + (z + 20) ** 2) / 30**2)


def distorted(head, grid, axis, readout_s, matrix=None):
    """Return the image of a head whose voxels the field has moved along an array axis, signal conserved."""
    matrix = np.eye(4) if matrix is None else matrix
    there = grid.points()
    truth = there.copy()
    step = grid.vox2ras[:3, axis]
    for _ in range(60):  # where does the signal seen at `there` come from?
        rest = apply_affine(np.linalg.inv(matrix), truth)
        truth = there - readout_s * field_hz(rest)[..., None] * step
    rest = apply_affine(np.linalg.inv(matrix), truth)
    moved = (matrix[:3, :3].T @ step) / 2
    slope = field_hz(rest + moved) - field_hz(rest - moved)
    return (1000 * head(rest) / (1 + readout_s * slope)).astype(np.float32)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSL"])
def test_undistorted_mean_is_the_head(head, make_grid, codes):
    grid = make_grid(codes, zooms=(4.0,) * 3)
    stored = nib.aff2axcodes(grid.vox2ras)
    j = stored.index("A" if "A" in stored else "P")
    series = np.stack([distorted(head, grid, j, sign * READOUT_S) for sign in (1, -1)], -1)
    field = Distortion(
        field_hz(grid.points()).astype(np.float32), grid, np.array([j, j]), READOUT_S * np.array([1, -1])
    )
    motion = np.tile(np.eye(4), (2, 1, 1))
    truth = 1000 * head(grid.points())
    inside = truth > 500
    for k in range(2):
        plain = realigned_mean(series, grid.vox2ras, motion, [k])
        mean = realigned_mean(series, grid.vox2ras, motion, [k], distortion=field)
        before, after = (np.abs(image - truth)[inside].mean() for image in (plain, mean))
        # What is left is the interpolation of soft edges at 4 mm.
        assert after < 15 < 40 < before


def test_field_moves_with_the_head(head, make_grid):
    grid = make_grid("RAS", zooms=(4.0,) * 3)
    motion = parameters_to_matrices(np.array([[0] * 6, [3, 2, -2, 0.05, 0, 0.1]]), grid_centre(grid))
    series = np.stack([distorted(head, grid, 1, READOUT_S, matrix) for matrix in motion], -1)
    field = Distortion(
        field_hz(grid.points()).astype(np.float32), grid, np.array([1, 1]), np.full(2, READOUT_S)
    )
    truth = 1000 * head(grid.points())
    inside = truth > 500
    mean = segment_means(series, grid.vox2ras, motion, [[1]], grid.points(), distortion=field)[0]
    assert np.abs(mean - truth)[inside].mean() < 15


@pytest.mark.parametrize(("codes", "direction"), [("RAS", "j-"), ("LAS", "i"), ("PIR", "k-"), ("LPS", "j")])
def test_phase_encoding_follows_reorientation(make_grid, codes, direction):
    grid = make_grid(codes, zooms=(5.0,) * 3)
    metadata = {"PhaseEncodingDirection": direction, "TotalReadoutTime": READOUT_S}
    found = phase_encoding(metadata, grid.vox2ras)
    marked = np.zeros(grid.shape)
    index = [4, 4, 4]
    marked[tuple(index)] = 1
    index["ijk".index(direction[0])] += -1 if direction.endswith("-") else 1
    marked[tuple(index)] = 2
    moved, _, _ = to_ras(marked, grid.vox2ras)
    step = np.argwhere(moved == 2)[0] - np.argwhere(moved == 1)[0]
    assert np.flatnonzero(step).tolist() == [found.axis]
    assert np.sign(found.readout_s) == step[found.axis]


def test_incomplete_sidecars_are_named():
    with pytest.raises(DataError, match="no TotalReadoutTime"):
        phase_encoding({"PhaseEncodingDirection": "j"}, np.eye(4))
    with pytest.raises(DataError, match="'y'"):
        phase_encoding({"PhaseEncodingDirection": "y", "TotalReadoutTime": 0.05}, np.eye(4))


def test_distortion_of_another_length_is_refused(make_grid):
    grid = make_grid("RAS", zooms=(20.0,) * 3)
    field = Distortion(np.zeros(grid.shape, np.float32), grid, np.ones(3, int), np.zeros(3))
    series = np.ones((*grid.shape, 2), np.float32)
    with pytest.raises(GeometryError, match="3 volumes for a series of 2"):
        realigned_mean(series, grid.vox2ras, np.tile(np.eye(4), (2, 1, 1)), distortion=field)
