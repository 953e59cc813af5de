"""BOLD series against the signal equation, against what was planted, and against the app's own estimates."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import CubicSpline

from pds_bids.exceptions import UsageError
from pds_bids.imaging.bold import detect_non_steady_state
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.motion import estimate_motion
from pds_bids.phantom.bold import bold_echoes, bold_series
from pds_bids.phantom.contrast import BoldProtocol
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.fluctuations import BoldOptions, band_noise, interleaved_slice_times, parcel_courses
from pds_bids.phantom.head_motion import draw_motion
from pds_bids.phantom.moving_head import evaluate, head_lattice
from pds_bids.phantom.susceptibility import dropout, echo_shift
from pds_bids.phantom.tissue import BRAIN, GREY, Tissue

SHARP = replace(EpiOptions.ideal(), psf_voxels=1.0, oversampling=2)
STEADY = BoldOptions.constant(discarded=60)
PROTOCOL = BoldProtocol(tr_s=2.0, te_ms=30.0, flip_deg=75.0)


def flat(seen):
    """The same scan with latent fields of zero: every tissue has one intensity."""
    latents = np.zeros_like(seen.latents)
    latents[:, 0] = 1
    return replace(seen, latents=latents)


def pure(seen, grid, *tissues):
    """Voxels with nothing but these tissues within 7 mm."""
    share = ndimage.minimum_filter(seen.share(*tissues), 5)
    return evaluate(share, seen.grid, grid, np.eye(4), order=1) > 0.995


def parcelled(person, seen, coupling=0.6, level=1.0):
    """Somebody whose brain is cut into eight boxes, four in each of two networks, and the scan."""
    x, y, z = (seen.template_points[:, k] > c for k, c in enumerate((0, -18, 8)))
    parcels = np.where(seen.share(*GREY).ravel() > 0, 1 + 4 * x + 2 * y + z, 0).astype(np.int32)
    effects = replace(
        person.effects,
        level=np.r_[1, np.full(8, level)].astype(np.float32),
        amplitude=np.ones(9, np.float32),
        network=np.array([0, 1, 1, 1, 1, 2, 2, 2, 2]),
        coupling=np.array([0, coupling, coupling], np.float32),
    )
    return replace(person, effects=effects), replace(seen, parcels=parcels)


def run(person, seen, grid=None, n=1, protocol=PROTOCOL, epi=SHARP, options=STEADY, motion=None, seed=0):
    motion = np.zeros((n, 6)) if motion is None else motion
    return bold_series(np.random.default_rng(seed), person, seen, motion, protocol, epi, options, grid=grid)


def ernst(pd, t1_ms, t2s_ms, protocol):
    """Steady state of a spoiled gradient echo, found by iterating pulses: not the package's formula."""
    m = 1.0
    for _ in range(1000):
        before, m = (
            m,
            1 - (1 - m * np.cos(np.radians(protocol.flip_deg))) * np.exp(-1000 * protocol.tr_s / t1_ms),
        )
    return pd * before * np.sin(np.radians(protocol.flip_deg)) * np.exp(-protocol.te_ms / t2s_ms)


@pytest.mark.parametrize("protocol", [PROTOCOL, BoldProtocol(tr_s=0.8, te_ms=37.0, flip_deg=52.0)])
def test_tissue_contrast_follows_the_signal_equation(person, seen, seen_voxels, epi_grid, protocol):
    sharp, _ = run(person, flat(seen_voxels), protocol=protocol, epi=EpiOptions.ideal())
    for tissue in (Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE):
        inside = seen_voxels.share(tissue) > 0.999
        assert inside.sum() >= 5
        expected = ernst(*person.tissue.base[tissue, [0, 1, 3]], protocol)
        np.testing.assert_allclose(sharp[inside, 0], expected, rtol=0.01)
    # Through a point spread: where there is nothing else within its reach.
    blurred, truth = run(person, flat(seen), epi_grid, protocol=protocol)
    np.testing.assert_array_equal(blurred[..., 0], truth.mean)
    inside = pure(seen, epi_grid, Tissue.WHITE)
    assert inside.sum() > 100
    expected = ernst(*person.tissue.base[Tissue.WHITE, [0, 1, 3]], protocol)
    np.testing.assert_allclose(blurred[inside, 0], expected, rtol=0.01)


