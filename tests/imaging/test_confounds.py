import sys
import types

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.confounds import (
    bold_confounds,
    confounds_metadata,
    dvars,
    dwi_confounds,
    framewise_displacement,
    motion_outliers,
    rms_displacement,
)
from pds_bids.imaging.rigid import parameters_to_matrices

N_VOLUMES = 30


@pytest.fixture
def parameters():
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(N_VOLUMES, 6)) * [0.1, 0.1, 0.1, 0.002, 0.002, 0.002], axis=0)


@pytest.fixture
def timeseries():
    rng = np.random.default_rng(1)
    signal = np.cumsum(rng.normal(size=(500, N_VOLUMES)), axis=1) + rng.normal(800, 50, size=(500, 1))
    signal[3] = 700  # a voxel that never varies
    return signal.astype(np.float32)


def test_framewise_displacement_agrees_with_nipype(parameters, tmp_path, monkeypatch):
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    from nipype.algorithms.confounds import FramewiseDisplacement

    np.savetxt(tmp_path / "spm.txt", parameters, fmt="%.12g")
    node = FramewiseDisplacement(
        in_file=str(tmp_path / "spm.txt"), parameter_source="SPM", out_file=str(tmp_path / "fd.txt")
    )
    node.run()
    ours = framewise_displacement(parameters)
    assert np.isnan(ours[0])
    np.testing.assert_allclose(ours[1:], np.loadtxt(tmp_path / "fd.txt", skiprows=1), rtol=1e-6)


def yule_walker(signal, order, rxx=None):
    """First-order coefficient in plain loops; stands in for nitime, which nipype imports for this alone."""
    assert order == 1
    centred = [float(x) - float(np.mean(signal)) for x in signal]
    lagged = sum(a * b for a, b in zip(centred[1:], centred[:-1], strict=True))
    return np.array([lagged / sum(a * a for a in centred)]), None


def test_dvars_agree_with_nipype(timeseries, tmp_path, monkeypatch):
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    monkeypatch.setitem(sys.modules, "nitime", types.ModuleType("nitime"))
    monkeypatch.setitem(sys.modules, "nitime.algorithms", types.SimpleNamespace(AR_est_YW=yule_walker))
    from nipype.algorithms.confounds import compute_dvars

    image = timeseries.reshape(10, 10, 5, N_VOLUMES)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "bold.nii")
    nib.save(nib.Nifti1Image(np.ones((10, 10, 5), np.uint8), np.eye(4)), tmp_path / "mask.nii")
    standardised, plain, _ = compute_dvars(
        str(tmp_path / "bold.nii"), str(tmp_path / "mask.nii"), remove_zerovariance=True
    )
    ours, ours_standardised = dvars(timeseries)
    assert np.isnan(ours[0])
    np.testing.assert_allclose(ours[1:], plain, rtol=1e-4)
    np.testing.assert_allclose(ours_standardised[1:], standardised, rtol=1e-4)


def test_dvars_do_not_depend_on_the_unit(timeseries):
    for one, other in zip(dvars(timeseries), dvars(0.01 * timeseries), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_dvars_of_a_still_image_are_undefined():
    assert all(np.isnan(values).all() for values in dvars(np.ones((5, 4))))


def test_rms_displacement_is_the_mean_over_a_ball(parameters):
    """Jenkinson's formula against the displacements of points drawn from the ball."""
    centre = np.array([10.0, -20, 5])
    matrices = parameters_to_matrices(parameters, centre)
    rng = np.random.default_rng(2)
    ball = rng.uniform(-80, 80, size=(400_000, 3))
    ball = ball[(ball**2).sum(1) <= 80**2] + centre
    for k in (1, 10, 29):
        change = matrices[k] @ np.linalg.inv(matrices[k - 1]) - np.eye(4)
        moved = ball @ change[:3, :3].T + change[:3, 3]
        expected = np.sqrt((moved**2).sum(1).mean())
        assert rms_displacement(matrices, centre)[k] == pytest.approx(expected, rel=0.01)


def test_columns_as_fmriprep_writes_them(parameters, timeseries):
    matrices = parameters_to_matrices(parameters, np.zeros(3))
    tissues = {"csf": np.arange(500) < 10, "white_matter": np.arange(500) > 400}
    table = bold_confounds(
        parameters,
        matrices,
        np.zeros(3),
        timeseries=timeseries,
        tissues=tissues,
        dummies=range(2),
        outliers=[7, 9],
    )
    wanted = {"global_signal", "csf", "white_matter", "dvars", "std_dvars", "framewise_displacement", "rmsd"}
    for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"):
        wanted |= {name, f"{name}_derivative1", f"{name}_power2", f"{name}_derivative1_power2"}
    wanted |= {
        "non_steady_state_outlier00",
        "non_steady_state_outlier01",
        "motion_outlier00",
        "motion_outlier01",
    }
    assert set(table.columns) == wanted
    assert table["rot_y_derivative1_power2"][5] == pytest.approx((parameters[5, 4] - parameters[4, 4]) ** 2)
    assert table["trans_z_power2"][6] == pytest.approx(parameters[6, 2] ** 2)
    assert table["csf"][4] == pytest.approx(timeseries[:10, 4].mean(), rel=1e-6)
    assert table["white_matter"][4] == pytest.approx(timeseries[401:, 4].mean(), rel=1e-6)
    assert table.index[table["motion_outlier01"] == 1].tolist() == [9]
    assert table.index[table["non_steady_state_outlier01"] == 1].tolist() == [1]
    described = confounds_metadata(table)
    assert set(described) == wanted
    assert described["rot_x_derivative1_power2"]["Units"] == "rad^2"
    assert "squared" in described["rot_x_derivative1_power2"]["Description"]


def test_outliers_by_default_are_spikes_after_the_dummies(parameters, timeseries):
    jump = parameters * 0
    jump[1:, 0], jump[12:, 0] = 3.0, 0.0
    still = np.tile(timeseries[:, :1], (1, N_VOLUMES)) + np.random.default_rng(3).normal(
        size=(500, N_VOLUMES)
    )
    table = bold_confounds(
        jump, parameters_to_matrices(jump, np.zeros(3)), np.zeros(3), timeseries=still, dummies=range(2)
    )
    spikes = [c for c in table.columns if c.startswith("motion_outlier")]
    assert [table.index[table[c] == 1].tolist() for c in spikes] == [[12]]


def test_std_dvars_count_as_spikes():
    assert motion_outliers(np.zeros(3), np.array([np.nan, 1.6, 1.4])).tolist() == [1]


def test_dwi_table(parameters):
    matrices = parameters_to_matrices(parameters, np.zeros(3))
    bvecs = np.random.default_rng(4).normal(size=(N_VOLUMES, 3))
    table = dwi_confounds(parameters, matrices, np.zeros(3), np.full(N_VOLUMES, 1000.0), bvecs)
    np.testing.assert_array_equal(table[["grad_x", "grad_y", "grad_z"]], bvecs)
    assert (table["bval"] == 1000).all()
    assert set(confounds_metadata(table)) == set(table.columns)


def test_lengths_must_agree(parameters, timeseries):
    matrices = parameters_to_matrices(parameters, np.zeros(3))
    with pytest.raises(GeometryError, match="29 time points"):
        bold_confounds(parameters, matrices, np.zeros(3), timeseries=timeseries[:, 1:])
    with pytest.raises(GeometryError, match="2 b-values"):
        dwi_confounds(parameters, matrices, np.zeros(3), np.zeros(2), np.zeros((N_VOLUMES, 3)))
