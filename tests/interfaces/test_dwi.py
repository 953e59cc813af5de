import json
import logging
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import PointMap, apply_affine
from pds_bids.imaging.realign import segment_means
from pds_bids.interfaces.dwi import DenoiseDWI, FieldOfView, TensorFit
from pds_bids.interfaces.images import load, save, save_map
from pds_bids.interfaces.series import ConformGradients, ConformSeries
from pds_bids.phantom.gradients import spread_directions
from pds_bids.template import MODEL_GRID

STORED = {"RAS": (0, 0, 0), "LAS": (0, 0, 0), "LPS": (0, 0, 0), "PSL": (0, 0, 0), "LAS oblique": (12, -8, 20)}
MD_MM2_S = 0.8e-3
N = 14


def tensor_at(points):
    """Bundles in random directions, with FA rising to the Right: tensors ``(..., 3, 3)`` and FA."""
    along = np.zeros(points.shape)
    rng = np.random.default_rng(3)
    for axis in Rotation.random(40, random_state=3).as_matrix()[:, 0]:
        apart = points - rng.uniform(-40, 40, 3)
        along[np.linalg.norm(np.cross(apart, axis), axis=-1) < 9] = axis
    isotropic = np.linalg.norm(along, axis=-1) == 0
    fa = np.where(isotropic, 0.0, 0.55 + 0.004 * points[..., 0])
    # MD (1 + e), MD (1 - e / 2) twice: FA^2 = 3/2 * (3/2 e^2) / (3 + 3/2 e^2)
    e = np.sqrt(3 * fa**2 / (2.25 - 1.5 * fa**2))
    tensor = MD_MM2_S * (
        (1 - e / 2)[..., None, None] * np.eye(3)
        + 1.5 * e[..., None, None] * along[..., :, None] * along[..., None, :]
    )
    return tensor, fa


def attenuated(bvals, vectors, tensor):
    return 900 * np.exp(-bvals * np.einsum("ni,...ij,nj->...n", vectors, tensor, vectors))


def write_scan(folder, grid, *, flip=None, turn=None):
    """Write a series in the storage order of `grid` with FSL's files.

    `flip` spoils one component of the vectors; from the eighth volume on the head is turned by `turn`.
    """
    world = spread_directions(N)
    bvals = np.array([0.0, *[1000.0] * N, 0.0])
    vectors = np.vstack([np.zeros((1, 3)), world, np.zeros((1, 3))])
    points = grid.points()
    inside = np.linalg.norm(points, axis=-1) < 46
    signal = attenuated(bvals, vectors, tensor_at(points)[0])
    if turn is not None:
        # What is at x in the turned head was at turn.T x; the gradient acts on it along turn.T g.
        later = attenuated(bvals, vectors @ turn, tensor_at(points @ turn)[0])
        signal[..., 7:] = later[..., 7:]
    image = nib.Nifti1Image((signal * inside[..., None]).astype(np.float32), grid.vox2ras)
    image.to_filename(folder / "dwi.nii.gz")
    # FSL: components along voxel axes, the first with its sign flipped when the determinant is positive.
    components = np.linalg.solve(grid.vox2ras[:3, :3] / np.asarray(grid.zooms), vectors.T)
    components[0] *= -1 if np.linalg.det(grid.vox2ras) > 0 else 1
    if flip is not None:
        components[flip] *= -1
    np.savetxt(folder / "dwi.bvec", components)
    np.savetxt(folder / "dwi.bval", bvals[None])


@pytest.fixture
def conformed(tmp_path, monkeypatch, make_grid):
    """Conformed series, gradients, motion of nobody, and a mask, from a stored order."""

    def make(name, *, flip=None, turn=None, zoom_mm=4.0):
        monkeypatch.chdir(tmp_path)
        grid = make_grid(name[:3], zooms=(zoom_mm,) * 3, turn_deg=STORED[name])
        write_scan(tmp_path, grid, flip=flip, turn=turn)
        files = {"bvals": "dwi.bval", "bvecs": "dwi.bvec", "dwi_files": "dwi.nii.gz"}
        gradients = (
            ConformGradients(**{k: [str(tmp_path / f)] for k, f in files.items()}).run().outputs.gradients
        )
        series = ConformSeries(in_files=[str(tmp_path / "dwi.nii.gz")]).run().outputs.out_file
        data, ras = load(series)
        mask = np.linalg.norm(ras.points(), axis=-1) < 40
        motion = np.tile(np.eye(4), (data.shape[3], 1, 1))
        if turn is not None:
            motion[7:, :3, :3] = turn
        np.save("motion.npy", motion)
        return {
            "in_file": series,
            "gradients": gradients,
            "motion": str(tmp_path / "motion.npy"),
            "mask": save("mask.nii", mask, ras.vox2ras),
        }

    return make


