"""``.. model-cards::``: what ``model.json`` says of every model bundle that ships with the package."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from pds_bids.inference.card import CARD, default_model_dir, read_card

__all__ = ["bundles", "setup"]

#: What a reader looks for first; everything else of the card follows in its own order.
FIRST = ("limits", "training", "uncertainty", "evaluation")
#: Numbers that say how the network is laid out; they stand at the end.
LAST = ("architecture", "grid", "window", "data_range", "sha256")


def bundles() -> list[Path]:
    """Return the folders of the model bundles that ship with the package, sorted."""
    return sorted(path.parent for path in default_model_dir().parent.glob(f"*/{CARD}"))


class ModelCards(Directive):
    """Write one section for every bundle."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        environment = self.state.document.settings.env
        sections: list[nodes.Node] = []
        for folder in bundles():
            environment.note_dependency(str(folder / CARD))
            sections.append(self._section(folder.name, _ordered(read_card(folder)), folder))
        return sections

    def _section(self, title: str, content: Mapping[str, Any], folder: Path | None = None) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(f"bundle-{title}")])
        section += nodes.title(text=_words(title))
        if folder is not None:
            megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            place = nodes.literal(text=f"pds_bids/data/models/{folder.name}/")
            size = nodes.Text(f", {megabytes:.1f} MB in all.")
            section += nodes.paragraph("", "", nodes.Text("In "), place, size)
        plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
        if plain:
            section += _table([["", ""]], [[_words(key), value] for key, value in plain.items()])
        for key, value in content.items():
            if isinstance(value, Mapping):
                section += self._mapping(f"{title} {key}", key, value)
        return section

    def _mapping(self, identifier: str, key: str, content: Mapping[str, Any]) -> nodes.section:
        """Return a table where all values are tables of one row each, and sections within otherwise."""
        rows = [value for value in content.values() if isinstance(value, Mapping)]
        if len(rows) == len(content) and not any(_has_mapping(row) for row in rows):
            section = nodes.section(ids=[nodes.make_id(f"bundle-{identifier}")])
            section += nodes.title(text=_words(key))
            columns = list(dict.fromkeys(column for row in rows for column in row))
            body = [
                [_words(name), *(row.get(column, "") for column in columns)] for name, row in content.items()
            ]
            section += _table([["", *map(_words, columns)]], body)
            return section
        section = self._section(key, content)
        section["ids"] = [nodes.make_id(f"bundle-{identifier}")]
        return section


def _ordered(card: Mapping[str, Any]) -> dict[str, Any]:
    middle = [key for key in card if key not in FIRST + LAST]
    return {key: card[key] for key in (*middle, *FIRST, *LAST) if key in card}


def _has_mapping(row: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in row.values())


def _words(key: str) -> str:
    """Return a key as a reader would write it; a last ``_s`` is a unit."""
    return re.sub(r"_s$", " (s)", key).replace("_", " ")


def _table(head: list[list[str]], body: list[list[Any]]) -> nodes.container:
    """Return a table in a container that scrolls sideways when it is too wide."""
    n_columns = max(map(len, head + body))
    group = nodes.tgroup(cols=n_columns)
    group += [nodes.colspec(colwidth=1) for _ in range(n_columns)]
    if any(any(row) for row in head):
        group += nodes.thead("", *(_row(row) for row in head))
    group += nodes.tbody("", *(_row(row) for row in body))
    return nodes.container("", nodes.table("", group), classes=["table-wrapper", "model-card"])


def _row(values: list[Any]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *_cell(value)) for value in values))


def _cell(value: Any) -> Iterator[nodes.Node]:
    """Yield a list where there are several texts, and text otherwise."""
    if isinstance(value, list) and any(isinstance(item, str) and " " in item for item in value):
        yield nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=str(v))) for v in value))
    elif isinstance(value, list):
        flat = all(not isinstance(item, list | dict) for item in value)
        yield nodes.paragraph(text=", ".join(map(str, value)) if flat else json.dumps(value))
    elif isinstance(value, float):
        yield nodes.paragraph(text=f"{value:.4g}")
    elif "--" in str(value):
        # A literal: typographic dashes would spoil a command line.
        yield nodes.paragraph("", "", nodes.literal(text=str(value)))
    else:
        yield nodes.paragraph(text=str(value))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("model-cards", ModelCards)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
