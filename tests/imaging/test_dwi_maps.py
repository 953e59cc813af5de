import importlib.util
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging import dwi_maps
from pds_bids.imaging.dwi import check_gradients, rotate_bvecs, tensor_problem
from pds_bids.imaging.dwi_maps import in_view, maps_at, shell_means, tensor_maps, tensor_volumes
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.realign import segment_means

MD = np.array([0.4e-3, 0.7e-3, 1.1e-3, 2.0e-3])
FA = np.array([0.0, 0.15, 0.4, 0.7, 0.9])


def directions(n, seed=0):
    """Unit vectors on a spiral, turned at random: not the package's own scheme."""
    z = 1 - (np.arange(n) + 0.5) / n
    turn = 2.399963 * np.arange(n)
    ring = np.sqrt(1 - z**2)
    return Rotation.random(random_state=seed).apply(
        np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)
    )


def table(*shells, b0s=2):
    bvals = np.concatenate([np.zeros(b0s)] + [np.full(n, b) for b, n in shells])
    bvecs = np.vstack([np.zeros((b0s, 3))] + [directions(n, seed) for seed, (_, n) in enumerate(shells)])
    return check_gradients(len(bvals), bvals, bvecs)


def tensors(fa, md, seed=0):
    """Tensors ``(V, 3, 3)`` of given FA and MD, of all shapes between cigar and pancake, in all directions.

    Eigenvalues md (1 + e cos(t)), with three angles t at 120 degrees, have their mean at md, and
    FA^2 = 3/2 * (3/2 e^2) / (3 + 3/2 e^2).
    """
    rng = np.random.default_rng(seed)
    e = np.sqrt(3 * fa**2 / (2.25 - 1.5 * fa**2))
    # Beyond this the smallest eigenvalue of a strongly anisotropic tensor would be negative.
    t = rng.uniform(0, 0.3, fa.shape) * (1 - fa)
    values = md[:, None] * (1 + e[:, None] * np.cos(t[:, None] + np.arange(3) * 2 * np.pi / 3))
    axes = Rotation.random(len(fa), random_state=seed).as_matrix()
    return np.einsum("vij,vj,vkj->vik", axes, values, axes), axes[:, :, 0]


def cases():
    fa, md = (a.ravel() for a in np.meshgrid(FA, MD, indexing="ij"))
    return fa, md


def attenuated(tensor, gradients, s0=1000.0, kurtosis=0.0):
    x = gradients.bvals * np.einsum("ni,vij,nj->vn", gradients.bvecs, tensor, gradients.bvecs)
    return s0 * np.exp(-x + kurtosis * x**2 / 6)


def fa_md(tensor):
    """FA from the tensor itself: sqrt(3/2) |D - MD| / |D| (Frobenius), without eigenvalues."""
    md = np.trace(tensor, axis1=1, axis2=2) / 3
    deviator = tensor - md[:, None, None] * np.eye(3)
    norms = [np.sqrt((m**2).sum((1, 2))) for m in (deviator, tensor)]
    return np.sqrt(1.5) * norms[0] / norms[1], md


def least_squares(signals, gradients, iterations):
    """Own weighted fit, voxel by voxel: 0 iterations are unweighted."""
    b, g = gradients.bvals, gradients.bvecs
    x, y, z = g.T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1) * -b[:, None]
    design = np.column_stack([design * 1e-3, np.ones(len(b))])
    found = []
    for signal in signals:
        weight = np.ones(len(b))
        for _ in range(iterations + 1):
            beta = np.linalg.lstsq(design * weight[:, None], weight * np.log(signal), rcond=None)[0]
            weight = np.exp(design @ beta)
        a, d, f, m, n, o = beta[:6] * 1e-3
        found.append([[a, m, n], [m, d, o], [n, o, f]])
    return np.array(found)


