"""Every sampler with exact denoisers: what comes out is known in closed form or to the last digit."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from pds_bids.diffusion import (
    Prediction,
    bridge_sample,
    cosine_alpha_bar,
    ddim_sample,
    ddpm_sample,
    denoiser_of,
    euler_sample,
    flow_sample,
    heun_sample,
    karras_sigmas,
    linear_alpha_bar,
    trailing_steps,
    velocity_towards,
    with_zero_terminal_snr,
)
from pds_bids.exceptions import UsageError


@dataclass(frozen=True)
class Mixture:
    """Mixture of normal distributions on a line; one component is a Gaussian."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    @property
    def mean(self):
        return float(np.dot(self.weights, self.means))

    @property
    def std(self):
        second = np.dot(self.weights, np.square(self.means) + np.square(self.stds))
        return float(np.sqrt(second - self.mean**2))

    def expected(self, observed, signal, noise):
        """Return E[x | signal x + noise z = observed], z white; any of the two may be zero."""
        weights, means, stds = (
            torch.tensor(v, dtype=torch.float64) for v in (self.weights, self.means, self.stds)
        )
        variance = (signal * stds) ** 2 + noise**2
        off = observed[..., None] - signal * means
        chance = torch.softmax(weights.log() - variance.log() / 2 - off**2 / (2 * variance), -1)
        return (chance * (means + signal * stds**2 / variance * off)).sum(-1)

    def quantiles(self, shares):
        """Invert the distribution function: where the exact flow takes the quantiles of white noise."""

        def excess(x, share):
            return np.dot(self.weights, stats.norm.cdf(x, self.means, self.stds)) - share

        reach = max(np.abs(self.means)) + 12 * max(self.stds)
        return np.array([optimize.brentq(excess, -reach, reach, args=(s,), xtol=1e-13) for s in shares])

    def noisy(self, sigma):
        """Distribution of x + sigma z."""
        return Mixture(self.weights, self.means, tuple(np.hypot(s, sigma) for s in self.stds))


GAUSSIAN = Mixture((1.0,), (0.3,), (0.5,))
POINT = Mixture((1.0,), (0.3,), (0.0,))
TWO = Mixture((0.3, 0.7), (-1.0, 0.8), (0.2, 0.3))
SHARES = (np.arange(200) + 0.5) / 200


def white(n=40000, seed=0):
    """One sample of n independent values."""
    return torch.randn(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid():
    """Quantiles of white noise, (1, 200)."""
    return torch.from_numpy(stats.norm.ppf(SHARES))[None]


def slope(counts, errors):
    """Slope of log error over log number of steps; -1 is first order, -2 second."""
    return float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


COSINE = cosine_alpha_bar(1000)
# Three standard errors of a mean and of a standard deviation from 40,000 samples of deviation 0.5 to 1.
MONTE_CARLO = 0.015


def discrete(distribution, alpha_bar=COSINE):
    """Exact denoiser for the samplers of `ddim.py`."""

    def denoise(noisy, step):
        kept = float(alpha_bar[step[0]])
        return distribution.expected(noisy, kept**0.5, (1 - kept) ** 0.5)

    return denoise


def continuous(distribution):
    return lambda noisy, sigma: distribution.expected(noisy, 1.0, float(sigma[0]))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds or (1,)]


