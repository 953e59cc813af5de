"""Ratings: what is read, what is stale, what is refused."""

import hashlib
import json
from pathlib import Path

import pytest

from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality
from pds_bids.reports.ratings import FORMAT, RatingVerdict, read_ratings

IMAGE = "sub-01/ses-1/dwi/sub-01_ses-1_space-MNI152NLin2009cAsym_res-3_desc-synthetic_dwiref.nii.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = tmp_path / IMAGE
    image.parent.mkdir(parents=True)
    image.write_bytes(b"volume")
    (tmp_path / "ratings").mkdir()
    return tmp_path


def save(folder: Path, name: str = "sub-01_ses-1_rating.json", rated_at: str = "2026-01-01T00:00Z", **entry):
    rater = entry.pop("rater", "AB")
    rated = {
        "image": IMAGE,
        "sha256": hashlib.sha256(b"volume").hexdigest(),
        "verdict": "accept",
        "artefacts": [],
        "comment": "",
    }
    content = {"format": FORMAT, "participant": "01", "session": "1", "rater": rater, "rated_at": rated_at}
    content["ratings"] = [rated | entry]
    (folder / "ratings" / name).write_text(json.dumps(content))


def test_a_folder_without_ratings_has_none(tmp_path: Path):
    assert read_ratings(tmp_path) == []


def test_reads_what_the_form_saved(folder: Path):
    save(folder, verdict="reject", artefacts=["stripes"], comment="left frontal")
    (rating,) = read_ratings(folder)
    assert (rating.participant, rating.session, rating.rater) == ("01", "1", "AB")
    assert (rating.verdict, rating.artefacts, rating.comment) == (
        RatingVerdict.REJECT,
        ("stripes",),
        "left frontal",
    )
    assert rating.modality is Modality.DWI
    assert not rating.is_stale


def test_a_rating_of_an_older_or_removed_image_is_stale(folder: Path):
    save(folder)
    (folder / IMAGE).write_bytes(b"made again")
    assert read_ratings(folder)[0].is_stale
    (folder / IMAGE).unlink()
    assert read_ratings(folder)[0].is_stale


def test_several_raters_all_count_and_the_newest_of_each(folder: Path):
    save(folder, "sub-01_ses-1_rater-AB_rating.json", "2026-01-02T00:00Z", verdict="doubt")
    save(folder, "sub-01_ses-1_rater-AB_rating (1).json", "2026-01-03T00:00Z", verdict="reject")
    save(folder, "sub-01_ses-1_rater-CD_rating.json", "2026-01-01T00:00Z", rater="CD")
    assert [(r.rater, str(r.verdict)) for r in read_ratings(folder)] == [("AB", "reject"), ("CD", "accept")]


def test_only_one_participant(folder: Path):
    save(folder)
    (folder / "ratings" / "sub-011_rating.json").write_text("broken, but of somebody else")
    assert len(read_ratings(folder, "01")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "is not a JSON object"),
        ('{"format": "other"}', '"format": "pds-bids rating 1"'),
    ],
)
def test_a_broken_file_is_named(folder: Path, text: str, said: str):
    save(folder)
    (folder / "ratings" / "sub-02_rating.json").write_text(text)
    with pytest.raises(DataError, match=r"ratings/sub-02_rating\.json: ") as caught:
        read_ratings(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"verdict": "fine"}, "accept, doubt, reject"),
        ({"image": "../secret.nii.gz"}, "not an image of sub-01"),
        ({"image": "sub-01/../sub-02/x.nii.gz"}, "not an image of sub-01"),
        ({"image": "sub-01/dwi/sub-01_desc-mean_dwiref.nii.gz"}, "not the name of a synthetic image"),
        ({"sha256": None}, '"sha256" is missing'),
        ({"artefacts": "stripes"}, "not a list of words"),
    ],
)
def test_a_wrong_entry_is_refused(folder: Path, entry: dict, said: str):
    save(folder, **entry)
    with pytest.raises(DataError) as caught:
        read_ratings(folder)
    assert said in str(caught.value)


def test_a_file_under_the_name_of_another_session_is_refused(folder: Path):
    save(folder, "sub-01_ses-2_rating.json")
    with pytest.raises(DataError, match="its name says"):
        read_ratings(folder)
