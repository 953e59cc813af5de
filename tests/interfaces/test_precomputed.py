"""Reading what another pipeline wrote: tables, transforms, masks; and saying what is wrong with them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.confounds import framewise_displacement
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.motion import matrices_to_parameters, parameters_to_matrices
from pds_bids.interfaces.images import save
from pds_bids.interfaces.precomputed import (
    PrecomputedBrain,
    PrecomputedConfounds,
    PrecomputedMotion,
    read_transform,
)

N_VOLUMES = 6
MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parameters():
    values = np.random.default_rng(3).normal(size=(N_VOLUMES, 6)) * [1, 1, 1, 0.02, 0.02, 0.02]
    return np.round(values, 6)


@pytest.fixture
def series(tmp_path):
    """A series away from the origin, so that the centre of rotation matters."""
    data = np.random.default_rng(0).uniform(90, 110, (6, 7, 8, N_VOLUMES)).astype(np.float32)
    vox2ras = np.diag([3.0, 3.0, 3.0, 1.0])
    vox2ras[:3, 3] = (40, -70, 25)
    return save("series.nii", data, vox2ras)


@pytest.fixture
def make_table(tmp_path, parameters):
    def make(**columns):
        table = pd.DataFrame(parameters, columns=MOTION)
        table["framewise_displacement"] = framewise_displacement(parameters)
        for name, values in columns.items():
            table[name] = values
        path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a")
        return str(path)

    return make


def read(series, table, **options):
    return PrecomputedConfounds(in_file=series, table=table, made_by="fMRIPrep 25.1.0", **options)


def one_hot(volume):
    return (np.arange(N_VOLUMES) == volume).astype(int)


def test_displacement_is_that_of_the_table(series, make_table, parameters):
    outputs = read(series, make_table()).run().outputs
    image = nib.load(series)
    centre = np.array(image.affine[:3, :3] @ ((np.array(image.shape[:3]) - 1) / 2) + image.affine[:3, 3])
    again = matrices_to_parameters(np.load(outputs.head_motion), centre)
    np.testing.assert_allclose(again, parameters, atol=1e-9)
    assert (np.load(outputs.motion) == np.eye(4)).all()


@pytest.mark.parametrize(("flagged", "expected"), [([], 0), ([0, 1], 2), ([0, 3], 1), ([3], 0)])
def test_dummies_are_the_flagged_volumes_at_the_start(series, make_table, flagged, expected):
    columns = {f"non_steady_state_outlier{k:02d}": one_hot(volume) for k, volume in enumerate(flagged)}
    table = make_table(**columns)
    assert read(series, table).run().outputs.dummies == list(range(expected))
    assert read(series, table, dummy_scans=3).run().outputs.dummies == [0, 1, 2]


def test_columns_of_ours_are_handed_on_and_others_are_not(series, make_table):
    table = make_table(
        csf=1.5, csf_derivative1=0.1, trans_x_derivative1_power2=0.2, a_comp_cor_00=0.3, cosine00=0.4,
        motion_outlier00=one_hot(4), edge_comp_00=0.1, csf_wm=0.5,
    )  # fmt: skip
    outputs = read(series, table).run().outputs
    columns = set(pd.read_csv(outputs.table, sep="\t").columns)
    expected = {*MOTION, "framewise_displacement", "csf", "csf_derivative1", "trans_x_derivative1_power2"}
    assert columns == expected | {"motion_outlier00"}
    described = json.loads(Path(outputs.description).read_text())
    assert described["trans_x_derivative1_power2"]["Units"] == "mm^2"
    assert described["csf"] == {"Description": "As computed by fMRIPrep 25.1.0"}


def test_tables_that_do_not_belong_to_the_series_are_refused(series, make_table):
    path = Path(make_table())
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match="5 rows for 6 volumes"):
        read(series, str(path)).run()
    path.write_text("\n".join(row.replace("trans_x", "X") for row in rows))
    with pytest.raises(DataError, match="no columns trans_x; it has X, trans_y"):
        read(series, str(path)).run()
    path.write_text("\n".join([*rows[:-1], "\t".join(["n/a"] * 7)]))
    with pytest.raises(DataError, match="motion parameters are missing in some rows"):
        read(series, str(path)).run()


def itk_text(matrices_lps):
    """Transforms as fMRIPrep writes them, put together here from the format's description."""
    lines = ["#Insight Transform File V1.0"]
    for k, matrix in enumerate(matrices_lps):
        numbers = " ".join(f"{n:.9g}" for n in [*matrix[:3, :3].ravel(), *matrix[:3, 3]])
        lines += [f"#Transform {k}", "Transform: AffineTransform_float_3_3", f"Parameters: {numbers}"]
        lines += ["FixedParameters: 0 0 0", ""]
    return "\n".join(lines)


