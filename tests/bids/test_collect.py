import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.collect import choose_series
from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.dwi import check_gradients
from pds_bids.modalities import Modality

BVALS = np.array([0, 0, 1000, 1000, 1000, 2000, 2000.0])


def unit(n=7):
    vectors = np.random.default_rng(0).normal(size=(n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:2] = 0
    return vectors


def changed(row, value):
    vectors = unit()
    vectors[row] = value
    return vectors


GOOD = {
    "as FSL writes": (BVALS, unit().T),
    "rows": (BVALS, unit()),
    "b0s with a direction": (BVALS, changed(0, [0, 0, 1]).T),
    "b0s not a number": (BVALS, changed(1, np.nan).T),
    "b0s of 80": (np.maximum(BVALS, 80), unit().T),
    "two digits": (BVALS, np.round(unit(), 2).T),
}
BAD = {
    "ms/um2": (BVALS / 1000, unit().T, "ms/um2, multiply b-values by 1000"),
    "s/m2": (BVALS * 1e6, unit().T, "s/m2, divide them by 1e6"),
    "negative": (np.where(BVALS == 0, -1, BVALS), unit().T, "negative or not finite"),
    "no b0": (np.maximum(BVALS, 300), np.ones((3, 7)) / np.sqrt(3), "no b = 0 volume"),
    "only b0": (np.zeros(7), unit().T, "no diffusion weighting"),
    "trace image": (BVALS, changed(4, 0).T, "without a direction"),
    "not a number": (BVALS, changed(4, np.nan).T, "without a direction"),
    "b in the length": (BVALS, (unit() * np.sqrt(BVALS / 2000)[:, None]).T, "length 0.707 to 1, expected 1"),
    "exchanged": (np.zeros(21), np.zeros((1, 7)), "bval and bvec files are exchanged"),
    "too few": (BVALS[:6], unit().T, "7 volumes but"),
}


def choose(folder, bvals, bvecs):
    path = folder / "sub-01_dwi.nii.gz"
    nib.Nifti1Image(np.ones((3, 3, 3, 7), np.int16), np.eye(4)).to_filename(path)
    np.savetxt(folder / "sub-01_dwi.bval", np.atleast_2d(bvals))
    np.savetxt(folder / "sub-01_dwi.bvec", bvecs)
    return choose_series(Modality.DWI, [path], folder)


@pytest.mark.parametrize("name", GOOD)
def test_good_tables_are_taken_by_the_plan_and_by_the_run(name, tmp_path):
    choice = choose(tmp_path, *GOOD[name])
    assert choice.problem == ""
    assert choice.series is not None
    check_gradients(7, *GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_by_the_plan_and_by_the_run(name, tmp_path):
    """The plan says so before anything runs; what it would miss, the run refuses, too."""
    bvals, bvecs, message = BAD[name]
    choice = choose(tmp_path, bvals, bvecs)
    assert choice.series is None
    assert message in choice.problem
    with pytest.raises((DataError, GeometryError)):
        check_gradients(7, bvals, bvecs)
