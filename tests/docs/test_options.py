"""Every option of every console script is on the page of the command line, as Sphinx renders it."""

import argparse
import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from usage import PARSERS, get_parser  # noqa: E402 - found through the line above

CONF = """
import sys
sys.path[:0] = [{extensions!r}, {root!r}]
extensions = ["myst_parser", "usage"]
root_doc = "usage"
html_theme = "basic"
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The page alone, built with warnings as errors."""
    pytest.importorskip("myst_parser", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("usage")
    text = CONF.format(extensions=str(ROOT / "docs" / "_ext"), root=str(ROOT))
    (folder / "conf.py").write_text(text)
    (folder / "usage.md").write_text((ROOT / "docs" / "usage.md").read_text())
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        "-n",
        "-W",
        str(folder),
        str(folder / "html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return unescape(re.sub(r"<[^>]+>", "", (folder / "html" / "usage.html").read_text()))


def actions(program: str) -> list[argparse.Action]:
    return [a for a in get_parser(program)._actions if not isinstance(a, argparse._HelpAction)]


def test_all_console_scripts_are_described():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(PARSERS) == set(project["scripts"])


@pytest.mark.parametrize("program", PARSERS)
def test_every_option_is_on_the_page(program, page):
    names = [name for action in actions(program) for name in action.option_strings or [action.dest]]
    missing = [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page)]
    assert names
    assert not missing


@pytest.mark.parametrize("program", PARSERS)
def test_every_choice_and_every_help_text_is_on_the_page(program, page):
    flat = " ".join(page.split())
    for action in actions(program):
        assert action.help, f"{program}: {action.dest} has no help"
        for choice in action.choices or ():
            assert str(choice) in flat
        text = " ".join((action.help % (vars(action) | {"prog": program})).split())
        # Typographic quotes and dashes are Sphinx's; the first words are as they were written.
        assert re.split(r"['\"`]|--", text)[0][:40] in flat, f"{program}: {action.dest}"
