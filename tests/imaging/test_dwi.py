import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pds_bids.exceptions import DataError, GeometryError
from pds_bids.imaging.dwi import (
    check_gradients,
    distinct_directions,
    fsl_to_ras_bvecs,
    ras_to_fsl_bvecs,
    rotate_bvecs,
    tensor_problem,
)
from pds_bids.imaging.grid import to_ras


def directions(n):
    vectors = np.random.default_rng(0).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oblique(codes="RAS"):
    """An affine of given storage order, 2 x 2 x 3 mm, turned by up to 20 degrees."""
    axes = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (10, 12, 14))[:3, :3]
    vox2ras = np.eye(4)
    vox2ras[:3, :3] = (
        Rotation.from_euler("XYZ", [20, -10, 5], degrees=True).as_matrix() @ axes @ np.diag([2, 2, 3])
    )
    return vox2ras


def test_a_clean_table():
    bvals = [0, 1000, 1000, 5, 2000, 1995, 2005]
    vectors = directions(7)
    table = check_gradients(7, bvals, vectors.T)
    assert table.b0_volumes == (0, 3)
    assert table.weighted_volumes == (1, 2, 4, 5, 6)
    assert [(s.bval, s.volumes) for s in table.shells] == [(1000.0, (1, 2)), (2000.0, (4, 5, 6))]
    np.testing.assert_allclose(table.bvecs[[1, 4]], vectors[[1, 4]], atol=1e-12)
    np.testing.assert_array_equal(table.bvecs[[0, 3]], 0)


def test_transposed_vectors_are_recognised():
    vectors = directions(6)
    bvals = [0, 1, 1000, 1000, 1000, 1000]
    np.testing.assert_array_equal(
        check_gradients(6, bvals, vectors).bvecs, check_gradients(6, bvals, vectors.T).bvecs
    )


def test_jitter_of_b_and_vectors_of_few_digits():
    rng = np.random.default_rng(1)
    bvals = np.concatenate([[0], 1000 + rng.uniform(-40, 40, 30), 2850 + rng.uniform(-100, 100, 30)])
    vectors = np.round(directions(61), 2)
    table = check_gradients(61, bvals, vectors)
    assert [len(s.volumes) for s in table.shells] == [30, 30]
    np.testing.assert_allclose(np.linalg.norm(table.bvecs[1:], axis=1), 1, atol=1e-12)


def test_small_b_counts_as_b0_only_when_there_is_no_other():
    assert check_gradients(3, [80, 1000, 1000], directions(3)).b0_volumes == (0,)
    table = check_gradients(4, [0, 80, 1000, 1000], directions(4))
    assert table.b0_volumes == (0,)
    assert table.shells[0].volumes == (1,)


def test_b0_vectors_may_be_missing():
    vectors = directions(4)
    vectors[0] = np.nan
    assert np.isfinite(check_gradients(4, [0, 1000, 1000, 1000], vectors).bvecs).all()


def changed(index, value):
    vectors = directions(4)
    vectors[index] = value
    return vectors


def scaled(shares):
    """Vectors that code b in their length, as some scanners write them."""
    return directions(4) * np.sqrt(shares)[:, None]


@pytest.mark.parametrize(
    ("n_volumes", "bvals", "bvecs", "error", "match"),
    [
        (5, [0, 1000, 1000, 1000], directions(4), GeometryError, "5 volumes != 4 b-values"),
        (4, [0, 1000, 1000, 1000], directions(5), GeometryError, r"shape \(5, 3\) for 4 volumes"),
        (4, [0, -1, 1000, 1000], directions(4), GeometryError, "volumes 1 are negative"),
        (4, [0, np.nan, 1000, 1000], directions(4), GeometryError, "not finite"),
        (4, [500, 1000, 1000, 1000], directions(4), DataError, "no b = 0 volume"),
        (4, [0, 0, 0, 10], directions(4), DataError, "nothing is weighted"),
        (4, [0, 1000, 1000, 1000], changed(2, 0), GeometryError, "volumes 2 .* no direction"),
        (4, [0, 1000, 1000, 1000], changed(3, np.nan), GeometryError, "volumes 3 .* no direction"),
        (4, [0, 1000, 1000, 1000], 0.7 * directions(4), GeometryError, "length 0.7.*multiply b"),
        (4, [0, 1000, 2000, 2000], scaled([0, 0.5, 1, 1]), GeometryError, "leave b as it is"),
        (4, [0, 1, 1, 2.5], directions(4), DataError, "nothing is weighted.*ms/um2.*1000"),
        (4, [0, 1e9, 1e9, 1e9], directions(4), DataError, "s/m2, divide by 1e6"),
        (4, np.zeros(12), np.zeros((1, 4)), GeometryError, "bvec file are exchanged"),
    ],
)
def test_wrong_tables(n_volumes, bvals, bvecs, error, match):
    with pytest.raises(error, match=match):
        check_gradients(n_volumes, bvals, bvecs, name="sub-01 dwi")


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSL", "SRA"])
def test_scanner_directions_do_not_depend_on_storage(codes):
    world = directions(5)
    vox2ras = oblique(codes)
    # FSL's definition, without the package: components along voxel axes, first one flipped for det > 0.
    components = np.linalg.solve(vox2ras[:3, :3] / np.linalg.norm(vox2ras[:3, :3], axis=0), world.T).T
    if np.linalg.det(vox2ras[:3, :3]) > 0:
        components[:, 0] *= -1
    np.testing.assert_allclose(fsl_to_ras_bvecs(components, vox2ras), world, atol=1e-12)
    np.testing.assert_allclose(ras_to_fsl_bvecs(world, vox2ras), components, atol=1e-12)


