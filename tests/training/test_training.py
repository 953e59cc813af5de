import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from pds_bids.exceptions import DataError, UsageError
from pds_bids.inference.prepare import Window
from pds_bids.methods import METHODS, Method, SampleResult, UNetMethod
from pds_bids.modalities import CONTRASTS, Contrast, Direction
from pds_bids.models.unet import UNetConfig
from pds_bids.training.data import (
    Augmentation,
    ExampleStream,
    collate,
    make_example,
    split_subjects,
    to_device,
)
from pds_bids.training.prior import local_regression
from pds_bids.training.trainer import TrainConfig, Trainer, calibrate, loader, mean_square_errors

GRID_SHAPE = (18, 9, 10)
WINDOW = Window((1, 1, 0), (16, 8, 8))
BOLD, DWI, B0 = (CONTRASTS.index(c) for c in (Contrast.BOLD, Contrast.DWI, Contrast.B0))


class ToyPairs:
    """A stream whose DWI is a known function of BOLD."""

    def __init__(self, noise=0.02):
        self.noise = noise

    def pair(self, index):
        rng = np.random.default_rng(index)
        mask = np.zeros(GRID_SHAPE, bool)
        mask[2:16, 2:8, 1:8] = True
        base = 1 + 3 * ndimage.gaussian_filter(rng.normal(size=GRID_SHAPE), 2)
        target = np.stack([base, 2 - base, base**2]) * mask
        target /= target[:, mask].mean(1)[:, None, None, None]
        source = target + self.noise * rng.normal(size=target.shape) * mask
        template = np.ones((4, *GRID_SHAPE))
        return SimpleNamespace(
            source=source.astype("f4"), target=target.astype("f4"), mask=mask, template=template, name="toy"
        )


@pytest.fixture
def method():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return UNetMethod(UNetConfig((8, 8, 8), 1, 8), WINDOW.shape)


def stream(first=0, **options):
    return ExampleStream(ToyPairs(), WINDOW, Augmentation(**options), 7, first)


def test_split_is_by_person_and_exhaustive():
    names = [f"p{i:02d}" for i in range(20)]
    split = split_subjects(names, seed=1)
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert [len(part) for part in parts] == [15, 2, 3]
    assert set.union(*parts) == set(names)
    assert split == split_subjects(names[::-1], seed=1)
    assert split != split_subjects(names, seed=2)


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
    example = make_example(pair, WINDOW, Direction.DWI2BOLD, drop=[Contrast.B0])
    mask = example["mask"][0] > 0
    assert example["present"].tolist() == [0, 1, 0]
    assert float(example["source"][DWI][mask].mean()) == pytest.approx(1, abs=1e-5)
    assert not example["source"][[BOLD, B0]].any()
    np.testing.assert_allclose(
        example["source"][DWI][mask],
        pair.source[DWI][pair.mask] / pair.source[DWI][pair.mask].mean(),
        rtol=1e-5,
    )


def test_examples_depend_on_their_index_only():
    one, two = stream(), stream(first=4)
    iterator = iter(two)
    for index in (4, 5, 6):
        expected, found = one.example(index), next(iterator)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_mirrored_examples_are_mirrored_people_under_the_same_template():
    plain = stream(p_mirror=0, p_drop_contrast=0, p_drop_template=0).example(0)
    mirrored = stream(p_mirror=1, p_drop_contrast=0, p_drop_template=0).example(0)
    for name in ("source", "mask", "target"):
        assert torch.equal(mirrored[name], plain[name].flip(1))
    assert torch.equal(mirrored["template"], plain["template"])


def test_dropout_withholds_one_of_two_contrasts_and_the_template():
    always = stream(p_drop_contrast=1, p_drop_template=1)
    example = always.example(Direction.DWI2BOLD.code)
    assert example["present"].sum() == 1
    assert not example["template"].any()
    assert always.example(Direction.BOLD2DWI.code)["present"].tolist() == [1, 0, 0]


def test_local_regression_finds_a_known_law():
    """``target = atlas + b s + c s^2`` with b, c that change along the first axis."""
    rng = np.random.default_rng(0)
    shape = (24, 8, 8)
    atlas = np.full((3, *shape), 0.5)
    b = np.linspace(-1, 1, shape[0])[:, None, None]
    pairs = []
    for _ in range(20):
        s = rng.normal(size=(3, *shape))
        target = atlas + 0
        target[DWI] += b * s[BOLD] - 0.3 * s[BOLD] ** 2
        target[BOLD] += 0.4 * s[DWI] - 0.7 * s[B0] + 0.2 * s[B0] ** 2
        pairs.append((atlas + s, target, np.ones(shape, bool)))
    maps = local_regression(pairs, atlas)
    # Order of pairs: dwi<-bold, b0<-bold, bold<-dwi, bold<-b0; b first, then c.
    inner = slice(2, -2)
    expected = b[::2, 0, 0] + (b[1, 0, 0] - b[0, 0, 0]) / 2
    np.testing.assert_allclose(maps[0].mean((1, 2))[inner], expected[inner], atol=0.06)
    for index, value in {1: 0, 2: 0.4, 3: -0.7, 4: -0.3, 5: 0, 6: 0, 7: 0.2}.items():
        np.testing.assert_allclose(maps[index].mean((1, 2)), value, atol=0.05)


