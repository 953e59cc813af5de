import numpy as np
import pytest

from pds_bids.phantom import contrast
from pds_bids.phantom.gradients import gradient_table, spread_directions
from pds_bids.phantom.tissue import LATENTS, Latent, Tissue, draw_tissue


def many_directions(n: int = 20000) -> np.ndarray:
    """Points of a spiral of equal area, about an axis that is nobody's: independent of the package's own."""
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = 2.399963 * np.arange(n)
    ring = np.sqrt(1 - z**2)
    spiral = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)
    tilt, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))
    return spiral @ tilt


def bloch_steady_state(t1: float, t2s: float, tr: float, te: float, flip: float) -> float:
    """Iterate excitation and recovery until nothing changes."""
    mz = 1.0
    for _ in range(500):
        signal = mz * np.sin(np.deg2rad(flip))
        mz = 1 + (mz * np.cos(np.deg2rad(flip)) - 1) * np.exp(-tr / t1)
    return signal * np.exp(-te / t2s)


@pytest.mark.parametrize(("t1", "tr", "flip"), [(1400, 2000, 75), (4000, 800, 50), (900, 3000, 90)])
def test_gradient_echo_is_the_steady_state_of_repeated_pulses(t1, tr, flip):
    got = contrast.gradient_echo(
        np.array(1.0), np.array(t1), np.array(50.0), tr_ms=tr, te_ms=30, flip_deg=flip
    )
    assert got == pytest.approx(bloch_steady_state(t1, 50, tr, 30, flip), rel=1e-6)


def test_spin_echo_limits():
    pd, t1, t2 = np.array(0.8), np.array(1000.0), np.array(80.0)
    assert contrast.spin_echo(pd, t1, t2, tr_ms=1e6, te_ms=0) == pytest.approx(0.8)
    assert contrast.spin_echo(pd, t1, t2, tr_ms=1e6, te_ms=80) == pytest.approx(0.8 / np.e)
    assert contrast.spin_echo(pd, t1, t2, tr_ms=1000, te_ms=0) == pytest.approx(0.8 * (1 - 1 / np.e))


@pytest.mark.parametrize("fa", [0.0, 0.2, 0.5, 0.8, 0.95])
def test_diffusivities_have_the_stated_md_and_fa(fa):
    parallel, perpendicular = contrast.axial_diffusivities(np.array(0.75), np.array(fa))
    eigenvalues = np.array([parallel, perpendicular, perpendicular])
    deviation = eigenvalues - eigenvalues.mean()
    assert eigenvalues.mean() == pytest.approx(0.75)
    assert np.sqrt(1.5 * (deviation**2).sum() / (eigenvalues**2).sum()) == pytest.approx(fa, abs=1e-12)


@pytest.mark.parametrize("b", [0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("fa", [0.0, 0.3, 0.8])
def test_powder_average_is_the_mean_over_directions(b, fa):
    parallel, perpendicular = contrast.axial_diffusivities(np.array(0.8), np.array(fa))
    tensor = np.diag([perpendicular, perpendicular, parallel])
    g = many_directions()
    brute = np.exp(-b * np.einsum("ni,ij,nj->n", g, tensor, g)).mean()
    assert contrast.powder_average(b, parallel, perpendicular) == pytest.approx(brute, rel=1e-4)


def test_dwi_along_every_direction_averages_to_the_mean_over_directions():
    tissue = draw_tissue().at(np.zeros(5))
    along = [contrast.dwi_signal(tissue, cosine2=cosine2) for cosine2 in many_directions(2000)[:, 2] ** 2]
    np.testing.assert_allclose(np.mean(along, 0), contrast.dwi_signal(tissue), rtol=1e-3)
    # Along the fibres, where diffusion is fastest, least is left.
    across, parallel = (contrast.dwi_signal(tissue, cosine2=c)[Tissue.WHITE] for c in (0.0, 1.0))
    assert parallel < 0.6 * across


def test_kurtosis_raises_the_signal_of_strong_weighting_only():
    plain, heavy = draw_tissue().at(np.zeros(5)), draw_tissue().at(np.zeros(5))
    plain[:, -1] = 0
    ratio = {
        b: contrast.dwi_signal(heavy, contrast.DwiProtocol(bval_s_mm2=b))
        / contrast.dwi_signal(plain, contrast.DwiProtocol(bval_s_mm2=b))
        for b in (1.0, 1000.0, 2500.0)
    }
    np.testing.assert_allclose(ratio[1.0], 1, atol=1e-3)
    white = Tissue.WHITE
    b_md = 1.0 * heavy[white, 4]
    assert ratio[1000.0][white] == pytest.approx(np.exp(b_md**2 * heavy[white, -1] / 6))
    assert ratio[2500.0][white] > ratio[1000.0][white] > 1


def test_contrast_order_of_real_scans():
    properties = draw_tissue().at(np.zeros(5))
    bold, b0, dwi = (f(properties) for f in (contrast.bold_signal, contrast.b0_signal, contrast.dwi_signal))
    assert bold[Tissue.VENTRICLE] > bold[Tissue.CORTEX] > bold[Tissue.WHITE] > bold[Tissue.PALLIDUM]
    assert b0[Tissue.VENTRICLE] > 1.4 * b0[Tissue.CORTEX] > 1.4 * b0[Tissue.WHITE]
    assert dwi[Tissue.VENTRICLE] < 0.4 * dwi[Tissue.WHITE]
    assert dwi[Tissue.PALLIDUM] < dwi[Tissue.PUTAMEN] < 1.05 * dwi[Tissue.CORTEX]


def test_linearised_signal_follows_the_exact_one():
    tissue = draw_tissue(np.random.default_rng(3))
    for signal in (contrast.bold_signal, contrast.b0_signal, contrast.dwi_signal):
        table = contrast.linearise(signal, tissue)
        for latent in LATENTS:
            z = np.zeros(len(LATENTS))
            z[latent] = 0.8
            exact, linear = signal(tissue.at(z)), table @ np.r_[1, z]
            np.testing.assert_allclose(linear, exact, rtol=0.03, atol=1e-4)


def test_iron_darkens_bold_and_b0_together():
    tissue = draw_tissue()
    z = np.zeros(len(LATENTS))
    z[Latent.IRON] = 2
    grey = [Tissue.CORTEX, Tissue.PUTAMEN, Tissue.PALLIDUM]
    for signal in (contrast.bold_signal, contrast.b0_signal, contrast.dwi_signal):
        assert (signal(tissue.at(z))[grey] < signal(tissue.at(0 * z))[grey]).all()


def test_draws_stay_in_the_ranges_and_differ():
    low, high = draw_tissue().base * 0, draw_tissue().base * 0
    draws = np.stack([draw_tissue(np.random.default_rng(i)).base for i in range(200)])
    middle = draw_tissue().base
    low, high = draws.min(0), draws.max(0)
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert (draws.std(0)[:, :4] > 0).all()


def test_directions_repel_each_other():
    vectors = spread_directions(30)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    # Even directions: the mean dyad is a third of the identity, and no two axes are close.
    np.testing.assert_allclose(vectors.T @ vectors / 30, np.eye(3) / 3, atol=0.02)
    cosines = np.abs(vectors @ vectors.T) - 2 * np.eye(30)
    assert np.rad2deg(np.arccos(cosines.max())) > 20


def test_gradient_table_has_b0_first_last_and_between():
    bvals, bvecs = gradient_table(30, 1000)
    assert np.flatnonzero(bvals == 0).tolist() == [0, 11, 22, 33]
    np.testing.assert_allclose(np.linalg.norm(bvecs, axis=1), bvals > 0)