@pytest.mark.parametrize("name", STORED)
def test_maps_do_not_depend_on_storage(name, conformed):
    outputs = TensorFit(**conformed(name)).run().outputs
    fa, grid = load(outputs.fa)
    md, _ = load(outputs.md)
    truth = tensor_at(grid.points())[1]
    inside = np.linalg.norm(grid.points(), axis=-1) < 40
    np.testing.assert_allclose(fa[inside], truth[inside], atol=0.005)
    np.testing.assert_allclose(md[inside], MD_MM2_S, rtol=0.01)
    assert not fa[~inside].any()
    assert nib.aff2axcodes(grid.vox2ras) == ("R", "A", "S")
    quality = json.loads(Path(outputs.quality).read_text())
    assert quality["n_implausible"] == quality["n_unfitted"] == 0
    assert quality["tensor_volumes"] == N + 2
    assert quality["orientation"]["is_judged"]
    assert quality["orientation"]["is_consistent"]


def test_directions_follow_the_head(conformed):
    turn = Rotation.from_euler("xyz", [10, -15, 50], degrees=True).as_matrix()
    inputs = conformed("LAS", turn=turn)
    fa, grid = load(TensorFit(**inputs).run().outputs.fa)
    tensor, truth = tensor_at(grid.points())
    # Well inside a bundle, where interpolation does not mix: the tensor is the same all around.
    parts = np.moveaxis(tensor.reshape(*grid.shape, 9), -1, 0)
    spread = np.max([ndimage.maximum_filter(p, 3) - ndimage.minimum_filter(p, 3) for p in parts], axis=0)
    core = (spread < 0.2e-3) & (truth > 0) & (np.linalg.norm(grid.points(), axis=-1) < 38)
    assert core.sum() > 50
    assert np.abs(fa - truth)[core].mean() < 0.03


def test_a_flipped_table_is_told(conformed, caplog):
    inputs = conformed("LAS", flip=1)
    with caplog.at_level(logging.WARNING, "pds_bids.interfaces"):
        outputs = TensorFit(**inputs).run().outputs
    quality = json.loads(Path(outputs.quality).read_text())
    assert not quality["orientation"]["is_consistent"]
    assert quality["orientation"]["best"] == "flip posterior-anterior"
    assert "do not fit the image" in caplog.text


def test_maps_on_the_model_grid(conformed):
    """A map that puts model voxels on acquired ones: nothing is interpolated, and the truth comes out."""
    inputs = conformed("LPS", zoom_mm=3.0)
    moved = np.eye(4)
    # Acquired voxels lie at multiples of 3 mm, those of the model grid 2 mm beside.
    moved[:3, 3] = [4, -5, 7]
    inputs["template2native"] = save_map("map.npz", PointMap.from_affine(MODEL_GRID, moved))
    outputs = TensorFit(**inputs).run().outputs
    fa, grid = load(outputs.template_fa)
    md, _ = load(outputs.template_md)
    assert grid == MODEL_GRID
    there = apply_affine(moved, MODEL_GRID.points())
    truth = tensor_at(there)[1]
    inside = np.linalg.norm(there, axis=-1) < 38
    np.testing.assert_allclose(fa[inside], truth[inside], atol=0.01)
    np.testing.assert_allclose(md[inside], MD_MM2_S, rtol=0.01)
    assert not fa[np.linalg.norm(there, axis=-1) > 43].any()
    only = np.zeros(MODEL_GRID.shape, bool)
    only[30:34, 35:39, 25:29] = True
    inputs["template_mask"] = save("only.nii", only, MODEL_GRID.vox2ras)
    limited = load(TensorFit(**inputs).run().outputs.template_md)[0]
    np.testing.assert_array_equal(limited > 0, only)


def test_shells_are_the_averages(conformed):
    inputs = conformed("LAS")
    motion = np.load(inputs["motion"])
    motion[3, :3, 3] = [3, 0, -5]
    np.save(inputs["motion"], motion)
    outputs = TensorFit(**inputs).run().outputs
    shells, grid = load(outputs.shells)
    data, _ = load(inputs["in_file"])
    mask = load(inputs["mask"])[0] > 0
    groups = [[0, N + 1], list(range(1, N + 1))]
    expected = segment_means(data, grid.vox2ras, motion, groups, grid.points()[mask])
    np.testing.assert_allclose(shells[mask].T, expected, rtol=1e-4)
    assert json.loads(Path(outputs.shells_json).read_text()) == {"bvals": [0, 1000], "n_volumes": [2, N]}