def test_latent_fields_change_the_signal_as_the_equation_says(person, seen_voxels, epi_grid):
    # On the voxels themselves: latent fields have detail that interpolation would lose.
    series, _ = run(person, seen_voxels, epi_grid, epi=EpiOptions.ideal())
    inside = seen_voxels.share(Tissue.WHITE) > 0.995
    latents = [seen_voxels.latents[:, k].reshape(epi_grid.shape)[inside] for k in range(1, 6)]
    expected = np.array(
        [ernst(*person.tissue.at(z)[Tissue.WHITE, [0, 1, 3]], PROTOCOL) for z in np.transpose(latents)]
    )
    error = np.abs(series[inside, 0] / expected - 1)
    assert expected.std() / expected.mean() > 0.015
    assert np.mean(error < 0.01) > 0.95


def test_dropout_lies_where_the_field_is_steep(person, seen, epi_grid):
    _, clean = run(person, seen, epi_grid)
    _, real = run(person, seen, epi_grid, epi=replace(SHARP, field_strength=0.8))
    slope = np.abs(np.gradient(real.field_hz, 5.0, axis=2))
    brain = evaluate(seen.share(*BRAIN), seen.grid, epi_grid, np.eye(4), order=1) > 0.9
    left = real.mean / np.maximum(clean.mean, 1e-3)
    assert np.median(left[brain & (slope < 0.5)]) > 0.99
    assert np.median(left[brain & (slope > 6)]) < 0.6
    # Thin slices lose less; so do short echoes.
    thin = run(person, seen, epi_grid, epi=replace(SHARP, field_strength=0.8, slice_thickness_mm=2.0))[1].mean
    assert thin[brain].sum() > real.mean[brain].sum()


def test_dropout_is_the_mean_of_the_spins_of_a_slice():
    # Gaussian form against the sinc of a box of spins, where half of the signal is left.
    spins = np.linspace(-2, 2, 4001)
    exact = np.abs(np.exp(2j * np.pi * 4.0 * spins * 0.03).mean())
    assert float(dropout(np.array(4.0), 30.0, 4.0)) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("hz_per_voxel", [-6.0, 5.0])
def test_echo_comes_when_the_phase_of_a_voxel_is_even(hz_per_voxel):
    # k-space of one voxel whose field rises: its brightest sample is the echo.
    readout_s, te_s = 0.04, 0.03
    k = np.linspace(-0.5, 0.5, 4001)
    times = te_s + readout_s * k
    x = np.linspace(-0.5, 0.5, 401)[:, None]
    signal = np.abs(np.exp(2j * np.pi * (k * x + hz_per_voxel * x * times)).mean(0))
    found = float(echo_shift(np.array(readout_s * hz_per_voxel), 1000 * te_s))
    assert found == pytest.approx(1000 * times[signal.argmax()], abs=0.05)


def test_start_follows_the_recursion_of_pulses(person, seen_voxels):
    protocol = BoldProtocol(tr_s=1.0, te_ms=30.0, flip_deg=60.0)
    still = {"epi": EpiOptions.ideal(), "options": BoldOptions.constant()}
    series, _ = run(person, flat(seen_voxels), n=6, protocol=protocol, **still)
    for tissue in (Tissue.WHITE, Tissue.VENTRICLE):
        inside = seen_voxels.share(tissue) > 0.999
        assert inside.sum() >= 5
        pd, t1, t2s = person.tissue.base[tissue, [0, 1, 3]]
        m = 1.0
        for v in range(6):
            expected = pd * m * np.sin(np.radians(60)) * np.exp(-30 / t2s)
            np.testing.assert_allclose(series[inside, v], expected, rtol=0.01)
            m = 1 + (m * np.cos(np.radians(60)) - 1) * np.exp(-1000 / t1)


