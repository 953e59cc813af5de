"""Registration against known warps, against copies in other storage orders, and against what must fail."""

import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, QualityError
from pds_bids.imaging.gate import nmi
from pds_bids.imaging.greedy import GreedyImage
from pds_bids.imaging.grid import Grid, PointMap, apply_affine, resample, to_ras
from pds_bids.imaging.intensity import to_units
from pds_bids.imaging.masks import dice, dilated, rough_t1w_brain
from pds_bids.imaging.registration import (
    RegistrationFailure,
    agreed_mask,
    from_itk_displacement,
    judge_epi,
    mask_in_native,
    register_epi_to_template,
    register_rigid,
    register_t1w_to_template,
    to_itk_displacement,
    two_path_disagreement,
)
from pds_bids.imaging.stages import Effort, deform, deform_or_affine
from pds_bids.imaging.tissues import Template, paint_epi
from pds_bids.modalities import Contrast

GRID = Grid((65, 77, 65), np.array([[3, 0, 0, -97], [0, 3, 0, -133], [0, 0, 3, -79], [0, 0, 0, 1.0]]))
# Oblique, coarse, and off centre, as a scanner would have it.
NATIVE = Grid(
    (52, 62, 48),
    np.block(
        [
            [
                Rotation.from_euler("xyz", [12, -4, 6], degrees=True).as_matrix() * 3.75,
                np.array([[-108.0], [-128.0], [-88.0]]),
            ],
            [np.zeros((1, 3)), np.ones((1, 1))],
        ]
    ),
)


@pytest.fixture(scope="module")
def template() -> Template:
    """A stylised brain: folded grey and white matter, ventricles, cerebellum; no two sides alike."""
    x, y, z = np.moveaxis(GRID.points() + np.array([0, 18, -10]), -1, 0)
    cerebrum = (x / 66) ** 2 + (y / 84) ** 2 + (z / 58) ** 2
    cerebellum = (x / 46) ** 2 + ((y + 48) / 30) ** 2 + ((z + 52) / 26) ** 2
    mask = ((cerebrum < 1) & (z > -45)) | (cerebellum < 1)
    folds = 0.09 * np.sin(x / 7) * np.sin(y / 8 + 1) * np.sin(z / 6.5)
    wm = ((cerebrum + 4 * folds < 0.62) & (z > -38)) | (cerebellum < 0.35)
    csf = ((np.abs(x) - 14) / 9) ** 2 + ((y - 5 + np.abs(z) / 3) / 34) ** 2 + ((z - 6) / 12) ** 2 < 1
    csf |= (np.abs(x) < 2.5) & (z > 20)
    soft = [ndimage.gaussian_filter(m.astype(np.float32), 0.6) * mask for m in (csf, wm & ~csf)]
    gm = (1 - soft[0] - soft[1]).clip(0, 1) * mask
    t1w = (1.4 * soft[1] + gm + 0.4 * soft[0]) * mask
    none = np.zeros(GRID.shape, np.int32)
    return Template(GRID, t1w, mask, gm, soft[1], soft[0], none, {}, "none", "painted for tests")