def test_a_bias_field_scales_shells_and_nothing_else(conformed):
    inputs = conformed("LAS")
    _, grid = load(inputs["in_file"])
    plain = TensorFit(**inputs).run().outputs
    before = [load(path)[0].copy() for path in (plain.shells, plain.s0, plain.fa, plain.md)]
    bias = save("bias.nii", np.full(grid.shape, 2, np.float32), grid.vox2ras)
    divided = TensorFit(**inputs, bias=bias).run().outputs
    after = [load(path)[0] for path in (divided.shells, divided.s0, divided.fa, divided.md)]
    for one, other, factor in zip(before, after, (0.5, 0.5, 1, 1), strict=True):
        np.testing.assert_allclose(other, factor * one, rtol=1e-4, atol=1e-5)


def test_without_enough_directions_there_are_means_but_no_maps(conformed, caplog):
    inputs = conformed("RAS")
    content = json.loads(Path(inputs["gradients"]).read_text())
    content["bvecs_ras"] = [[0, 0, 1.0]] * (N + 2)
    Path(inputs["gradients"]).write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, "pds_bids.interfaces"):
        outputs = TensorFit(**inputs).run().outputs
    assert load(outputs.shells)[0].shape[3] == 2
    assert not isinstance(outputs.fa, str)
    assert json.loads(Path(outputs.quality).read_text())["tensor_problem"].startswith("1 distinct")
    assert "no FA and MD: 1 distinct" in caplog.text


def test_denoising_node(conformed, tmp_path):
    inputs = conformed("PSL", zoom_mm=5.0)
    data, grid = load(inputs["in_file"])
    rng = np.random.default_rng(0)
    noisy = np.abs(data + rng.normal(0, 40, data.shape)).astype(np.float32)
    given = {"in_file": save("noisy.nii", noisy, grid.vox2ras), "gradients": inputs["gradients"]}
    untouched = DenoiseDWI(**given).run().outputs
    assert untouched.out_file == given["in_file"]
    outputs = (
        DenoiseDWI(
            **given, method="mppca", degibbs=True, dwi_file=str(tmp_path / "dwi.nii.gz"), partial_fourier=0.75
        )
        .run()
        .outputs
    )
    clean, there = load(outputs.out_file)
    assert there == grid
    assert clean.shape == data.shape
    mask = load(inputs["mask"])[0] > 0
    assert np.abs(clean - data)[mask].mean() < 0.7 * np.abs(noisy - data)[mask].mean()
    assert np.median(load(outputs.noise_map)[0][mask]) == pytest.approx(40, rel=0.2)
    assert "partial Fourier 0.75" in outputs.notes[0]


def test_denoising_node_refuses(conformed):
    inputs = conformed("RAS")
    data, grid = load(inputs["in_file"])
    given = {"in_file": save("thin.nii", data[:, :, 10:14], grid.vox2ras), "gradients": inputs["gradients"]}
    with pytest.raises(DataError, match="do not fit"):
        DenoiseDWI(**given, method="mppca").run()


def test_field_of_view_node(conformed, monkeypatch, caplog):
    inputs = conformed("LAS")
    data, grid = load(inputs["in_file"])
    noise = np.random.default_rng(0).normal(0, 1, data.shape).astype(np.float32)
    x, y, z = np.moveaxis(MODEL_GRID.points(), -1, 0)

    # A ball of 50 mm for a brain, which a shift lets stick out of the view at the top.
    ball = x**2 + y**2 + z**2 < 50**2
    one = ball.astype(np.float32)
    toy = SimpleNamespace(
        grid=MODEL_GRID,
        mask=ball,
        gm=one,
        wm=one,
        csf=one,
        atlas=ball.astype(np.int32),
        atlas_labels={1: "All"},
    )
    monkeypatch.setattr("pds_bids.interfaces.dwi.read_template", lambda path: path)
    monkeypatch.setattr("pds_bids.interfaces.dwi.load_template", lambda files, on: toy)
    shift = np.eye(4)
    shift[2, 3] = 30
    there = save_map("map.npz", PointMap.from_affine(MODEL_GRID, shift))
    series = save("noisy.nii", data + noise, grid.vox2ras)
    given = {"in_file": series, "mask": inputs["mask"], "template2native": there}
    with caplog.at_level(logging.WARNING, "pds_bids.interfaces"):
        found = FieldOfView(**given, template=there).run().outputs.coverage
    content = json.loads(Path(found).read_text())
    assert content["brain"] == pytest.approx((z[toy.mask] + 30 <= 52).mean(), abs=0.01)
    assert list(content["ends"]) == ["superior"]
    assert not content["is_complete"]
    assert content["note"] in caplog.text
