from pathlib import Path

import pytest

from pds_bids.bids.metadata import (
    inherited_files,
    missing_content,
    nearest_file,
    parse_entities,
    read_metadata,
    split_name,
)
from pds_bids.exceptions import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def test_split_name_keeps_order_zeros_and_plus():
    entities, suffix, extension = split_name("sub-01_ses-02_task-a_run-003_desc-x+y_bold.nii.gz")
    assert list(entities.items()) == [
        ("sub", "01"),
        ("ses", "02"),
        ("task", "a"),
        ("run", "003"),
        ("desc", "x+y"),
    ]
    assert (suffix, extension) == ("bold", ".nii.gz")
    assert parse_entities(Path("/a.b/sub-01_bold.json")) == {"sub": "01"}


def test_inheritance_order_and_exclusions(tmp_path):
    data = "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-1_bold.nii.gz"
    applies = [
        "bold.json",
        "run-1_bold.json",
        "task-rest_bold.json",
        "ses-1_task-rest_bold.json",
        "ses-1_task-rest_run-1_bold.json",
        "sub-01/sub-01_bold.json",
        "sub-01/ses-1/sub-01_ses-1_task-rest_bold.json",
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-1_bold.json",
    ]
    others = [
        "task-nback_bold.json",
        "task-rest_sbref.json",
        "sub-02/sub-02_bold.json",
        "sub-01/ses-2/sub-01_ses-2_task-rest_bold.json",
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-2_bold.json",
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-1_echo-1_bold.json",
        "sub-01/ses-1/anat/bold.json",
        "task-rest_notbold.json",
    ]
    # Folders list files in the order of creation or of a hash; neither is the order that counts.
    touch(tmp_path, data, *others, *applies[3:], *reversed(applies[:3]))
    found = inherited_files(tmp_path / data, ".json", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == applies
    assert nearest_file(tmp_path / data, ".json", tmp_path) == tmp_path / applies[-1]
    assert nearest_file(tmp_path / data, ".bval", tmp_path) is None


def test_nothing_above_the_dataset_is_read(tmp_path):
    touch(tmp_path, "bold.json", "data/sub-01/func/sub-01_bold.nii.gz")
    root = tmp_path / "data"
    assert inherited_files(root / "sub-01/func/sub-01_bold.nii.gz", ".json", root) == []


def test_more_specific_sidecars_win_key_by_key(tmp_path):
    touch(tmp_path, "sub-01/func/sub-01_task-a_bold.nii.gz")
    (tmp_path / "bold.json").write_text('{"A": 1, "B": 1, "C": 1}')
    (tmp_path / "task-a_bold.json").write_text('{"B": 2, "C": 2}')
    (tmp_path / "sub-01/func/sub-01_task-a_bold.json").write_text('{"C": 3}')
    data = tmp_path / "sub-01/func/sub-01_task-a_bold.nii.gz"
    assert read_metadata(data, tmp_path) == {"A": 1, "B": 2, "C": 3}


@pytest.mark.parametrize(
    ("content", "message"), [("{", "as JSON"), ("[1]", "holds a list"), ("\xff", "as JSON")]
)
def test_broken_sidecar_is_named(tmp_path, content, message):
    touch(tmp_path, "sub-01/func/sub-01_bold.nii.gz")
    (tmp_path / "bold.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=f"bold.json .*{message}"):
        read_metadata(tmp_path / "sub-01/func/sub-01_bold.nii.gz", tmp_path)


@pytest.mark.parametrize(
    ("content", "is_missing"),
    [
        (b"", True),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", True),
        (b"version https://git-lfs.github.com/spec/v1\n", True),
        (b"0 1000 1000\n", False),
        (b"x" * 5000, False),
    ],
)
def test_placeholders(tmp_path, content, is_missing):
    (tmp_path / "file").write_bytes(content)
    assert missing_content(tmp_path / "file") is is_missing


def test_broken_and_whole_links(tmp_path):
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "content").write_text("data")
    (tmp_path / "whole").symlink_to("content")
    assert missing_content(tmp_path / "broken")
    assert not missing_content(tmp_path / "whole")
