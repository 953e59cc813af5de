"""Diffusion series against dipy's tensor fit and against what was planted."""

from dataclasses import replace

import numpy as np
import pytest
from dipy.core.gradients import gradient_table as dipy_table
from dipy.reconst.dti import TensorModel

from pds_bids.exceptions import GeometryError
from pds_bids.phantom.contrast import DwiProtocol, b0_signal
from pds_bids.phantom.dwi import dwi_series, fractional_anisotropy
from pds_bids.phantom.eddy import EddyCurrents, draw_eddy
from pds_bids.phantom.epi import EpiOptions
from pds_bids.phantom.gradients import gradient_table
from pds_bids.phantom.head_motion import rigid
from pds_bids.phantom.moving_head import evaluate, spline
from pds_bids.phantom.person import scan
from pds_bids.phantom.tissue import BRAIN, FLUID, Latent, Tissue

IDEAL = EpiOptions.ideal()
PROTOCOL = DwiProtocol()


def run(person, seen, bvals, bvecs, epi=IDEAL, motion=None, seed=3, **options):
    motion = np.zeros((len(bvals), 6)) if motion is None else motion
    options = {"free_water": False} | options
    return dwi_series(
        np.random.default_rng(seed), person, seen, motion, bvals, bvecs, PROTOCOL, epi, **options
    )


def fit(series, bvals, bvecs, inside):
    table = dipy_table(bvals / 1000, bvecs=bvecs)
    return TensorModel(table, fit_method="LS").fit(series[inside].astype(float))


@pytest.mark.parametrize(("directions", "bvals"), [(30, 1000), ([10, 20], [700, 2000])])
def test_dipy_finds_the_planted_tensor(scanned, epi_grid, directions, bvals):
    person = scanned[0]
    seen_voxels = scan(np.random.default_rng(2), person, epi_grid)
    bvals, bvecs = gradient_table(directions, bvals)
    series, truth = run(person, seen_voxels, bvals, bvecs)
    brain = seen_voxels.share(*BRAIN) > 0.5
    found = fit(series, bvals, bvecs, brain)
    # All voxels of the brain, no exception: without noise, blur and motion each holds one tensor.
    np.testing.assert_allclose(found.md, truth.md_um2_ms[brain], rtol=0.01)
    np.testing.assert_allclose(found.fa, truth.fa[brain], rtol=0.01, atol=2e-4)
    fibrous = truth.fa[brain] > 0.2
    assert fibrous.sum() > 500
    along = np.abs((found.evecs[fibrous][:, :, 0] * truth.axis_ras[brain][fibrous]).sum(-1))
    assert along.min() > 0.999


def test_planted_tensor_is_that_of_the_tissues_and_their_latent_fields(person, seen_voxels):
    water = np.zeros_like(seen_voxels.latents)
    water[:, 0], water[:, 1 + Latent.WATER] = 1, 1.0
    none, b0 = np.zeros((1, 3)), np.zeros(1)
    _, plain = run(person, replace(seen_voxels, latents=water * [1, 0, 0, 0, 0, 0]), b0, none)
    _, wet = run(person, replace(seen_voxels, latents=water), b0, none)
    white = seen_voxels.share(Tissue.WHITE) > 0.999
    assert white.sum() > 100
    md, fa = person.tissue.base[Tissue.WHITE, 4:6]
    np.testing.assert_allclose(plain.md_um2_ms[white], md, rtol=1e-3)
    np.testing.assert_allclose(plain.fa[white], fa, rtol=1e-3)
    # More water: MD and T2 up, FA down, all together.
    changed = person.tissue.at(np.array([0, 0, 1.0, 0, 0]))
    np.testing.assert_allclose(wet.md_um2_ms[white], changed[Tissue.WHITE, 4], rtol=2e-3)
    np.testing.assert_allclose(wet.fa[white], changed[Tissue.WHITE, 5], rtol=5e-3)
    np.testing.assert_allclose(wet.b0[white], b0_signal(changed)[Tissue.WHITE], rtol=5e-3)


def test_truth_of_blurred_voxels_is_what_weak_weighting_shows(person, seen, epi_grid):
    _, bvecs = gradient_table(12, 1000)
    bvals = np.where(np.linalg.norm(bvecs, axis=1) > 0, 20.0, 0.0)
    epi = replace(IDEAL, psf_voxels=1.0, oversampling=2)
    series, truth = run(person, seen, bvals, bvecs, epi, grid=epi_grid)
    brain = truth.b0 > 0.5 * np.median(truth.b0[truth.b0 > 0.05])
    found = fit(series, bvals, bvecs, brain)
    error = np.abs(found.md / truth.md_um2_ms[brain] - 1)
    assert np.mean(error < 0.02) > 0.99
    assert np.mean(np.abs(found.fa - truth.fa[brain]) < 0.03) > 0.99


