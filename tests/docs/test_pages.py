"""Links of the pages, the table of outputs, and what has to stand on every page of the site."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pds_bids.bids.names import modalities_of, output_keys, output_path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGES.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|\!\[[^\]]*\]\(([^)\s]+)\)")
SPEC = json.loads((ROOT / "pds_bids" / "data" / "io_spec.json").read_text())
MAX_PICTURE_KB = 300


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    broken = []
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in (one or other for one, other in LINK.findall(re.sub(r"`[^`\n]*`", "", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_blocks_say_what_they_are(page):
    """A block without a language would not be executed by the tests."""
    opening = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert all(opening), f"{opening.count('')} blocks without a language"


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub and MyST make of headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_page_is_in_the_contents():
    contents = re.findall(r"```\{toctree\}.*?```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    listed = {line.strip() for block in contents for line in block.splitlines()}
    pages = {path.stem for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".rst")}
    found = {page for page in pages if any(fnmatch(page, pattern) for pattern in listed)}
    assert pages - found == {"index"}


@pytest.mark.parametrize("key", output_keys())
def test_outputs_page_has_every_name_of_the_table(key):
    page = (ROOT / "docs" / "outputs.md").read_text()
    row = SPEC["outputs"][key]
    source = {"sub": "01", "ses": "1", "task": "rest"}
    free = {name: {"atlas": "AAL2", "desc": "WHAT"}[name] for name in row.get("free", ())}
    for modality in modalities_of(key):
        in_template = row.get("template") == "only"
        name = output_path(key, source, modality, in_template=in_template, **free).name
        shown = re.sub(r"^sub-01(_ses-1)?(_task-rest)?(_space-\w+?)?(_atlas-AAL2)?(_res-3)?(?=_)", "*", name)
        if key.startswith("figure"):
            assert "`*_desc-WHAT_boldref`, `_dwiref`, `_T1w`" in page
        else:
            assert f"`{shown}`" in page, f"{key}: {shown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_placeholder_is_left(page):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    assert not re.findall(r"\{\{.*?\}\}|\bTODO\b|\bTBD\b|\bXXX\b", text)


def test_readme_picture_is_small_and_of_a_phantom():
    match = re.search(r"\!\[([^\]]+)\]\((docs/_static/[^)]+)\)", (ROOT / "README.md").read_text())
    assert match, "README has no picture"
    assert "simulated" in match[1].lower(), "the text for those who cannot see it says that nobody is shown"
    assert (ROOT / match[2]).stat().st_size <= MAX_PICTURE_KB * 1000