CONFIG = TrainConfig(n_steps=6, n_warmup=2, validate_every=3, save_every=3)


def train(method, folder, config, n_steps=None):
    trainer = Trainer(method, config, folder)
    batches = loader(stream(first=trainer.step * config.batch_size), config.batch_size, in_process=True)
    validation = [collate([stream().example(100), stream().example(101)])]
    if n_steps is None:
        trainer.fit(batches, validation)
    else:
        for _, examples in zip(range(n_steps), batches, strict=False):
            trainer.update(examples)
    return trainer


def test_interrupted_training_ends_with_the_same_weights(method, tmp_path):
    start = {name: value.clone() for name, value in method.state_dict().items()}
    whole = train(method, tmp_path / "whole", CONFIG)
    second = UNetMethod(method.config, WINDOW.shape)
    second.load_state_dict(start)
    first_part = train(second, tmp_path / "parts", CONFIG, n_steps=3)
    first_part.save()
    first_part.update(collate([stream().example(6), stream().example(7)]))  # lost when "killed"
    third = UNetMethod(method.config, WINDOW.shape)
    resumed = train(third, tmp_path / "parts", CONFIG)
    for mine, theirs in ((whole.method, resumed.method), (whole.average, resumed.average)):
        assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.state_dict().items())
    assert not torch.equal(whole.method.state_dict()["network.stem.weight"], start["network.stem.weight"])


