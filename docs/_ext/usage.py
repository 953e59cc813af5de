"""``.. usage:: PROGRAM``: every option of a console script, written from its parser."""

import argparse
import importlib
import re
from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

__all__ = ["PARSERS", "get_parser", "setup", "usage_lines"]

#: Console script to the function that builds its parser.
PARSERS = {
    "pds-bids": "pds_bids.cli.parser:build_parser",
    "pds-bids-synth": "pds_bids.cli.synth:build_parser",
    "pds-bids-phantom": "pds_bids.cli.phantom:build_parser",
}


def get_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of a console script."""
    module, function = PARSERS[program].split(":")
    parser: argparse.ArgumentParser = getattr(importlib.import_module(module), function)()
    return parser


def usage_lines(program: str) -> Iterator[str]:
    """Yield reStructuredText that describes a console script."""
    parser = get_parser(program)
    yield from (f".. program:: {program}", "", parser.description or "", "")
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not shown:
            continue
        yield from (f".. rubric:: {_capitalised(group.title or '')}", "")
        for action in shown:
            yield from _option_lines(action, parser)
    if parser.epilog:
        yield from (line.strip() for line in parser.epilog.splitlines())
        yield ""


def _option_lines(action: argparse.Action, parser: argparse.ArgumentParser) -> Iterator[str]:
    names = action.option_strings or [action.dest]
    value = _value(action) if action.option_strings else ""
    yield f".. option:: {', '.join(f'{name} {value}'.strip() for name in names)}"
    yield ""
    text = (action.help or "") % (vars(action) | {"prog": parser.prog})
    yield f"   {_escaped(text)}{'' if text.endswith('.') else '.'}"
    if action.choices is not None:
        yield f"   Choices: {', '.join(f'``{choice}``' for choice in action.choices)}."
    yield ""


def _value(action: argparse.Action) -> str:
    """Return what follows an option, as argparse writes it; nothing for a flag."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest.upper())
    return f"{name} [{name} ...]" if action.nargs in ("+", "*") else name


def _escaped(text: str) -> str:
    """Keep characters of shell and JSON from being read as markup; options become links to themselves."""
    text = re.sub(r"([\\*`|_])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--[a-z0-9][a-z0-9-]*)", r":option:`\1`", text)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


class Usage(Directive):
    """Write the options of one console script."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the description."""
        program = self.arguments[0]
        lines = StringList(list(usage_lines(program)), source=f"parser of {program}")
        container = nodes.container(classes=["usage"])
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("usage", Usage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
