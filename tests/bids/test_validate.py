import json
import sys

import pytest

from pds_bids.bids import validate as validate_module
from pds_bids.bids.validate import Finding, validate_dataset
from pds_bids.exceptions import InvalidBIDSError


@pytest.fixture
def dataset(make_skeleton):
    """Three participants that the validator accepts."""
    root, _ = make_skeleton("one_missing")
    (root / "README.md").write_text("A dataset of constant images.\n" * 10)
    for folder in ("sub-04", "sub-05", "sourcedata"):
        for path in sorted((root / folder).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (root / folder).rmdir()
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "rest"}')
    (root / "sub-01/func/sub-01_task-rest_bold.json").unlink()
    return root


def test_valid_dataset(dataset):
    assert validate_dataset(dataset, ["01", "02", "03"]) == ()


def test_errors_of_one_participant_are_returned(dataset):
    (dataset / "sub-02/dwi/sub-02_dwi.bvec").unlink()
    (dataset / "sub-01/func/sub-01_task-rest_bold.nii.gz").write_bytes(b"")
    findings = validate_dataset(dataset, ["01", "02"])
    assert {finding.participant for finding in findings} == {"01", "02"}
    assert any(f.code == "DWI_MISSING_BVEC" and "sub-02_dwi.nii.gz" in f.location for f in findings)
    assert {finding.participant for finding in validate_dataset(dataset, ["02"])} == {"02"}
    assert validate_dataset(dataset, ["03"]) == ()


def test_errors_of_the_dataset_stop_the_run(dataset):
    (dataset / "task-rest_bold.json").write_text("{")
    (dataset / "stray.nii.gz").write_text("x")
    with pytest.raises(InvalidBIDSError, match=r"/task-rest_bold\.json: JSON_INVALID") as caught:
        validate_dataset(dataset, ["03"])
    assert caught.value.exit_code == 16
    assert "/stray.nii.gz: NOT_INCLUDED" in str(caught.value)
    assert "--skip-bids-validation" in str(caught.value)


def test_long_lists_are_cut(dataset):
    for number in range(9):
        (dataset / f"stray{number}.txt").write_text("x")
    with pytest.raises(InvalidBIDSError, match="and 4 more") as caught:
        validate_dataset(dataset, ["03"])
    assert str(caught.value).count("NOT_INCLUDED") == 5


def test_absent_validator_is_a_warning(dataset, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert validate_dataset(dataset, ["01"]) == ()
    assert "not installed: the input is not validated" in caplog.text


def test_crashing_validator_is_a_warning(dataset, monkeypatch, tmp_path, caplog):
    command = tmp_path / "bids-validator-deno"
    command.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert validate_dataset(dataset, ["01"]) == ()
    assert "gave no report (exit code 3)" in caplog.text
    assert "broken" in caplog.text


def test_warnings_of_the_validator_do_not_count(dataset, monkeypatch):
    issues = [{"code": "X", "severity": "warning", "location": "/participants.tsv"}]
    report = json.loads(json.dumps({"issues": issues, "codeMessages": {}}))
    monkeypatch.setattr(validate_module, "_run_validator", lambda _: report)
    assert validate_dataset(dataset, ["01"]) == ()


@pytest.mark.parametrize(
    ("location", "participant"),
    [
        ("/sub-01/func/a.nii.gz", "01"),
        ("/sub-01/ses-1/anat/x", "01"),
        ("/sub-01_bold.json", None),
        ("/participants.tsv", None),
        ("", None),
    ],
)
def test_whom_a_finding_is_about(location, participant):
    assert Finding("X", location).participant == participant


def test_finding_as_text():
    assert str(Finding("CODE", "/sub-01/a", "is empty")) == "/sub-01/a: CODE (is empty)"
    assert str(Finding("CODE", "")) == "dataset: CODE"
