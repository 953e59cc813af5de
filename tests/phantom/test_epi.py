"""Echo-planar readout: signal is moved, never made or lost, and the app undoes what is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pds_bids.exceptions import GeometryError, UsageError
from pds_bids.imaging.distortion import PhaseEncoding
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.imaging.pepolar import Blip, field_from_blips
from pds_bids.imaging.undistort import undistorted
from pds_bids.phantom.bold import bold_series
from pds_bids.phantom.coil import coil_field
from pds_bids.phantom.contrast import BoldProtocol, DwiProtocol
from pds_bids.phantom.dwi import dwi_series
from pds_bids.phantom.epi import EpiOptions, Readout, ghosted, named_draws, remap, rician
from pds_bids.phantom.fluctuations import BoldOptions
from pds_bids.phantom.moving_head import evaluate, finer_along, head_lattice, spline
from pds_bids.phantom.tissue import BRAIN, Tissue

NOTHING = BoldOptions.constant(discarded=60)
SHARP = replace(EpiOptions.ideal(), psf_voxels=1.0, oversampling=2)


def pushed(signal, landing, n_voxels, parts=2000):
    """Scatter many points of every cell into the voxels where they land."""
    total = np.zeros(n_voxels)
    along = (np.arange(parts) + 0.5) / parts
    for k, value in enumerate(signal):
        places = landing[k] + along * (landing[k + 1] - landing[k])
        voxels = np.floor(places + 0.5).astype(int) % n_voxels
        np.add.at(total, voxels, value / parts)
    return total


def test_remap_equals_pushing_points_folds_included(rng):
    signal = rng.random((3, 40))
    edges = np.arange(41) / 2 - 0.5
    landing = edges + np.stack([3 * np.sin(edges), 6 * np.exp(-((edges - 9) ** 2)), 0.5 * edges])
    assert (np.diff(landing[:2], axis=1) < 0).any(1).all(), "the first two lines must fold"
    got = remap(signal, landing, 20)
    np.testing.assert_allclose(
        got, [pushed(*line, 20) for line in zip(signal, landing, strict=True)], atol=0.01
    )
    np.testing.assert_allclose(got.sum(1), signal.sum(1), rtol=1e-12)


def test_cells_without_width_keep_their_signal():
    # All cells land on one spot, which is not at the border of a voxel; then on a border.
    for place in (3.2, 2.5):
        got = remap(np.ones(8), np.full(9, place), 8)
        assert got.sum() == pytest.approx(8)
        assert got[3] == pytest.approx(8, abs=1e-4)


def test_remap_wants_the_ends_of_all_cells():
    with pytest.raises(GeometryError, match="one more end than cells"):
        remap(np.ones(8), np.arange(8.0), 8)


@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-"])
def test_known_distortion_is_undone_with_the_true_field(scanned, epi_grid, direction):
    person, seen, _ = scanned
    epi = replace(SHARP, readout_s=0.04, field_strength=0.8, phase_encoding=direction)
    series, truth = bold_series(
        np.random.default_rng(0), person, seen, np.zeros((1, 6)), BoldProtocol(), epi, NOTHING, grid=epi_grid
    )
    np.testing.assert_allclose(series.sum(), truth.mean.sum(), rtol=1e-5)
    fixed = undistorted(series[..., 0], epi_grid, truth.field_hz, epi.encoding)
    brain = ndimage.binary_erosion(
        evaluate(seen.share(*BRAIN), seen.grid, epi_grid, np.eye(4), order=1) > 0.9
    )
    squeezed = 1 + epi.encoding.readout_s * np.gradient(truth.field_hz, axis=epi.encoding.axis)
    brain &= (squeezed > 0.5) & (squeezed < 2)
    before, after = (
        np.abs(x - truth.mean)[brain] / truth.mean[brain].mean() for x in (series[..., 0], fixed)
    )
    assert np.percentile(before, 99) > 0.05
    # Interpolation between voxels of 5 mm cannot follow grain and thin fluid.
    assert np.percentile(after, 99) < 0.03
    wrong = undistorted(series[..., 0], epi_grid, -truth.field_hz, epi.encoding)
    assert np.abs(wrong - truth.mean)[brain].mean() > 1.5 * np.abs(series[..., 0] - truth.mean)[brain].mean()


def test_opposite_directions_shift_to_opposite_sides(epi_grid):
    # A dot in an even field of 25 Hz and a readout of 40 ms: exactly one voxel.
    lattice = head_lattice(epi_grid, 2.5)
    image = np.exp(-((lattice.points() / 12) ** 2).sum(-1)).astype(np.float32)
    field = np.full(lattice.shape, 25.0, np.float32)
    places = {}
    for direction, to in {"i": (1, 0, 0), "i-": (-1, 0, 0), "j": (0, 1, 0), "j-": (0, -1, 0)}.items():
        encoding = EpiOptions(readout_s=0.04, phase_encoding=direction).encoding
        readout = Readout(epi_grid, lattice, field, encoding, np.zeros(3), 3)
        volume = readout.volume(readout.prepare(image), np.eye(4))
        places[direction] = np.array(ndimage.center_of_mass(volume))
        still = np.array(ndimage.center_of_mass(readout.undistorted(image)))
        np.testing.assert_allclose(places[direction] - still, to, atol=1e-3)


def test_pair_of_opposite_directions_tells_the_field(scanned, epi_grid):
    person, seen, coil = scanned
    blips = []
    for seed, direction in enumerate(("j", "j-")):
        epi = EpiOptions(readout_s=0.06, phase_encoding=direction, field_strength=2.0, noise=0.02, coil=coil)
        series, truth = dwi_series(
            np.random.default_rng(seed),
            person,
            seen,
            np.zeros((2, 6)),
            np.zeros(2),
            np.zeros((2, 3)),
            DwiProtocol(),
            epi,
            grid=epi_grid,
        )
        blips.append(Blip(series.mean(-1), epi_grid, epi.encoding))
    found = field_from_blips(blips)
    brain = ndimage.binary_erosion(
        evaluate(seen.share(*BRAIN), seen.grid, epi_grid, np.eye(4), order=1) > 0.9
    )
    error = 0.06 * (found.hz - truth.field_hz)[brain]
    # A raw array lies elsewhere in the second series.
    assert np.abs(error - np.median(error)).mean() < (0.25 if coil == 1 else 0.2)
    assert np.corrcoef(found.hz[brain], truth.field_hz[brain])[0, 1] > (0.7 if coil == 1 else 0.8)


@pytest.mark.parametrize("axis", [0, 1])
def test_ghost_is_that_of_odd_and_even_lines_of_different_phase(rng, axis):
    volume = rng.random((12, 16, 3))
    lines = np.fft.fft(volume, axis=axis)
    phase = np.arcsin(0.3) * (-1.0) ** np.arange(volume.shape[axis])
    lines *= np.exp(1j * phase).reshape([-1 if k == axis else 1 for k in range(3)])
    np.testing.assert_allclose(ghosted(volume, axis, 0.3), np.abs(np.fft.ifft(lines, axis=axis)), rtol=1e-6)


def test_ghost_of_a_series_lies_half_a_field_of_view_away(person, seen_voxels, epi_grid):
    def run(**changes):
        epi = replace(EpiOptions.ideal(), phase_encoding="i", **changes)
        rng = np.random.default_rng(0)
        return bold_series(rng, person, seen_voxels, np.zeros((1, 6)), BoldProtocol(), epi, NOTHING)[0]

    clean, ghost = run()[..., 0], run(ghost=0.04)[..., 0]
    dark = clean == 0
    np.testing.assert_allclose(
        ghost[dark], 0.04 * np.roll(clean, clean.shape[0] // 2, 0)[dark], rtol=1e-5, atol=1e-6
    )
    assert ghost[dark].max() > 0.01


@pytest.mark.parametrize(("direction", "voxels", "field_t"), [("j", -6, 3.0), ("j-", 6, 3.0), ("i", -3, 1.5)])
def test_fat_of_the_scalp_is_shifted_along_the_phase_encoding(seen_voxels, direction, voxels, field_t):
    # 434 Hz at 3 T and a readout of 6 / 434 s: six voxels towards the start, three at 1.5 T.
    epi = replace(EpiOptions.ideal(), readout_s=6 / 434, phase_encoding=direction, fat=0.05)
    grid = seen_voxels.grid
    readout = Readout.of(seen_voxels, grid, epi, field_t)
    volume = readout.volume(np.zeros(grid.shape, np.float32), np.eye(4))
    scalp = np.where(seen_voxels.share(*BRAIN) > 0, 0, seen_voxels.share(Tissue.SOFT))
    assert scalp.max() > 0.9
    np.testing.assert_allclose(volume, 0.05 * np.roll(scalp, voxels, epi.encoding.axis), atol=1e-5)
    weighted = readout.volume(np.zeros(grid.shape, np.float32), np.eye(4), np.full(grid.shape, 2.0))
    np.testing.assert_allclose(weighted, 2 * volume, rtol=1e-5)
    assert not readout.undistorted(np.zeros(grid.shape)).any(), "the truth has no fat"


def test_field_moves_with_the_head(epi_grid):
    lattice = head_lattice(epi_grid, 2.5)
    image = np.exp(-((lattice.points() / 20) ** 2).sum(-1)).astype(np.float32)
    field = (60 * np.exp(-(((lattice.points() - [0, 20, 0]) / 20) ** 2).sum(-1))).astype(np.float32)
    readout = Readout(epi_grid, lattice, field, PhaseEncoding(1, 0.04), np.full(3, 2.0), 3)
    coefficients = readout.prepare(image)
    # A step of whole voxels moves image and field alike, so the volume is the same, moved.
    moved = np.eye(4)
    moved[:3, 3] = [10, -5, 5]
    one, other = readout.volume(coefficients, np.eye(4)), readout.volume(coefficients, moved)
    np.testing.assert_allclose(other[6:-4, 4:-6, 4:-4], one[4:-6, 5:-5, 3:-5], atol=2e-4)


def test_pose_is_evaluated_exactly_and_once(epi_grid):
    # A blob that the point spread leaves a blob: the volume of any pose is known in closed form.
    lattice = head_lattice(epi_grid, 2.5)
    image = np.exp(-0.5 * (lattice.points() ** 2).sum(-1) / 15**2).astype(np.float32)
    pose = np.eye(4)
    pose[:3, :3] = [[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1]]
    pose[:3, 3] = [3.3, -7.1, 1.7]
    got = evaluate(spline(image), lattice, epi_grid, pose, order=3)
    there = apply_affine(np.linalg.inv(pose), epi_grid.points())
    np.testing.assert_allclose(got, np.exp(-0.5 * (there**2).sum(-1) / 15**2), atol=1e-4)


def test_cells_cut_voxels():
    grid = Grid((3, 4, 5), np.diag([2.0, 3.0, 4.0, 1.0]))
    cells, edges = finer_along(grid, 1, 3), finer_along(grid, 1, 3, edges=True)
    np.testing.assert_allclose(cells.points().reshape(3, 4, 3, 5, 3).mean(2), grid.points())
    np.testing.assert_allclose(edges.points()[0, [0, -1], 0, 1], [-1.5, 10.5])


def test_point_spread_has_the_stated_width(epi_grid):
    # A cube of one voxel, as two points along each axis: half a voxel apart they keep sampling from aliasing.
    lattice = head_lattice(epi_grid, 2.5)
    image = np.zeros(lattice.shape, np.float32)
    image[tuple(slice(n // 2, n // 2 + 2) for n in lattice.shape)] = 1
    epi = EpiOptions(readout_s=0.0, psf_voxels=1.2, slice_thickness_mm=9.0)
    readout = Readout(epi_grid, lattice, 0 * image, epi.encoding, epi.blur_mm(epi_grid), 3)
    volume = readout.volume(readout.prepare(image), np.eye(4))
    index = np.indices(volume.shape) * 5.0
    mean = (index * volume).sum((1, 2, 3)) / volume.sum()
    variance = ((index - mean.reshape(3, 1, 1, 1)) ** 2 * volume).sum((1, 2, 3)) / volume.sum() - 1.25**2
    np.testing.assert_allclose(np.sqrt(variance[:2]), 0.42466 * 1.2 * 5, rtol=0.03)
    assert np.sqrt(variance[2]) == pytest.approx(9 / np.sqrt(12), rel=0.03)


def test_noise_in_air_has_the_mean_of_a_rayleigh_distribution(rng):
    noisy = rician(rng, np.zeros((40, 40, 40), np.float32), 3.0)
    assert noisy.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.01)
    bright = rician(rng, np.full((40, 40, 40), 100, np.float32), 3.0)
    assert bright.std() == pytest.approx(3, rel=0.02)
    assert bright.mean() == pytest.approx(100 + 9 / 200, abs=0.05)


def test_receive_field_is_smooth_and_can_be_even(rng, epi_grid):
    assert (coil_field(rng, epi_grid, 0.0) == 1).all()
    coil = coil_field(rng, epi_grid)
    assert coil.max() / coil.min() > 1.2
    assert max(np.abs(np.diff(np.log(coil), axis=k)).max() for k in range(3)) < 0.15


def test_draws_are_named_not_numbered():
    one, other = named_draws(np.random.default_rng(5)), named_draws(np.random.default_rng(5))
    other("something new").random()
    assert one("noise").random() == other("noise").random() != one("coil").random()


@pytest.mark.parametrize(
    "wrong", [{"phase_encoding": "AP"}, {"readout_s": -0.1}, {"noise": np.nan}, {"oversampling": 0}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", ".")):
        EpiOptions(**wrong)
