"""Figures: what is drawn where, and that it depends on the data."""

import nibabel as nib
import numpy as np
import pytest

from pds_bids.exceptions import GeometryError, UsageError
from pds_bids.imaging.grid import Grid
from pds_bids.reports.figures import (
    mask_figure,
    registration_figure,
    registration_pair,
    save_figure,
    synthetic_figure,
)
from pds_bids.reports.tensor import tensor_figure
from pds_bids.reports.verdict import Verdict

SHAPE = (20, 24, 18)
VOX2RAS = np.array([[4.0, 0, 0, -38], [0, 4, 0, -46], [0, 0, 4, -34], [0, 0, 0, 1]])
GRID = Grid(SHAPE, VOX2RAS)
NAMES = ("mean BOLD", "mean DWI")


@pytest.fixture
def head():
    """A ball of tissue with a bright lump in its right, anterior, upper part, in world coordinates."""
    points = GRID.points()
    mask = np.linalg.norm(points, axis=-1) < 32
    lump = np.linalg.norm(points - [14, 14, 12], axis=-1) < 13
    return np.where(mask, 0.3, 0) + lump, mask


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)


def panels(figure):
    return [axes for axes in figure.axes if any(t.get_gid() == "left-letter" for t in axes.texts)]


def letter(axes, side):
    return next(t.get_text() for t in axes.texts if t.get_gid() == f"{side}-letter")