@pytest.mark.parametrize(("discarded", "few", "many"), [(0, 1, 3), (10, 0, 0)])
def test_dummies_are_detected(person, seen, epi_grid, discarded, few, many):
    options = replace(STEADY, discarded=discarded)
    series, _ = run(person, seen, epi_grid, 12, epi=replace(SHARP, noise=0.015), options=options)
    assert few <= detect_non_steady_state(1000 * series) <= many


def test_level_of_a_parcel_multiplies_its_grey_matter(person, seen_voxels):
    well, ill = (
        run(*parcelled(person, seen_voxels, level=level), epi=EpiOptions.ideal())[1].mean
        for level in (1, 0.9)
    )
    for tissues, expected in (((Tissue.WHITE,), 1.0), (GREY, 0.9)):
        inside = seen_voxels.share(*tissues) > 0.999
        assert inside.sum() > 100
        np.testing.assert_allclose(ill[inside] / well[inside], expected, rtol=2e-3)


def test_parcels_of_a_network_fluctuate_together(person, coarse):
    person, seen = parcelled(person, coarse)
    options = replace(STEADY, fluctuation=0.01)
    series, truth = run(person, seen, n=200, epi=EpiOptions.ideal(), options=options)
    parcels, grey = seen.parcels.reshape(seen.grid.shape), seen.share(*GREY) > 0.9
    courses = np.stack([series[grey & (parcels == p)].mean(0) for p in range(1, 9)])
    relative = courses / courses.mean(1, keepdims=True) - 1
    assert relative.std(1).mean() == pytest.approx(0.01, rel=0.25)
    for p in range(8):
        assert np.corrcoef(relative[p], truth.fluctuations[:, p + 1])[0, 1] > 0.99
    correlation = np.corrcoef(relative)
    same = np.repeat([0, 1], 4)[:, None] == np.repeat([0, 1], 4)
    within = correlation[same & ~np.eye(8, dtype=bool)].mean()
    assert within == pytest.approx(0.6, abs=0.2)
    assert within > correlation[~same].mean() + 0.3


def test_courses_have_the_stated_coupling_band_and_amplitude(person, seen):
    person, _ = parcelled(person, seen, coupling=0.5)
    effects = replace(person.effects, amplitude=np.r_[1, 2, np.ones(7)].astype(np.float32))
    times = np.arange(0, 3000, 0.5)
    courses = parcel_courses(np.random.default_rng(3), effects, 3000)(times)
    spread = courses.std(0)
    np.testing.assert_allclose(spread, np.r_[1, 2, np.ones(7)], rtol=0.15)
    correlation = np.corrcoef(courses.T)
    assert correlation[1:5, 1:5][np.triu_indices(4, 1)].mean() == pytest.approx(0.5, abs=0.08)
    assert np.abs(correlation[1:5, 5:]).max() < 0.25
    power = np.abs(np.fft.rfft(courses, axis=0)) ** 2
    frequency = np.fft.rfftfreq(len(times), 0.5)
    assert power[(frequency > 0.009) & (frequency < 0.101)].sum() / power[1:].sum() > 0.97


def test_band_noise_does_not_repeat_itself_during_a_series():
    course = band_noise(np.random.default_rng(0), 1, 400.0, (0.01, 0.1))
    for gap in range(40, 280, 2):
        times = np.arange(0, 400.0 - gap)
        assert np.abs(np.corrcoef(course(times)[:, 0], course(times + gap)[:, 0])[0, 1]) < 0.8


