"""N4 and the unit of images against known fields."""

import numpy as np
import pytest
import SimpleITK as sitk

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.intensity import brain_mean, from_units, n4_bias, to_units

GRID = Grid((48, 56, 44), np.array([[4, 0, 0, -96], [0, 4, 0, -112], [0, 0, 4, -88], [0, 0, 0, 1.0]]))


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three tissues in smooth blobs, a mask, and a smooth field of a factor 2 from side to side."""
    rng = np.random.default_rng(3)
    points = GRID.points()
    mask = (points**2 / np.square([70, 90, 65])).sum(-1) < 1
    waves = sum(np.sin(points @ rng.normal(scale=0.12, size=3) + rng.uniform(0, 6)) for _ in range(6))
    tissue = np.select([waves > 0.8, waves > -0.8], [1.5, 1.0], 0.7) + rng.normal(scale=0.02, size=GRID.shape)
    field = np.exp(0.35 * points[..., 0] / 70 + 0.2 * (points[..., 1] / 90) ** 2)
    return tissue, mask, field


def test_n4_undoes_a_known_field(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    tissue, mask, field = scene
    bias = n4_bias(tissue * field, GRID, mask)
    before = np.log(field[mask]).std()
    after = np.log(field[mask] / bias[mask]).std()
    assert after < 0.25 * before
    assert np.exp(np.log(bias[mask]).mean()) == pytest.approx(1, abs=1e-4)
    assert (bias > 0).all()


def test_n4_does_not_depend_on_the_unit(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    tissue, mask, field = scene
    few = {"n_levels": 2, "n_iterations": 10}
    np.testing.assert_allclose(
        n4_bias(tissue * field * 4096, GRID, mask, **few),
        n4_bias(tissue * field, GRID, mask, **few),
        rtol=1e-3,
    )


def test_units_and_back(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    tissue, mask, field = scene
    acquired = 700 * tissue * field
    units, scale = to_units(acquired, mask, field)
    assert units[mask].mean() == pytest.approx(1, abs=1e-5)
    assert not units[~mask].any()
    assert scale == pytest.approx(700 * tissue[mask].mean())
    np.testing.assert_allclose(from_units(units, scale, field)[mask], acquired[mask], rtol=1e-5)


def test_nothing_to_scale_is_refused() -> None:
    with pytest.raises(DataError, match="mean intensity in the brain mask"):
        brain_mean(np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool))
    with pytest.raises(DataError, match="positive voxels"):
        n4_bias(np.zeros(GRID.shape), GRID, np.ones(GRID.shape, bool))


@pytest.mark.parametrize("machine", [2, 4])
def test_n4_does_not_depend_on_what_the_machine_offers(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], machine: int
) -> None:
    """In a process of somebody else ITK would take all cores, and add up in another order."""
    tissue, mask, field = scene
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, machine):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(n4_bias(tissue * field, GRID, mask, nthreads=1))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(*found)