@pytest.fixture(scope="module")
def native2template() -> PointMap:
    """A smaller, tilted head with a smooth local warp of up to 7 mm."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [-9, 5, -7], degrees=True).as_matrix() * 1.08
    turn[:3, 3] = (6, -22, 14)
    there = PointMap.from_affine(NATIVE, turn).points.astype(float)
    waves = [
        3.5 * np.sin(there @ k + c)
        for k, c in (([0.05, 0.02, 0], 0), ([0, 0.05, 0.03], 1), ([0.02, 0, 0.05], 2))
    ]
    return PointMap(NATIVE, (there + np.stack(waves, -1)).astype(np.float32))


def _acquired(image: np.ndarray, native2template: PointMap) -> np.ndarray:
    noise = np.random.default_rng(5).normal(scale=0.02, size=native2template.grid.shape)
    return resample(image, GRID.vox2ras, native2template.points, order=1) + noise.astype(np.float32)


@pytest.fixture(scope="module")
def epi(template: Template, native2template: PointMap) -> tuple[np.ndarray, np.ndarray]:
    mask = resample(template.mask.astype(np.float32), GRID.vox2ras, native2template.points, order=1) > 0.5
    return _acquired(paint_epi(template, Contrast.B0), native2template), mask


@pytest.fixture(scope="module")
def found(template: Template, epi: tuple[np.ndarray, np.ndarray]):
    return register_epi_to_template(*epi, NATIVE, template, Contrast.B0)


@pytest.fixture(scope="module")
def coarse(template: Template, epi: tuple[np.ndarray, np.ndarray]):
    return register_epi_to_template(*epi, NATIVE, template, Contrast.B0, sloppy=True)


def test_known_warp_is_recovered(found, template: Template, epi, native2template: PointMap) -> None:
    inside = ndimage.binary_erosion(epi[1])
    median_mm, _ = two_path_disagreement(found.native2template, native2template, inside)
    affine_only = PointMap.from_affine(NATIVE, np.linalg.inv(found.template2native_affine))
    assert median_mm < 1.9  # half a native voxel; the warp moves tissue by up to 6 mm
    assert median_mm < 0.5 * two_path_disagreement(affine_only, native2template, inside)[0]
    assert found.gate.passed
    assert found.gate.stage == "deformable"
    assert found.gate.mask_dice > 0.95


def test_both_directions_undo_each_other(found, epi) -> None:
    there_and_back = found.native2template.then(found.template2native)
    distance_mm = np.linalg.norm(there_and_back.points - NATIVE.points(), axis=-1)[epi[1]]
    assert np.percentile(distance_mm, 95) < 0.5


def test_template_mask_lands_on_the_brain(found, template: Template, epi) -> None:
    warped = mask_in_native(found, template)
    assert 2 * (warped & epi[1]).sum() / (warped.sum() + epi[1].sum()) > 0.94


def test_same_voxels_give_the_same_bits(coarse, template: Template, epi) -> None:
    again = register_epi_to_template(*epi, NATIVE, template, Contrast.B0, sloppy=True)
    np.testing.assert_array_equal(again.template2native.points, coarse.template2native.points)
    assert repr(again.gate) == repr(coarse.gate)  # nan != nan


def test_a_copy_stored_otherwise_gives_the_same_registration(coarse, template: Template, epi) -> None:
    upright = Grid(
        (60, 66, 54), np.array([[-3.6, 0, 0, 106], [0, 3.6, 0, -128], [0, 0, -3.6, 98], [0, 0, 0, 1.0]])
    )
    copies = [resample(np.asarray(a, np.float32), NATIVE.vox2ras, upright.points(), order=1) for a in epi]
    data, vox2ras, _ = to_ras(np.stack(copies, -1), upright.vox2ras)
    grid = Grid(data.shape[:3], vox2ras)
    other = register_epi_to_template(
        data[..., 0], data[..., 1] > 0.5, grid, template, Contrast.B0, sloppy=True
    )
    # The copy was interpolated once more, so within half a native voxel.
    assert two_path_disagreement(other.template2native, coarse.template2native, template.mask)[0] < 1.9


def _upside_down(image: np.ndarray) -> np.ndarray:
    return image[:, :, ::-1]


def _half(image: np.ndarray) -> np.ndarray:
    half = image.copy()
    half[:26] = 0
    return half


def _ball(image: np.ndarray) -> np.ndarray:
    centre = (np.array(image.shape) - 1) / 2
    radius = np.linalg.norm((np.moveaxis(np.indices(image.shape), 0, -1) - centre) * 3.75, axis=-1)
    return (radius < 70).astype(image.dtype)


@pytest.mark.parametrize("spoil", [_upside_down, _half, _ball])
def test_what_is_not_an_upright_whole_brain_is_refused(spoil, template: Template, epi) -> None:
    image, mask = (spoil(a) for a in epi)
    noise = np.random.default_rng(1).normal(scale=0.02, size=NATIVE.shape)
    with pytest.raises(QualityError, match=r"quality gate|turned by"):
        register_epi_to_template(
            (image + noise).astype(np.float32), mask, NATIVE, template, Contrast.B0, sloppy=True
        )


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_head_turned_in_the_scanner_is_found(axis: str, coarse, template: Template, epi) -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, 30, degrees=True).as_matrix()
    turned = Grid(NATIVE.shape, turn @ NATIVE.vox2ras)
    found = register_epi_to_template(*epi, turned, template, Contrast.B0, sloppy=True)
    there = coarse.template2native.then(turn)
    assert two_path_disagreement(found.template2native, there, template.mask)[0] < 1.0


def test_a_cropped_head_is_not_pulled_out_of_view(template: Template) -> None:
    # The truth is known: nothing moves. A whole template draws the edge of the cut by 1.2 mm here.
    top = int(0.75 * GRID.shape[2])
    view = GRID.crop((0, 0, 0), (*GRID.shape[:2], top))
    moving = GreedyImage(template.t1w[..., :top], view)
    fixed = GreedyImage(template.t1w, GRID, dilated(template.mask, GRID, 6.0))
    there, _ = deform(fixed, moving, np.eye(4), Effort.of(True, 1))
    seen = template.mask[..., :top]
    moved_mm = np.linalg.norm(there.points[..., :top, :] - GRID.points()[..., :top, :], axis=-1)
    assert np.percentile(moved_mm[..., -3:][seen[..., -3:]], 95) < 0.9


@pytest.mark.parametrize(("n_slices", "n_paths"), [(48, 1), (27, 2)])
def test_a_cropped_brain_takes_the_affine_that_fits_better(
    n_slices: int, n_paths: int, template: Template, epi, monkeypatch
) -> None:
    """Whole and cut templates give two affines where the top is missing; a whole head has one."""
    paths = []

    def followed(*given):
        paths.append(deform_or_affine(*given))
        return paths[-1]

    monkeypatch.setattr("pds_bids.imaging.registration.deform_or_affine", followed)
    image, mask = (part[..., :n_slices] for part in epi)
    view = NATIVE.crop((0, 0, 0), image.shape)
    found = register_epi_to_template(image, mask, view, template, Contrast.B0, sloppy=True)
    assert len(paths) == n_paths
    assert found.gate.correlation == max(path.gate.correlation for path in paths)


def test_a_slab_is_refused(template: Template, epi) -> None:
    image, mask = (part[:, :, 22:33] for part in epi)
    slab = NATIVE.crop((0, 0, 22), image.shape)
    with pytest.raises(QualityError, match=r"field of view|quality gate|turned by"):
        register_epi_to_template(image, mask, slab, template, Contrast.B0, sloppy=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_bottle_is_refused(axis: int, template: Template) -> None:
    """A cylinder of fluid as long as a head, along any axis; lying, its outline passes for a brain's."""
    place = np.moveaxis(NATIVE.points() - NATIVE.points().reshape(-1, 3).mean(0), -1, 0)
    across = [place[k] for k in range(3) if k != axis]
    bottle = (np.hypot(*across) < 60) & (np.abs(place[axis]) < 85)
    noise = np.random.default_rng(4).normal(scale=0.02, size=NATIVE.shape)
    image = (bottle * (1 + 0.1 * place[1] / 85) + noise).astype(np.float32)
    with pytest.raises(QualityError, match=r"quality gate|turned by"):
        register_epi_to_template(image, bottle, NATIVE, template, Contrast.BOLD)


