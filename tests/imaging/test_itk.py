"""Point maps from ITK's transforms, against ITK's own resampling, nitransforms, and themselves."""

import numpy as np
import pytest
import SimpleITK as sitk

from pds_bids.exceptions import GeometryError, QualityError
from pds_bids.imaging.greedy import to_sitk
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample
from pds_bids.imaging.itk import inverted, itk_point_map

# Both sides interpolate linearly in float32.
SAME_MM = 2e-3
TURNED = (8, -5, 12)


def wavy(grid, size_mm=4.0):
    """A smooth deformation of a grid, as an image of vectors in LPS+ mm."""
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    shift = size_mm * np.stack([np.sin(y / 25), np.cos(z / 30), np.sin(x / 28 + 1)], -1)
    lps = (shift * (-1, -1, 1)).astype(np.float64)
    image = sitk.GetImageFromArray(np.ascontiguousarray(lps.transpose(2, 1, 0, 3)), isVector=True)
    image.CopyInformation(to_sitk(np.zeros(grid.shape), grid))
    return image


def composite(grid):
    """Affine and field, in the order in which ANTs stores them: the field acts on points first."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.05, 0.04, -0.03, -0.06, 0.96, 0.05, 0.02, -0.04, 1.02])
    affine.SetTranslation((6.0, -9.0, 4.0))
    affine.SetCenter((3.0, 2.0, -1.0))
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(wavy(grid))])


@pytest.fixture(params=[("RAS", (0, 0, 0)), ("LAS", (0, 0, 0)), ("LPS", TURNED), ("PSR", TURNED)], ids=str)
def grids(request, make_grid):
    """A grid in space a and one of an image in space b, in several storage orders."""
    codes, turn_deg = request.param
    return make_grid("RAS", zooms=(5.0, 4.0, 6.0)), make_grid(codes, zooms=(4.0, 5.0, 6.0), turn_deg=turn_deg)


def test_the_map_resamples_as_itk_does(grids, head, tmp_path):
    """``from-b_to-a`` resamples images of b onto a; ITK itself judges direction and order."""
    fixed, moving = grids
    image = head(moving.points()).astype(np.float32)
    path = str(tmp_path / "from-b_to-a_mode-image_xfm.h5")
    sitk.WriteTransform(composite(fixed), path)
    theirs = sitk.Resample(
        to_sitk(image, moving),
        to_sitk(np.zeros(fixed.shape), fixed),
        sitk.ReadTransform(path),
        sitk.sitkLinear,
        0.0,
        sitk.sitkFloat32,
    )
    points = itk_point_map(sitk.ReadTransform(path), fixed).points
    ours = resample(image, moving.vox2ras, points, order=1)
    inner = resample(np.ones(moving.shape, np.uint8), moving.vox2ras, points, order=0) > 0
    inner &= (
        resample(np.pad(np.ones(np.array(moving.shape) - 2, np.float32), 1), moving.vox2ras, points) > 0.9
    )
    difference = np.abs(ours - sitk.GetArrayFromImage(theirs).T)[inner]
    assert inner.mean() > 0.3
    assert difference.max() < 2e-3
    unmoved = resample(image, moving.vox2ras, fixed.points(), order=1)
    assert np.abs(unmoved - ours)[inner].max() > 0.3, "the transform must matter"


def test_nitransforms_reads_the_same_composite(make_grid, tmp_path):
    from nitransforms.manip import TransformChain

    grid = make_grid("LPS", zooms=(4.0, 5.0, 3.5), turn_deg=TURNED)
    path = tmp_path / "xfm.h5"
    sitk.WriteTransform(composite(grid), str(path))
    points = itk_point_map(sitk.ReadTransform(str(path)), grid).points
    # At the nodes of the field, where nitransforms' cubic and ITK's linear interpolation agree.
    theirs = TransformChain.from_filename(path, fmt="itk").map(grid.points().reshape(-1, 3))
    np.testing.assert_allclose(points.reshape(-1, 3), theirs, atol=SAME_MM)


@pytest.mark.parametrize(
    "kind",
    ["AffineTransform_float_3_3", "AffineTransform_double_3_3", "MatrixOffsetTransformBase_double_3_3"],
)
def test_a_shift_to_the_left_is_to_the_left(tmp_path, kind):
    """fMRIPrep's text files: 10 mm along LPS x from a to b is 10 mm to the Left."""
    path = tmp_path / "from-b_to-a_mode-image_xfm.txt"
    path.write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 10 0 0\nFixedParameters: 0 0 0\n"
    )
    grid = Grid((3, 3, 3), np.diag([-2.0, 2.0, 2.0, 1.0]))
    moved = itk_point_map(sitk.ReadTransform(str(path)), grid).points - grid.points()
    np.testing.assert_allclose(moved.reshape(-1, 3), [[-10, 0, 0]] * 27, atol=1e-5)


def test_steps_are_composed_from_the_template_to_the_image(make_grid):
    """The way a file list is read: the transform nearest to the template acts on its points first."""
    grid = make_grid()
    scale, shift = sitk.AffineTransform(3), sitk.TranslationTransform(3, (10.0, 0.0, 0.0))
    scale.Scale(2.0)
    points = itk_point_map(sitk.CompositeTransform([shift, scale]), grid).points
    np.testing.assert_allclose(points, 2 * grid.points() - [10, 0, 0], atol=1e-3)


def test_the_inverse_undoes_the_map(grids):
    fixed, native = grids
    there = itk_point_map(composite(fixed), fixed)
    back = inverted(there, native)
    round_trip = back.then(there)
    inside = np.abs(back.points).max(-1) < 60
    error_mm = np.linalg.norm(round_trip.points - native.points(), axis=-1)[inside]
    assert inside.sum() > 1000
    # The inverse is interpolated linearly between nodes 5 mm apart.
    assert error_mm.max() < 0.3
    assert np.median(error_mm) < 0.1
    naive = apply_affine(np.eye(4), native.points())
    assert np.linalg.norm(back.points - naive, axis=-1)[inside].mean() > 5, "it must have moved"


def test_an_affine_is_inverted_exactly(make_grid):
    grid, native = make_grid(), make_grid("LAS", turn_deg=TURNED)
    matrix = np.eye(4)
    matrix[:3] = [[1.1, 0.1, 0, 5], [-0.1, 0.9, 0.05, -7], [0, 0.02, 1.0, 11]]
    back = inverted(PointMap.from_affine(grid, matrix), native)
    np.testing.assert_allclose(back.points, apply_affine(np.linalg.inv(matrix), native.points()), atol=5e-3)


def test_a_map_that_folds_has_no_inverse(make_grid):
    grid = make_grid()
    field = sitk.DisplacementFieldTransform(wavy(grid, size_mm=80.0))
    with pytest.raises(QualityError, match="has no inverse"):
        inverted(itk_point_map(field, grid), grid)


def test_two_dimensions_are_refused():
    with pytest.raises(GeometryError, match="2 dimensions"):
        itk_point_map(sitk.AffineTransform(2), Grid((2, 2, 2), np.eye(4)))
