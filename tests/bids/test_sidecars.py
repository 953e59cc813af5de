import json
from pathlib import Path

import pytest

from pds_bids import __version__
from pds_bids.bids.dataset import check_output_dir, write_dataset_files
from pds_bids.bids.names import OutputName, identify, modalities_of, output_keys
from pds_bids.bids.sidecars import (
    Provenance,
    acquired_sidecar,
    bids_uri,
    container_from_environment,
    dataset_description,
    descriptions,
    mask_sidecar,
    synthetic_sidecar,
)
from pds_bids.exceptions import UsageError
from pds_bids.modalities import Direction

MODEL = {"Name": "unet", "Version": "1", "WeightsSHA256": "abc", "TrainingData": "simulated"}
PROVENANCE = Provenance(Direction.BOLD2DWI, ("bids:raw:sub-01/func/sub-01_task-rest_bold.nii.gz",), MODEL, 12)


def test_synthetic_image_says_how_it_was_made():
    sidecar = synthetic_sidecar("synthetic", PROVENANCE, in_template=True)
    assert sidecar["Synthetic"] is True
    assert sidecar["SyntheticFrom"] == "bold"
    assert sidecar["Sources"] == ["bids:raw:sub-01/func/sub-01_task-rest_bold.nii.gz"]
    assert sidecar["GenerativeModel"] == MODEL
    assert sidecar["RandomSeed"] == 12
    assert "not acquired" in sidecar["IntendedUseWarning"]
    assert "SYNTHETIC" in sidecar["Description"]
    assert sidecar["SkullStripped"] is True
    assert "Resolution" in sidecar
    assert "SpatialReference" not in sidecar
    assert json.loads(json.dumps(sidecar)) == sidecar


def test_native_image_names_its_reference():
    sidecar = synthetic_sidecar("synthetic", PROVENANCE, in_template=False, reference="bids::x")
    assert sidecar["SpatialReference"] == "bids::x"
    assert "Resolution" not in sidecar
    for call in (
        lambda: synthetic_sidecar("synthetic", PROVENANCE, in_template=False),
        lambda: acquired_sidecar("mean", [], in_template=False),
        lambda: mask_sidecar("mask", [], in_template=False),
    ):
        with pytest.raises(ValueError, match="needs the URI of its reference"):
            call()


def test_segments_become_arrays():
    segments = [{"Index": 1, "Onset": 0.0, "Volumes": [0, 1]}, {"Index": 2, "Onset": 4.0, "Volumes": [2]}]
    sidecar = synthetic_sidecar("synthetic_segments", PROVENANCE, in_template=True, segments=segments)
    assert sidecar["SegmentIndex"] == [1, 2]
    assert sidecar["SegmentOnset"] == [0.0, 4.0]
    assert sidecar["SegmentVolumes"] == [[0, 1], [2]]
    with pytest.raises(ValueError, match="different keys"):
        synthetic_sidecar("synthetic_segments", PROVENANCE, in_template=True, segments=[{"A": 1}, {"B": 1}])


def test_no_sidecar_for_an_output_that_does_not_exist():
    to_bold = Provenance(Direction.DWI2BOLD, (), MODEL, 1)
    with pytest.raises(ValueError, match="'synthetic_b0' does not exist for bold"):
        synthetic_sidecar("synthetic_b0", to_bold, in_template=True)


def test_average_keeps_what_stays_true():
    metadata = {"EchoTime": 0.03, "RepetitionTime": 2.0, "MagneticFieldStrength": 3, "PatientName": "X"}
    sidecar = acquired_sidecar("mean", ["bids:raw:x"], in_template=True, metadata=metadata)
    assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"]) == (0.03, 3)
    assert "RepetitionTime" not in sidecar
    assert "PatientName" not in sidecar
    assert "Synthetic" not in sidecar


def test_masks():
    acquired = mask_sidecar("mask", ["bids:raw:x"], in_template=True)
    assert acquired["Type"] == "Brain"
    assert "Synthetic" not in acquired
    assert mask_sidecar("synthetic_mask", ["bids:raw:x"], in_template=True)["Synthetic"] is True


