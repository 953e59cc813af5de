"""The registration nodes on files that must fail: what they leave behind, and what they say."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pds_bids.exceptions import QualityError
from pds_bids.imaging.grid import Grid, PointMap, resample
from pds_bids.imaging.masks import dice, dilated
from pds_bids.interfaces.images import load, save_map
from pds_bids.interfaces.quality import _doubts_of_registration
from pds_bids.interfaces.registration import (
    AgreeOnRegistration,
    BridgeThroughT1w,
    RegisterEPI,
    RegisterT1w,
)
from pds_bids.interfaces.synthesis import NameSources
from pds_bids.interfaces.template import FetchTemplate, read_template
from pds_bids.modalities import Contrast
from pds_bids.template import RES02_GRID, Template, load_template, paint_epi

NATIVE = Grid((44, 54, 44), np.array([[4, 0, 0, -86], [0, 4, 0, -122], [0, 0, 4, -78], [0, 0, 0, 1.0]]))
# A picture with brains in it; a blank canvas of this size has a standard deviation of 0.
VISIBLE = 5.0


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return FetchTemplate(cache_dir=str(folder)).run().outputs.template


@pytest.fixture(scope="module")
def template(listing: str) -> Template:
    return load_template(read_template(listing), RES02_GRID)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, data: np.ndarray) -> str:
        path = tmp_path / f"{name}.nii.gz"
        nib.Nifti1Image(data.astype(np.float32), NATIVE.vox2ras).to_filename(path)
        return str(path)

    return write


def _native(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(3).normal(scale=0.02, size=NATIVE.shape)
    points = NATIVE.points()
    return resample(image.astype(np.float32), RES02_GRID.vox2ras, points, order=1) + noise


def _half(template: Template) -> np.ndarray:
    image = _native(paint_epi(template, Contrast.B0))
    image[:22] = 0
    return image


def _slab(template: Template) -> np.ndarray:
    """A few slices, in which no pose has most of a brain in view."""
    image = _native(paint_epi(template, Contrast.B0))
    image[:, :, :20] = image[:, :, 24:] = 0
    return image


def assert_is_a_picture(path: str) -> None:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"), float)
    assert min(pixels.shape) > 300
    assert pixels.std() > VISIBLE


@pytest.mark.parametrize(("spoil", "name"), [(_half, "elsewhere.png"), (_slab, "")], ids=["half", "slab"])
def test_a_failed_epi_leaves_the_picture_that_its_message_names(
    spoil, name: str, template: Template, listing: str, save, tmp_path: Path
) -> None:
    image = spoil(template)
    inputs = {"failed_figure": str(tmp_path / name)} if name else {}
    node = RegisterEPI(
        in_file=save("epi", image),
        mask=save("mask", image > 0.3),
        template=listing,
        contrast="b0",
        sloppy=True,
        **inputs,
    )
    with pytest.raises(QualityError, match=r"quality gate|turned by|field of view") as caught:
        node.run()
    (path,) = re.findall(r"picture: (.*\.png)", str(caught.value))
    assert Path(path) == tmp_path / (name or "failed_registration.png")
    assert_is_a_picture(path)


def test_an_epi_mask_loses_what_lies_outside_of_the_brain(template: Template, listing: str, save) -> None:
    brain = _native(template.mask) > 0.5
    x, y, z = np.moveaxis(NATIVE.points(), -1, 0)
    eyes = ((np.abs(x) - 32) ** 2 + (y - 68) ** 2 + (z + 40) ** 2 < 14**2) & ~brain
    image = _native(paint_epi(template, Contrast.B0)) + eyes
    outputs = (
        RegisterEPI(
            in_file=save("epi", image),
            mask=save("mask", brain | eyes),
            template=listing,
            contrast="b0",
            sloppy=True,
        )
        .run()
        .outputs
    )
    kept = load(outputs.agreed_mask)[0] > 0
    assert (kept & brain).sum() > 0.995 * brain.sum()
    assert (kept & eyes).sum() < 0.5 * eyes.sum()


def _whole_head(template: Template) -> tuple[np.ndarray, np.ndarray]:
    """A brain, a dark skull around it, and bright marrow and scalp around that; and the brain alone."""
    brain = _native(template.mask) > 0.5
    distance_mm = ndimage.distance_transform_edt(~brain, sampling=NATIVE.zooms)
    t1w = _native(template.t1w * template.mask / template.t1w[template.mask].mean())
    return t1w + 2.0 * ((distance_mm > 8) & (distance_mm < 16)), brain


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("noise", r"T1w image: .*; picture: (.*\.png)"), ("constant", r"T1w image: constant.*()")],
)
def test_a_t1w_that_does_not_register_says_so_and_leaves_no_maps(
    kind: str, reason: str, listing: str, save
) -> None:
    noise = np.random.default_rng(2).gamma(4, size=NATIVE.shape)
    t1w = save("t1w", noise if kind == "noise" else np.zeros(NATIVE.shape))
    outputs = RegisterT1w(in_file=t1w, template=listing, sloppy=True).run().outputs
    gate = json.loads(Path(outputs.gate).read_text())
    assert gate["passed"] is False
    (path,) = re.fullmatch(reason, gate["reason"]).groups()
    if path:
        assert_is_a_picture(path)
    assert not any(isinstance(value, str) for key, value in outputs.get().items() if key != "gate")
    # The node behind it has nothing to work with, and is not disturbed by it.
    bridge = BridgeThroughT1w(in_file=t1w, mask=t1w).run().outputs
    assert not any(isinstance(value, str) for value in bridge.get().values())


def test_a_t1w_mask_holds_the_brain_and_not_the_skull(template: Template, listing: str, save) -> None:
    head, brain = _whole_head(template)
    outputs = RegisterT1w(in_file=save("t1w", head), template=listing, sloppy=True).run().outputs
    assert json.loads(Path(outputs.gate).read_text())["passed"] is True
    assert dice(load(outputs.mask)[0] > 0, brain) > 0.95


@pytest.mark.parametrize("too_wide_mm", [0, 14])
def test_a_t1w_mask_that_holds_more_than_the_brain_of_the_epi_is_left_out(
    too_wide_mm: float, template: Template, listing: str, save
) -> None:
    """Where neck was taken for brain the T1w image registers, passes its gate, and lies wrongly."""
    t1w, brain = _whole_head(template)
    epi, t1w_file = save("epi", _native(paint_epi(template, Contrast.B0))), save("t1w", t1w)
    here = save_map("here.npz", PointMap.from_affine(template.grid, np.eye(4)))
    bridge = BridgeThroughT1w(
        in_file=epi,
        mask=save("mask", brain),
        t1w=t1w_file,
        t1w_mask=save("t1w_mask", dilated(brain, NATIVE, too_wide_mm)),
        template2t1w=here,
    )
    outputs = bridge.run().outputs
    Path("gate.json").write_text(json.dumps({"passed": True}))
    handed = {} if too_wide_mm else {"bridge": outputs.template2native}
    agree = AgreeOnRegistration(
        gate="gate.json", direct=here, template=listing, bridge_problem=outputs.problem, **handed
    )
    gate = json.loads(Path(agree.run().outputs.gate).read_text())
    named = (
        NameSources(contrasts=["bold"], first=epi, t1w=t1w_file, t1w_problem=outputs.problem).run().outputs
    )
    if too_wide_mm:
        assert re.match(r"mask Dice 0\.\d+ \(at least 0\.88\)", outputs.problem)
        assert gate["two_path_problem"] == outputs.problem
        (doubt,) = _doubts_of_registration(gate | {"stage": "deformable"}, {"passed": True})
        assert "T1w image does not fit this one (mask Dice" in doubt
        assert named.sources == [f"bold={epi}"]
        assert not isinstance(named.t1w, str)
    else:
        assert outputs.problem == gate["two_path_problem"] == ""
        assert gate["two_path_mm"] < 1.0
        assert named.sources == [f"bold={epi}", f"t1w={t1w_file}"]
        assert named.t1w == t1w_file
