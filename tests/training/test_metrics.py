import pytest
import torch
from toy_people import B0, BOLD, DWI, WINDOW, ToyPairs, make_method, stream

from pds_bids.modalities import CONTRASTS, TARGETS, Contrast, Direction
from pds_bids.training.data import collate, make_example, to_device
from pds_bids.training.metrics import calibrate, mean_square_errors

FA, MD = (CONTRASTS.index(c) for c in (Contrast.FA, Contrast.MD))


@pytest.fixture
def method():
    return make_method()


def test_calibration_covers_68_percent(method):
    batches = [collate([stream().example(2 * i), stream().example(2 * i + 1)]) for i in range(2)]
    report = calibrate(method, batches)
    inside = {BOLD: [], DWI: [], B0: [], FA: [], MD: []}
    assert set(report) == {f"{kind}_{c}" for kind in ("factor", "within_2_std") for c in TARGETS}
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
