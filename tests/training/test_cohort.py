import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from cohort_tree import person, template, write_person, write_tree

from pds_bids.exceptions import NothingSelectedError, UsageError
from pds_bids.inference.prepare import Window
from pds_bids.modalities import CONTRASTS, MAP_UNITS, Contrast, Direction
from pds_bids.template import MODEL_GRID
from pds_bids.training.cohort import (
    CohortPairs,
    find_visits,
    fingerprint,
    load_cohort,
    read_diagnoses,
    read_families,
)
from pds_bids.training.data import Split, make_example
from pds_bids.training.statistics import parcel_weights


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), 6)


def test_visits_have_both_modalities_and_others_a_reason(tmp_path):
    write_tree(tmp_path, 1)
    write_person(tmp_path, "02", without="dwi")
    write_person(tmp_path, "03", without="b0")
    write_person(tmp_path, "04", status="failed")
    write_person(tmp_path, "05", session="1")
    synthetic = tmp_path / "sub-02" / "dwi"
    synthetic.mkdir(parents=True, exist_ok=True)
    bold = next((tmp_path / "sub-02" / "func").glob("*desc-mean_boldref.nii.gz"))
    name = "sub-02_space-MNI152NLin2009cAsym_res-3_desc-synthetic_dwiref.nii.gz"
    (synthetic / name).write_bytes(bold.read_bytes())
    visits, left_out = find_visits(tmp_path)
    assert [visit.label for visit in visits] == ["sub-01", "sub-05 ses-1"]
    reasons = dict(left_out)
    assert "only bold" in reasons["sub-02"]
    assert "no b0 of dwi" in reasons["sub-03"]
    assert "failed its gate" in reasons["sub-04"]
    assert [visit.label for visit in find_visits(tmp_path, ["05"])[0]] == ["sub-05 ses-1"]


def test_pairs_are_the_acquired_images(tree):
    visits, _ = find_visits(tree)
    pair = CohortPairs(visits, template(), 1).pair(0)
    images, masks = person("01")
    mask = masks["bold"] & masks["dwi"]
    np.testing.assert_array_equal(pair.mask, mask)
    for contrast in CONTRASTS:
        unit = MAP_UNITS.get(contrast) or images[contrast][mask].mean()
        expected = np.where(mask, images[contrast] / unit, 0)
        np.testing.assert_allclose(pair.source[CONTRASTS.index(contrast)], expected, atol=1e-4)
    assert pair.target is pair.source
    assert pair.name == "sub-01"


def test_what_is_not_there_is_neither_read_nor_learned(tmp_path):
    write_person(tmp_path, "01", without="fa")
    write_person(tmp_path, "02", without="t1w")
    visits, left_out = find_visits(tmp_path)
    assert not left_out
    pairs = CohortPairs(visits, template(), 1)
    lacking = [set(Contrast) - pairs.pair(index).has_target for index in range(2)]
    assert lacking == [{Contrast.FA}, {Contrast.T1W}]
    window = Window((4, 4, 4), (56, 64, 56))
    example = make_example(pairs.pair(0), window, Direction.BOLD2DWI)
    assert example["given"].tolist() == [1, 1, 1, 0, 1, 1]
    assert example["present"].tolist() == [1, 0, 0, 0, 0, 1]
    assert make_example(pairs.pair(1), window, Direction.BOLD2DWI)["present"].tolist() == [1, 0, 0, 0, 0, 0]


def test_every_round_holds_everybody_once(tree):
    pairs = CohortPairs(find_visits(tree)[0], template(), 1)
    rounds = [[pairs.visit(6 * turn + i).label for i in range(6)] for turn in range(4)]
    assert all(sorted(names) == rounds[0] for names in rounds)
    assert len(set(map(tuple, rounds))) == 4


def test_no_person_is_in_two_parts(tmp_path):
    """Three people with two sessions each: sessions of a person stay together."""
    for name in ("01", "02", "03", "04"):
        for session in ("1", "2"):
            write_person(tmp_path, name, session=session)
    people = load_cohort(tmp_path, template(), 3, tmp_path / "people.tsv")
    streams = (people.train, people.validation, people.test)
    names = [{visit.participant for visit in stream.visits} for stream in streams]
    assert [len(part) for part in names] == [2, 1, 1]
    assert len(set.union(*names)) == 4
    assert [len(stream) for stream in streams] == [4, 2, 2]
    for part, stream in zip(names, streams, strict=True):
        # What training would draw, not only what is listed.
        assert {stream.pair(i).name.split()[0] for i in range(20)} == part
    rows = (tmp_path / "people.tsv").read_text().splitlines()
    assert len(rows) == 9
    assert (
        len({tuple(row.split("\t")[1] for row in rows[1:] if row.startswith(f"sub-{n}")) for n in "12"}) == 1
    )


