"""The template: found in TemplateFlow's layout, or built once from wheels."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from pds_bids import template as module
from pds_bids.exceptions import GeometryError, TemplateError
from pds_bids.imaging.grid import Grid
from pds_bids.imaging.masks import dice
from pds_bids.modalities import Contrast
from pds_bids.template import MODEL_GRID, SPACE, Template, get_template, load_template, paint_epi

# Two tissue segmentations of one template, one of them from another template's maps: measured 0.93 and 0.90.
TISSUE_DICE = 0.88


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Template:
    patch = pytest.MonkeyPatch()
    patch.setenv("TEMPLATEFLOW_HOME", str(tmp_path_factory.mktemp("empty")))
    files = get_template(tmp_path_factory.mktemp("cache"))
    patch.undo()
    return load_template(files, MODEL_GRID)


def test_wheels_template_is_a_brain_of_known_make_up(wheels: Template) -> None:
    volume_ml = wheels.mask.sum() * 0.027
    assert 1700 < volume_ml < 2000  # the ICBM152 brain mask has 1.89 litres
    total = (wheels.gm + wheels.wm + wheels.csf)[wheels.mask]
    assert np.median(np.abs(total - 1)) < 0.05
    # White matter is brighter than grey, grey brighter than fluid, in a T1-weighted image.
    means = [np.average(wheels.t1w, weights=maps**2) for maps in (wheels.wm, wheels.gm, wheels.csf)]
    assert means == sorted(means, reverse=True)
    assert "nilearn" in wheels.origin


def test_atlas_has_its_120_parcels_on_the_right_side(wheels: Template) -> None:
    assert len(wheels.atlas_labels) == 120
    x = MODEL_GRID.points()[..., 0]
    for index, name in wheels.atlas_labels.items():
        if name.startswith("Precentral"):
            assert np.sign(x[wheels.atlas == index].mean()) == (1 if name.endswith("_R") else -1)
    assert np.mean(wheels.atlas[wheels.gm > 0.5] > 0) > 0.85


def test_wheels_template_agrees_with_templateflow(wheels: Template, tmp_path: Path) -> None:
    if not os.environ.get("TEMPLATEFLOW_HOME"):
        pytest.skip("TEMPLATEFLOW_HOME is not set")
    official = load_template(get_template(tmp_path), MODEL_GRID)
    assert official.origin.startswith("TemplateFlow")
    assert dice(wheels.mask, official.mask) > 0.98
    assert dice(wheels.gm > 0.5, official.gm > 0.5) > TISSUE_DICE
    assert dice(wheels.wm > 0.5, official.wm > 0.5) > TISSUE_DICE
    brain = official.mask
    assert np.corrcoef(wheels.t1w[brain], official.t1w[brain])[0, 1] > 0.97


def test_loading_on_another_grid_keeps_places(
    wheels: Template, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left_only = MODEL_GRID.crop((0, 0, 0), (32, 77, 65))
    assert left_only.points()[..., 0].max() < 0
    assert wheels.mask[:32].sum() == pytest.approx(wheels.mask[33:].sum(), rel=0.03)


def test_painting_follows_the_contrast(wheels: Template) -> None:
    fluid = wheels.csf > 0.9
    grey = wheels.gm > 0.9
    painted = (Contrast.BOLD, Contrast.DWI, Contrast.B0)
    ratio = {c: paint_epi(wheels, c)[fluid].mean() / paint_epi(wheels, c)[grey].mean() for c in painted}
    assert ratio[Contrast.B0] > ratio[Contrast.BOLD] > 1 > ratio[Contrast.DWI]
    assert not paint_epi(wheels, Contrast.BOLD)[~wheels.mask].any()


def test_two_builders_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def write(folder: Path) -> None:
        (folder / "a").write_text("a")
        barrier.wait(timeout=10)
        (folder / "b").write_text("b")

    target = tmp_path / "built"
    builders = [threading.Thread(target=module._build_once, args=(target, write)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built"]
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("")
        raise TemplateError("no")

    with pytest.raises(TemplateError, match="no"):
        module._build_once(tmp_path / "built", write)
    assert not list(tmp_path.iterdir())


def test_stubs_of_templateflow_are_not_taken_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / f"tpl-{SPACE}"
    folder.mkdir(parents=True)
    for path in module._named_files(folder).values():
        path.touch()
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "home"))
    asked = []
    monkeypatch.setattr(module, "_build_once", lambda target, write: asked.append(target.name) or target)
    get_template(tmp_path / "cache")
    assert any("wheels" in name for name in asked)


def test_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TemplateError, match="package no-such-wheel is not installed"):
        module._wheel_file("no-such-wheel/data.nii.gz")


def test_arrays_must_fit_the_grid() -> None:
    small = np.zeros((2, 2, 2))
    with pytest.raises(GeometryError, match="template t1w"):
        Template(Grid((3, 3, 3), np.eye(4)), *[small] * 6, {}, "AAL2", "nowhere")