def test_training_logs_every_step_once_and_learns(method, tmp_path):
    config = TrainConfig(n_steps=40, learning_rate=1e-2, n_warmup=2, validate_every=40, save_every=20)
    trainer = train(method, tmp_path, config)
    rows = (tmp_path / "losses.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 41))
    first, last = [line.split(",")[2:] for line in (tmp_path / "validation.csv").read_text().split()[1:]]
    assert all(float(after) < 0.7 * float(before) for before, after in zip(first, last, strict=True))
    assert trainer.step == 40


def test_rows_after_the_checkpoint_are_forgotten(method, tmp_path):
    trainer = train(method, tmp_path, CONFIG)
    trainer.step = 4
    trainer.save()
    Trainer(method, CONFIG, tmp_path)
    rows = (tmp_path / "losses.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4]


def test_average_lags_behind_by_its_decay(method, tmp_path):
    trainer = Trainer(method, CONFIG, tmp_path)
    before = trainer.average.state_dict()["network.stem.weight"].clone()
    trainer.update(collate([stream().example(0), stream().example(1)]))
    now = method.state_dict()["network.stem.weight"]
    expected = before + (1 - 2 / 11) * (now - before)  # (1 + step) / (10 + step) at step 1
    torch.testing.assert_close(trainer.average.state_dict()["network.stem.weight"], expected)


def test_loss_that_is_not_finite_stops_training(method, tmp_path):
    trainer = Trainer(method, CONFIG, tmp_path)
    examples = collate([stream().example(0), stream().example(1)])
    examples["target"][0] = torch.nan
    with pytest.raises(DataError, match="step 0"):
        trainer.update(examples)


def test_calibration_covers_68_percent(method):
    batches = [collate([stream().example(2 * i), stream().example(2 * i + 1)]) for i in range(2)]
    report = calibrate(method, batches)
    inside = {BOLD: [], DWI: [], B0: []}
    assert set(report) == {f"{kind}_{c}" for kind in ("factor", "within_2_std") for c in CONTRASTS}
    for examples in batches:
        batch = to_device(examples, "cpu")
        sample = method.sample(batch, [torch.Generator()] * 2)
        for row, channels in ((0, (DWI, B0)), (1, (BOLD,))):
            where = batch.mask[row, 0] > 0
            for channel in channels:
                z = (sample.mean - batch.target)[row, channel] / sample.std[row, channel]
                inside[channel].append((z[where].abs() <= 1).float())
    for parts in inside.values():
        assert float(torch.cat(parts).mean()) == pytest.approx(0.6827, abs=0.005)


def test_mean_square_errors_of_an_untrained_network(method):
    """It predicts zero, so the error is the mean square of the target."""
    example = make_example(ToyPairs().pair(0), WINDOW, Direction.DWI2BOLD)
    inside = example["mask"][0] > 0
    expected = float(example["target"][BOLD][inside].square().mean())
    found = mean_square_errors(method, [collate([example])])
    assert found == {"dwi2bold_bold": pytest.approx(expected, rel=1e-5)}


class Duel(Method):
    """Two stages; in the second two players pull the same number in opposite directions."""

    name = "duel"
    sampler = "none"
    steps = 1
    stages = ("first", "second")
    stage_shares = (0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.register_buffer("calibration", torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))
        self.trunk, self.up, self.down = (torch.nn.Parameter(torch.zeros(())) for _ in range(3))

    @classmethod
    def from_architecture(cls, architecture, shape):
        return cls()

    @property
    def architecture(self):
        return {}

    def set_stage(self, name):
        super().set_stage(name)
        self.stage = name

    def players(self):
        return {"trunk": [self.trunk]} if self.stage == "first" else {"up": [self.up], "down": [self.down]}

    def losses(self, batch, player=None, generator=None):
        self.seen += 1
        noise = torch.randn((), generator=generator)
        game = (self.up + self.down) * (1 + 0.1 * noise)
        return {"trunk": {"fit": (self.trunk - 1).square()}, "up": {"lose": -game}, "down": {"win": game}}[
            player
        ]

    def sample(self, condition, generators):
        image = torch.zeros_like(condition.source)
        return SampleResult(image, image)


def test_stages_follow_each_other_and_players_move_their_own_weights(tmp_path):
    config = TrainConfig(n_steps=20, n_warmup=1, learning_rate=0.1, weight_decay=0, save_every=5)
    trainer = Trainer(Duel(), config, tmp_path)
    batches = loader(stream(), 1, in_process=True)
    validation = [collate([stream().example(0)])]
    trainer.config = replace(config, n_steps=10)
    trainer.fit(batches, validation)
    assert trainer.stage == "first"
    assert trainer.method.trunk > 0.3
    assert trainer.method.up == trainer.method.down == 0
    trainer.config = config
    trainer.fit(batches, validation)
    # The second stage starts from the average, and leaves the trunk alone.
    assert torch.equal(trainer.method.trunk, trainer.average.trunk)
    assert trainer.method.up > 0.3
    assert trainer.method.down < -0.3
    assert trainer.average.seen == trainer.method.seen == 10 + 2 * 10
    header = (tmp_path / "losses-second.csv").read_text().splitlines()[0]
    assert header == "step,seconds,lose,gradient_norm_up,win,gradient_norm_down"
    assert len((tmp_path / "losses-first.csv").read_text().splitlines()) == 11


@pytest.mark.parametrize("killed_at", [7, 10, 15])
def test_two_stages_resume_to_the_same_weights(tmp_path, killed_at):
    config = TrainConfig(n_steps=20, n_warmup=1, learning_rate=0.1)
    examples = collate([stream().example(0)])
    whole = Trainer(Duel(), config, tmp_path / "whole")
    part = Trainer(Duel(), config, tmp_path / "part")
    for _ in range(20):
        whole.update(examples)
    for _ in range(killed_at):
        part.update(examples)
    part.save()
    part.update(examples)
    resumed = Trainer(Duel(), config, tmp_path / "part")
    for _ in range(20 - killed_at):
        resumed.update(examples)
    for mine, theirs in ((whole.method, resumed.method), (whole.average, resumed.average)):
        assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.state_dict().items())


def test_unknown_stage_is_refused():
    with pytest.raises(UsageError, match="no stage 'third'"):
        Duel().set_stage("third")


DISCRIMINATOR = {"width": 8, "n_layers": 1}
OTHERS = {
    "sagan": {
        "generator": {"widths": [8, 8], "attention_level": 1},
        "discriminator": {**DISCRIMINATOR, "has_attention": True, "is_spectral": True},
        "n_samples": 2,
    },
    "ldm": {
        "autoencoder": {"widths": [8]},
        "discriminator": DISCRIMINATOR,
        "denoiser": {"widths": [8], "attention": [False], "head_width": 8, "has_voxel_blocks": False},
        "n_steps": 2,
        "n_samples": 2,
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_adversarial_and_latent_methods_resume_to_the_same_weights(name, tmp_path):
    """Spectral norms, running scales, draws of the losses and both optimisers survive a kill."""

    def make():
        torch.manual_seed(0)
        return METHODS[name].from_architecture(OTHERS[name], WINDOW.shape)

    config = TrainConfig(n_steps=6, n_warmup=1, save_every=3, validate_every=6)
    whole = train(make(), tmp_path / "whole", config)
    part = train(make(), tmp_path / "part", config, n_steps=4)
    part.save()
    resumed = train(make(), tmp_path / "part", config)
    for mine, theirs in ((whole.method, resumed.method), (whole.average, resumed.average)):
        assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.state_dict().items())
    assert whole.stage == whole.method.stages[-1]


def test_players_may_learn_at_different_rates(tmp_path):
    method = METHODS["sagan"].from_architecture(OTHERS["sagan"], WINDOW.shape)
    trainer = Trainer(method, TrainConfig(learning_rate=1e-3, n_warmup=1), tmp_path)
    trainer.update(collate([stream().example(0)]))
    rates = {player: optimizer.param_groups[0]["lr"] for player, optimizer in trainer.optimizers.items()}
    assert rates == {"generator": pytest.approx(1e-3), "discriminator": pytest.approx(4e-3)}
    assert trainer.optimizers["generator"].param_groups[0]["betas"] == method.betas