def test_axes_belong_to_the_person_not_to_the_grid(person, seen, seen_voxels, epi_grid):
    none, b0 = np.zeros((1, 3)), np.zeros(1)
    one = run(person, seen, b0, none, seed=1, fibres=np.random.default_rng(8), grid=epi_grid)[1]
    other = run(person, seen_voxels, b0, none, seed=2, fibres=np.random.default_rng(8))[1]
    white = seen_voxels.share(Tissue.WHITE) > 0.999
    assert np.median(np.abs((one.axis_ras * other.axis_ras).sum(-1))[white]) > 0.99


def test_free_water_decays_as_a_compartment_of_its_own(person, seen_voxels):
    flat = np.zeros_like(seen_voxels.latents)
    flat[:, 0] = 1
    seen = replace(seen_voxels, latents=flat)
    bvals, bvecs = np.array([0, 1000.0]), np.array([[0, 0, 0], [0, 0, 1.0]])
    series, truth = run(person, seen, bvals, bvecs, free_water=True)
    base = b0_signal(person.tissue.base)
    water = seen.fractions[:, list(FLUID)] @ base[list(FLUID)]
    total = seen.fractions @ base
    np.testing.assert_allclose(truth.b0.ravel(), total, atol=1e-4)
    head = total > 0.05
    np.testing.assert_allclose(truth.free_water.ravel()[head], water[head] / total[head], atol=1e-3)
    mixed = (truth.free_water > 0.3) & (truth.free_water < 0.7) & (seen.share(Tissue.VENTRICLE) < 0.01)
    assert mixed.sum() > 100
    share = truth.free_water[mixed]
    fast = np.exp(-person.tissue.base[Tissue.CSF, 4])
    rest = series[mixed, 1] / series[mixed, 0] - share * fast
    # What is left is the tissue's own decay, between those of its two diffusivities.
    k = truth.fa[mixed] / np.sqrt(3 - 2 * truth.fa[mixed] ** 2)
    assert (rest / (1 - share) > np.exp(-truth.md_um2_ms[mixed] * (1 + 2 * k)) - 0.01).all()
    assert (rest / (1 - share) < np.exp(-truth.md_um2_ms[mixed] * (1 - k)) + 0.01).all()


def test_kurtosis_is_that_of_the_tissue_and_decay_never_turns(person, seen_voxels):
    flat = np.zeros_like(seen_voxels.latents)
    flat[:, 0] = 1
    seen = replace(seen_voxels, latents=flat)
    bvals = np.array([0, 50, 100, 1000, 3000, 6000.0])
    bvecs = np.tile([0, 0, 1.0], (6, 1))
    bvecs[0] = 0
    series, _ = run(person, seen, bvals, bvecs, kurtosis=True)
    plain, _ = run(person, seen, bvals, bvecs)
    cortex = seen.share(Tissue.CORTEX) > 0.999
    log, exact = (np.log(s[cortex] / s[cortex][:, :1]) for s in (series.astype(float), plain.astype(float)))
    assert (np.diff(log, axis=1) < 0).all()
    # ln S = -b D + (b D)^2 K / 6 for weak weighting.
    b_d = -exact[:, 2]
    kurtosis = 6 * (log[:, 2] + b_d) / b_d**2
    assert np.median(kurtosis) == pytest.approx(person.tissue.base[Tissue.CORTEX, 6], rel=0.1)


def test_gradient_turns_against_the_head(person, seen_voxels):
    # A head turned by 20 degrees and a gradient turned with it: the image is the same, turned.
    turn = np.array([0, 0, 0, 0, 0, 20.0])
    rest2moved = rigid(turn)
    direction = np.array([0.6, 0.8, 0.0])
    along = rest2moved[:3, :3] @ direction
    bvals = np.full(3, 1000.0)
    series, _ = run(
        person,
        seen_voxels,
        bvals,
        np.array([direction, along, direction]),
        motion=np.array([0 * turn, turn, turn]),
    )
    back = [
        evaluate(
            spline(series[..., v]), seen_voxels.grid, seen_voxels.grid, np.linalg.inv(rest2moved), order=3
        )
        for v in (1, 2)
    ]
    white = seen_voxels.share(Tissue.WHITE) > 0.99
    difference = [np.abs(volume - series[..., 0])[white].mean() for volume in back]
    assert difference[0] < 0.02 * series[white, 0].mean()
    assert difference[1] > 4 * difference[0]


