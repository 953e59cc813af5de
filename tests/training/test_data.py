import json

import numpy as np
import pytest
import torch
from toy_people import B0, BOLD, DWI, WINDOW, ToyPairs, stream

from pds_bids.exceptions import UsageError
from pds_bids.modalities import Contrast, Direction
from pds_bids.training.data import Split, UpdateStream, collate, loader, make_example, split_subjects


def test_split_is_by_person_and_exhaustive():
    names = [f"p{i:02d}" for i in range(20)]
    split = split_subjects(names, seed=1)
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert [len(part) for part in parts] == [15, 2, 3]
    assert set.union(*parts) == set(names)
    assert split == split_subjects(names[::-1], seed=1)
    assert split != split_subjects(names, seed=2)


def test_split_keeps_relatives_together():
    names = [f"p{i:02d}" for i in range(20)]
    families = {name: f"head-{i // 3}" for i, name in enumerate(names[:18])}
    for seed in range(10):
        split = split_subjects(names, seed, families=families)
        parts = [split.train, split.validation, split.test]
        assert sorted(sum(parts, ())) == names
        kin = [{families.get(name, name) for name in part} for part in parts]
        assert sum(map(len, kin)) == len(set.union(*kin))
        assert 2 <= len(split.validation) <= 4
        assert 3 <= len(split.test) <= 5
    with pytest.raises(UsageError, match="2 families"):
        split_subjects(names, 1, families={name: f"head-{i // 10}" for i, name in enumerate(names)})


def test_split_is_saved(tmp_path):
    split = split_subjects(list("abcdefg"), seed=1)
    split.save(tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text())["test"] == list(split.test)


@pytest.mark.parametrize("names", [list("aabcdefg"), list("abcde")])
def test_split_refuses_leaks_and_empty_training(names):
    with pytest.raises(UsageError, match=r"twice|suffice"):
        split_subjects(names, seed=1)


def test_example_has_unit_mean_and_only_its_sources():
    pair = ToyPairs().pair(3)
    pair.source *= 7
    example = make_example(pair, WINDOW, Direction.DWI2BOLD, drop=[Contrast.B0, Contrast.T1W])
    assert make_example(pair, WINDOW, Direction.DWI2BOLD)["present"].tolist() == [0, 1, 1, 0, 0, 1]
    mask = example["mask"][0] > 0
    assert example["present"].tolist() == [0, 1, 0, 0, 0, 0]
    assert float(example["source"][DWI][mask].mean()) == pytest.approx(1, abs=1e-5)
    assert not example["source"][[BOLD, B0]].any()
    np.testing.assert_allclose(
        example["source"][DWI][mask],
        pair.source[DWI][pair.mask] / pair.source[DWI][pair.mask].mean(),
        rtol=1e-5,
    )


def test_examples_depend_on_their_index_only():
    one, two = stream(), stream()
    two.example(3)
    for index in (4, 5, 6):
        expected, found = one.example(index), two.example(index)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_mirrored_examples_are_mirrored_people_under_the_same_template():
    plain = stream(p_mirror=0, p_drop_contrast=0, p_drop_template=0, p_drop_anatomy=0).example(0)
    mirrored = stream(p_mirror=1, p_drop_contrast=0, p_drop_template=0, p_drop_anatomy=0).example(0)
    for name in ("source", "mask", "target"):
        assert torch.equal(mirrored[name], plain[name].flip(1))
    assert torch.equal(mirrored["template"], plain["template"])


def test_dropout_withholds_one_of_two_contrasts_and_the_template():
    always = stream(p_drop_contrast=1, p_drop_template=1, p_drop_anatomy=1)
    example = always.example(Direction.DWI2BOLD.code)
    assert example["present"].sum() == 1 + example["present"][-1]
    assert not example["template"].any()
    assert always.example(Direction.BOLD2DWI.code)["present"].tolist()[:-1] == [1, 0, 0, 0, 0]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_processes_share_the_passes_of_an_update(n_processes):
    shards = [
        UpdateStream(stream(), 8, 2, stop=9, rank=rank, n_processes=n_processes)
        for rank in range(n_processes)
    ]
    passes = dict(part for shard in shards for part in shard.update(5))
    assert sorted(passes) == [0, 1, 2, 3]
    for number, examples in passes.items():
        expected = [stream().example(5 * 8 + 2 * number + i) for i in range(2)]
        assert same(examples, collate(expected))


def test_passes_that_cannot_be_shared_are_refused():
    with pytest.raises(UsageError, match="multiple of 6"):
        UpdateStream(stream(), 4, 2, stop=1, n_processes=3)


def test_workers_do_not_change_the_order():
    updates = UpdateStream(stream(), 2, 2, first=3, stop=8)
    for number, made in enumerate(loader(updates, n_workers=2), start=3):
        ((index, examples),) = made
        assert index == 0
        assert same(examples, updates.update(number)[0][1])
    assert number == 7


def test_split_is_read_again(tmp_path):
    split = split_subjects(list("abcdefg"), seed=1)
    split.save(tmp_path / "splits.json")
    assert Split.load(tmp_path / "splits.json") == split


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"train": ["a", "b"], "validation": ["b"], "test": []}', "b twice"),
        ('{"train": [], "validation": ["b"], "test": []}', "nobody"),
        ('{"train": ["a"]}', "lists train"),
        ("no", "not a split"),
    ],
)
def test_split_with_a_leak_is_refused(tmp_path, text, match):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=match):
        Split.load(path)
