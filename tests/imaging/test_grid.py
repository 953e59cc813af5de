"""Grids, point maps and resampling against closed forms and nibabel."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, from_ras, resample, to_ras


def smooth_function(points):
    """Evaluate a smooth image at RAS points: what any grid should sample."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.cos(x / 9) + np.sin(y / 11) * np.cos(z / 8) + 0.02 * x


def make_affine(codes, angle_deg=0.0, zooms=(2.0, 2.5, 3.0), shape=(20, 24, 18)):
    affine = np.diag([*zooms, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", [angle_deg] * 3, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    to_codes = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    stored = nib.Nifti1Image(np.zeros(shape), affine).as_reoriented(to_codes)
    return stored.shape, stored.affine


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSL", "LPI"])
@pytest.mark.parametrize("angle_deg", [0.0, 20.0])
def test_every_orientation_samples_the_same_function(codes, angle_deg):
    shape, vox2ras = make_affine(codes, angle_deg)
    data = smooth_function(Grid(shape, vox2ras).points())
    moved, moved_affine, orientation = to_ras(data, vox2ras)
    assert "".join(nib.aff2axcodes(moved_affine)) == "RAS"
    np.testing.assert_allclose(moved, smooth_function(Grid(moved.shape, moved_affine).points()), atol=1e-9)
    np.testing.assert_array_equal(from_ras(moved, orientation), data)
    targets = np.random.default_rng(0).uniform(-10, 10, (50, 3))
    np.testing.assert_allclose(resample(moved, moved_affine, targets), smooth_function(targets), atol=2e-3)


def test_resampling_agrees_with_nibabel():
    shape, vox2ras = make_affine("RAS", 15.0)
    data = smooth_function(Grid(shape, vox2ras).points()).astype(np.float32)
    target = Grid((10, 10, 10), nib.affines.from_matvec(np.eye(3) * 2, [-9, -9, -9]))
    ours = resample(data, vox2ras, target.points(), order=1)
    theirs = resample_from_to(nib.Nifti1Image(data, vox2ras), (target.shape, target.vox2ras), order=1)
    np.testing.assert_allclose(ours, theirs.get_fdata(), atol=1e-4)


def test_outside_the_field_of_view_is_filled():
    data = np.ones((4, 4, 4), np.float32)
    points = np.array([[0.0, 0, 0], [3.4, 0, 0], [3.6, 0, 0], [-0.6, 0, 0]])
    np.testing.assert_array_equal(resample(data, np.eye(4), points, fill=-1), [1, 1, -1, -1])


def test_cubic_does_not_ring_below_the_data():
    data = np.zeros((9, 9, 9), np.float32)
    data[4:] = 1
    points = np.stack(np.meshgrid(np.linspace(0, 8, 50), [4.0], [4.0], indexing="ij"), -1)
    values = resample(data, np.eye(4), points)
    assert values.min() == 0
    assert values.max() == 1


def test_composition_is_application_in_turn():
    grid = Grid((12, 12, 12), np.diag([3.0, 3, 3, 1]))
    a2b = np.eye(4)
    a2b[:3, :3] = Rotation.from_euler("z", 10, degrees=True).as_matrix()
    b2c = np.eye(4)
    b2c[:3, 3] = [1, -2, 3]
    points = apply_affine(b2c, apply_affine(a2b, grid.points()))
    matrix_then_matrix = PointMap.from_affine(grid, a2b).then(b2c)
    matrix_then_map = PointMap.from_affine(grid, a2b).then(PointMap.from_affine(grid, b2c))
    np.testing.assert_allclose(matrix_then_matrix.points, points, atol=1e-4)
    np.testing.assert_allclose(matrix_then_map.points, points, atol=1e-3)


def test_jacobian_of_a_scaling():
    shape, vox2ras = make_affine("RAS", 20.0)
    scale = np.diag([1.1, 0.9, 1.2, 1.0])
    jacobian = PointMap.from_affine(Grid(shape, vox2ras), scale).jacobian()
    np.testing.assert_allclose(jacobian, 1.1 * 0.9 * 1.2, rtol=1e-3)
    mirror = PointMap.from_affine(Grid(shape, vox2ras), np.diag([-1.0, 1, 1, 1])).jacobian()
    assert (mirror < 0).all()


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((2, 2), np.eye(4)),
        ((0, 2, 2), np.eye(4)),
        ((2, 2, 2), np.zeros((4, 4))),
        ((2, 2, 2), np.eye(4) * np.nan),
    ],
)
def test_impossible_grids_are_refused(shape, affine):
    with pytest.raises(GeometryError):
        Grid(shape, affine)


def test_grids_compare_by_geometry():
    grid = Grid((2, 3, 4), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.1
    assert grid == Grid((2, 3, 4), np.eye(4) + 1e-5)
    assert grid != Grid((2, 3, 4), moved)
    assert grid != Grid((4, 3, 2), np.eye(4))
    assert Grid((4, 4, 4), np.diag([2.0, 2, 2, 1])).crop((1, 0, 0), (2, 2, 2)).vox2ras[0, 3] == 2