def picture(figure, axes, rendered):
    """Cut the pixels of one panel out of the rendered figure, first row on top."""
    box = axes.get_window_extent()
    height = rendered.shape[0]
    return rendered[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


def watermarked(figure):
    return [axes for axes in figure.axes if any(t.get_gid() == "watermark" for t in axes.texts)]


def shown_values(axes):
    return np.ma.compressed(axes.images[0].get_array())


def reoriented(data, codes):
    """Store the same volume in another axis order, as another scanner would; nibabel is the oracle."""
    start, end = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    image = nib.Nifti1Image(data.astype(np.float32), VOX2RAS).as_reoriented(
        nib.orientations.ornt_transform(start, end)
    )
    return np.asarray(image.dataobj), Grid(image.shape, image.affine)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSL"])
def test_letters_stand_on_the_side_of_the_anatomy(head, codes):
    image, mask = head
    stored, grid = reoriented(image, codes)
    stored_mask, _ = reoriented(mask, codes)
    figure = mask_figure(stored, grid, stored_mask > 0, title="x")
    rendered = pixels(figure)
    brighter = {"R": 0, "A": 0}
    for axes in panels(figure):
        cut = picture(figure, axes, rendered).mean(-1)
        # The letters themselves and the contour are left out.
        cut = cut[cut.shape[0] // 8 : -cut.shape[0] // 8]
        middle = cut.shape[1] // 2
        left, right = cut[:, :middle].mean(), cut[:, middle:].mean()
        assert {letter(axes, "left"), letter(axes, "right")} in ({"L", "R"}, {"P", "A"})
        if abs(left - right) > 4:
            side = "left" if left > right else "right"
            assert letter(axes, side) in brighter
            brighter[letter(axes, side)] += 1
    assert min(brighter.values()) >= 2


def test_all_orientations_give_the_same_picture(head):
    image, mask = head
    expected = pixels(mask_figure(image, GRID, mask, title="x"))
    stored, grid = reoriented(image, "LSA")
    stored_mask, _ = reoriented(mask, "LSA")
    found = pixels(mask_figure(stored, grid, stored_mask > 0, title="x"))
    # Files hold float32: a grey level or two.
    np.testing.assert_allclose(found, expected, atol=2)


def test_up_is_superior(head):
    image, mask = head
    figure = mask_figure(image, GRID, mask, title="x")
    rendered = pixels(figure)
    coronal = [axes for axes in panels(figure) if any(t.get_text().startswith("y ") for t in axes.texts)]
    through_lump = coronal[4]
    cut = picture(figure, through_lump, rendered).mean(-1)
    assert cut[: len(cut) // 2].mean() > cut[len(cut) // 2 :].mean() + 4


def test_positions_are_world_coordinates(head):
    image, mask = head
    figure = mask_figure(image, GRID, mask, title="x")
    told = [t.get_text() for axes in panels(figure) for t in axes.texts if t.get_text().startswith("z ")]
    # Planes of this grid lie at -34, -30, ... 34 mm, the mask reaches from -30 to 30.
    values = [float(text[2:]) for text in told]
    assert values == sorted(values)
    assert all((value + 34) % 4 == 0 and -30 <= value <= 30 for value in values)
    assert values[3] in (-2, 2)


@pytest.mark.parametrize("with_acquired", [True, False])
def test_watermark_on_synthetic_panels_only(head, with_acquired):
    _, mask = head
    level = {"source": 1.0, "synthetic": 2.0, "acquired": 3.0}
    volumes = {name: mask * value for name, value in level.items()}
    figure = synthetic_figure(
        volumes["source"],
        volumes["synthetic"],
        0.1 * mask,
        mask,
        GRID,
        names=NAMES,
        acquired=volumes["acquired"] if with_acquired else None,
    )
    marked = watermarked(figure)
    assert len(marked) == 7
    assert all(shown_values(axes).max() == level["synthetic"] for axes in marked)
    assert "SYNTHETIC" in " ".join(t.get_text() for t in figure.texts)
    assert len(panels(figure)) == (35 if with_acquired else 21)


def test_no_watermark_on_acquired_images(head):
    image, mask = head
    assert not watermarked(mask_figure(image, GRID, mask, title="x"))
    figure = registration_figure(image, image, GRID, {"brain": mask}, mask, title="x")
    assert not watermarked(figure)


def test_watermark_leaves_a_trace_in_the_pixels(head):
    """A watermark that is an object of the figure but not seen would be none."""
    _, mask = head
    figure = synthetic_figure(mask * 1.0, mask * 1.0, mask * 0.0, mask, GRID, names=NAMES)
    rendered = pixels(figure)
    cut = picture(figure, watermarked(figure)[1], rendered)[4:-4, 4:-4]
    coloured = np.ptp(cut, axis=-1) > 60
    assert coloured.mean() > 0.02


def test_synthetic_and_acquired_share_one_scale(head):
    _, mask = head
    rng = np.random.default_rng(1)
    acquired = mask * rng.uniform(0.5, 1.5, SHAPE)
    figure = synthetic_figure(
        9 * mask, 5.0 * acquired, 0.1 * mask, mask, GRID, names=NAMES, acquired=acquired
    )
    grey = [axes.images[0] for axes in panels(figure) if axes.images[0].get_cmap().name == "gray"]
    source, synthetic, true = grey[:7], grey[7:14], grey[14:]
    upper = np.percentile(acquired[mask], 99.5)
    assert {image.get_clim() for image in synthetic} == {image.get_clim() for image in true} == {(0, upper)}
    assert {image.get_clim() for image in source} == {(0.0, 9.0)}


def test_difference_is_synthetic_minus_acquired(head):
    _, mask = head
    figure = synthetic_figure(
        mask * 1.0, mask * 1.2, mask * 0.1, mask, GRID, names=NAMES, acquired=mask * 1.0
    )
    shown = [axes.images[0] for axes in panels(figure) if axes.images[0].get_cmap().name == "berlin"]
    assert len(shown) == 7
    assert shown[1].get_array().max() == pytest.approx(0.2)
    # The scale does not follow the difference, or a bad prediction would look like a good one.
    assert shown[1].get_clim() == (-0.5, 0.5)


def test_one_changed_region_changes_its_panels_only(head):
    _, mask = head
    base = mask * 1.0
    changed = base.copy()
    changed[8:12, 10:14, 7:11] = 0.2
    std = mask * 0.1
    before, after = (
        synthetic_figure(base, volume, std, mask, GRID, names=NAMES) for volume in (base, changed)
    )
    first, second = pixels(before), pixels(after)
    assert first.shape == second.shape
    rows = np.flatnonzero(np.abs(first - second).max((1, 2)) > 10)
    boxes = [axes.get_window_extent() for axes in watermarked(after)]
    top = second.shape[0] - max(box.y1 for box in boxes)
    bottom = second.shape[0] - min(box.y0 for box in boxes)
    assert rows.size > 5
    assert top <= rows.min() <= rows.max() <= bottom


def test_not_a_number_is_seen(head):
    image, mask = head
    broken = image.copy()
    broken[9:12, 11:14, 8:11] = np.nan
    rendered = pixels(synthetic_figure(image, broken, 0.1 * mask, mask, GRID, names=NAMES))
    assert (rendered == [255, 0, 255]).all(-1).sum() > 50
    whole = pixels(synthetic_figure(image, image, 0.1 * mask, mask, GRID, names=NAMES))
    assert not (whole == [255, 0, 255]).all(-1).any()


def test_shifted_registration_moves_its_outline_only(head):
    image, mask = head

    def draw(shift):
        moved = [np.roll(volume, shift, 1) for volume in (image, mask)]
        return registration_figure(image, moved[0], GRID, {"brain": mask}, moved[1], title="x")

    def centres(figure, colour):
        paths = [
            (collection, path)
            for axes in panels(figure)[:7]
            for collection in axes.collections
            if tuple(np.round(collection.get_edgecolor()[0][:3], 3)) == colour
            for path in collection.get_paths()
        ]
        return np.mean([path.vertices[:, 1].mean() for _, path in paths])

    blue, vermilion = (0.337, 0.706, 0.914), (0.835, 0.369, 0.0)
    good, bad = draw(0), draw(2)
    assert centres(good, blue) == pytest.approx(centres(good, vermilion), abs=1e-6)
    assert centres(bad, vermilion) - centres(bad, blue) == pytest.approx(8.0, abs=1.0)


def test_a_pair_differs_only_in_the_image(head):
    """A slider between two pictures shows a misfit only where planes and outlines stay at their places."""
    image, mask = head
    below, above = registration_pair(image, 1 - image, GRID, {"brain": mask}, mask, title="x")
    same, _ = registration_pair(image, image, GRID, {"brain": mask}, mask, title="x")
    assert [a.get_position().bounds for a in panels(below)] == [
        a.get_position().bounds for a in panels(above)
    ]
    assert np.array_equal(pixels(below), pixels(same))
    for one, other in zip(panels(below), panels(above), strict=True):
        assert letter(one, "left") == letter(other, "left")
        for mine, theirs in zip(one.collections, other.collections, strict=True):
            for path, opposite in zip(mine.get_paths(), theirs.get_paths(), strict=True):
                assert np.array_equal(path.vertices, opposite.vertices)
    assert not np.array_equal(pixels(below), pixels(above))


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"passed": True, "stage": "deformable"}, "✓ registration passed"),
        ({"passed": True, "stage": "affine"}, "! registration fallback"),
        ({"passed": False, "reason": "x"}, "✗ registration failed"),
        ({}, "? registration unknown"),
    ],
)
def test_badge_says_the_verdict(head, gate, words):
    image, mask = head
    verdict = Verdict.from_gate(gate)
    figure = registration_figure(image, image, GRID, {"brain": mask}, mask, title="x", verdict=verdict)
    assert words in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_same_data_same_bytes_and_nothing_beside(head, tmp_path, ending):
    image, mask = head
    files = [
        save_figure(mask_figure(image, GRID, mask, title="x"), tmp_path / name / f"a{ending}")
        for name in ("first", "second")
    ]
    first, second = (path.read_bytes() for path in files)
    assert first == second
    assert b"<dc:date>" not in first
    assert [path.name for path in (tmp_path / "first").iterdir()] == [f"a{ending}"]