def test_a_failure_says_where_it_ended_and_can_be_sent_to_another_process(template: Template, epi) -> None:
    image, mask = (_upside_down(a) for a in epi)
    with pytest.raises(RegistrationFailure) as caught:
        register_epi_to_template(image.copy(), mask, NATIVE, template, Contrast.B0, sloppy=True)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    np.testing.assert_array_equal(again.template2native_affine, caught.value.template2native_affine)


def test_bends_of_an_upside_down_brain_do_not_pass_the_gate(template: Template, epi, coarse) -> None:
    """The deformable stage fills the outline from any start; only the structure inside tells."""
    units, _ = to_units(*epi)
    painted, _ = to_units(paint_epi(template, Contrast.B0), template.mask)
    centre = GRID.points()[template.mask].mean(0)
    over = np.diag([1.0, -1.0, -1.0, 1.0])
    over[:3, 3] = centre - over[:3, :3] @ centre
    fixed = GreedyImage(painted, GRID, dilated(template.mask, GRID, 12.0))
    start = coarse.template2native_affine @ over
    there, _ = deform(fixed, GreedyImage(units, NATIVE), start, Effort())
    gate = judge_epi(units, epi[1], NATIVE, template, Contrast.B0, there, "deformable")
    assert not gate.passed
    # The stylised folds repeat, so that some of them match; of a real brain no more than 0.2 remains.
    assert gate.correlation < 0.8 * coarse.gate.correlation


