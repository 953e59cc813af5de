import numpy as np
import pytest
from scipy import ndimage

from pds_bids.phantom.fields import random_displacement, random_field
from pds_bids.phantom.sampling import gather
from pds_bids.phantom.susceptibility import dropout, field_gradient, susceptibility_field


def test_field_has_unit_variance_and_is_smooth():
    rng = np.random.default_rng(0)
    fields = random_field(rng, (30, 30, 30), (3.0, 3.0, 3.0), 12.0, 40)
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.std() == pytest.approx(1, abs=0.05)
    assert fields[:, :2].std() == pytest.approx(1, abs=0.1)
    near = np.corrcoef(fields[:, :-1].ravel(), fields[:, 1:].ravel())[0, 1]
    far = np.corrcoef(fields[:, :-20].ravel(), fields[:, 20:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.1


def test_displacement_has_the_stated_size():
    shift = random_displacement(np.random.default_rng(1), (40, 40, 40), (3, 3, 3), sd_mm=2.0, spacing_mm=15.0)
    assert shift.std() == pytest.approx(2.0, rel=0.15)


def test_gather_agrees_with_scipy():
    rng = np.random.default_rng(2)
    volume = rng.random((7, 8, 9, 3)).astype(np.float32)
    index = rng.uniform(-1, 10, (500, 3))
    clipped = np.clip(index, 0, np.array([6, 7, 8]))
    want = [ndimage.map_coordinates(volume[..., c], clipped.T, order=1, mode="nearest") for c in range(3)]
    np.testing.assert_allclose(gather(volume, index), np.stack(want, -1), atol=1e-5)


def test_gather_takes_a_single_slice():
    volume = np.arange(12, dtype=np.float32).reshape(3, 4, 1, 1)
    assert gather(volume, np.array([[0.5, 1, 3]]))[0, 0] == pytest.approx(3)


def test_dipole_field_of_a_sphere():
    # Outside a sphere of radius a: df = dchi/3 (a/r)^3 (3 cos^2 - 1); inside it is uniform, zero after the
    # Lorentz correction.
    shape = (64, 64, 64)
    offsets = np.moveaxis(np.indices(shape), 0, -1) - 32
    distance = np.linalg.norm(offsets, axis=-1)
    air = (distance <= 6).astype(np.float32)
    fractions = np.zeros((*shape, 16), np.uint8)  # no brain: nothing to shim
    fractions[0, 0, 0, 0] = 255
    field = susceptibility_field(air, fractions)
    unit = 42.577 * 9.4 * 3.0
    radius3 = air.sum() / (4 / 3 * np.pi)
    for point in ((32, 32, 46), (46, 32, 32)):
        offset = np.array(point) - 32
        r = np.linalg.norm(offset)
        want = -unit / 3 * radius3 / r**3 * (3 * (offset[2] / r) ** 2 - 1) * -1
        assert field[point] - field[2, 2, 2] == pytest.approx(want, rel=0.15)


def test_dropout_follows_the_sinc_of_the_phase():
    gradient = np.array([0.0, 1.0, 3.0])
    want = np.abs(np.sinc(gradient * 3 * 0.03))
    np.testing.assert_allclose(dropout(gradient, 30, 3), want, atol=0.01)


def test_gradient_of_a_linear_field():
    field = np.arange(10.0)[None, None] * 4 * np.ones((5, 5, 1))
    np.testing.assert_allclose(field_gradient(field, 2.0), 2.0)
    np.testing.assert_allclose(field_gradient(np.moveaxis(field, 2, 0), 2.0), 1.0)
