from dataclasses import replace

import pytest
import torch
from toy_people import make_method, stream

from pds_bids.exceptions import DataError, UsageError
from pds_bids.methods import METHODS, Method, SampleResult
from pds_bids.options import Precision
from pds_bids.training.data import UpdateStream
from pds_bids.training.schedule import TrainConfig
from pds_bids.training.updates import Updater

CONFIG = TrainConfig(n_updates=6, n_warmup=2, learning_rate=2e-3)


def advance(updater, n):
    config = updater.config
    updates = UpdateStream(stream(), config.batch_size, config.pass_size, stop=config.n_updates)
    return [updater.update(updates.update(updater.update_count)) for _ in range(n)]


def assert_same(one, other):
    for mine, theirs in ((one.method, other.method), (one.average, other.average)):
        assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.state_dict().items())


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


# Spectral norms, running scales, stages and players, draws of the losses and all optimisers survive a kill.
@pytest.mark.parametrize("name", ["unet", "sagan", "ldm", "pds", "residual-flow"])
@pytest.mark.parametrize("killed_at", [3, 4])
def test_killed_and_resumed_ends_with_the_same_weights(name, killed_at, tmp_path):
    whole = Updater(make_method(name), CONFIG)
    advance(whole, 6)
    part = Updater(make_method(name), CONFIG)
    advance(part, killed_at)
    part.save(tmp_path / "checkpoint.pt")
    advance(part, 1)  # lost when "killed"
    torch.manual_seed(99)  # nothing may depend on the global state
    resumed = Updater(make_method(name, seed=5), CONFIG)
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.update_count == killed_at
    advance(resumed, 6 - killed_at)
    assert_same(whole, resumed)
    assert whole.is_finished
    assert whole.stage == whole.method.stages[-1]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    Updater(make_method(), CONFIG).save(tmp_path / "c.pt")
    other = Updater(make_method(), replace(CONFIG, n_updates=7, batch_size=4))
    with pytest.raises(UsageError, match="batch_size 2 -> 4, n_updates 6 -> 7"):
        other.resume(tmp_path / "c.pt")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_an_update_of_every_stage(name):
    method = make_method(name)
    updater = Updater(method, replace(CONFIG, n_updates=2 * len(method.stages)))
    before = {key: value.clone() for key, value in method.named_parameters()}
    records = advance(updater, updater.config.n_updates)
    assert updater.is_finished
    assert all(torch.tensor(list(record.values())).isfinite().all() for record in records)
    changed = [not torch.equal(before[key], value) for key, value in method.named_parameters()]
    assert sum(changed) > 0.5 * len(changed)


def test_accumulated_passes_are_one_batch():
    """The loss is an average over people, so two passes of two are one of four; rounding apart."""
    one = Updater(make_method(), replace(CONFIG, batch_size=4, pass_size=4))
    two = Updater(make_method(), replace(CONFIG, batch_size=4, pass_size=2))
    first, second = advance(one, 1)[0], advance(two, 1)[0]
    assert first == pytest.approx(second, rel=1e-4)
    # Only to a few digits: Adam divides a gradient by its own size, which magnifies rounding.
    torch.testing.assert_close(
        one.method.network.stem.weight, two.method.network.stem.weight, atol=1e-4, rtol=1e-2
    )


def test_it_learns():
    config = TrainConfig(n_updates=40, learning_rate=1e-2, n_warmup=2)
    records = advance(Updater(make_method(), config), 40)
    first, last = (sum(record["l1"] for record in part) for part in (records[:4], records[-4:]))
    assert last < 0.6 * first


def test_gradients_are_clipped():
    """With plain descent in place of Adam, the step is as long as the largest norm that is allowed."""
    updater = Updater(make_method(), replace(CONFIG, max_gradient=1e-2, learning_rate=1.0, n_warmup=1))
    parameters = updater.method.players()["model"]
    updater.optimizers = {"model": torch.optim.SGD(parameters, 1.0)}
    before = [p.detach().clone() for p in parameters]
    record = advance(updater, 1)[0]
    length = sum((p - q).square().sum() for p, q in zip(parameters, before, strict=True)).sqrt()
    assert record["gradient_norm"] > 1e-2
    assert float(length.detach()) == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_half_precision_is_near_the_full_one(precision):
    full = advance(Updater(make_method(), CONFIG), 2)
    half = advance(Updater(make_method(), replace(CONFIG, precision=precision)), 2)
    assert half[1]["l1"] != full[1]["l1"]
    assert half[1]["l1"] == pytest.approx(full[1]["l1"], rel=0.02)


def test_average_lags_behind_by_its_decay():
    updater = Updater(make_method(), CONFIG)
    before = updater.average.state_dict()["network.stem.weight"].clone()
    advance(updater, 1)
    now = updater.method.state_dict()["network.stem.weight"]
    expected = before + (1 - 2 / 11) * (now - before)  # (1 + update) / (10 + update) at update 1
    torch.testing.assert_close(updater.average.state_dict()["network.stem.weight"], expected)


def test_loss_that_is_not_finite_stops_training():
    updater = Updater(make_method(), CONFIG)
    passes = UpdateStream(stream(), 2, 2, stop=1).update(0)
    passes[0][1]["target"][0] = torch.nan
    with pytest.raises(DataError, match="update 0"):
        updater.update(passes)


def test_stages_follow_each_other_and_players_move_their_own_weights():
    config = TrainConfig(
        n_updates=20, n_warmup=1, learning_rate=0.1, weight_decay=0, batch_size=1, pass_size=1
    )
    updater = Updater(Duel(), config)
    advance(updater, 10)
    assert updater.stage == "first"
    assert updater.method.trunk > 0.3
    assert updater.method.up == updater.method.down == 0
    record = advance(updater, 10)[0]
    # The second stage starts from the average, and leaves the trunk alone.
    assert torch.equal(updater.method.trunk, updater.average.trunk)
    assert updater.method.up > 0.3
    assert updater.method.down < -0.3
    assert updater.average.seen == updater.method.seen == 10 + 2 * 10
    assert list(record) == [
        "lose", "gradient_norm_up", "learning_rate_up", "win", "gradient_norm_down", "learning_rate_down"
    ]  # fmt: skip


def test_unknown_stage_is_refused():
    with pytest.raises(UsageError, match="no stage 'third'"):
        Duel().set_stage("third")


def test_players_may_learn_at_different_rates():
    updater = Updater(make_method("sagan"), replace(CONFIG, learning_rate=1e-3, n_warmup=1))
    advance(updater, 1)
    rates = {player: optimizer.param_groups[0]["lr"] for player, optimizer in updater.optimizers.items()}
    assert rates == {"generator": pytest.approx(1e-3), "discriminator": pytest.approx(4e-3)}
    assert updater.optimizers["generator"].param_groups[0]["betas"] == updater.method.betas


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"n_updates": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(UsageError, match=r"multiple|1 or more"):
        TrainConfig(**options)