def test_noiseless_tensors_are_recovered():
    fa, md = cases()
    tensor, first = tensors(fa, md)
    np.testing.assert_allclose(fa_md(tensor)[0], fa, atol=1e-9)
    gradients = table((1000, 30))
    maps = tensor_maps(attenuated(tensor, gradients).astype(np.float32), gradients)
    np.testing.assert_allclose(maps.md, md, rtol=0.01)
    np.testing.assert_allclose(maps.fa[fa > 0], fa[fa > 0], rtol=0.01)
    np.testing.assert_allclose(maps.fa[fa == 0], 0, atol=2e-3)
    np.testing.assert_allclose(maps.s0, 1000, rtol=0.01)
    assert maps.residual.max() < 1e-3
    assert maps.n_implausible == maps.n_unfitted == 0
    along = np.abs((maps.direction * first).sum(1))[fa > 0.3]
    np.testing.assert_allclose(along, 1, atol=1e-4)


def test_turning_head_and_gradients_changes_nothing():
    tensor, _ = tensors(*cases())
    gradients = table((1000, 12))
    signals = attenuated(tensor, gradients) + np.random.default_rng(0).normal(0, 20, (len(tensor), 14))
    straight = tensor_maps(signals, gradients)
    turn = Rotation.from_euler("xyz", [70, -30, 15], degrees=True).as_matrix()
    turned = tensor_maps(signals, replace(gradients, bvecs=gradients.bvecs @ turn.T))
    np.testing.assert_allclose(turned.fa, straight.fa, atol=1e-5)
    np.testing.assert_allclose(turned.md, straight.md, rtol=1e-5)
    along = np.abs(((straight.direction @ turn.T) * turned.direction).sum(1))
    np.testing.assert_allclose(along[straight.fa > 0.2], 1, atol=1e-4)


def test_agrees_with_an_independent_weighted_fit():
    tensor, _ = tensors(np.full(40, 0.6), np.full(40, 0.8e-3))
    gradients = table((1000, 20))
    signals = attenuated(tensor, gradients) + np.random.default_rng(1).normal(0, 30, (40, 22))
    maps = tensor_maps(signals, gradients)
    own = least_squares(signals, gradients, iterations=1)
    is_positive = np.linalg.eigvalsh(own).min(1) > 0
    assert is_positive.sum() > 30
    fa, md = fa_md(own)
    np.testing.assert_allclose(maps.fa[is_positive], fa[is_positive], atol=1e-4)
    np.testing.assert_allclose(maps.md[is_positive], md[is_positive], rtol=1e-4)


def test_weights_bring_the_fit_nearer_to_the_truth():
    tensor, _ = tensors(np.full(400, 0.7), np.full(400, 0.8e-3))
    gradients = table((1500, 30))
    rng = np.random.default_rng(2)
    clean = attenuated(tensor, gradients)
    noisy = np.hypot(clean + rng.normal(0, 40, clean.shape), rng.normal(0, 40, clean.shape))
    maps = tensor_maps(noisy, gradients)
    unweighted = fa_md(least_squares(noisy, gradients, iterations=0))
    for found, other, truth in ((maps.fa, unweighted[0], 0.7), (maps.md, unweighted[1], 0.8e-3)):
        ours, theirs = (np.sqrt(((values - truth) ** 2).mean()) for values in (found, other))
        assert ours < 0.97 * theirs


def test_high_shells_are_left_out_where_low_ones_suffice():
    fa, md = cases()
    tensor, _ = tensors(fa, np.full(len(md), 0.8e-3))
    gradients = table((1000, 20), (3000, 40))
    assert set(tensor_volumes(gradients)) == set(range(22))
    signals = attenuated(tensor, gradients, kurtosis=0.8)
    maps = tensor_maps(signals, gradients)
    low = table((1000, 20))
    np.testing.assert_allclose(maps.md, tensor_maps(signals[:, :22], low).md, rtol=1e-6)
    assert maps.volumes == tuple(range(22))
    # With all shells kurtosis would take 20% off.
    assert np.median(maps.md) > 0.85 * 0.8e-3


@pytest.mark.parametrize(
    ("shells", "used"),
    [
        (((2500, 20),), 22),
        (((700, 3), (2000, 30), (3000, 30)), 35),
        (((500, 6), (1500, 12), (2500, 30)), 20),
    ],
)
def test_which_shells_are_used(shells, used):
    assert tensor_volumes(table(*shells)) == tuple(range(used))