def ddim_factor(n_steps, std):
    """Return d(image) / d(noise) of DDIM on N(m, std^2) by hand, in the variable y = x / sqrt(alpha_bar).

    There DDIM is Euler's method in sigma = sqrt((1 - alpha_bar) / alpha_bar); the first step, from infinity,
    is y = m + sigma z.
    """
    kept = np.cos((np.array(trailing_steps(1000, n_steps)[1:]) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    kept /= np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    sigma = np.sqrt(np.maximum(1 / kept - 1, 0))
    return sigma[0] * np.prod(1 + np.diff(sigma) * sigma[:-1] / (std**2 + sigma[:-1] ** 2))


@pytest.mark.parametrize("n_steps", [1000, 50, 10, 2, 1])
def test_ddim_maps_gaussian_noise_as_computed_by_hand(n_steps):
    result = ddim_sample(discrete(GAUSSIAN), grid(), COSINE, n_steps)
    expected = 0.3 + ddim_factor(n_steps, 0.5) * grid()
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("n_steps", "tolerance"), [(1000, 0.002), (50, 0.03), (10, 0.12)])
def test_ddim_reaches_the_true_deviation(n_steps, tolerance):
    """True: 0.5. Exact in the mean at any number of steps, first order in the deviation."""
    spread = float(ddim_sample(discrete(GAUSSIAN), white(), COSINE, n_steps).std())
    assert spread == pytest.approx(0.5, abs=tolerance + MONTE_CARLO / 3)


@pytest.mark.parametrize("n_steps", [1000, 50, 10, 2, 1])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_no_noise_is_left_in_a_single_image(n_steps, eta):
    """All posteriors are exact when there is one image: it must come out, with as few steps as one likes."""
    noise = white(20)
    result = ddim_sample(discrete(POINT), noise, COSINE, n_steps, eta=eta, generators=generators())
    torch.testing.assert_close(result, torch.full_like(noise, 0.3), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("n_steps", "std"), [(1000, 0.5), (50, None), (10, None), (2, None)])
def test_ddpm_variance_follows_its_recursion(n_steps, std):
    """Mean exact; variance by the law of total variance over the chain, computed on scalars."""
    noise = white()
    result = ddpm_sample(discrete(GAUSSIAN), noise, COSINE, n_steps, generators())
    variance = 1.0
    steps = trailing_steps(1000, n_steps)
    for t, s in pairwise(steps):
        a, b = float(COSINE[t]), float(COSINE[s])
        gain = a**0.5 * 0.25 / (a * 0.25 + 1 - a)  # of the exact denoiser
        step = a / b  # alpha of the jump; posterior of Ho et al., eq. 7
        weight_clean = b**0.5 * (1 - step) / (1 - a)
        weight_noisy = step**0.5 * (1 - b) / (1 - a)
        variance = (weight_clean * gain + weight_noisy) ** 2 * variance + (1 - step) * (1 - b) / (1 - a)
    assert float(result.mean()) == pytest.approx(0.3, abs=MONTE_CARLO)
    assert float(result.std()) == pytest.approx(variance**0.5, abs=MONTE_CARLO)
    assert float(result.std()) < 0.5 + MONTE_CARLO
    if std is not None:
        assert float(result.std()) == pytest.approx(std, abs=MONTE_CARLO)


def test_mixture_by_the_discrete_samplers():
    """At 1,000 steps: mean, deviation and the share of the smaller component."""
    noise = white(5000)
    results = {
        "ddim": ddim_sample(discrete(TWO), noise, COSINE, 1000),
        "ddpm": ddpm_sample(discrete(TWO), noise, COSINE, 1000, generators()),
    }
    for name, result in results.items():
        assert float(result.mean()) == pytest.approx(TWO.mean, abs=0.06), name
        assert float(result.std()) == pytest.approx(TWO.std, abs=0.03), name
        assert float((result < -0.4).double().mean()) == pytest.approx(0.3, abs=0.025), name


@pytest.mark.parametrize("distribution", [GAUSSIAN, TWO], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("sampler", "order"), [(euler_sample, 1), (heun_sample, 2)], ids=["euler", "heun"])
def test_order_of_convergence(distribution, sampler, order):
    """In one dimension the exact flow keeps quantiles: it takes those of x + sigma z to those of x."""
    sigma_max = 10.0
    start = torch.from_numpy(distribution.noisy(sigma_max).quantiles(SHARES))[None]
    exact = torch.from_numpy(distribution.quantiles(SHARES))[None]
    counts, errors = (50, 100, 200, 400), []
    for count in counts:
        sigmas = karras_sigmas(count, sigma_max=sigma_max, sigma_min=1e-3)
        errors.append(float((sampler(continuous(distribution), start, sigmas) - exact).abs().mean()))
    # sigma_min, not the number of steps, limits the last step; it is far below these errors.
    assert slope(counts, errors) == pytest.approx(-order, abs=0.15)


def sigma_factors(sigmas, std, *, is_second_order):
    """Return d(image) / d(start) on N(m, std^2) by hand: the ODE is y' = s / (std^2 + s^2) y."""
    factor = 1.0
    for i, (s, following) in enumerate(pairwise(sigmas)):
        width, rate = following - s, s / (std**2 + s**2)
        if is_second_order and i < len(sigmas) - 2:
            rate = (rate + following / (std**2 + following**2) * (1 + width * rate)) / 2
        factor *= 1 + width * rate
    return factor


@pytest.mark.parametrize("n_steps", [1000, 50, 10, 2])
@pytest.mark.parametrize(("sampler", "order"), [(euler_sample, 1), (heun_sample, 2)], ids=["euler", "heun"])
def test_edm_samplers_map_a_gaussian_as_computed_by_hand(sampler, order, n_steps):
    sigmas = karras_sigmas(n_steps)
    factor = sigma_factors(sigmas.numpy(), 0.5, is_second_order=order == 2)
    start = 0.3 + 80 * grid()
    torch.testing.assert_close(sampler(continuous(GAUSSIAN), start, sigmas), 0.3 + 80 * factor * grid())


@pytest.mark.parametrize(("n_steps", "tolerance"), [(1000, 1e-4), (50, 5e-3), (18, 0.04)])
def test_heun_reaches_the_true_deviation(n_steps, tolerance):
    """True: 0.5; with 18 steps from sigma 80 it is 0.528, and the mean is exact."""
    result = heun_sample(continuous(GAUSSIAN), 0.3 + np.hypot(80, 0.5) * grid(), karras_sigmas(n_steps))
    assert float(result.std() / grid().std()) == pytest.approx(0.5, abs=tolerance)
    assert float(result.mean()) == pytest.approx(0.3, abs=1e-9)


@pytest.mark.parametrize("distribution", [GAUSSIAN, TWO], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("is_second_order", "order"), [(False, 1), (True, 2)], ids=["euler", "heun"])
def test_rectified_flow_converges_to_the_exact_map(distribution, is_second_order, order):
    def predict(state, time):
        return distribution.expected(state, float(time[0]), 1 - float(time[0]))

    exact = torch.from_numpy(distribution.quantiles(SHARES))[None]
    counts, errors = (40, 80, 160, 320), []
    for count in counts:
        result = flow_sample(velocity_towards(predict), grid(), count, is_second_order=is_second_order)
        errors.append(float((result - exact).abs().mean()))
    assert slope(counts, errors) == pytest.approx(-order, abs=0.2)


def test_one_step_of_flow_and_bridge_is_the_prediction():
    start = white(50)
    one = flow_sample(velocity_towards(lambda x, t: x**2 + 1), start, 1)
    torch.testing.assert_close(one, start**2 + 1)
    torch.testing.assert_close(bridge_sample(lambda x, t: x**2 + 1, start, 1, 0.7, generators()), one)


@pytest.mark.parametrize("distribution", [GAUSSIAN, TWO], ids=["gaussian", "mixture"])
def test_bridge_from_a_fixed_source(distribution):
    """From a source of 2 to the distribution; with few steps spread is lost, never added."""
    scale, source = 0.8, 2.0

    def predict(state, time):
        t = float(time[0])
        if t == 0:
            return torch.full_like(state, distribution.mean)
        return distribution.expected(state - (1 - t) * source, t, scale * (t * (1 - t)) ** 0.5)

    start = torch.full_like(white(10000), source)
    results = {n: bridge_sample(predict, start, n, scale, generators()) for n in (1, 2, 10, 50, 1000)}
    spreads = {n: float(result.std()) for n, result in results.items()}
    assert spreads[1] == pytest.approx(0, abs=1e-12)
    assert spreads[2] < spreads[10] < spreads[50] < distribution.std
    assert spreads[1000] == pytest.approx(distribution.std, abs=0.015)
    assert float(results[1000].mean()) == pytest.approx(distribution.mean, abs=0.025)
    if distribution is GAUSSIAN:
        # Half way x = 1.15 + 0.4 z whatever the target's spread, so E[end | x] has this deviation.
        assert spreads[2] == pytest.approx(0.4 * 0.5 * 0.25 / (0.25 * 0.25 + 0.16), abs=0.005)


@pytest.mark.parametrize("prediction", [Prediction.VELOCITY, Prediction.CLEAN])
def test_sampling_through_a_network_of_either_kind(prediction):
    """A perfect network of each kind gives the samples of the perfect denoiser, from step T on."""

    def network(noisy, step):
        clean = discrete(GAUSSIAN)(noisy, step)
        kept = float(COSINE[step[0]])
        noise = (noisy - kept**0.5 * clean) / (1 - kept) ** 0.5
        return {"clean": clean, "velocity": kept**0.5 * noise - (1 - kept) ** 0.5 * clean}[prediction]

    expected = ddim_sample(discrete(GAUSSIAN), grid(), COSINE, 20)
    result = ddim_sample(denoiser_of(network, COSINE, prediction), grid(), COSINE, 20)
    torch.testing.assert_close(result, expected, atol=1e-10, rtol=0)


def test_noise_prediction_works_before_but_not_at_zero_signal():
    linear = linear_alpha_bar(1000)

    def network(noisy, step):
        kept = float(linear[step[0]])
        return (noisy - kept**0.5 * discrete(GAUSSIAN, linear)(noisy, step)) / (1 - kept) ** 0.5

    spread = ddim_sample(denoiser_of(network, linear, Prediction.NOISE), white(), linear, 200).std()
    assert float(spread) == pytest.approx(0.5, abs=0.02)
    zero = with_zero_terminal_snr(linear)
    with pytest.raises(UsageError, match="says nothing of the image"):
        ddim_sample(denoiser_of(network, zero, Prediction.NOISE), grid(), zero, 2)


def test_fresh_noise_needs_generators():
    with pytest.raises(UsageError, match="one random generator per sample"):
        ddim_sample(discrete(GAUSSIAN), grid(), COSINE, 2, eta=1.0)
    with pytest.raises(UsageError, match="need as many random generators"):
        ddpm_sample(discrete(GAUSSIAN), grid(), COSINE, 2, generators(1, 2, 3))


def test_a_batch_of_two_is_two_of_one():
    noise = white(2).T

    def predict(state, time):
        return GAUSSIAN.expected(state, float(time[0]), 1 - 0.9 * float(time[0]))

    runs = {
        "ddpm": lambda x, g: ddpm_sample(discrete(TWO), x, COSINE, 5, g),
        "bridge": lambda x, g: bridge_sample(predict, x, 5, 0.8, g),
    }
    for name, run in runs.items():
        both = run(noise, generators(3, 4))
        torch.testing.assert_close(run(noise[1:], generators(4)), both[1:], msg=name)


def monai_sample(name, n_steps):
    """Sample N(0.3, 0.5^2) with a scheduler of MONAI, its own cosine table and the exact denoiser."""
    monai = pytest.importorskip("monai", reason="MONAI is not installed")
    if not monai.__version__.startswith("1.6"):
        pytest.skip(f"MONAI {monai.__version__} has other time steps; 1.6.0 and 1.6.1 are known to be off")
    from monai.networks import schedulers

    scheduler = getattr(schedulers, name)(
        num_train_timesteps=1000, schedule="cosine", prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(n_steps)
    kept, sample = scheduler.alphas_cumprod.double(), white(20000)
    torch.manual_seed(0)
    for step in scheduler.timesteps:
        a = float(kept[step])
        clean = GAUSSIAN.expected(sample, a**0.5, (1 - a) ** 0.5)
        sample = scheduler.step(clean, int(step), sample)[0]
    return sample


def check_no_noise_is_left(sample):
    """With an exact denoiser, both samplers shrink the spread of a Gaussian or keep it, never widen it."""
    assert float(sample.std()) < 0.5 + MONTE_CARLO


@pytest.mark.parametrize(("name", "n_steps"), [("DDIMScheduler", 2), ("DDPMScheduler", 50)])
def test_schedulers_of_monai_leave_noise(name, n_steps):
    """Ours pass the check and MONAI's do not: the reason for samplers of our own."""
    eta = {"DDIMScheduler": 0.0, "DDPMScheduler": 1.0}[name]
    ours = ddim_sample(discrete(GAUSSIAN), white(20000), COSINE, n_steps, eta=eta, generators=generators())
    check_no_noise_is_left(ours)
    theirs = monai_sample(name, n_steps)
    with pytest.raises(AssertionError):
        check_no_noise_is_left(theirs)


def test_quantiles_of_the_reference_itself():
    """The oracle against SciPy, so that it cannot be wrong in the same way as the samplers."""
    np.testing.assert_allclose(GAUSSIAN.quantiles(SHARES), stats.norm.ppf(SHARES, 0.3, 0.5), atol=1e-9)
    # Bayes by brute force on a fine grid.
    x = np.linspace(-4, 4, 200001)
    prior = sum(w * stats.norm.pdf(x, m, s) for w, m, s in zip(TWO.weights, TWO.means, TWO.stds, strict=True))
    posterior = prior * stats.norm.pdf(0.1, 0.6 * x, 0.5)
    expected = float((x * posterior).sum() / posterior.sum())
    result = TWO.expected(torch.tensor([0.1], dtype=torch.float64), 0.6, 0.5)
    assert float(result) == pytest.approx(expected, abs=1e-7)