def test_slices_take_the_fluctuation_at_their_own_time(person, coarse):
    person, seen = parcelled(person, coarse, coupling=1.0)
    person = replace(person, effects=replace(person.effects, network=np.r_[0, np.ones(8, int)]))
    times = interleaved_slice_times(seen.grid.shape[2], PROTOCOL.tr_s)
    options = replace(STEADY, fluctuation=0.01, slice_times_s=times)
    still = {"epi": EpiOptions.ideal(), "motion": np.zeros((40, 6))}
    own, _ = run(person, seen, **still, options=options)
    together, _ = run(person, seen, **still, options=replace(options, slice_times_s=None))
    grey, volumes = seen.share(*GREY) > 0.9, PROTOCOL.tr_s * np.arange(40)
    for k in range(8, 13):
        late, early = (s[:, :, k][grey[:, :, k]].mean(0) for s in (own, together))
        # The lag at which the run without slice times, as a function of time, fits best.
        course, lags = CubicSpline(volumes, early), np.arange(-0.5, 2.5, 0.02)
        error = [((course(volumes[2:-3] + lag) - late[2:-3]) ** 2).sum() for lag in lags]
        assert lags[int(np.argmin(error))] == pytest.approx(times[k], abs=0.1)


def test_slice_times_must_fit_the_slices(person, seen, epi_grid):
    with pytest.raises(UsageError, match="3 slice times for 32 slices"):
        run(person, seen, epi_grid, options=replace(STEADY, slice_times_s=(0.0, 1.0, 0.5)))


def test_pulsation_is_strongest_in_fluid_and_drift_is_slow(person, coarse):
    fluid, white = coarse.share(Tissue.CSF, Tissue.VENTRICLE) > 0.9, coarse.share(Tissue.WHITE) > 0.99
    assert fluid.sum() > 10
    still = {"epi": EpiOptions.ideal(), "motion": np.zeros((80, 6))}
    pulsing, _ = run(person, coarse, **still, options=replace(STEADY, cardiac=0.03, respiratory=0.01))
    spread = pulsing.std(-1) / np.maximum(pulsing.mean(-1), 1e-3)
    assert np.median(spread[fluid]) > 2 * np.median(spread[white])
    drifting, _ = run(person, coarse, **still, options=replace(STEADY, drift=0.02))
    change = drifting[white] / drifting[white].mean(-1, keepdims=True)
    assert 0.003 < np.abs(change[:, -1] - change[:, 0]).mean() < 0.08
    assert np.abs(np.diff(change, axis=1)).max() < 0.01


def test_echoes_share_everything_but_decay_and_noise(person, seen, epi_grid):
    person, seen = parcelled(person, seen)
    protocols = [replace(PROTOCOL, te_ms=te) for te in (15.0, 45.0)]
    options = replace(STEADY, fluctuation=0.01)
    echoes, truths = bold_echoes(
        np.random.default_rng(0),
        person,
        flat(seen),
        np.zeros((6, 6)),
        protocols,
        SHARP,
        options,
        grid=epi_grid,
    )
    white = pure(seen, epi_grid, Tissue.WHITE)
    decay = np.log(echoes[0][white] / echoes[1][white]).mean()
    assert decay == pytest.approx(30 / person.tissue.base[Tissue.WHITE, 3], rel=0.01)
    # A change of R2*: three times the echo time, three times the change.
    np.testing.assert_allclose(truths[1].fluctuations, 3 * truths[0].fluctuations, rtol=1e-5)
    noisy, _ = bold_echoes(
        np.random.default_rng(0),
        person,
        seen,
        np.zeros((1, 6)),
        protocols,
        replace(SHARP, noise=0.05),
        STEADY,
        grid=epi_grid,
    )
    air = noisy[0][..., 0] < 0.02
    assert abs(np.corrcoef(noisy[0][air, 0], noisy[1][air, 0])[0, 1]) < 0.1
    corner = [series[:4, :4, :, 0].mean() for series in noisy]
    assert corner[1] == pytest.approx(corner[0], rel=0.1)