def test_a_table_without_enough_directions_is_refused():
    gradients = check_gradients(9, [0, 0, 0] + [1000] * 6, np.vstack([np.eye(3), np.eye(3), -np.eye(3)]))
    assert tensor_problem(gradients.bvecs) == "3 distinct directions, at least 6 needed"
    with pytest.raises(DataError, match="3 distinct directions"):
        tensor_maps(np.ones((2, 9)), gradients)
    tensor, shells = maps_at(np.zeros((2, 3)), lambda points: np.ones((len(points), 9)), gradients)
    assert tensor is None
    np.testing.assert_array_equal(shells.means, 1)


def test_missing_signals_do_not_bend_the_fit():
    fa, md = cases()
    tensor, _ = tensors(fa, md)
    gradients = table((1000, 20))
    signals = attenuated(tensor, gradients)
    rng = np.random.default_rng(3)
    for row in range(len(signals)):
        signals[row, rng.choice(np.arange(2, 22), 5, replace=False)] = rng.choice([np.nan, np.inf])
    maps = tensor_maps(signals, gradients)
    np.testing.assert_allclose(maps.md, md, rtol=0.01)
    np.testing.assert_allclose(maps.fa, fa, atol=0.01)
    assert maps.n_unfitted == 0


def test_points_with_too_little_are_zero_and_counted():
    tensor, _ = tensors(np.full(4, 0.5), np.full(4, 0.7e-3))
    gradients = table((1000, 12))
    signals = attenuated(tensor, gradients)
    signals[0] = 0
    signals[1] = np.nan
    signals[2, :2] = np.nan  # no b0
    signals[3, 5:] = np.nan  # three directions
    maps = tensor_maps(signals, gradients)
    assert maps.n_unfitted == 4
    for name in ("fa", "md", "s0", "residual", "direction"):
        np.testing.assert_array_equal(getattr(maps, name), 0)


def test_nonsense_gives_bounded_numbers_and_is_counted():
    gradients = table((1000, 12))
    rng = np.random.default_rng(4)
    signals = rng.uniform(1, 1000, (200, 14))
    signals[:50, :2] = 1  # weighted volumes brighter than b0s
    maps = tensor_maps(signals, gradients)
    for values in (maps.fa, maps.md, maps.s0, maps.direction, maps.residual):
        assert np.isfinite(values).all()
    assert maps.fa.min() >= 0
    assert maps.fa.max() <= 1
    assert maps.md.min() >= 0
    assert 50 <= maps.n_implausible <= 200
    fluid = tensor_maps(
        attenuated(np.eye(3)[None] * np.array([3.0e-3, 4.0e-3])[:, None, None], gradients), gradients
    )
    assert fluid.n_implausible == 1


@pytest.mark.parametrize("smallest", [1e-40, 1e-20, 1e-5])
def test_rounding_in_blanked_air_does_not_overflow(smallest):
    """Splines leave specks where a scanner wrote zeros; a real scan gave infinite S0 and then NaN."""
    gradients = table((1000, 12))
    rng = np.random.default_rng(7)
    signals = rng.uniform(0, 1, (2000, 14)) ** 30 * 1e3
    signals = np.where(rng.random(signals.shape) < 0.3, smallest, signals).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = tensor_maps(signals, gradients)
    for values in (maps.fa, maps.md, maps.s0, maps.direction, maps.residual):
        assert np.isfinite(values).all()
    assert maps.n_implausible > 1000


def test_zeros_in_fluid_are_fast_diffusion_not_holes():
    """Where all weighted signals were rounded to zero, as in the ventricles of a real scan at b = 1500."""
    gradients = table((1500, 12))
    signals = attenuated(3e-3 * np.eye(3)[None], gradients, s0=40.0)
    maps = tensor_maps(np.vstack([np.round(signals), np.floor(signals)]), gradients)
    assert maps.n_unfitted == 0
    assert (maps.md > 2.5e-3).all()
    assert maps.fa.max() < 0.2


