import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import GeometryError
from pds_bids.imaging.coverage import brain_coverage, seen_planes
from pds_bids.imaging.grid import Grid, PointMap, apply_affine
from pds_bids.imaging.rigid import parameters_to_matrices
from pds_bids.imaging.tissues import Template

CODES = ["RAS", "LAS", "LPS", "PSL"]
LABELS = {1: "Precentral_L", 2: "Precentral_R", 3: "Cerebelum_8_L", 4: "Vermis_9", 5: "Insula_L"}


@pytest.fixture(scope="module")
def template():
    """An ellipsoid, 60 mm from centre to top, with a motor strip on top and a cerebellum at the bottom."""
    grid = Grid((55, 65, 51), np.array([[3, 0, 0, -81], [0, 3, 0, -96], [0, 0, 3, -75], [0, 0, 0, 1.0]]))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    mask = (x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    atlas = np.zeros(grid.shape, np.int32)
    atlas[z > 40] = 1 + (x > 0)[z > 40]
    atlas[(z < -35) & (y < 0)] = 3 + (np.abs(x) < 9)[(z < -35) & (y < 0)]
    atlas[(np.abs(z) < 10) & (x < -40)] = 5
    inner = (x / 40) ** 2 + (y / 50) ** 2 + (z / 40) ** 2 < 1
    gm, wm = (mask & ~inner).astype(np.float32), (mask & inner).astype(np.float32)
    return Template(grid, gm, mask, gm, wm, 0 * gm, atlas * mask, LABELS, "toy", "here")


def acquired(make_grid, codes, below_mm, above_mm, zooms=(3.0, 3.0, 4.0), turn_deg=(0, 0, 0)):
    """A field of view in any storage order that reaches from `below_mm` to `above_mm`."""
    order = nib.orientations.axcodes2ornt(codes)
    axis = order[:, 0].astype(int).tolist().index(2)
    zooms = tuple(zooms[int(a)] for a in order[:, 0])
    extent = (180.0, 210.0, above_mm - below_mm)
    grid = make_grid(codes, zooms=zooms, extent=extent, turn_deg=turn_deg)
    vox2ras = grid.vox2ras.copy()
    vox2ras[2, 3] += (above_mm + below_mm) / 2
    return Grid(grid.shape, vox2ras), axis


@pytest.mark.parametrize("codes", CODES)
def test_a_whole_brain_is_complete(codes, template, make_grid):
    native, _ = acquired(make_grid, codes, -76, 76, turn_deg=(8, -5, 3))
    found = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native)
    assert found.is_complete
    assert found.brain == 1
    assert found.tissues == {"gm": 1, "wm": 1, "csf": 1}
    assert not found.ends
    assert not found.parcels
    assert found.note == "field of view covers the whole brain"


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize(
    ("below", "above", "end", "told"),
    [(-76, 40, "superior", "Precentral"), (-32, 76, "inferior", "cerebellum")],
)
def test_a_cut_is_measured_and_named(codes, below, above, end, told, template, make_grid):
    native, _ = acquired(make_grid, codes, below, above)
    found = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native)
    z = template.grid.points()[..., 2]
    seen = (z >= below) & (z <= above)
    assert found.brain == pytest.approx(seen[template.mask].mean(), abs=0.01)
    assert found.brain < 0.96
    assert list(found.ends) == [end]
    assert found.ends[end] == pytest.approx(1 - found.brain)
    for name in ("gm", "wm"):
        assert found.tissues[name] == pytest.approx(seen[getattr(template, name) > 0].mean(), abs=0.01)
    lost = {LABELS[k] for k in range(1, 6) if seen[template.atlas == k].mean() < 0.5}
    assert set(found.parcels) == lost
    assert lost
    assert not found.is_complete
    assert f"at the {end} end; sees less than half of {told}" in found.note
    assert found.note.startswith(f"field of view misses {100 * (1 - found.brain):.0f}% of the brain")


