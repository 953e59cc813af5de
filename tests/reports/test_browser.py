"""The page as people meet it: opened from disk in Chromium, without a network."""

import json
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pds_bids.bids.names import output_path
from pds_bids.bids.write import write_json, write_nifti
from pds_bids.modalities import Direction, Modality
from pds_bids.reports.assemble import assemble_report
from pds_bids.reports.ratings import read_ratings

# Software rendering on a busy machine.
PATIENCE_MS = 90_000
FIRST_VIEW_S = 2.0
LARGEST_PAGE_BYTES = 15_000_000
VOX2RAS = np.array([[3.0, 0, 0, -96], [0, 3, 0, -132], [0, 0, 3, -78], [0, 0, 0, 1]])
SHAPE = (33, 39, 33)
ENTITIES = {"sub": "01", "ses": "1"}


def write_images(out_dir: Path, entities: dict[str, str], target: Modality, *, is_acquired: bool) -> Path:
    """Write a synthetic image with all that belongs to it; return its path."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    mask = np.linalg.norm((index - 16) / [1, 1.2, 1], axis=-1) < 14
    volume = np.where(mask, 0.5 + index[..., 2] / 33, 0).astype(np.float32)
    about = {"in_template": True}
    made = {"synthetic": volume, "synthetic_std": 0.1 * volume, "synthetic_mask": mask.astype(np.uint8)}
    for key, data in made.items():
        path = out_dir / output_path(key, entities, target, **about)
        write_nifti(path, data, VOX2RAS, description="SYNTHETIC for a test")
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), {"Sources": ["bids:raw:source"]})
    means = {target.other: 1.3 * volume[::-1]} | ({target: 0.9 * volume} if is_acquired else {})
    for modality, data in means.items():
        path = out_dir / output_path("mean", entities, modality, **about)
        write_nifti(path, data, VOX2RAS)
        sources = ["bids:raw:source" if modality is target.other else "bids:raw:target"]
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), {"Sources": sources})
    return output_path("synthetic", entities, target, **about)


def write_quality(out_dir: Path, entities: dict[str, str], direction: Direction) -> None:
    """Write what the gates said of the source."""
    path = out_dir / output_path("qc", entities, direction.source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"registration": {"passed": True, "stage": "deformable", "reason": ""}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("browser") / "out put"
    write_images(out_dir, ENTITIES, Modality.DWI, is_acquired=True)
    write_quality(out_dir, ENTITIES, Direction.BOLD2DWI)
    assemble_report(out_dir, "01")
    return out_dir


@pytest.fixture
def open_page(chromium):
    """Give a function that opens a report; whatever goes wrong in the page fails the test."""
    wrong, contexts = [], []

    def opened(path: Path):
        context = chromium.new_context(offline=True, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url}"))
        page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    opened.wrong = wrong
    yield opened
    for context in contexts:
        context.close()
    # Chromium remarks on its own software renderer.
    assert not [text for text in wrong if "GPU stall due to ReadPixels" not in text]


def open_viewer(page):
    page.click(".viewer button")
    page.wait_for_selector(".viewer[data-ready=true]")
    return page.locator("canvas[data-panel=synthetic]")


def position(page) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", page.inner_text(".viewer .controls output"))]


def test_the_first_view_is_quick_and_the_page_light(folder, open_page):
    start = time.monotonic()
    page = open_page(folder / "sub-01.html")
    assert page.is_visible("text=Images marked SYNTHETIC")
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert timing < 1000 * FIRST_VIEW_S, f"{timing} ms of {time.monotonic() - start:.1f} s"
    assert "niivue" not in page.evaluate("performance.getEntriesByType('resource').map(e => e.name).join()")
    size = sum(path.stat().st_size for path in (folder / "sub-01.html", *folder.glob("sub-01/figures/*")))
    assert size + sum(path.stat().st_size for path in folder.glob("assets/*")) < LARGEST_PAGE_BYTES


def test_a_click_moves_all_panels_to_another_slice(folder, open_page):
    page = open_page(folder / "sub-01.html")
    canvas = open_viewer(page)
    assert page.locator(".viewer canvas").count() == 4
    before, was = canvas.screenshot(), position(page)
    other = page.locator("canvas[data-panel=std]").screenshot()
    # Below the middle of the coronal plane, the second of three: another z, hence another axial slice.
    box = canvas.bounding_box()
    canvas.click(position={"x": 0.47 * box["width"], "y": 0.66 * box["height"]})
    page.wait_for_function(
        f"document.querySelector('.viewer .controls output').textContent.indexOf('z {was[2]} ') < 0"
    )
    assert position(page)[2] < was[2] - 5
    assert canvas.screenshot() != before
    assert page.locator("canvas[data-panel=std]").screenshot() != other


def test_the_viewer_obeys_the_keyboard(folder, open_page):
    page = open_page(folder / "sub-01.html")
    canvas = open_viewer(page)
    x, y, z = position(page)
    canvas.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "PageUp"):
        page.keyboard.press(key)
    assert position(page) == pytest.approx([x + 3, y + 6, z + 3], abs=1)
    page.keyboard.press("+")
    assert "covered to 10 % by: acquired mean DWI" in page.inner_text(".panel.synthetic .over")
    assert "predicted, not measured" in page.inner_text(".viewer .panel.synthetic figcaption")


def test_values_are_those_of_the_images(folder, open_page):
    page = open_page(folder / "sub-01.html")
    open_viewer(page)
    values = {
        name: float(page.inner_text(f".panel:has([data-panel={name}]) .value"))
        for name in ("source", "synthetic", "acquired", "std")
    }
    z = position(page)[2]
    # The synthetic volume of the fixture rises along z from 0.5; a tenth of it is its uncertainty.
    assert values["synthetic"] == pytest.approx(0.5 + (z + 78) / 3 / 33, abs=0.03)
    assert values["std"] == pytest.approx(values["synthetic"] / 10, abs=0.011)


def test_a_rating_is_saved_and_read_back(folder, open_page, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    page = open_page(copy / "sub-01.html")
    page.click("form.rating [type=submit]")  # the rater is required
    page.fill("form.rating [name=rater]", "A. B.")
    page.click("form.rating [type=submit]")
    assert "choose accept, doubt or reject" in page.inner_text("form.rating [role=status]")
    page.check("form.rating input[value=reject]")
    page.click("form.rating summary")
    page.check("form.rating input[value=invented]")
    page.fill("form.rating textarea", "left „frontal“")
    with page.expect_download() as download:
        page.click("form.rating [type=submit]")
    assert download.value.suggested_filename == "sub-01_ses-1_rater-AB_rating.json"
    saved = copy / "ratings" / download.value.suggested_filename
    download.value.save_as(saved)
    (rating,) = read_ratings(copy)
    assert (str(rating.verdict), rating.artefacts, rating.rater) == ("reject", ("invented",), "A. B.")
    assert rating.comment == "left „frontal“"
    assert not rating.is_stale
    assemble_report(copy, "01")
    page = open_page(copy / "sub-01.html")
    assert "rejected by A. B." in page.inner_text("#summary")
    page.set_input_files("form.rating [type=file]", saved)
    page.wait_for_function(
        "document.querySelector('form.rating [role=status]').textContent.startsWith('Loaded')"
    )
    assert page.is_checked("form.rating input[value=reject]")
    assert page.input_value("form.rating textarea") == "left „frontal“"


def test_a_rating_of_another_image_or_person_is_told(folder, open_page, tmp_path):
    page = open_page(folder / "sub-01.html")
    entry = {
        "image": page.get_attribute("fieldset[data-image]", "data-image"),
        "sha256": "old",
        "verdict": "accept",
    }
    content = {"format": "pds-bids rating 1", "participant": "01", "session": "1", "ratings": [entry]}
    for change, told in (
        ({}, "made again since"),
        ({"participant": "02"}, "it is of sub-02"),
        ({"format": 1}, "no"),
    ):
        file = tmp_path / "rating.json"
        file.write_text(json.dumps(content | change))
        page.set_input_files("form.rating [type=file]", file)
        page.wait_for_function(
            f"document.querySelector('form.rating [role=status]').textContent.includes({told!r})"
        )


def test_a_copy_without_the_viewer_says_so(folder, open_page, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "assets")
    page = open_page(copy / "sub-01.html")
    page.click(".viewer button")
    page.wait_for_function(
        "document.querySelector('.viewer [role=status]').textContent.includes('is not there')"
    )
    assert "assets/niivue" in page.inner_text(".viewer [role=status]")
    assert any("niivue" in text for text in open_page.wrong)
    open_page.wrong.clear()


def test_the_keyboard_reaches_everything(folder, open_page):
    page = open_page(folder / "sub-01.html")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    assert 'class="skip"' in reached[0]
    for part in ("<button", 'type="radio"', "<summary", "<textarea", 'name="rater"', 'type="file"'):
        assert any(part in found for found in reached), part


CONTRAST = """() => {
  const light = (c) => c.map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) => !e.closest("script, .watermark")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  return texts.map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    return [e.tagName + "." + e.className, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
}"""


def test_text_can_be_told_from_its_ground(folder, open_page):
    """WCAG 2.1, level AA: 4.5 to 1."""
    found = open_page(folder / "sub-01.html").evaluate(CONTRAST)
    assert len(found) > 30
    assert not [(name, round(ratio, 2)) for name, ratio in found if ratio < 4.5]


def test_the_page_has_landmarks_and_labels_for_all_that_can_be_changed(folder, open_page):
    page = open_page(folder / "sub-01.html")
    open_viewer(page)
    for landmark in ("header", "nav[aria-label]", "main", "form[aria-label]"):
        assert page.locator(landmark).count() >= 1
    unnamed = page.evaluate("""() => [...document.querySelectorAll("input, select, textarea, button, canvas")]
      .filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map((e) => e.outerHTML)""")
    assert not unnamed
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
