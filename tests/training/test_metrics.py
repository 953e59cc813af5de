import numpy as np
import pytest
import torch
from scipy import stats
from toy_people import B0, BOLD, DWI, WINDOW, ToyPairs, make_method, stream

from pds_bids.methods import SampleResult
from pds_bids.modalities import CONTRASTS, TARGETS, Contrast, Direction
from pds_bids.training.data import collate, make_example, to_device
from pds_bids.training.metrics import LEVELS, calibrate, coverage, mean_square_errors

FA, MD = (CONTRASTS.index(c) for c in (Contrast.FA, Contrast.MD))


@pytest.fixture
def method():
    return make_method()


def test_calibration_covers_68_percent(method):
    batches = [collate([stream().example(2 * i), stream().example(2 * i + 1)]) for i in range(2)]
    report = calibrate(method, batches)
    inside = {BOLD: [], DWI: [], B0: [], FA: [], MD: []}
    kinds = ("factor", "within_2_std", "interval_50", "interval_80", "interval_95")
    assert set(report) == {f"{kind}_{c}" for kind in kinds for c in TARGETS}
    for examples in batches:
        batch = to_device(examples, "cpu")
        sample = method.sample(batch, [torch.Generator()] * 2)
        for row, channels in ((0, (DWI, B0, FA, MD)), (1, (BOLD,))):
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


class HeavyTails(torch.nn.Module):
    """Says that its standard deviation is 1; errors follow Student's t with three degrees of freedom."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calibration", torch.ones(len(CONTRASTS)))

    def sample(self, condition, generators):
        del generators
        std = torch.ones_like(condition.source) * self.calibration.view(-1, 1, 1, 1)
        return SampleResult(torch.zeros_like(condition.source), std)


def heavy_people(n, seed):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        example = collate([make_example(ToyPairs().pair(0), WINDOW, way) for way in Direction])
        draws = rng.standard_t(3, example["target"].shape)
        yield example | {"target": torch.from_numpy(draws.astype("f4"))}


def test_intervals_cover_other_people_although_tails_are_heavy():
    method = HeavyTails()
    report = calibrate(method, list(heavy_people(40, 0)))
    for contrast in TARGETS:
        for level in LEVELS:
            expected = stats.t(3).ppf(0.5 + level / 200) / stats.t(3).ppf(0.5 + 0.6827 / 2)
            assert report[f"interval_{level}_{contrast}"] == pytest.approx(expected, rel=0.06)
    shares = coverage(method, list(heavy_people(40, 1)), report)
    for name, share in shares.items():
        assert 100 * share == pytest.approx(int(name.split("_")[1]), abs=1.5)
    # A Gaussian interval of 95% would be too short.
    gaussian = coverage(method, list(heavy_people(40, 1)), dict.fromkeys(report, 1.96))
    assert gaussian[f"covered_95_{CONTRASTS[0]}"] < 0.93
