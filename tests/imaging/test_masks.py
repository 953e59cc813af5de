"""Brain masks against the truth of an analytic head."""

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid, to_ras
from pds_bids.imaging.masks import dice, dilated, eroded, head_mask, part_t1w_brain, rough_brain_mask

GRID = Grid((64, 72, 56), np.array([[3, 0, 0, -96], [0, 3, 0, -108], [0, 0, 3, -84], [0, 0, 0, 1.0]]))


def _ellipsoid(*radii_mm: float) -> np.ndarray:
    return (GRID.points() ** 2 / np.square(radii_mm)).sum(-1) < 1


def _head(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A brain of signal 1 and a thin dim scalp 9 mm around it, shaded threefold from back to front."""
    brain = _ellipsoid(66, 82, 60)
    image = brain + 0.35 * (_ellipsoid(81, 97, 75) & ~_ellipsoid(75, 91, 69))
    shade = np.exp(np.log(3) * GRID.points()[..., 1] / 170)
    return image * shade + np.abs(rng.normal(scale=0.03, size=GRID.shape)), brain


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_brain_is_found_below_scalp_and_shading(rng: np.random.Generator) -> None:
    image, brain = _head(rng)
    assert dice(rough_brain_mask(image, GRID), brain) > 0.97


@pytest.mark.parametrize("codes", ["LAS", "LPI", "PSR"])
def test_storage_order_does_not_matter(codes: str, rng: np.random.Generator) -> None:
    image, _ = _head(rng)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(GRID.vox2ras), nib.orientations.axcodes2ornt(codes)
    )
    stored = nib.orientations.apply_orientation(image, turn)
    vox2ras = GRID.vox2ras @ nib.orientations.inv_ornt_aff(turn, GRID.shape)
    back, back_affine, _ = to_ras(stored, vox2ras)
    np.testing.assert_array_equal(
        rough_brain_mask(back, Grid(back.shape, back_affine)), rough_brain_mask(image, GRID)
    )


def test_head_includes_a_scalp_parted_from_the_brain_and_has_no_holes() -> None:
    image = _ellipsoid(66, 82, 60) + 0.9 * (_ellipsoid(81, 97, 75) & ~_ellipsoid(75, 91, 69))
    assert dice(head_mask(image, GRID), _ellipsoid(81, 97, 75)) > 0.97


@pytest.mark.parametrize("shift_vox", [0, 1, -1])
def test_a_t1w_brain_is_parted_from_bright_marrow_across_bridges(
    shift_vox: int, rng: np.random.Generator
) -> None:
    """Marrow as bright as white matter 6 mm away, tied to the brain by strands; the prior reaches into it."""
    brain, inner, outer = (_ellipsoid(66 + d, 82 + d, 60 + d) for d in (0, 6, 14))
    marrow = outer & ~inner
    x, _, z = np.moveaxis(GRID.points(), -1, 0)
    strands = (inner & ~brain) & (np.abs(x % 40 - 20) < 3) & (np.abs(z % 40 - 20) < 3)
    image = 0.2 * inner + 0.8 * brain + 1.3 * marrow + 0.9 * strands
    image += np.abs(rng.normal(scale=0.03, size=GRID.shape))
    prior = np.roll(_ellipsoid(71, 87, 65), shift_vox, axis=2)
    units, tissue = part_t1w_brain(image, GRID, prior, 8.0)
    assert dice(tissue, brain) > 0.97
    assert (tissue & marrow).sum() < 0.01 * marrow.sum()
    assert (units[marrow] > 0).mean() < 0.02


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(GRID.shape), "constant"),
        (np.full(GRID.shape, 5.0), "constant"),
        (np.where(_ellipsoid(20, 20, 20), 1.0, 0.0), "brain mask of 3[0-9] ml"),
        (np.where(_ellipsoid(9, 9, 9), np.nan, 1.0), "not finite"),
        (np.ones((3, 3, 3)), "does not fit its grid"),
    ],
)
def test_what_holds_no_brain_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rough_brain_mask(image, GRID)


def test_erosion_and_dilation_are_in_mm() -> None:
    grid = Grid((21, 21, 21), np.diag([1.0, 2.0, 3.0, 1.0]))
    point = np.zeros(grid.shape, bool)
    point[10, 10, 10] = True
    ball = dilated(point, grid, 6.0)
    assert [int(ball.any(axis=tuple({0, 1, 2} - {k})).sum()) for k in range(3)] == [13, 7, 5]
    assert eroded(ball, grid, 3.0)[10, 10, 10]
    assert not eroded(ball, grid, 7.5).any()


@pytest.mark.parametrize("corner", [(4, 5, 3), (0, 9, 5)], ids=["inside", "at the border"])
def test_distances_are_those_of_every_voxel_from_every_other(corner: tuple[int, int, int], rng) -> None:
    """Only the box around a mask is looked at; the answer is that of the whole grid."""
    grid = Grid((12, 14, 9), np.diag([2.0, 1.5, 3.0, 1.0]))
    mask = np.zeros(grid.shape, bool)
    mask[tuple(slice(c, c + 4) for c in corner)] = rng.random((4, 4, 4)) < 0.8
    apart_mm = np.linalg.norm(grid.points()[:, :, :, None] - grid.points()[mask], axis=-1).min(-1)
    inward_mm = np.linalg.norm(grid.points()[mask][:, None] - grid.points()[~mask], axis=-1).min(-1)
    for radius_mm in (1.0, 4.0, 9.0):
        np.testing.assert_array_equal(dilated(mask, grid, radius_mm), apart_mm <= radius_mm)
        np.testing.assert_array_equal(eroded(mask, grid, radius_mm)[mask], inward_mm > radius_mm)