def test_compression_keeps_greys_and_colours(head, tmp_path):
    from PIL import Image

    image, mask = head
    figure = synthetic_figure(image, image, image / 8, mask, GRID, names=NAMES, acquired=image * 0.9)
    path = save_figure(figure, tmp_path / "a.png")
    stored = np.asarray(Image.open(path).convert("RGB")).astype(float)
    error = np.abs(stored - pixels(figure)).max(-1)
    assert error.mean() < 1
    assert error.max() < 40
    assert path.stat().st_size < 300_000


def test_unknown_ending_and_foreign_grid_are_errors(head, tmp_path):
    image, mask = head
    figure = mask_figure(image, GRID, mask, title="x")
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(GeometryError, match="is not on grid"):
        mask_figure(image, Grid((5, 5, 5), VOX2RAS), mask, title="x")
    with pytest.raises(GeometryError, match="is not on grid"):
        mask_figure(image[:-1], GRID, mask, title="x")


def test_empty_mask_and_empty_image_are_drawn(head):
    image, _ = head
    nothing = np.zeros(SHAPE)
    assert len(panels(mask_figure(image, GRID, nothing > 0, title="x"))) == 21
    figure = synthetic_figure(nothing, nothing, nothing, nothing > 0, GRID, names=NAMES)
    assert len(watermarked(figure)) == 7


def test_tensor_maps_have_fixed_windows_and_units(head):
    image, mask = head
    pictures = {}
    for scale in (1, 2):
        fa, md = scale * 0.3 * image, scale * 1e-3 * image
        figure = tensor_figure(fa.astype(np.float32), md.astype(np.float32), GRID, mask, title="x")
        pictures[scale] = pixels(figure)
        windows = {axes.images[0].get_clim() for axes in panels(figure)}
        assert windows == {(0.0, 0.8), (0.0, 3.0)}
        assert any("1e-3 mm²/s" in text.get_text() for axes in figure.axes for text in axes.texts) or any(
            "mm²/s" in axes.get_xlabel() + axes.get_ylabel() + axes.get_title() for axes in figure.axes
        )
    # A scale of its own for every picture would show both alike.
    assert pictures[2].mean() > 1.02 * pictures[1].mean()