def test_uri(tmp_path):
    assert bids_uri(tmp_path / "sub-01" / "a.json", tmp_path) == "bids::sub-01/a.json"
    assert bids_uri(tmp_path / "sub-01" / "a.json", tmp_path, "raw") == "bids:raw:sub-01/a.json"


def test_every_desc_label_in_use_is_described():
    described = {label for label, _ in descriptions()}
    used = set()
    for key in output_keys():
        for modality in modalities_of(key):
            for extension in (".nii.gz", ".tsv", ".txt", ".json"):
                try:
                    free = {"atlas": "A"} if key.endswith("parcels") else {}
                    name = OutputName(
                        key, {"sub": "1"}, modality, "parcels" in key, extension, free
                    ).path.name
                except (KeyError, ValueError):
                    continue
                used.update(part for part in name.split("_") if part.startswith("desc-"))
    assert used == described


def test_description_of_the_dataset(tmp_path):
    source = {"Name": "S", "DatasetDOI": "doi:1", "License": "CC0", "Authors": ["A"]}
    content = dataset_description(tmp_path, source, {"Type": "docker", "Tag": "t:1"})
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"][0]["Name"] == "pds-bids"
    assert content["GeneratedBy"][0]["Version"] == __version__
    assert content["GeneratedBy"][0]["Container"] == {"Type": "docker", "Tag": "t:1"}
    assert content["SourceDatasets"] == [{"URL": tmp_path.as_uri(), "DOI": "doi:1"}]
    assert content["DatasetLinks"] == {"raw": tmp_path.as_uri()}
    assert (content["License"], content["Authors"]) == ("CC0", ["A"])
    assert "Container" not in dataset_description(tmp_path, source)["GeneratedBy"][0]


@pytest.mark.parametrize(
    ("environment", "container"),
    [
        ({}, None),
        ({"PDS_BIDS_CONTAINER": "pds-bids:0.1"}, {"Type": "docker", "Tag": "pds-bids:0.1"}),
        ({"APPTAINER_NAME": "a.sif"}, {"Type": "apptainer", "Tag": "a.sif"}),
        (
            {"SINGULARITY_NAME": "a.sif", "PDS_BIDS_CONTAINER": "pds-bids:0.1"},
            {"Type": "singularity", "Tag": "pds-bids:0.1"},
        ),
    ],
)
def test_container(environment, container):
    assert container_from_environment(environment) == container


def test_dataset_files_are_complete_and_stay(tmp_path):
    out = tmp_path / "out"
    write_dataset_files(out, tmp_path, {"Name": "S"})
    files = {path.name: path.stat().st_ino for path in out.iterdir()}
    assert files.keys() == {".bidsignore", "README.md", "dataset_description.json", "descriptions.tsv"}
    table = (out / "descriptions.tsv").read_text().splitlines()
    assert table[0] == "desc_id\tdescription"
    assert any(line.startswith("desc-synthetic\tSYNTHETIC") for line in table)
    write_dataset_files(out, tmp_path, {"Name": "S"})
    assert {path.name: path.stat().st_ino for path in out.iterdir()} == files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"Name": "raw", "BIDSVersion": "1.8.0"}', "holds another dataset"),
        ('{"GeneratedBy": [{"Name": "fMRIPrep"}]}', "fMRIPrep"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_another_dataset_is_not_written_into(tmp_path, content, message):
    (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        write_dataset_files(tmp_path, Path("/data"), {})
    assert (tmp_path / "dataset_description.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def test_output_folder_may_be_absent_but_not_a_file(tmp_path):
    check_output_dir(tmp_path / "absent")
    check_output_dir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_output_dir(tmp_path / "file")


def test_identify_is_not_fooled_by_a_raw_name():
    assert identify(Path("sub-01/func/sub-01_task-rest_rec-synthetic_bold.nii.gz")) is None
