"""The field between opposite phase encodings, on heads distorted by a known field by pushing signal."""

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.blips import agreement, join_groups
from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.grid import Grid, apply_affine, to_ras
from pds_bids.imaging.pepolar import Blip, field_from_blips
from pds_bids.imaging.realign import segment_means
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices

READOUT_S = 0.04
MOVE = [1.5, 2.0, -1.0, 0.02, -0.015, 0.03]


def blip(make_epi, grid, axis, readout_s, matrix=None, noise=0.02, seed=0):
    """A blip in RAS+ order, whatever the storage order of `grid`."""
    image = make_epi(grid, axis, readout_s, matrix, noise, seed)
    moved, vox2ras, _ = to_ras(image, grid.vox2ras)
    to, sign = nib.io_orientation(grid.vox2ras)[axis]
    return Blip(moved, Grid(moved.shape, vox2ras), PhaseEncoding(int(to), float(sign * readout_s)))


def axis_of(grid, letters):
    return next(k for k, c in enumerate(nib.aff2axcodes(grid.vox2ras)) if c in letters)


@pytest.mark.parametrize(("codes", "letters"), [("RAS", "AP"), ("LAS", "LR"), ("LPS", "AP"), ("PSL", "AP")])
def test_field_is_found_although_the_head_moved(head, off_resonance, make_grid, make_epi, codes, letters):
    grid = make_grid(codes, zooms=(5.0,) * 3, turn_deg=(4, -3, 5))
    axis = axis_of(grid, letters)
    move = parameters_to_matrices(np.array([MOVE]), grid_centre(grid))[0]
    up = blip(make_epi, grid, axis, READOUT_S)
    down = blip(make_epi, grid, axis, -READOUT_S, move, seed=1)
    found = field_from_blips([up, down])
    inside = head(up.grid.points()) > 0.5
    off = (found.hz - off_resonance(up.grid.points()))[inside]
    error = READOUT_S * np.abs(off - np.median(off))
    # Displacements reach 4 voxels; turned over, the field would be off by twice its spread.
    spread = READOUT_S * off_resonance(up.grid.points())[inside].std()
    assert error.mean() < min(0.2, spread / 2)
    assert np.percentile(error, 95) < 0.6
    figures = agreement([up, down], found, inside)
    assert figures["difference_after"] < figures["difference_before"] / 3
    assert figures["correlation_after"] > figures["correlation_before"]


def test_other_readout_time_and_grid(head, off_resonance, make_grid, make_epi):
    grid = make_grid("RAS", zooms=(5.0,) * 3)
    up = blip(make_epi, grid, 1, READOUT_S)
    other = make_grid("RAS", zooms=(4.5, 5.5, 5.0), turn_deg=(3, 0, 0))
    down = blip(make_epi, other, 1, -0.6 * READOUT_S, seed=1)
    found = field_from_blips([up, down])
    inside = head(grid.points()) > 0.5
    off = (found.hz - off_resonance(grid.points()))[inside]
    assert (READOUT_S * np.abs(off - np.median(off))).mean() < 0.25


def test_joined_groups_average_to_the_head(head, make_grid, make_epi, displacement):
    grid = make_grid("RAS", zooms=(5.0,) * 3)
    centre = grid_centre(grid)
    within = parameters_to_matrices(np.array([[0] * 6, [1, 0.5, -1, 0.01, 0, 0.02]] * 2), centre)
    between = np.stack([np.eye(4), parameters_to_matrices(np.array([[1, 0, -1.5, 0, 0.01, 0]]), centre)[0]])
    groups, readout_s = np.array([0, 0, 1, 1]), READOUT_S * np.array([1, 1, -1, -1])
    truth = within @ between[groups]
    volumes = [
        make_epi(grid, 1, r, m, 0.01, k) for k, (r, m) in enumerate(zip(readout_s, truth, strict=True))
    ]
    series = np.stack(volumes, -1)
    blips = [Blip(series[..., k], grid, PhaseEncoding(1, float(readout_s[k]))) for k in (0, 2)]
    found = field_from_blips(blips)
    motion, distortion = join_groups(found, blips, groups, within)
    np.testing.assert_allclose(motion[:2], within[:2], atol=1e-9)
    means = segment_means(
        series, grid.vox2ras, motion, [[0, 1], [2, 3], range(4)], grid.points(), distortion=distortion
    )
    plain = segment_means(series, grid.vox2ras, within, [[0, 1], [2, 3]], grid.points())
    inside = head(grid.points()) > 0.5
    apart = np.abs(means[0] - means[1])[inside].mean()
    assert apart < np.abs(plain[0] - plain[1])[inside].mean() / 4
    # The joined mean shows the head; the undistorted space may be shifted along the phase encoding.
    assert np.corrcoef(means[2][inside], head(grid.points())[inside])[0, 1] > 0.9
    np.testing.assert_allclose(means[2][inside], ((means[0] + means[1]) / 2)[inside], atol=1e-2)


def test_one_direction_is_no_pair(make_grid, head):
    grid = make_grid("RAS", zooms=(8.0,) * 3)
    image = (1000 * head(grid.points())).astype(np.float32)
    same = Blip(image, grid, PhaseEncoding(1, 0.05))
    with pytest.raises(DataError, match="at least two directions"):
        field_from_blips([same, same])
    with pytest.raises(DataError, match="constant"):
        field_from_blips([same, Blip(np.zeros_like(image), grid, PhaseEncoding(1, -0.05))])


def test_groups_that_do_not_fit_are_refused(make_grid, head, make_epi):
    grid = make_grid("RAS", zooms=(8.0,) * 3)
    blips = [Blip(make_epi(grid, 1, r), grid, PhaseEncoding(1, r)) for r in (0.02, -0.02)]
    found = field_from_blips(blips)
    with pytest.raises(GeometryError, match="2 images"):
        join_groups(found, blips, np.array([0, 2]), np.tile(np.eye(4), (2, 1, 1)))
    moved = Grid(grid.shape, one_voxel_off(grid.vox2ras))
    with pytest.raises(GeometryError, match="one grid"):
        join_groups(
            found, [blips[0], Blip(blips[1].image, moved, blips[1].phase_encoding)], [0], np.eye(4)[None]
        )


def one_voxel_off(vox2ras):
    shifted = vox2ras.copy()
    shifted[:3, 3] = apply_affine(vox2ras, np.ones(3))
    return shifted