def test_vectors_follow_the_image_into_ras():
    """A gradient along the line between two marked voxels stays along it after reorientation."""
    stored = np.zeros((10, 12, 14))
    stored[2, 3, 4], stored[7, 3, 4] = 1, 2
    vox2ras = oblique("LPS")
    sign = -1 if np.linalg.det(vox2ras) > 0 else 1
    vector = fsl_to_ras_bvecs(np.array([[sign * 1.0, 0, 0]]), vox2ras)[0]
    data, moved2ras, _ = to_ras(stored, vox2ras)
    one, two = (nib.affines.apply_affine(moved2ras, np.argwhere(data == k)[0]) for k in (1, 2))
    np.testing.assert_allclose((two - one) / np.linalg.norm(two - one), vector, atol=1e-12)


def test_rotation_keeps_the_attenuation_of_a_fibre():
    """A fibre turned with the head is attenuated as the unturned fibre by the rotated gradient."""
    gradients = directions(6)
    turns = Rotation.random(6, random_state=1).as_matrix()
    ref2volume = np.tile(np.eye(4), (6, 1, 1))
    ref2volume[:, :3, :3] = turns
    ref2volume[:, :3, 3] = 7
    fibre = np.array([0.6, 0.0, 0.8])
    seen_by_scanner = np.array([g @ (turn @ fibre) for g, turn in zip(gradients, turns, strict=True)])
    np.testing.assert_allclose(rotate_bvecs(gradients, ref2volume) @ fibre, seen_by_scanner, atol=1e-12)


def test_rotation_needs_one_matrix_each():
    with pytest.raises(GeometryError, match="2 vectors but motion"):
        rotate_bvecs(directions(2), np.eye(4)[None])


def test_b0s_may_have_a_direction():
    """Scanners write the direction of the next volume, or of a nominal b = 5."""
    table = check_gradients(4, [5, 1000, 0, 1000], directions(4))
    np.testing.assert_array_equal(table.bvecs[[0, 2]], 0)


def test_repeated_and_opposite_directions_count_once():
    vectors = directions(7)
    repeated = np.vstack([np.zeros((1, 3)), vectors, -vectors, vectors + 1e-3])
    np.testing.assert_allclose(distinct_directions(repeated), vectors)


CIRCLE = np.stack([np.cos(np.arange(12) * 0.26), np.sin(np.arange(12) * 0.26), np.zeros(12)], 1)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (directions(30), ""),
        (np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2), ""),
        (np.repeat(directions(5), 4, 0), "5 distinct directions, at least 6 needed"),
        (np.tile([[0, 0, 1.0]], (12, 1)), "1 distinct directions, at least 6 needed"),
        (CIRCLE, "the 12 directions lie near a plane"),
        (CIRCLE * 0.6 + [0, 0, 0.8], "the 12 directions lie near a plane or a cone"),
    ],
)
def test_which_directions_determine_a_tensor(vectors, expected):
    """Independent: whether the six unknowns can be solved for."""
    problem = tensor_problem(vectors)
    assert problem.startswith(expected)
    assert bool(problem) == bool(expected)
    x, y, z = vectors.T
    rank = np.linalg.matrix_rank(np.stack([x * x, y * y, z * z, x * y, x * z, y * z], 1), tol=1e-6)
    assert (rank == 6) == (not expected)
