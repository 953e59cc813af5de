import numpy as np
import pytest

from pds_bids.exceptions import DataError, GeometryError, UsageError
from pds_bids.imaging.segments import (
    bold_segments,
    dwi_segments,
    segment_rows,
)


def sphere(n, seed=0):
    directions = np.random.default_rng(seed).normal(size=(n, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def scan_order(n):
    """Directions on a spiral from pole to equator: neighbours in time are neighbours on the sphere."""
    height = 1 - (np.arange(n) + 0.5) / n
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    radius = np.sqrt(1 - height**2)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), height])


def plain_energy(directions):
    """Jones's energy in plain loops, mean over pairs."""
    total, pairs = 0.0, 0
    for i, g in enumerate(directions):
        for h in directions[:i]:
            total += 1 / np.linalg.norm(g - h) + 1 / np.linalg.norm(g + h)
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("n_segments", [1, 2, 3, 7, 10, 40])
@pytest.mark.parametrize("n_volumes", [1, 2, 9, 10, 11, 37])
def test_bold_segments_share_out_every_kept_volume_once(n_volumes, n_segments):
    for censored in ([], [0], [n_volumes // 2, n_volumes - 1], list(range(0, n_volumes, 2))):
        kept = [k for k in range(n_volumes) if k not in censored]
        if not kept:
            continue
        parts = [s.volumes for s in bold_segments(n_volumes, n_segments, censored)]
        sizes = [len(p) for p in parts]
        assert [k for p in parts for k in p] == kept
        assert len(parts) == min(n_segments, len(kept))
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


def test_bold_segments_refuse_what_leaves_nothing():
    with pytest.raises(DataError, match="all 4 volumes are censored"):
        bold_segments(4, 2, range(4))
    with pytest.raises(UsageError, match="n_segments = 0"):
        bold_segments(4, 0)


def test_min_volumes_makes_fewer_segments():
    assert [len(s.volumes) for s in bold_segments(10, 10, min_volumes=3)] == [4, 3, 3]


@pytest.mark.parametrize("scheme", ["balanced", "contiguous"])
@pytest.mark.parametrize("n_segments", [1, 2, 5, 10, 13])
@pytest.mark.parametrize(("n_b0", "n_weighted"), [(1, 1), (1, 12), (4, 21), (12, 30), (2, 7)])
def test_dwi_segments_share_out_every_volume(scheme, n_segments, n_b0, n_weighted):
    rng = np.random.default_rng(3)
    bvals = rng.permutation([0.0] * n_b0 + [1000.0] * n_weighted)
    segments = dwi_segments(bvals, sphere(bvals.size), n_segments, scheme)
    sizes = [len(s.volumes) for s in segments]
    assert sorted(k for s in segments for k in s.volumes) == np.flatnonzero(bvals > 50).tolist()
    assert len(segments) == min(n_segments, n_weighted)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    b0s = np.flatnonzero(bvals <= 50).tolist()
    if n_b0 < len(segments):
        assert all(list(s.b0_volumes) == b0s for s in segments)
    else:
        shares = [len(s.b0_volumes) for s in segments]
        assert sorted(k for s in segments for k in s.b0_volumes) == b0s
        assert max(shares) - min(shares) <= 1


def test_each_shell_is_shared_out_evenly():
    bvals = np.array([0.0] * 3 + [995, 1005] * 11 + [3000.0] * 31)
    for segment in dwi_segments(bvals, sphere(bvals.size), 5):
        low = sum(bvals[k] < 2000 for k in segment.volumes)
        high = len(segment.volumes) - low
        assert low in (4, 5)
        assert high in (6, 7)


@pytest.mark.parametrize("directions", [scan_order(60), sphere(64, 5)], ids=["spiral", "random"])
def test_balanced_segments_spread_better_and_more_alike(directions):
    bvals = np.full(len(directions), 1000.0)

    def energies(parts):
        return np.array([plain_energy(directions[list(p)]) for p in parts])

    balanced = energies([s.volumes for s in dwi_segments(bvals, directions, 8, "balanced")])
    contiguous = energies([s.volumes for s in dwi_segments(bvals, directions, 8, "contiguous")])
    rng = np.random.default_rng(1)
    random = [energies(np.array_split(rng.permutation(len(directions)), 8)) for _ in range(20)]
    assert balanced.mean() < min(contiguous.mean(), *(r.mean() for r in random))
    assert np.ptp(balanced) < min(np.ptp(contiguous), np.median([np.ptp(r) for r in random]))


def test_balance_does_not_depend_on_the_frame():
    directions = sphere(30)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    bvals = np.full(30, 1000.0)
    one = [s.volumes for s in dwi_segments(bvals, directions, 5)]
    assert one == [s.volumes for s in dwi_segments(bvals, directions @ turn, 5)]


def test_a_direction_measured_twice_goes_to_two_segments():
    directions = np.repeat(scan_order(5), 2, axis=0)
    segments = dwi_segments(np.full(10, 700.0), directions, 2)
    assert [sorted(k // 2 for k in s.volumes) for s in segments] == [[0, 1, 2, 3, 4]] * 2


def test_dwi_segments_refuse_wrong_tables():
    with pytest.raises(GeometryError, match=r"bvecs \(3, 4\) for 4"):
        dwi_segments(np.ones(4), np.ones((3, 4)), 2)
    with pytest.raises(DataError, match="nothing to average"):
        dwi_segments(np.zeros(4), np.zeros((4, 3)), 2)
    with pytest.raises(UsageError, match="'random'"):
        dwi_segments(np.ones(4) * 1000, np.ones((4, 3)), 2, "random")


def test_rows_of_the_table():
    bvals = np.array([0.0, 995, 1005, 2990, 0, 3010])
    rows = segment_rows(dwi_segments(bvals, sphere(6), 2, "contiguous"), tr_s=3.5, bvals=bvals)
    assert [(r.volumes, r.onset_s, r.duration_s, r.n_b0) for r in rows] == [
        ("1,2", 3.5, 7.0, 1),
        ("3,5", 10.5, 10.5, 1),
    ]
    assert [r.b_values_s_mm2 for r in rows] == ["1000", "3000"]
    plain = segment_rows(bold_segments(5, 2, [0]))
    assert [(r.segment, r.n_volumes, r.onset_s, r.n_b0) for r in plain] == [
        (1, 2, None, None),
        (2, 2, None, None),
    ]
