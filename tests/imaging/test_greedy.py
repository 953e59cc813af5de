"""The inverse of a displacement, against a map whose inverse is known in closed form."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.imaging.greedy import inverse_displacement
from pds_bids.imaging.grid import Grid, PointMap, apply_affine

# Linear interpolation of the field between nodes, and the tolerance of the iteration in voxels.
TOLERANCE_MM = 0.06


@pytest.fixture
def oblique() -> Grid:
    vox2ras = np.eye(4)
    vox2ras[:3, :3] = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix() @ np.diag(
        [2, -2, 3.0]
    )
    vox2ras[:3, 3] = (-30, 40, -20)
    return Grid((24, 22, 18), vox2ras)


def test_inverse_of_a_turn_and_a_stretch_is_exact(oblique: Grid) -> None:
    """The displacement of an affine is linear, so that linear interpolation of it makes no error."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 6, degrees=True).as_matrix() @ np.diag([1.1, 0.92, 1.05])
    centre = apply_affine(oblique.vox2ras, (np.array(oblique.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ centre
    here = oblique.points()
    back = inverse_displacement(apply_affine(affine, here) - here, oblique)
    exact = apply_affine(np.linalg.inv(affine), here) - here
    inner = (slice(5, -5),) * 3
    assert np.abs(back - exact)[inner].max() < TOLERANCE_MM
    assert np.abs(exact[inner]).max() > 1


def test_inverse_cancels_a_smooth_warp(oblique: Grid) -> None:
    here = oblique.points()
    shift = np.stack([2.5 * np.sin(here @ k / 9) for k in np.eye(3)[[1, 2, 0]]], -1)
    back = inverse_displacement(shift, oblique)
    there = PointMap(oblique, (here + back).astype(np.float32))
    forth = there.then(PointMap(oblique, (here + shift).astype(np.float32)))
    inner = (slice(3, -3),) * 3
    assert np.abs(forth.points - here)[inner].max() < TOLERANCE_MM
    assert np.abs(shift + back)[inner].max() > 0.3  # the negative displacement would not do


def test_inverse_of_a_fold_stays_finite(oblique: Grid) -> None:
    here = oblique.points()
    shift = 9 * np.sin(here / 3)
    assert np.isfinite(inverse_displacement(shift, oblique)).all()
