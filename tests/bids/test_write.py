import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.write import replacing, write_json, write_nifti, write_text, write_tsv
from pds_bids.exceptions import DataError

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([2.0, 2.5, 3.0]), [-10.0, 20.0, 5.0]
)


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as scratch:
            scratch.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_scratch_name_is_hidden_in_the_same_folder_and_keeps_extensions(tmp_path):
    with replacing(tmp_path / "sub" / "a.nii.gz") as scratch:
        assert scratch.parent == tmp_path / "sub"
        assert scratch.name.startswith(".a-")
        assert scratch.name.endswith(".nii.gz")
        assert not (tmp_path / "sub" / "a.nii.gz").exists()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_same_text_is_not_written_again(tmp_path):
    write_text(tmp_path / "a", "x")
    before = (tmp_path / "a").stat()
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_ino == before.st_ino
    write_text(tmp_path / "a", "y")
    assert (tmp_path / "a").read_text() == "y"


def _write_often(path: Path, letter: str) -> None:
    for _ in range(60):
        write_json(path, {"GeneratedBy": letter * 20_000})


def test_concurrent_writers_never_leave_half_a_file(tmp_path):
    path = tmp_path / "dataset_description.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            content = json.loads(path.read_text())["GeneratedBy"]
            assert len(content) == 20_000
            assert len(set(content)) == 1
            seen.add(content[0])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def _write_volumes(path: Path) -> None:
    for value in range(10_000):
        write_nifti(path, np.full((32, 32, 32), float(value)), np.eye(4))


def test_killed_writer_leaves_a_whole_image(tmp_path):
    path = tmp_path / "a.nii.gz"
    for _ in range(4):
        writer = multiprocessing.get_context("fork").Process(target=_write_volumes, args=(path,))
        writer.start()
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        data = np.asarray(nib.load(path).dataobj)
        assert (data == data.flat[0]).all()
    leftovers = [file.name for file in tmp_path.iterdir() if file != path]
    assert all(name.startswith(".a-") for name in leftovers)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_image_round_trip(tmp_path, rng_image, name):
    write_nifti(tmp_path / name, rng_image, OBLIQUE, description="mean", repetition_time_s=1.5)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(image.dataobj), rng_image.astype(np.float32))
    np.testing.assert_allclose(image.get_sform(), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=1e-5)
    header = image.header
    assert header.get_data_dtype() == np.float32
    assert np.isnan(header["scl_slope"]) or header["scl_slope"] == 0
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 2)
    assert header["descrip"].item() == b"mean"
    assert header.get_zooms() == pytest.approx((2.0, 2.5, 3.0, 1.5))
    assert header.get_xyzt_units() == ("mm", "sec")


@pytest.fixture
def rng_image() -> np.ndarray:
    return np.random.default_rng(1).normal(100, 30, (4, 5, 6, 3))


def test_codes_say_mni_on_the_template_grid(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2)), np.eye(4), is_template_space=True)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.ones((2, 2, 2), bool), np.uint8),
        (np.full((2, 2, 2), 200), np.uint8),
        (np.full((2, 2, 2), -1), np.int16),
        (np.full((2, 2, 2), 70_000), np.int32),
        (np.full((2, 2, 2), 0.1), np.float32),
        (np.full((2, 2, 2), 0.1, np.float16), np.float32),
    ],
)
def test_stored_types(tmp_path, data, kind):
    write_nifti(tmp_path / "a.nii.gz", data, np.eye(4))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == kind
    np.testing.assert_array_equal(np.asarray(image.dataobj), data.astype(kind))


def test_images_that_are_not_written(tmp_path):
    with pytest.raises(DataError, match="1 voxels are not finite"):
        write_nifti(tmp_path / "a.nii.gz", np.array([[[1.0, np.nan]]]), np.eye(4))
    with pytest.raises(DataError, match="do not fit into 32 bits"):
        write_nifti(tmp_path / "a.nii.gz", np.array([[[2**40]]]), np.eye(4))
    with pytest.raises(DataError, match="must say SYNTHETIC"):
        write_nifti(tmp_path / "sub-01_desc-synthetic+std_dwiref.nii.gz", np.ones((2, 2, 2)), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_synthetic_image_says_so_in_its_header(tmp_path):
    path = tmp_path / "sub-01_desc-synthetic_dwiref.nii.gz"
    write_nifti(path, np.ones((2, 2, 2)), np.eye(4), description="SYNTHETIC dwi from bold, " + "x" * 100)
    descrip = nib.load(path).header["descrip"].item()
    assert descrip.startswith(b"SYNTHETIC dwi from bold")
    assert len(descrip) <= 80


def test_equal_images_are_equal_files(tmp_path):
    """Nothing about time or name enters a file, so that runs can be compared by their bytes."""
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, np.ones((2, 2, 2)), np.eye(4))
        time.sleep(1.1 * (name == "a.nii.gz"))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_json_of_numpy_values(tmp_path):
    content = {
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "integer": np.int64(7),
        "nan": float("nan"),
        "numpy_nan": np.float64("inf"),
        "path": Path("/a"),
        "nested": ({"flag": np.bool_(True)},),
        "name": "ä",
    }
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "integer": 7,
        "nan": None,
        "numpy_nan": None,
        "path": "/a",
        "nested": [{"flag": True}],
        "name": "ä",
    }
    assert "ä" in text
    assert "NaN" not in text


def test_table(tmp_path):
    write_tsv(tmp_path / "a.tsv", ["x", "y"], [(1, np.nan), (0.5, None), ("b c", np.float32("nan"))])
    assert (tmp_path / "a.tsv").read_text() == "x\ty\n1\tn/a\n0.5\tn/a\nb c\tn/a\n"