def test_chunks_do_not_matter(monkeypatch):
    tensor, _ = tensors(*cases())
    gradients = table((1000, 12), (2000, 12))
    signals = attenuated(tensor, gradients) + np.random.default_rng(5).normal(0, 20, (len(tensor), 26))
    signals[3, 4] = np.nan
    whole, whole_means = maps_at(
        np.arange(len(signals))[:, None], lambda rows: signals[rows[:, 0]], gradients
    )
    monkeypatch.setattr(dwi_maps, "CHUNK_SIGNALS", 50)
    monkeypatch.setattr(dwi_maps, "BLOCK_SIGNALS", 7 * 26)
    parts, part_means = maps_at(np.arange(len(signals))[:, None], lambda rows: signals[rows[:, 0]], gradients)
    for name in ("fa", "md", "s0", "residual"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5)
    np.testing.assert_array_equal(part_means.means, whole_means.means)
    assert parts.n_implausible == whole.n_implausible


def test_shell_means_are_those_of_the_averager():
    rng = np.random.default_rng(6)
    gradients = table((1000, 3), (2000, 4))
    grid = Grid((8, 9, 7), np.diag([2.0, 2, 3, 1]))
    series = rng.uniform(100, 200, (*grid.shape, 9)).astype(np.float32)
    motion = np.tile(np.eye(4), (9, 1, 1))
    motion[:, :3, 3] = rng.uniform(-2, 2, (9, 3))
    points = grid.points().reshape(-1, 3)
    signals = segment_means(series, grid.vox2ras, motion, [[k] for k in range(9)], points).T
    groups = [
        gradients.b0_volumes,
        *(shell.volumes for shell in gradients.shells),
        gradients.weighted_volumes,
    ]
    expected = segment_means(series, grid.vox2ras, motion, groups, points)
    signals = np.where(in_view(points, grid, motion), signals, np.nan)
    assert np.isnan(signals).any(1).sum() > 50
    found = shell_means(signals, gradients)
    np.testing.assert_allclose(found.means, expected[:-1], rtol=1e-5)
    np.testing.assert_allclose(found.weighted, expected[-1], rtol=1e-5)
    assert found.bvals == (0, 1000, 2000)
    assert found.n_volumes == (2, 3, 4)


def test_head_rotation_is_followed_by_the_vectors():
    """Half of the volumes see the head turned by 40 degrees; without rotated vectors FA drops."""
    tensor, first = tensors(np.full(10, 0.8), np.full(10, 0.8e-3))
    gradients = table((1000, 30))
    ref2volume = np.tile(np.eye(4), (32, 1, 1))
    turn = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    ref2volume[16:, :3, :3] = turn
    signals = attenuated(tensor, gradients)
    signals[:, 16:] = attenuated(turn @ tensor @ turn.T, gradients)[:, 16:]
    rotated = replace(gradients, bvecs=rotate_bvecs(gradients.bvecs, ref2volume))
    right, wrong = tensor_maps(signals, rotated), tensor_maps(signals, gradients)
    np.testing.assert_allclose(right.fa, 0.8, atol=0.01)
    np.testing.assert_allclose(np.abs((right.direction * first).sum(1)), 1, atol=1e-3)
    assert wrong.fa.mean() < 0.75


def test_wrong_length():
    with pytest.raises(GeometryError, match="14 volumes"):
        tensor_maps(np.ones((3, 13)), table((1000, 12)))


@pytest.mark.real
def test_real_maps_agree_with_the_scanners(tmp_path):
    """FA and MD in white matter against maps that the scanner computed, as in ``benchmarks/dwi_maps.py``."""
    root = os.environ.get("PDS_REAL_DATA")
    if not root:
        pytest.skip("PDS_REAL_DATA is not set")
    path = Path(__file__).parents[2] / "benchmarks" / "dwi_maps.py"
    spec = importlib.util.spec_from_file_location("benchmark_dwi_maps", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    (scan,) = benchmark.read_scans(Path(root) / "paired")
    rows = {row.way: row for row in benchmark.compare(scan, tmp_path)[0]}
    # Done its own way, the scanner's result comes out: units, directions, orientation are right.
    own = rows["unweighted, as acquired"]
    assert own.fa[0] > 0.999
    assert own.md[0] > 0.999
    assert abs(own.fa[3]) < 0.002
    assert abs(own.md[3]) < 0.002
    for way in ("as acquired", "aligned, at weighted volumes"):
        assert rows[way].fa[0] >= 0.9
        assert rows[way].md[0] >= 0.9
    # Alignment moves away from the scanner's maps because it removes a misfit that they have.
    assert rows["aligned, at weighted volumes"].residual < 0.85 * rows["as acquired"].residual
