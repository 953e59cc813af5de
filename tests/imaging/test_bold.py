import numpy as np
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.bold import check_series, detect_non_steady_state, reference_volume
from pds_bids.imaging.series import RasSeries, read_volumes, volume_blocks


@pytest.fixture
def scan():
    rng = np.random.default_rng(0)
    head = np.zeros((10, 12, 8, 1))
    head[2:8, 2:10, 2:7] = rng.uniform(500, 1000, (6, 8, 5, 1))
    return (head + rng.normal(0, 5, (10, 12, 8, 30))).astype(np.float32)


@pytest.mark.parametrize("n_dummy", [0, 1, 2, 4])
@pytest.mark.parametrize("length", [10, 30])
def test_dummies_of_a_t1_decay(scan, n_dummy, length):
    gain = np.ones(length)
    gain[:n_dummy] += 0.3 * 0.5 ** np.arange(n_dummy)
    drift = np.linspace(1, 0.97, length)
    assert detect_non_steady_state(scan[..., :length] * gain * drift) == n_dummy


def test_a_spike_or_a_dip_is_no_dummy(scan):
    for factor in (0.8, 1.2):
        late = scan.copy()
        late[..., 7] *= factor
        assert detect_non_steady_state(late) == 0
    dip = scan.copy()
    dip[..., 0] *= 0.7
    assert detect_non_steady_state(dip) == 0


def test_at_most_five_and_never_most_of_the_series(scan):
    gain = np.ones(30)
    gain[:9] = 1.5
    assert detect_non_steady_state(scan * gain) == 5
    assert detect_non_steady_state(scan[..., :2] * [1.5, 1]) == 0


def test_detection_does_not_depend_on_storage(scan):
    bright = scan.copy()
    bright[..., :2] *= 1.2
    stored = np.moveaxis(bright, 0, 2)[:, ::-1]
    assert detect_non_steady_state(stored) == detect_non_steady_state(bright) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s[..., 0], r"1 volume\(s\) in an image of shape \(10, 12, 8\)"),
        (lambda s: s[..., :1], r"1 volume\(s\) .* N >= 2"),
        (
            lambda s: np.where(np.arange(30) == 3, np.nan, s),
            r"volume\(s\) 3 of 30 have values that are not finite",
        ),
        (lambda s: np.where(np.arange(30) == 29, np.inf, s), r"volume\(s\) 29 of 30 .* not finite"),
        (lambda s: s * 0, r"0, 1, 2, 3, 4 and 25 more of 30 have one value everywhere"),
        (lambda s: np.where(np.arange(30) == 12, 7, s), r"volume\(s\) 12 of 30 have one value"),
    ],
)
def test_unusable_series(scan, change, match):
    with pytest.raises(DataError, match=match):
        check_series(change(scan), name="sub-01 bold")


def test_a_usable_series_passes(scan):
    check_series(scan)


def test_reference_is_sharp_and_free_of_outliers(make_grid, make_series, head):
    grid = make_grid()
    parameters = np.zeros((9, 6))
    parameters[:, 1], parameters[:, 5] = np.linspace(-2, 2, 9), np.linspace(-0.03, 0.03, 9)
    series, _ = make_series(grid, parameters, noise=0.05)
    series[:, :, 10:13, 6] = 5000
    rest = 1000 * head(grid.points())
    inner = (slice(5, -5),) * 3

    def error(image):
        return np.sqrt(((image - rest)[inner] ** 2).mean())

    reference = reference_volume(series, vox2ras=grid.vox2ras)
    assert error(reference) < 0.6 * error(series[..., 4])
    assert error(reference) < 0.5 * error(series.mean(3))


def test_reference_leaves_dummies_out(make_grid, make_series):
    grid = make_grid(zooms=(6, 6, 6))
    series, _ = make_series(grid, np.zeros((5, 6)))
    series[..., :3] *= 9
    np.testing.assert_array_equal(reference_volume(series, 3, grid.vox2ras), series[..., 4])
    with pytest.raises(DataError, match="no volume is left"):
        reference_volume(series, 5, grid.vox2ras)
    with pytest.raises(TypeError, match="vox2ras"):
        reference_volume(series)


class OneBlockAtATime:
    """A series on disk that refuses to be read as a whole."""

    def __init__(self, data, most):
        self.data, self.most, self.shape = data, most, data.shape

    def __getitem__(self, key):
        part = self.data[key]
        assert part.ndim == 3 or part.shape[3] <= self.most
        return part

    def __array__(self, dtype=None, copy=None):
        raise MemoryError


def test_series_are_streamed(scan):
    stored = OneBlockAtATime(scan.astype(np.float64), 4)
    blocks = list(volume_blocks(stored, [9, 1, 2, 3, 17], size=4))
    assert [index.tolist() for index, _ in blocks] == [[1, 2, 3], [9], [17]]
    assert all(block.dtype == np.float32 for _, block in blocks)
    np.testing.assert_allclose(blocks[0][1], scan[..., 1:4])
    check_series(OneBlockAtATime(scan, 16))


def test_pages_of_a_mapped_series_are_given_back(tmp_path):
    """A long series must not fill the memory with what was read before."""
    psutil = pytest.importorskip("psutil")
    shape = (64, 64, 40, 200)
    mapped = np.memmap(tmp_path / "series", np.float32, "w+", shape=shape, order="F")
    mapped[..., ::50] = 7
    mapped.flush()
    del mapped
    series = np.memmap(tmp_path / "series", np.float32, "c", shape=shape, order="F")
    process = psutil.Process()
    before = process.memory_full_info().pss
    most, total = 0, 0.0
    for _, block in volume_blocks(series):
        total += float(block.sum(dtype=float))
        most = max(most, process.memory_full_info().pss - before)
    assert total == 4 * 7 * 64 * 64 * 40
    assert most < 0.4 * series.nbytes


def test_ras_series_equals_whole_array_reorientation(scan):
    from pds_bids.imaging.grid import to_ras

    stored2ras = np.array([[0, 0, -3.0, 9], [-2, 0, 0, 5], [0, 2.5, 0, 1], [0, 0, 0, 1]])
    series = RasSeries(scan, stored2ras)
    moved, moved2ras, _ = to_ras(scan, stored2ras)
    assert series.shape == moved.shape
    np.testing.assert_allclose(series.grid.vox2ras, moved2ras)
    np.testing.assert_array_equal(series[..., 4], moved[..., 4])
    np.testing.assert_array_equal(read_volumes(series, [8, 3]), moved[..., [3, 8]])
    with pytest.raises(DataError, match="not a series"):
        RasSeries(scan[..., 0], stored2ras)
