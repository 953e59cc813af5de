"""Commands and code of the documentation, as a reader would copy them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
DIRECTIVE = re.compile(r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:    .*\n|\n)+)", re.MULTILINE)
SETUP = re.compile(r"<!-- setup\n(.*?)-->\s*\Z", re.DOTALL)
SHELL = {"bash", "sh", "shell", "console"}


@dataclass(frozen=True)
class Snippet:
    """A block of one page.

    Parameters
    ----------
    page : str
        Path from the root of the repository.
    line : int
        Of the fence.
    language, body : str
        What follows the fence.
    setup : str
        Python of the HTML comment ``<!-- setup ... -->`` just before the block.
    """

    page: str
    line: int
    language: str
    body: str
    setup: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """For the names of tests."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return all pages, the tour first: others use what it has made."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found += (ROOT / "docs").glob("*.rst")
    return sorted(found, key=lambda path: (path.name != "tour.md", path.name != "README.md", str(path)))


def snippets(languages: set[str]) -> list[Snippet]:
    """Return the blocks of all pages in some languages."""
    return [s for page in pages() for s in _snippets(page) if s.language in languages]


def _snippets(path: Path) -> Iterator[Snippet]:
    text = path.read_text(encoding="utf-8")
    for match in (FENCE if path.suffix == ".md" else DIRECTIVE).finditer(text):
        before = text[: match.start()]
        setup = SETUP.search(before)
        body = (
            re.sub(r"^ {4}", "", match["body"], flags=re.MULTILINE)
            if path.suffix == ".rst"
            else match["body"]
        )
        yield Snippet(
            str(path.relative_to(ROOT)),
            before.count("\n") + 1,
            match["language"],
            body,
            setup[1] if setup else "",
        )


def commands(snippet: Snippet) -> list[str]:
    """Return the commands of a block: continued lines joined, comments and output left out."""
    lines = snippet.body.splitlines()
    if snippet.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if shlex.split(line, comments=True)]