def test_a_split_that_is_given_is_obeyed(tree, tmp_path):
    split = Split(("sub-02", "sub-03"), ("sub-05",), ("sub-01",))
    people = load_cohort(tree, template(), 1, tmp_path / "people.tsv", split=split)
    assert people.split == split
    assert [visit.participant for visit in people.train.visits] == ["sub-02", "sub-03"]
    table = (tmp_path / "people.tsv").read_text()
    assert "sub-04\tleft out\tnot in the split" in table
    assert "sub-05\tvalidation\t" in table
    other = Split(("sub-02", "sub-99"), (), ())
    with pytest.raises(UsageError, match="sub-99 cannot be used"):
        load_cohort(tree, template(), 1, tmp_path / "people.tsv", split=other)


def test_images_that_cannot_be_used_are_listed(tmp_path):
    write_tree(tmp_path, 4)
    path = next(tmp_path.glob("sub-02/func/*_desc-mean_boldref.nii.gz"))
    nib.Nifti1Image(np.ones(MODEL_GRID.shape, "f4"), np.eye(4)).to_filename(path)
    path = next(tmp_path.glob("sub-03/dwi/*_desc-brain_mask.nii.gz"))
    far = np.zeros(MODEL_GRID.shape, np.uint8)
    far[:20, :20, :20] = 1
    nib.Nifti1Image(far, MODEL_GRID.vox2ras).to_filename(path)
    with pytest.raises(NothingSelectedError, match=r"2 people.*sub-02: .*model grid.*sub-03: .*overlap by 0"):
        load_cohort(tmp_path, template(), 1, tmp_path / "people.tsv")


def test_fingerprint_follows_the_data(tmp_path):
    write_tree(tmp_path, 1)
    before = fingerprint(find_visits(tmp_path)[0])
    assert before == fingerprint(find_visits(tmp_path)[0])
    path = next(tmp_path.glob("sub-01/dwi/*_desc-b0_dwiref.nii.gz"))
    data = np.asarray(nib.load(path).dataobj) + 1
    nib.Nifti1Image(data, MODEL_GRID.vox2ras).to_filename(path)
    assert fingerprint(find_visits(tmp_path)[0]) != before


def test_parcels_in_which_diagnoses_differ_weigh_more(tmp_path, caplog):
    """BOLD of patients is brighter in parcel 2, and nothing else differs systematically."""
    for number in range(1, 9):
        is_patient = number % 2 == 0
        write_person(tmp_path, f"{number:02d}", brighter={2: 1.5} if is_patient else {})
    rows = ["participant_id\tdiagnosis"] + [f"sub-{n:02d}\t{'NC' if n % 2 else 'AD'}" for n in range(1, 9)]
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    people = load_cohort(tmp_path, template(), 1, tmp_path / "people.tsv", diagnoses=read_diagnoses(tmp_path))
    # Each of them five times, in place of the many people that weights need.
    many = replace(people, atlas_indices=[*people.atlas_indices] * 5, groups=[*people.groups] * 5)
    weights = parcel_weights(many, [1, 2, 3])
    bold = weights[CONTRASTS.index(Contrast.BOLD)]
    assert bold.argmax() == 1
    assert bold[1] > 3 * bold[[0, 2]].max()
    torch.testing.assert_close(weights.mean(1), torch.ones(len(CONTRASTS)))
    assert json.dumps(people.description)
    with caplog.at_level("INFO", "pds_bids.training"):
        assert parcel_weights(people, [1, 2, 3]) is None
    assert "at least two of 10 needed" in caplog.text
    # A few people of a third group neither stop the others from counting nor count themselves.
    mixed = replace(many, atlas_indices=[*many.atlas_indices, 0], groups=[*many.groups, "MCI"])
    torch.testing.assert_close(parcel_weights(mixed, [1, 2, 3]), weights)


def test_people_of_one_head_are_not_parted(tmp_path):
    for number in range(1, 9):
        write_person(tmp_path, f"{number:02d}")
    table = tmp_path / "participants.tsv"
    heads = {f"sub-{n:02d}": f"head_{(n - 1) // 2}" for n in range(1, 9)}
    table.write_text("participant_id\tanatomy\n" + "".join(f"{k}\t{v}\n" for k, v in heads.items()))
    families = read_families(tmp_path)
    assert families == heads
    with_one_family = table.read_text().replace("\n", "\t1\n").replace("anatomy\t1", "anatomy\tfamily_id")
    table.write_text(with_one_family)
    assert read_families(tmp_path) == heads
    for seed in range(6):
        split = load_cohort(tmp_path, template(), seed, tmp_path / "people.tsv", families=families).split
        kin = [{heads[name] for name in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, kin)) == 4
    # One head for all tells nobody apart.
    one = dict.fromkeys(heads, "template")
    assert load_cohort(tmp_path, template(), 1, tmp_path / "people.tsv", families=one).split.train


def test_no_diagnoses_no_weights(tree, tmp_path):
    assert read_diagnoses(tmp_path) == {}
    people = load_cohort(tree, template(), 1, tmp_path / "people.tsv")
    assert parcel_weights(people, [1, 2, 3]) is None
