"""Label maps onto the template: known turns are undone, real heads land on it, and nothing is drawn."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, QualityError
from pds_bids.imaging.grid import Grid, apply_affine, resample, to_ras
from pds_bids.imaging.masks import dice
from pds_bids.phantom.align import register_to_template
from pds_bids.phantom.anatomy import build_anatomies
from pds_bids.phantom.labelmap import paint_t1w
from pds_bids.template import RES02_GRID, get_template, load_template


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return load_template(get_template(tmp_path_factory.mktemp("templates")), RES02_GRID)


@pytest.fixture(scope="module")
def brain(template):
    return template.t1w * template.mask


@pytest.mark.parametrize("degrees", [(0, 0, 0), (18, -12, 8), (-15, 10, 25)])
def test_known_turn_and_size_are_undone(template, brain, degrees):
    known = np.eye(4)
    known[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * (0.94, 1.05, 0.97)
    known[:3, 3] = 6, -9, 4
    grid = Grid((110, 128, 110), np.array([[2, 0, 0, -109], [0, 2, 0, -145], [0, 0, 2, -95], [0, 0, 0, 1.0]]))
    moving = resample(
        brain, template.grid.vox2ras, apply_affine(np.linalg.inv(known), grid.points()), order=1
    )
    found, residual_mm = register_to_template(brain, template.grid, moving, grid.vox2ras, deformable=False)
    inside = template.grid.points()[template.mask]
    errors = np.linalg.norm(apply_affine(found, inside) - apply_affine(known, inside), axis=1)
    assert errors.max() < 1.0
    assert not residual_mm.any()


def test_what_does_not_look_like_a_brain_is_refused(template, brain):
    ball = (np.linalg.norm(template.grid.points() - (0, -18, 8), axis=-1) < 70).astype(np.float32)
    with pytest.raises(QualityError, match="label map"):
        register_to_template(brain, template.grid, ball, template.grid.vox2ras, deformable=False)


def test_no_brain_is_refused_by_name(template, brain, tmp_path):
    with pytest.raises(DataError, match="label map: constant"):
        register_to_template(brain, template.grid, np.zeros((9, 9, 9), np.float32), np.eye(4))
    path = tmp_path / "empty.nii.gz"
    nib.Nifti1Image(np.full((9, 9, 9), 999, np.int16), np.eye(4)).to_filename(path)
    with pytest.raises(DataError, match=f"{path.name} has no label of a brain"):
        build_anatomies(tmp_path, tmp_path / "cache", template)


# 12 was turned by 25 degrees by a search at random, one time in a few.
@pytest.mark.parametrize("number", [5, 12, 16])
def test_real_heads_land_on_the_template_and_twice_on_the_same_place(template, brain, number):
    if not (folder := os.environ.get("PDS_LABELS")):
        pytest.skip("PDS_LABELS is not set: no label maps of whole heads")
    image = nib.load(sorted(Path(folder).glob("*.nii.gz"))[number - 1])
    labels, vox2ras, _ = to_ras(np.asanyarray(image.dataobj).astype(np.int32), image.affine)
    painted = paint_t1w(labels)
    first, _ = register_to_template(brain, template.grid, painted, vox2ras, deformable=False)
    second, _ = register_to_template(brain, template.grid, painted, vox2ras, deformable=False)
    np.testing.assert_array_equal(first, second)
    there = resample(
        (painted > 0.5).astype(np.float32),
        vox2ras,
        apply_affine(first, template.grid.points()),
        order=1,
    )
    assert dice(there > 0.5, template.gm + template.wm > 0.5) > 0.78