def test_eddy_currents_move_along_the_phase_encoding_only_with_the_gradient(person, seen, epi_grid):
    eddy = EddyCurrents(np.array([20.0, 0, 0]), np.zeros((3, 3)))
    bvals = np.array([0.0, 1e-9, 1000.0, 1000.0, 4000.0])
    bvecs = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0], [-1, 0, 0], [1, 0, 0]], float)
    epi = replace(IDEAL, readout_s=0.05, phase_encoding="j")
    still, _ = run(person, seen, bvals, bvecs, epi, grid=epi_grid)
    series, truth = run(person, seen, bvals, bvecs, epi, eddy=eddy, grid=epi_grid)
    np.testing.assert_array_equal(series[..., 0], still[..., 0])
    np.testing.assert_allclose(truth.eddy_hz[:, 0], [0, 20 * np.sqrt(1e-12), 20, -20, 40], atol=1e-9)
    # 20 Hz in 50 ms: one voxel; at four times the b-value two; the other way for the opposite gradient.
    inner = (slice(None), slice(3, -3), slice(None))
    for volume, voxels in ((2, 1), (3, -1), (4, 2)):
        shifted = np.roll(still[..., volume], voxels, 1)
        np.testing.assert_allclose(series[..., volume][inner], shifted[inner], atol=1e-4)


def test_eddy_slopes_scale_and_shear(person, seen, epi_grid):
    slope = np.zeros((3, 3))
    slope[0] = [0.1, -0.2, 0.0]
    eddy = EddyCurrents(np.zeros(3), slope)
    bvals, bvecs = np.full(1, 1000.0), np.array([[1.0, 0, 0]])
    epi = replace(IDEAL, readout_s=0.1, phase_encoding="j")
    still = run(person, seen, bvals, bvecs, epi, grid=epi_grid)[0][..., 0]
    moved = run(person, seen, bvals, bvecs, epi, eddy=eddy, grid=epi_grid)[0][..., 0]
    y = np.arange(epi_grid.shape[1])
    places = [(volume * y[:, None]).sum(1) / volume.sum(1) for volume in (still, moved)]
    x, z = np.nonzero(still.sum(1) > 0.5 * still.sum(1).max())
    shift = (places[1] - places[0])[x, z]
    mm_x = (x - (epi_grid.shape[0] - 1) / 2) * 5
    mm_y = (places[0][x, z] - (epi_grid.shape[1] - 1) / 2) * 5
    fitted = np.linalg.lstsq(np.stack([mm_x, mm_y, np.ones(len(x))], 1), shift, rcond=None)[0]
    # Voxels per mm: readout times slope.
    np.testing.assert_allclose(fitted[:2], [0.01, -0.02], rtol=0.05)
    assert moved.sum() == pytest.approx(still.sum(), rel=1e-3)


def test_drawn_eddy_currents_are_linear_in_the_gradient(rng):
    eddy = draw_eddy(rng)
    bvecs = rng.standard_normal((4, 3))
    bvecs[3] = bvecs[0] + bvecs[1]
    got = eddy.coefficients(np.full(4, 1000.0), bvecs)
    np.testing.assert_allclose(got[3], got[0] + got[1])
    np.testing.assert_allclose(eddy.coefficients(np.full(4, 4000.0), bvecs), 2 * got)
    with pytest.raises(GeometryError, match="expected"):
        EddyCurrents(np.zeros(3), np.zeros(3))


def test_strong_weighting_sinks_into_the_noise_floor(person, seen_voxels):
    bvals, bvecs = np.array([0, 6000.0]), np.array([[0, 0, 0], [0, 0, 1.0]])
    series, truth = run(person, seen_voxels, bvals, bvecs, replace(IDEAL, noise=0.05))
    ventricle = seen_voxels.share(Tissue.VENTRICLE) > 0.99
    head = truth.b0 > 0.3 * truth.b0.max()
    sd = 0.05 * truth.b0[head].mean()
    assert series[ventricle, 1].mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.1)


def test_series_of_different_lengths_are_refused(person, seen_voxels):
    with pytest.raises(GeometryError, match="2 b-values"):
        run(person, seen_voxels, np.zeros(2), np.zeros((2, 3)), motion=np.zeros((3, 6)))


def test_anisotropy_of_known_tensors():
    np.testing.assert_allclose(
        fractional_anisotropy(np.array([[1, 1, 1.0], [0, 0, 0], [2, 0, 0]])), [0, 0, 1]
    )
