"""Whole trainings on a small derivative tree."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cohort_tree import template, write_tree
from matplotlib import image
from safetensors import torch as safetensors_torch
from toy_people import TINY

from pds_bids.cli import train as cli_train
from pds_bids.cli.run import main
from pds_bids.exceptions import UsageError, WeightsError
from pds_bids.inference.bundle import load_bundle
from pds_bids.inference.prepare import Window
from pds_bids.inference.synthesize import synthesize
from pds_bids.modalities import Contrast, Direction
from pds_bids.models.perceptual import vgg_features
from pds_bids.template import MODEL_GRID
from pds_bids.training.cohort import load_cohort
from pds_bids.training.data import Split
from pds_bids.training.module import Machine
from pds_bids.training.run import Plan, train
from pds_bids.training.schedule import TrainConfig
from pds_bids.training.timing import updates_within

WINDOW = Window((24, 30, 24), (16, 16, 16))
CONFIG = TrainConfig(n_updates=4, n_warmup=1, validate_every=2, save_every=2)
PLAN = Plan("pds", config=CONFIG, architecture=TINY["pds"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree") / "derivatives", 6)


@pytest.fixture
def people(tree, tmp_path):
    return load_cohort(tree, template(), 1, tmp_path / "people.tsv")


def run(people, folder, plan=PLAN):
    return load_bundle(
        train(people, plan, folder / "log", folder / "model", machine=Machine(), window=WINDOW)
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A plan with a feature network of random weights, which a test may have."""
    path = tmp_path_factory.mktemp("vgg") / "features.safetensors"
    state = vgg_features((4, 4, None, 8, 8, None, 8, 8, 8), 1).state_dict()
    safetensors_torch.save_file({f"features.{key}": value for key, value in state.items()}, path)
    return replace(PLAN, perceptual_weights=path)


def test_pds_trains_on_a_cohort_and_goes_on(people, tmp_path):
    bundle = run(people, tmp_path)
    card = bundle.card
    assert bundle.method.name == "pds"
    assert card["training"]["n_updates"] == 4
    assert len(card["training"]["fingerprint"]) == 64
    assert card["training"]["parcels"].startswith("thirds")
    assert "projections of the training split" in card["training"]["perceptual"]
    assert not any(name in json.dumps(card) for name in (*people.split.train, *people.split.test))
    assert "Take the file out before you share" in card["limits"][-1]
    assert Split.load(tmp_path / "log" / "splits.json") == people.split
    for stage, updates in (("diffusion", ["1", "2"]), ("refinement", ["3", "4"])):
        with (tmp_path / "log" / f"losses-{stage}.csv").open() as stream:
            assert [row["update"] for row in csv.DictReader(stream)] == updates
    with (tmp_path / "log" / "validation.csv").open() as stream:
        assert [row["update"] for row in csv.DictReader(stream)] == ["0", "2", "4"]
    pictures = sorted((tmp_path / "log" / "figures").iterdir())
    assert len(pictures) == 3 * 2
    assert image.imread(pictures[-1]).std() > 0.1
    # A second call has nothing to do, and gives the same bundle.
    assert run(people, tmp_path).weights_sha256 == bundle.weights_sha256


def test_a_training_that_stopped_ends_like_one_that_did_not(people, plan, tmp_path):
    whole = run(people, tmp_path / "whole", plan)

    class Stop(Exception):
        pass

    class Failing:
        def __init__(self, pairs):
            self.pairs = pairs

        def pair(self, index):
            # Examples 6 and 7; not when the mean person is made.
            if index == 3 and (tmp_path / "part" / "log" / "checkpoint.pt").exists():
                raise Stop
            return self.pairs.pair(index)

    with pytest.raises(Stop):
        run(replace(people, train=Failing(people.train)), tmp_path / "part", plan)
    resumed = run(people, tmp_path / "part", replace(plan, must_resume=True))
    assert resumed.weights_sha256 == whole.weights_sha256
    tables = [(tmp_path / name / "log" / "losses-refinement.csv").read_text() for name in ("whole", "part")]
    losses = [[row.rsplit(",", 1)[0] for row in table.splitlines()] for table in tables]
    assert losses[0] == losses[1]


