import os
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.dwi import check_gradients, fsl_to_ras_bvecs
from pds_bids.imaging.dwi_maps import tensor_maps
from pds_bids.imaging.dwi_orientation import judge_table
from pds_bids.imaging.grid import Grid, to_ras
from pds_bids.imaging.masks import rough_brain_mask
from pds_bids.phantom.gradients import spread_directions

IDENTITY = np.eye(3)
SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * np.array([signs]).T
    for order in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]


def bundles(grid, count=60, radius_mm=6.0):
    """Straight bundles in random directions: ``(X, Y, Z, 3)`` unit vectors, zero where there is no fibre."""
    rng = np.random.default_rng(5)
    points = grid.points()
    field = np.zeros(points.shape)
    for along in Rotation.random(count, random_state=5).as_matrix()[:, 0]:
        apart = points - points.reshape(-1, 3)[rng.integers(points.size // 3)]
        near = np.linalg.norm(np.cross(apart, along), axis=-1) < radius_mm
        field[near] = along
    return field


def fitted(grid, change=IDENTITY, n=20, noise=20.0, fa_scale=1.0):
    """The tensor of the bundles, fitted with a table whose components along the voxel axes were changed."""
    along = bundles(grid).reshape(-1, 3)
    mask = np.ones(grid.shape, bool)
    outer = np.einsum("vi,vj->vij", along, along)
    tensor = 0.5e-3 * np.eye(3) + fa_scale * 0.9e-3 * outer
    vectors = np.vstack([np.zeros((1, 3)), spread_directions(n)])
    bvals = np.array([0.0] + [1000.0] * n)
    signals = 500 * np.exp(-bvals * np.einsum("ni,vij,nj->vn", vectors, tensor, vectors))
    signals += np.random.default_rng(0).normal(0, noise, signals.shape)
    left, _, right = np.linalg.svd(grid.vox2ras[:3, :3] / np.asarray(grid.zooms))
    axes = left @ right
    wrong = vectors @ axes @ change.T @ axes.T
    maps = tensor_maps(signals, check_gradients(n + 1, bvals, wrong))
    return judge_table(maps.direction, maps.fa, mask, grid, n), maps


@pytest.fixture
def small_grid(make_grid):
    return make_grid(zooms=(4.0, 4.0, 5.0), extent=(96.0, 96.0, 90.0), turn_deg=(15, -10, 20))


@pytest.mark.parametrize("change", SIGNED_PERMUTATIONS[::2], ids=lambda m: str(m.astype(int).tolist()))
def test_every_flip_and_permutation_is_found(change, small_grid):
    verdict, _ = fitted(small_grid, change)
    is_right = np.allclose(change, np.eye(3)) or np.allclose(change, -np.eye(3))
    assert verdict.is_judged
    assert verdict.is_consistent == is_right
    # The remedy is the inverse of the change, up to a common sign.
    expected = change.T
    words = verdict.best
    if is_right:
        assert words == "as given"
        return
    names = ("left-right", "posterior-anterior", "inferior-superior")
    remedy = np.zeros((3, 3))
    for axis, name in enumerate(names):
        source = next((k for k, n in enumerate(names) if f"{name} from {n}" in words), axis)
        remedy[axis, source] = -1 if f"flip {name}" in words else 1
    assert np.allclose(remedy, expected) or np.allclose(remedy, -expected), words
    assert words in verdict.note


def test_fa_and_md_do_not_notice(small_grid):
    """Why the check is needed: a flipped table looks fine in every scalar map."""
    _, right = fitted(small_grid)
    _, wrong = fitted(small_grid, np.diag([-1.0, 1, 1]))
    np.testing.assert_allclose(wrong.fa, right.fa, atol=1e-5)
    np.testing.assert_allclose(wrong.md, right.md, rtol=1e-5)
    np.testing.assert_allclose(wrong.residual, right.residual, atol=1e-5)


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (30, 0, -25)])
@pytest.mark.parametrize("zooms", [(4.0, 4.0, 4.0), (3.0, 4.0, 6.0)])
def test_right_tables_pass_on_any_grid(turn_deg, zooms, make_grid):
    grid = make_grid(zooms=zooms, extent=(96.0, 96.0, 90.0), turn_deg=turn_deg)
    verdict, _ = fitted(grid)
    assert verdict.is_judged
    assert verdict.is_consistent
    wrong, _ = fitted(grid, np.diag([1.0, -1, 1]))
    assert wrong.best == "flip posterior-anterior"


def test_not_judged_without_evidence(small_grid):
    few, _ = fitted(small_grid, np.diag([-1.0, 1, 1]), n=9)
    assert not few.is_judged
    assert few.is_consistent
    assert "9 directions" in few.note
    isotropic, _ = fitted(small_grid, fa_scale=0.0, noise=1.0)
    assert not isotropic.is_judged
    rng = np.random.default_rng(1)
    mask = np.ones(small_grid.shape, bool)
    noise = Rotation.random(mask.sum(), random_state=2).as_matrix()[:, 0]
    random = judge_table(noise, rng.uniform(0.3, 0.6, mask.sum()), mask, small_grid, 30)
    assert not random.is_judged
    assert "not checked" in random.note


def test_arrays_must_fit(small_grid):
    with pytest.raises(GeometryError, match="one direction per voxel"):
        judge_table(np.zeros((5, 3)), np.zeros(5), np.ones(small_grid.shape, bool), small_grid, 30)


@pytest.mark.real
@pytest.mark.parametrize("name", ["missing/sub-GALAN", "missing/sub-VANDERBILT", "paired/sub-XA30"])
def test_real_tables_fit_and_flipped_ones_do_not(name):
    """Tables of 12 to 20 directions from three scanners."""
    root = os.environ.get("PDS_REAL_DATA")
    if not root:
        pytest.skip("PDS_REAL_DATA is not set")
    path = sorted((Path(root) / name / "dwi").glob("*_dwi.nii.gz"))[-1]
    image = nib.load(path)
    data, vox2ras, _ = to_ras(np.asarray(image.dataobj, np.float32), image.affine)
    grid, stem = Grid(data.shape[:3], vox2ras), str(path).removesuffix(".nii.gz")
    table = check_gradients(data.shape[3], np.loadtxt(f"{stem}.bval"), np.loadtxt(f"{stem}.bvec"))
    mask = rough_brain_mask(data[..., list(table.b0_volumes)].mean(-1), grid)
    for flip in (None, 0, 1, 2):
        vectors = table.bvecs.copy()
        vectors[:, 0 if flip is None else flip] *= 1 if flip is None else -1
        maps = tensor_maps(data[mask], replace(table, bvecs=fsl_to_ras_bvecs(vectors, image.affine)))
        verdict = judge_table(maps.direction, maps.fa, mask, grid, len(table.weighted_volumes))
        assert verdict.is_judged
        assert verdict.is_consistent == (flip is None)
        axis = ("left-right", "posterior-anterior", "inferior-superior")[flip or 0]
        assert verdict.best == ("as given" if flip is None else f"flip {axis}")
