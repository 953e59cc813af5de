import numpy as np
import pytest
import torch

from pds_bids.diffusion import (
    Prediction,
    add_noise,
    bridge_point,
    cosine_alpha_bar,
    draw_sigmas,
    draw_steps,
    draw_times,
    edm_weight,
    estimate_clean,
    karras_sigmas,
    linear_alpha_bar,
    precondition,
    trailing_steps,
    training_target,
    with_zero_terminal_snr,
)
from pds_bids.exceptions import UsageError


@pytest.mark.parametrize(
    "alpha_bar",
    [cosine_alpha_bar(1000), with_zero_terminal_snr(linear_alpha_bar(1000)), cosine_alpha_bar(1)],
    ids=["cosine", "linear", "one step"],
)
def test_schedules_fall_from_one_to_exactly_zero(alpha_bar):
    assert alpha_bar.dtype == torch.float64
    assert alpha_bar[0] == 1
    assert alpha_bar[-1] == 0
    assert bool((alpha_bar.diff() < 0).all())


def test_linear_schedule_ends_as_published():
    """Ho et al.: q(x_T | x_0) is nearly standard normal, with 4.0e-5 of the variance of the image left."""
    assert float(linear_alpha_bar(1000)[-1]) == pytest.approx(4.04e-5, rel=0.01)


@pytest.mark.parametrize("n_steps", [1000, 999, 50, 10, 7, 3, 2, 1])
def test_trailing_steps_start_at_the_last_step_and_end_at_the_image(n_steps):
    steps = trailing_steps(1000, n_steps)
    assert (steps[0], steps[-1], len(steps)) == (1000, 0, n_steps + 1)
    widths = -np.diff(steps)
    assert widths.max() - widths.min() <= 1


@pytest.mark.parametrize("n_steps", [0, 1001])
def test_impossible_numbers_of_steps(n_steps):
    with pytest.raises(UsageError, match="expected 1 to 1000"):
        trailing_steps(1000, n_steps)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_predictions_give_the_image_back(prediction):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    kept = torch.tensor([1e-4, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    output = training_target(clean, noise, kept, prediction)
    result = estimate_clean(output, add_noise(clean, noise, kept), kept, prediction)
    torch.testing.assert_close(result, clean)


def test_velocity_is_the_negative_image_at_pure_noise():
    clean, noise = torch.tensor([3.0]), torch.tensor([5.0])
    nothing = torch.zeros(1)
    assert training_target(clean, noise, nothing, Prediction.VELOCITY).item() == -3
    assert add_noise(clean, noise, nothing).item() == 5


def test_preconditioning_keeps_unit_variance():
    """What the network sees, and the perfect output, have unit variance at every sigma."""
    generator = torch.Generator().manual_seed(0)
    sigma_data, seen, codes = 0.37, [], []
    for level in (0.01, 0.3, 1.0, 30.0):
        sigma = torch.full((20000,), level, dtype=torch.float64)
        clean = sigma_data * torch.randn(20000, dtype=torch.float64, generator=generator)
        noisy = clean + sigma * torch.randn(20000, dtype=torch.float64, generator=generator)

        def network(scaled, code):
            seen.append(float(scaled.std()))
            codes.append(float(code[0]))
            return torch.zeros_like(scaled)

        def one(scaled, code):
            return torch.ones_like(scaled)

        skip = precondition(network, sigma_data)(noisy, sigma)
        scale = precondition(one, sigma_data)(noisy, sigma) - skip
        perfect = (clean - skip) / scale
        assert float(perfect.std()) == pytest.approx(1, abs=0.03)
        # With output 0 it is the best linear denoiser, and the weight undoes the scale of the output.
        torch.testing.assert_close(skip, noisy * sigma_data**2 / (sigma_data**2 + level**2))
        torch.testing.assert_close(edm_weight(sigma, sigma_data), 1 / scale**2)
    np.testing.assert_allclose(seen, 1, atol=0.03)
    np.testing.assert_allclose(codes, np.log([0.01, 0.3, 1.0, 30.0]) / 4)


def test_karras_levels_by_hand():
    sigmas = karras_sigmas(5, sigma_min=0.01, sigma_max=10, rho=3)
    expected = [(10 ** (1 / 3) + i / 4 * (0.01 ** (1 / 3) - 10 ** (1 / 3))) ** 3 for i in range(5)]
    np.testing.assert_allclose(sigmas.numpy(), [*expected, 0])


def test_draws_cover_their_range_evenly():
    generator = torch.Generator().manual_seed(0)
    steps = draw_steps(100, 1000, generator)
    assert sorted((steps - 1).div(10, rounding_mode="floor").tolist()) == list(range(100))
    assert sorted((100 * draw_times(100, generator)).floor().tolist()) == list(range(100))
    many = torch.cat([draw_steps(1, 3, generator) for _ in range(300)])
    assert many.unique().tolist() == [1, 2, 3]
    logs = draw_sigmas(20000, generator).log()
    assert (float(logs.mean()), float(logs.std())) == pytest.approx((-1.2, 1.2), abs=0.03)


def test_bridge_has_its_published_variance():
    noise = torch.randn(40000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start, end = torch.full_like(noise, 2), torch.full_like(noise, -1)
    for time in (0.0, 0.25, 0.5, 1.0):
        point = bridge_point(start, end, torch.full_like(noise, time), noise, 0.8)
        assert float(point.mean()) == pytest.approx(2 - 3 * time, abs=0.01)
        assert float(point.std()) == pytest.approx(0.8 * (time * (1 - time)) ** 0.5, abs=0.01)
