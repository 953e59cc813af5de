"""T1-weighted images: the signal of a pulse-by-pulse simulation, and no face."""

from dataclasses import replace

import numpy as np
import pytest

from pds_bids.phantom.contrast import MprageProtocol, mprage
from pds_bids.phantom.t1w import faceless, t1w_image
from pds_bids.phantom.tissue import BRAIN, Tissue


def pulse_by_pulse(t1_ms, p):
    """Follow the magnetisation through thirty inversions."""
    m, signal = 1.0, 0.0
    before = 1000 * p.ti_s - p.n_echoes * p.echo_spacing_ms / 2
    for _ in range(30):
        m = 1 - (1 + m) * np.exp(-before / t1_ms)
        for echo in range(p.n_echoes):
            if echo == p.n_echoes // 2:
                signal = abs(m) * np.sin(np.radians(p.flip_deg))
            m = 1 - (1 - m * np.cos(np.radians(p.flip_deg))) * np.exp(-p.echo_spacing_ms / t1_ms)
        m = 1 - (1 - m) * np.exp(-(1000 * p.tr_s - before - p.n_echoes * p.echo_spacing_ms) / t1_ms)
    return signal


@pytest.mark.parametrize("t1_ms", [370.0, 900.0, 1400.0, 4200.0])
@pytest.mark.parametrize("protocol", [MprageProtocol(), MprageProtocol(tr_s=1.9, ti_s=1.0, n_echoes=160)])
def test_mprage_is_the_steady_state_of_the_whole_cycle(t1_ms, protocol):
    got = mprage(np.array(0.7), np.array(t1_ms), protocol)
    assert got == pytest.approx(0.7 * pulse_by_pulse(t1_ms, protocol), rel=1e-6)


def test_image_has_the_contrast_of_a_t1w(person, seen_voxels):
    image = t1w_image(np.random.default_rng(0), person, seen_voxels, noise=0, coil=0)
    medians = {t: np.median(image[seen_voxels.share(t) > 0.95]) for t in (Tissue.WHITE, Tissue.CORTEX)}
    assert medians[Tissue.WHITE] == pytest.approx(1, abs=0.15)
    assert 0.5 < medians[Tissue.CORTEX] / medians[Tissue.WHITE] < 0.85
    assert np.median(image[seen_voxels.share(Tissue.VENTRICLE) > 0.95]) < 0.35


def test_face_is_blurred_and_the_brain_is_not(seen_voxels):
    shape = seen_voxels.grid.shape
    points = seen_voxels.template_points
    face = (points[:, 1] > 50) & (points[:, 2] < -30)
    # A nose where there was none.
    fractions = seen_voxels.fractions.copy()
    nose = face & (np.abs(points[:, 0]) < 6) & (fractions.sum(1) < 0.5)
    assert nose.sum() > 10
    fractions[nose] = 0
    fractions[nose, Tissue.SOFT] = 1
    found = faceless(replace(seen_voxels, fractions=fractions))
    edges = [np.abs(np.diff(f[:, Tissue.SOFT].reshape(shape), axis=0)) for f in (fractions, found)]
    there = face.reshape(shape)[1:]
    assert edges[1][there].max() < 0.6 * edges[0][there].max()
    np.testing.assert_array_equal(found[:, list(BRAIN)], fractions[:, list(BRAIN)])
    assert found.sum(1).max() < 1.01
    back = points[:, 1] < -40
    np.testing.assert_allclose(found[back], fractions[back], atol=1e-3)


def test_noise_floor_and_seed(person, seen_voxels):
    one, other = (t1w_image(np.random.default_rng(4), person, seen_voxels, noise=0.05) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    air = seen_voxels.fractions.sum(1).reshape(seen_voxels.grid.shape) == 0
    far = air & (np.abs(seen_voxels.grid.points()[..., 0]) > 84)
    assert one[far].mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)