def test_planted_motion_is_found(scanned, epi_grid):
    person, seen, coil = scanned
    motion = np.array([[0.0] * 6, [1.5, -1, 2, 1, -2, 1.5], [-2, 0.5, -1, -1.5, 1, 0.5], [0.3] * 6])
    epi = replace(SHARP, coil=coil, noise=0.01, field_strength=0.4, ghost=0.02, fat=0.02)
    series, truth = run(person, seen, epi_grid, motion=motion, epi=epi)
    found = estimate_motion(1000 * series, epi_grid.vox2ras, 1000 * series[..., 0]).ref2volume
    brain = epi_grid.points()[evaluate(seen.share(*BRAIN), seen.grid, epi_grid, np.eye(4), order=1) > 0.9]
    for estimate, planted in zip(found, truth.rest2volume, strict=True):
        distance = np.linalg.norm(apply_affine(estimate, brain) - apply_affine(planted, brain), axis=1)
        assert distance.mean() < (0.25 if coil == 1 else 0.15)
    moved = [np.linalg.norm(apply_affine(m, brain) - brain, axis=1).mean() for m in truth.rest2volume[1:3]]
    assert min(moved) > 1.5


def test_no_pose_is_the_privileged_one(person, seen, epi_grid):
    # Two volumes half a voxel apart are equally sharp: neither is an interpolated copy of the other.
    motion = np.zeros((2, 6))
    motion[1, :3] = 2.5
    series, _ = run(person, flat(seen), epi_grid, motion=motion)
    sharpness = [np.abs(np.diff(series[..., v], axis=0)).sum() / series[..., v].sum() for v in range(2)]
    assert sharpness[1] == pytest.approx(sharpness[0], rel=0.02)


def test_spikes_have_their_size_and_leave_the_walk_alone():
    limits = {"max_mm": 1.0, "max_deg": 0.5}
    plain = draw_motion(np.random.default_rng(0), 200, **limits)
    spiked = draw_motion(np.random.default_rng(0), 200, **limits, spikes=5, spike_mm=4.0)
    assert (plain[0] == 0).all()
    assert np.abs(plain[:, :3]).max() <= 1.0
    assert np.abs(plain[:, 3:]).max() <= 0.5
    assert np.abs(plain).max(0).min() > 0.1
    jump = spiked - plain
    where = np.flatnonzero(np.abs(jump).sum(1))
    assert len(where) == 5
    assert 0 not in where
    np.testing.assert_allclose(np.linalg.norm(jump[where, :3], axis=1), 4.0)
    np.testing.assert_allclose(np.linalg.norm(jump[where, 3:], axis=1), 2.0)


def test_one_seed_one_series_and_noise_of_the_stated_size(person, seen, epi_grid):
    epi = EpiOptions()
    one, other = (run(person, seen, epi_grid, 2, epi=epi, seed=4)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    clean, truth = run(person, seen, epi_grid, 2, epi=replace(epi, noise=0), seed=4)
    head = truth.mean > 0.3 * truth.mean.max()
    noise = (one - clean)[head]
    assert noise.std() / truth.mean[head].mean() == pytest.approx(0.015, rel=0.1)


def test_lattice_covers_the_field_of_view_with_a_margin():
    grid = Grid((10, 12, 8), np.array([[0, -3.0, 0, 5], [2.5, 0, 0, 7], [0, 0, 4.0, -9], [0, 0, 0, 1]]))
    lattice = head_lattice(grid, 2.0, 8.0)
    corners = np.array([[i, j, k] for i in (-0.5, 9.5) for j in (-0.5, 11.5) for k in (-0.5, 7.5)])
    index = apply_affine(lattice.ras2vox, apply_affine(grid.vox2ras, corners))
    assert (index >= 3).all()
    assert (index <= np.array(lattice.shape) - 4).all()


def test_inflow_makes_fluid_alone_brighter(person, seen_voxels, epi_grid):
    short = replace(PROTOCOL, tr_s=0.8)
    still, flowing = (
        run(person, seen_voxels, epi_grid, protocol=p, epi=EpiOptions.ideal())[1].mean
        for p in (short, replace(short, inflow=0.4))
    )
    ventricle, white = (seen_voxels.share(t) > 0.99 for t in (Tissue.VENTRICLE, Tissue.WHITE))
    assert np.median(flowing[ventricle] / still[ventricle]) > 1.2
    np.testing.assert_allclose(flowing[white], still[white], rtol=0.01)