def test_head_motion_of_transforms(series, tmp_path, parameters):
    """A volume that lies 4 mm to the Right and 3 mm to the Front of the reference, and turned ones."""
    path = tmp_path / "sub-01_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    poses = parameters_to_matrices(parameters, np.array([10.0, 20, 30]))
    poses[1] = np.eye(4)
    poses[1, :3, 3] = (4, 3, 0)
    flip = np.diag([-1, -1, 1, 1])
    path.write_text(itk_text([flip @ pose @ flip for pose in poses]))
    outputs = PrecomputedMotion(in_file=series, transforms=str(path)).run().outputs
    np.testing.assert_allclose(np.load(outputs.motion), poses, atol=2e-5)
    assert outputs.dummies == []
    text = path.read_text()
    assert "Parameters: 1 0 0 0 1 0 0 0 1 -4 -3 0" in text, "ITK counts to the Left and Posterior"


def test_transforms_of_another_series_are_refused(series, tmp_path):
    path = tmp_path / "hmc_xfm.txt"
    path.write_text(itk_text([np.eye(4)] * 4))
    with pytest.raises(DataError, match="4 transforms, 6 volumes"):
        PrecomputedMotion(in_file=series, transforms=str(path)).run()
    path.write_text("not a transform")
    with pytest.raises(DataError, match="not a list of ITK transforms"):
        PrecomputedMotion(in_file=series, transforms=str(path)).run()


def test_a_file_that_is_no_transform_is_named(tmp_path):
    path = tmp_path / "from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5"
    path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"mode-image_xfm\.h5: not a transform that ITK can read"):
        read_transform(path)


def head(points):
    """A smooth ellipsoid with something inside."""
    radius = np.linalg.norm(points / [68, 85, 62], axis=-1)
    return (1 + 0.3 * np.sin(points[..., 0] / 15)) / (1 + np.exp((radius - 1) / 0.04))


def lattice(codes, zoom_mm):
    """A lattice over the head in some order of storage."""
    shape = tuple(int(extent / zoom_mm) for extent in (190, 220, 160))
    vox2ras = np.diag([zoom_mm] * 3 + [1.0])
    vox2ras[:3, 3] = -(np.array(shape) - 1) / 2 * zoom_mm
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), vox2ras)
    stored = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
    )
    return Grid(stored.shape, stored.affine)


@pytest.fixture
def head_image():
    grid = lattice("RAS", 7.0)
    return save("mean.nii", 1000 * head(grid.points()), grid.vox2ras), grid


def write_mask(path, grid):
    nib.Nifti1Image((head(grid.points()) > 0.5).astype(np.uint8), grid.vox2ras).to_filename(path)
    return str(path)


@pytest.mark.parametrize(("codes", "zoom_mm"), [("RAS", 7.0), ("LPS", 5.0), ("PSR", 2.5)])
def test_the_mask_is_theirs_on_any_lattice_of_the_space(head_image, tmp_path, codes, zoom_mm):
    mean, grid = head_image
    mask = write_mask(tmp_path / "desc-brain_mask.nii.gz", lattice(codes, zoom_mm))
    outputs = PrecomputedBrain(in_file=mean, other_file=mean, mask=mask).run().outputs
    found = np.asanyarray(nib.load(outputs.mask).dataobj) > 0
    truth = head(grid.points()) > 0.5
    assert (found & truth).sum() * 2 / (found.sum() + truth.sum()) > 0.96
    corrected = np.asanyarray(nib.load(outputs.out_file).dataobj)
    assert corrected[found].mean() == pytest.approx(1, abs=1e-4)
    assert outputs.other_scale == pytest.approx(outputs.scale)
    bias = np.asanyarray(nib.load(outputs.bias).dataobj)
    image = np.asanyarray(nib.load(mean).dataobj)
    np.testing.assert_allclose(corrected * outputs.scale * bias, image, rtol=1e-4, atol=1e-2)


def test_a_mask_of_another_space_is_refused(head_image, tmp_path):
    mean, grid = head_image
    vox2ras = grid.vox2ras.copy()
    vox2ras[0, 3] += 1000
    path = tmp_path / "sub-01_desc-brain_mask.nii.gz"
    nib.Nifti1Image(np.ones(grid.shape, np.uint8), vox2ras).to_filename(path)
    with pytest.raises(DataError, match=r"sub-01_desc-brain_mask\.nii\.gz: no brain where the series is"):
        PrecomputedBrain(in_file=mean, mask=str(path)).run()