def test_agreed_mask_loses_the_eyes_and_keeps_the_brain(template: Template) -> None:
    x, y, z = np.moveaxis(GRID.points(), -1, 0)
    eyes = (np.abs(x) - 32) ** 2 + (y - 62) ** 2 + (z + 38) ** 2 < 14**2
    kept = agreed_mask(template.mask | eyes, GRID, template.mask)
    assert kept[template.mask].all()
    assert (kept & ~template.mask).sum() < 0.35 * (eyes & ~template.mask).sum()


def test_noise_in_a_brain_mask_is_refused(template: Template, epi) -> None:
    noise = np.random.default_rng(2).gamma(4, size=NATIVE.shape).astype(np.float32)
    with pytest.raises(QualityError, match=r"NMI|turned by"):
        register_epi_to_template(noise, epi[1], NATIVE, template, Contrast.B0, sloppy=True)


def test_constant_image_is_refused(template: Template) -> None:
    with pytest.raises(DataError, match="bold image: constant"):
        register_epi_to_template(
            np.ones(NATIVE.shape), np.ones(NATIVE.shape, bool), NATIVE, template, Contrast.BOLD
        )


def test_rough_t1w_brain_lies_below_the_scalp(template: Template, native2template: PointMap, epi) -> None:
    brain = epi[1]
    distance_mm = ndimage.distance_transform_edt(~brain, sampling=NATIVE.zooms)
    scalp = (distance_mm > 9) & (distance_mm < 17)
    head = _acquired(template.t1w, native2template) + 1.8 * scalp + 0.15 * (distance_mm < 17)
    for image in (head, np.where(brain, head, 0)):
        assert dice(rough_t1w_brain(image, NATIVE)[0], brain) > 0.95


def test_rigid_across_contrasts(template: Template, epi) -> None:
    still2moved = np.eye(4)
    still2moved[:3, :3] = Rotation.from_euler("xyz", [8, -6, 10], degrees=True).as_matrix()
    still2moved[:3, 3] = (9, -7, 12)
    still = paint_epi(template, Contrast.DWI)
    moved_points = apply_affine(np.linalg.inv(still2moved), NATIVE.points())
    moved = resample(paint_epi(template, Contrast.B0), GRID.vox2ras, moved_points, order=1)
    matrix, gate = register_rigid(still, GRID, template.mask, moved, NATIVE, moved > 0.3)
    points = GRID.points()[template.mask]
    error_mm = np.linalg.norm(apply_affine(matrix, points) - apply_affine(still2moved, points), axis=-1)
    assert error_mm.mean() < 1.0
    assert gate.passed


def test_displacements_resample_like_nitransforms(
    native2template: PointMap, template: Template, tmp_path: Path
) -> None:
    from nitransforms.nonlinear import DenseFieldTransform
    from nitransforms.resampling import apply

    field = nib.Nifti1Image(to_itk_displacement(native2template), NATIVE.vox2ras)
    field.header.set_intent("vector")
    field.to_filename(tmp_path / "field.nii.gz")
    moving = nib.Nifti1Image(template.t1w.astype(np.float32), GRID.vox2ras)
    reference = nib.Nifti1Image(np.zeros(NATIVE.shape, np.float32), NATIVE.vox2ras)
    transform = DenseFieldTransform.from_filename(tmp_path / "field.nii.gz", fmt="itk")
    theirs = apply(transform, moving, reference=reference, order=1).get_fdata()
    ours = resample(template.t1w, GRID.vox2ras, native2template.points, order=1)
    inside = ndimage.binary_erosion(ours > 0)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-3)
    back = from_itk_displacement(to_itk_displacement(native2template), NATIVE)
    np.testing.assert_allclose(back.points, native2template.points, atol=1e-4)