def test_a_folder_is_not_shared_by_two_trainings(people, plan, tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*checkpoint"):
        run(people, tmp_path, replace(plan, must_resume=True))
    run(people, tmp_path, plan)
    with pytest.raises(UsageError, match="differs in architecture, method"):
        run(people, tmp_path, replace(plan, method="unet", architecture=TINY["unet"]))
    with pytest.raises(UsageError, match="n_updates 4 -> 6"):
        run(people, tmp_path, replace(plan, config=replace(CONFIG, n_updates=6)))


def test_fine_tuning_starts_from_a_bundle(people, tmp_path):
    plan = Plan("unet", config=CONFIG, architecture=TINY["unet"])
    first = run(people, tmp_path / "first", plan)
    still = replace(plan, weights_from=first.folder, learning_rate=1e-12)
    second = run(people, tmp_path / "second", still)
    for name, value in first.method.state_dict().items():
        if name != "calibration":
            torch.testing.assert_close(second.method.state_dict()[name], value, atol=2e-3, rtol=2e-3)
    with pytest.raises(UsageError, match="holds unet"):
        run(people, tmp_path / "third", replace(PLAN, weights_from=first.folder))


def test_minutes_fix_the_number_of_updates(people, tmp_path, monkeypatch):
    monkeypatch.setattr("pds_bids.training.run.updates_within", lambda *_: 3)
    plan = Plan("unet", config=CONFIG, architecture=TINY["unet"], minutes=5)
    assert run(people, tmp_path, plan).card["training"]["n_updates"] == 3
    monkeypatch.setattr("pds_bids.training.run.updates_within", lambda *_: 1)
    assert run(people, tmp_path, plan).card["training"]["n_updates"] == 3


def test_updates_within_a_time_follow_the_clock(monkeypatch):
    """60% of the updates belong to the second stage, which takes three times as long: (0.4 + 1.8) s each."""
    from toy_people import make_method, stream

    method = make_method("ldm")
    seconds = iter([0, 2, 10, 16])
    monkeypatch.setattr("pds_bids.training.timing.time.monotonic", lambda: next(seconds))
    assert updates_within(1000, method, TrainConfig(), stream()) == int(0.85 * 1000 / 2.2)


def test_level_train_from_the_command_line(tree, tmp_path, monkeypatch):
    """The smallest real size, on the whole window; then a synthesis with what was learned."""
    monkeypatch.setattr("pds_bids.template.get_template", lambda cache: None)
    monkeypatch.setattr("pds_bids.template.load_template", lambda files, grid: template())
    out = tmp_path / "out"
    command = [
        str(tree),
        str(out),
        "train",
        "--method",
        "unet",
        "--max-updates",
        "1",
        "-w",
        str(tmp_path / "w"),
    ]
    command += ["--omp-nthreads", "1", "--device", "cpu"]
    assert main(command) == 0
    bundle = load_bundle(out / "models" / "unet")
    assert (out / "training" / "unet" / "splits.json").exists()
    people = load_cohort(tree, template(), 0, tmp_path / "people.tsv")
    assert Split.load(out / "training" / "unet" / "splits.json") == people.split
    pair = people.test.pair(0)
    made = synthesize(
        {Contrast.BOLD: pair.source[0][..., None]}, pair.mask, np.moveaxis(pair.template, 0, -1), MODEL_GRID,
        bundle, direction=Direction.BOLD2DWI, seeds=[1],
    )  # fmt: skip
    truth, image = pair.target[1], made.mean[Contrast.DWI][..., 0]
    # The local regression that it starts from has already learned that DWI is what BOLD is not.
    assert np.corrcoef(truth[pair.mask], image[pair.mask])[0, 1] > 0.8


def test_raw_data_are_preprocessed_first(tmp_path, tree, monkeypatch):
    """BIDS_DIR is no derivative: the level participant runs on it, in both directions."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    calls = []
    monkeypatch.setattr("pds_bids.cli.run._participants", lambda config: calls.append(config) or 1)
    monkeypatch.setattr(cli_train, "_people", lambda config, where, folder: calls.append(where))
    monkeypatch.setattr("pds_bids.training.run.train", lambda *_, **__: None)
    code = main(
        [str(raw), str(out), "train", "--method", "pds", "-w", str(tmp_path / "w"), "--device", "cpu"]
    )
    # A session that failed is not forgotten.
    assert code == 1
    assert calls[1] == out
    assert (calls[0].synthesize, calls[0].method, calls[0].model_dir) == ("both", "unet", None)


def test_a_dry_run_computes_nothing(tmp_path, tree, capsys):
    command = [str(tree), str(tmp_path / "out"), "train", "--dry-run", "-w", str(tmp_path / "w")]
    assert main([*command, "--participant-label", "02"]) == 0
    assert capsys.readouterr().out == "sub-02: both modalities\nNothing was computed.\n"
    assert not (tmp_path / "out").exists()


def test_a_method_without_weights_says_how_to_get_them():
    from pds_bids.inference.card import default_model_dir, read_card

    with pytest.raises(WeightsError, match="train --method pds"):
        read_card(default_model_dir("pds"))
