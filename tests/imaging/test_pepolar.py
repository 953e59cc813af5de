"""The field between opposite phase encodings, on heads distorted by a known field by pushing signal."""

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.grid import Grid, apply_affine, to_ras
from pds_bids.imaging.pepolar import Blip, field_from_blips
from pds_bids.imaging.rigid import grid_centre, parameters_to_matrices

READOUT_S = 0.05
MOVE = [1.5, 2.0, -1.0, 0.02, -0.015, 0.03]


def blip(make_epi, grid, axis, readout_s, matrix=None, noise=0.02, seed=0):
    """A blip in RAS+ order, whatever the storage order of `grid`."""
    image = make_epi(grid, axis, readout_s, matrix, noise, seed)
    moved, vox2ras, _ = to_ras(image, grid.vox2ras)
    to, sign = nib.io_orientation(grid.vox2ras)[axis]
    return Blip(moved, Grid(moved.shape, vox2ras), PhaseEncoding(int(to), float(sign * readout_s)))


def errors_voxels(head, off_resonance, found, grid):
    """Error of the displacement in the brain, voxels, up to a constant."""
    inside = head(grid.points()) > 0.5
    off = (found.hz - off_resonance(grid.points()))[inside]
    return READOUT_S * np.abs(off - np.median(off))


@pytest.mark.parametrize(("codes", "letters"), [("RAS", "AP"), ("LAS", "LR"), ("LPS", "AP"), ("PSL", "AP")])
def test_field_is_found_although_the_head_moved(head, off_resonance, make_grid, make_epi, codes, letters):
    grid = make_grid(codes, zooms=(4.0,) * 3, turn_deg=(4, -3, 5))
    axis = [k for k, c in enumerate(nib.aff2axcodes(grid.vox2ras)) if c in letters][0]
    move = parameters_to_matrices(np.array([MOVE]), grid_centre(grid))[0]
    up = blip(make_epi, grid, axis, READOUT_S)
    down = blip(make_epi, grid, axis, -READOUT_S, move, seed=1)
    found = field_from_blips([up, down])
    error = errors_voxels(head, off_resonance, found, up.grid)
    print(codes, letters, error.mean(), np.percentile(error, 95))
    points = up.grid.points()[head(up.grid.points()) > 0.5]
    far = apply_affine(found.ref2blip[1], points) - apply_affine(move, points)
    print(np.abs(far).mean(0), far.mean(0))
    before, after = (
        np.abs(a - b)[head(up.grid.points()) > 0.5].mean()
        for a, b in ((up.image, down.image), tuple(found.corrected))
    )
    print(before, after)
