"""Grids in any storage order."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.imaging.grid import Grid, apply_affine


@pytest.fixture(scope="session")
def make_grid():
    """Grids centred on the origin, in any storage order, oblique or not."""

    def make(codes="RAS", zooms=(4.0, 4.0, 4.0), extent=(104.0, 104.0, 104.0), turn_deg=(0, 0, 0)):
        order = nib.orientations.axcodes2ornt(codes)
        shape = tuple(round(extent[int(a)] / z) for a, z in zip(order[:, 0], zooms, strict=True))
        vox2ras = np.eye(4)
        turn = Rotation.from_euler("XYZ", turn_deg, degrees=True).as_matrix()
        vox2ras[:3, :3] = turn @ nib.orientations.inv_ornt_aff(order, shape)[:3, :3].T @ np.diag(zooms)
        vox2ras[:3, 3] = -apply_affine(vox2ras, (np.asarray(shape) - 1) / 2)
        return Grid(shape, vox2ras)

    return make
