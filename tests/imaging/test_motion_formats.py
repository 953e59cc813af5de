"""Motion leaves the package as transform files of other tools: nitransforms must read back what we mean."""

import nibabel as nib
import numpy as np
import pytest
from nitransforms.linear import Affine, LinearTransformsMapping, load
from nitransforms.resampling import apply

from pds_bids.imaging.motion import parameters_to_matrices, segment_means
from pds_bids.imaging.rigid import grid_centre
from pds_bids.interfaces.derivatives import _write_itk

# Text files hold about six digits of a number near 100.
TEXT_MM = 1e-4
PARAMETERS = np.array(
    [[0, 0, 0, 0, 0, 0], [1.5, -2, 3, 0.02, -0.03, 0.05], [-4, 0.5, -1, -0.06, 0.01, 0.0]], float
)
GRIDS = [("RAS", (0, 0, 0)), ("LAS", (0, 0, 0)), ("PSL", (0, 0, 0)), ("LAS", (20, -10, 15))]


@pytest.fixture(params=GRIDS, ids=["RAS", "LAS", "PSL", "oblique"])
def moved(request, make_grid, make_series):
    codes, turn = request.param
    grid = make_grid(codes, (6, 5, 7), turn_deg=turn)
    series, _ = make_series(grid, PARAMETERS)
    return grid, series, parameters_to_matrices(PARAMETERS, grid_centre(grid))


def agrees(grid, series, k, transform, ref2volume):
    """Compare nitransforms' resampling of a volume with ours, away from the border of the view."""
    image = nib.Nifti1Image(series[..., k], grid.vox2ras)
    theirs = np.asarray(apply(transform, image, reference=image, order=3).dataobj)
    ours = segment_means(series, grid.vox2ras, ref2volume, [[k]], grid.points())[0]
    inner = (slice(4, -4),) * 3
    # Ours is clipped to the range of the volume.
    theirs = np.clip(theirs, series[..., k].min(), series[..., k].max())
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-3 * series.max())
    # The test can tell: the volume as acquired is far from both.
    if k:
        assert np.abs(series[..., k] - ours)[inner].max() > 0.05 * series.max()


def test_itk_file_round_trip_and_use(moved, tmp_path):
    grid, series, ref2volume = moved
    _write_itk(ref2volume, tmp_path / "motion.txt")
    back = load(tmp_path / "motion.txt", fmt="itk")
    assert isinstance(back, LinearTransformsMapping)
    np.testing.assert_allclose(back.matrix, ref2volume, atol=TEXT_MM)
    for k in range(3):
        agrees(grid, series, k, back[k], ref2volume)


def test_itk_numbers_are_lps(tmp_path):
    """A shift of +2 mm to the Right in the volume is -2 in ITK's first coordinate."""
    shift = parameters_to_matrices(np.array([[2.0, 0, 0, 0, 0, 0]]), np.zeros(3))
    _write_itk(shift, tmp_path / "motion.txt")
    line = next(x for x in (tmp_path / "motion.txt").read_text().splitlines() if x.startswith("Parameters"))
    assert [float(x) for x in line.split()[-3:]] == [-2, 0, 0]


def test_fsl_file_round_trip_and_use(moved, tmp_path):
    """FSL's matrices are between scaled voxel frames, so the images must be named when reading them."""
    grid, series, ref2volume = moved
    image = nib.Nifti1Image(series[..., 0], grid.vox2ras)
    mapping = LinearTransformsMapping(ref2volume, reference=image)
    mapping.to_filename(str(tmp_path / "motion.mat"), fmt="fsl", moving=image)
    for k in range(3):
        back = load(tmp_path / f"motion.mat.{k:03d}", fmt="fsl", reference=image, moving=image)
        np.testing.assert_allclose(back.matrix, ref2volume[k], atol=TEXT_MM)
        agrees(grid, series, k, Affine(back.matrix), ref2volume)


def test_fsl_numbers(make_grid, tmp_path):
    """FSL maps the volume onto the reference; in a LAS image its x runs to the Left."""
    grid = make_grid("LAS", (6, 5, 7))
    image = nib.Nifti1Image(np.zeros(grid.shape, np.float32), grid.vox2ras)
    shift = parameters_to_matrices(np.array([[2.0, 3, 0, 0, 0, 0]]), np.zeros(3))
    mapping = LinearTransformsMapping(shift, reference=image)
    mapping.to_filename(str(tmp_path / "motion.mat"), fmt="fsl", moving=image)
    written = np.loadtxt(tmp_path / "motion.mat.000")
    np.testing.assert_allclose(written[:3, 3], [2, -3, 0], atol=TEXT_MM)