@pytest.mark.parametrize("codes", CODES)
def test_the_head_may_lie_anywhere(codes, template, make_grid):
    """The same cut when the head, and the field of view with it, is moved and turned."""
    moved = parameters_to_matrices(np.array([[12.0, -20, 30, 0.3, -0.2, 0.4]]), np.zeros(3))[0]
    native, _ = acquired(make_grid, codes, -76, 40)
    carried = Grid(native.shape, moved @ native.vox2ras)
    there = PointMap.from_affine(template.grid, moved)
    straight = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native)
    found = brain_coverage(template, there, carried)
    assert found.brain == pytest.approx(straight.brain, abs=2e-3)
    assert found.ends["superior"] == pytest.approx(straight.ends["superior"], abs=2e-3)


@pytest.mark.parametrize("codes", CODES)
def test_blank_slices_are_not_acquired(codes, template, make_grid):
    native, axis = acquired(make_grid, codes, -76, 76)
    series = np.random.default_rng(0).normal(100, 5, (*native.shape, 3)).astype(np.float32)
    along = apply_affine(native.vox2ras, np.eye(3)[axis] * np.arange(native.shape[axis])[:, None])[:, 2]
    blank = along > 40
    series[(slice(None),) * axis + (blank,)] = 0
    planes = seen_planes(series)
    np.testing.assert_array_equal(planes[axis], ~blank)
    found = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native, seen=planes)
    cropped, _ = acquired(make_grid, codes, -76, 40)
    assert found.brain == pytest.approx(
        brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), cropped).brain, abs=0.03
    )
    assert list(found.ends) == ["superior"]
    assert f"holds {blank.sum()} planes without signal" in found.note


def test_a_slice_missing_in_the_middle(template, make_grid):
    native, _ = acquired(make_grid, "RAS", -76, 76)
    series = np.random.default_rng(0).normal(100, 5, (*native.shape, 2)).astype(np.float32)
    series[:, :, 20] = np.nan
    planes = seen_planes(series)
    assert np.flatnonzero(~planes[2]).tolist() == [20]
    found = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native, seen=planes)
    assert 0.95 < found.brain < 0.99
    assert not found.ends
    assert "1 plane without signal" in found.note


def test_blanked_air_is_no_news(template, make_grid):
    """Scanners and skull-stripping set what is far from the head to zero."""
    native, _ = acquired(make_grid, "RAS", -76, 76)
    series = np.zeros((*native.shape, 1), np.float32)
    series[4:-4, 4:-4] = np.random.default_rng(0).normal(100, 5, series[4:-4, 4:-4].shape)
    planes = seen_planes(series)
    found = brain_coverage(template, PointMap.from_affine(template.grid, np.eye(4)), native, seen=planes)
    assert found.n_empty_planes == 16
    assert found.note == "field of view covers the whole brain"


@pytest.mark.parametrize("codes", CODES)
def test_a_cut_mask_tells_even_if_registration_stretches(codes, template, make_grid):
    """A map that squeezes the template into the cropped view reports a whole brain; the mask does not."""
    native, _ = acquired(make_grid, codes, -76, 20)
    squeeze = np.diag([1, 1, 0.6, 1.0])
    squeeze[2, 3] = -20
    mask = template.mask[tuple(np.moveaxis(nearest(native, template.grid), -1, 0))]
    there = PointMap.from_affine(template.grid, squeeze)
    assert brain_coverage(template, there, native).is_complete
    found = brain_coverage(template, there, native, mask=mask)
    assert not found.is_complete
    assert list(found.cut_ends) == ["superior"]
    assert "cuts the brain mask at the superior end" in found.note


def nearest(native, grid):
    index = np.rint(apply_affine(grid.ras2vox, native.points())).astype(int)
    return np.clip(index, 0, np.asarray(grid.shape) - 1)


def test_arrays_must_fit(template, make_grid):
    native, _ = acquired(make_grid, "RAS", -76, 76)
    there = PointMap.from_affine(template.grid, np.eye(4))
    with pytest.raises(GeometryError, match="do not fit"):
        brain_coverage(template, there, native, mask=np.ones((3, 3, 3), bool))
    with pytest.raises(GeometryError, match="not on the template's grid"):
        brain_coverage(template, PointMap.from_affine(native, np.eye(4)), native)
    blank = tuple(np.zeros(n, bool) for n in native.shape)
    with pytest.raises(GeometryError, match="no signal"):
        brain_coverage(template, there, native, seen=blank)