def test_nmi_of_independent_and_of_inverted_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50000))
    assert nmi(a, b) == pytest.approx(1, abs=0.01)
    assert nmi(a, -a) > 1.8
    assert np.isnan(nmi(a[:0], b[:0]))


@pytest.mark.real
@pytest.mark.parametrize("name", ["missing/sub-GALAN", "paired/sub-XA30"])
def test_real_b0_registers(name: str, tmp_path: Path) -> None:
    root = os.environ.get("PDS_REAL_DATA")
    if not root:
        pytest.skip("PDS_REAL_DATA is not set")
    from pds_bids.imaging.intensity import n4_bias
    from pds_bids.imaging.masks import rough_brain_mask
    from pds_bids.template import RES02_GRID, get_template, load_template

    path = sorted((Path(root) / name / "dwi").glob("*_dwi.nii.gz"))[0]
    image = nib.load(path)
    data, vox2ras, _ = to_ras(np.asanyarray(image.dataobj[..., 0], np.float32), image.affine)
    grid = Grid(data.shape, vox2ras)
    mask = rough_brain_mask(data, grid)
    flat = data / n4_bias(data, grid, mask)
    model = load_template(get_template(tmp_path), RES02_GRID)
    gate = register_epi_to_template(flat, mask, grid, model, Contrast.B0).gate
    assert gate.stage == "deformable"
    assert gate.mask_dice > 0.93


@pytest.mark.parametrize("cut_mm", [10.0, 50.0])
def test_a_t1w_image_cut_too_far_is_refused(cut_mm: float, tmp_path: Path) -> None:
    """The template's own T1w brain, less slices at the top: 1% and 28% of the brain."""
    from pds_bids.template import RES02_GRID, get_template, load_template

    model = load_template(get_template(tmp_path), RES02_GRID)
    top = np.flatnonzero(model.mask.any((0, 1)))[-1] - round(cut_mm / RES02_GRID.zooms[2])
    shape = (*RES02_GRID.shape[:2], top)
    image = (model.t1w * model.mask)[..., :top]
    if cut_mm < 20:
        found = register_t1w_to_template(image, RES02_GRID.crop((0, 0, 0), shape), model, sloppy=True)
        assert found.gate.passed
    else:
        with pytest.raises(RegistrationFailure, match=r"8\d% of the brain are in its field of view"):
            register_t1w_to_template(image, RES02_GRID.crop((0, 0, 0), shape), model, sloppy=True)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "most_ml"),
    [("missing/sub-FORREST", 1900), ("missing/sub-GAMBLES", 1550), ("paired/sub-XA30", 1650)],
)
def test_real_t1w_registers(name: str, most_ml: float, tmp_path: Path) -> None:
    """Masks that reach into marrow or scalp hold at least 100 ml more than these."""
    root = os.environ.get("PDS_REAL_DATA")
    if not root:
        pytest.skip("PDS_REAL_DATA is not set")
    from pds_bids.template import RES02_GRID, get_template, load_template

    (path,) = (Path(root) / name / "anat").glob("*_T1w.nii.gz")
    image = nib.load(path)
    data, vox2ras, _ = to_ras(np.asanyarray(image.dataobj, np.float32), image.affine)
    model = load_template(get_template(tmp_path), RES02_GRID)
    found = register_t1w_to_template(data, Grid(data.shape, vox2ras), model, sloppy=True)
    # Few iterations here; with all of them 0.942 and more (docs/registration.md).
    assert found.gate.mask_dice > 0.915
    volume_ml = mask_in_native(found, model).sum() * abs(np.linalg.det(vox2ras[:3, :3])) / 1000
    assert 1200 < volume_ml < most_ml
