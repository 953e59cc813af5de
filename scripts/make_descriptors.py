"""Write the Boutiques descriptors from the parsers: ``python scripts/make_descriptors.py [FOLDER]``.

Every option becomes an input; what another option is called besides stands in ``custom``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pds_bids import __version__
from pds_bids.cli import parser as app
from pds_bids.cli import synth

FOLDER = Path(__file__).parents[1] / "descriptors"
IMAGE = f"pds-bids/pds-bids:{__version__}"
#: They end the program before it does anything.
LEFT_OUT = ("help", "version")
ERROR_CODES = {
    1: "A session failed; the others are complete",
    2: "Usage: an option is unknown, out of range, or contradicts another one",
    16: "The input is not a BIDS dataset",
    18: "Nothing is left to process",
    70: "Error of the program",
    75: "The device asked for is not there, or its memory does not suffice",
}
#: Names of options whose file must exist beforehand.
FILES = {"source", "mask", "template", "bids_filter_file", "config_file", "use_plugin", "splits"}
FILES |= {"perceptual_weights", "bids_dir", "model_dir", "labels_dir", "weights_from"}
#: Options that hold NAME=FILE pairs, which Boutiques cannot take apart.
PAIRS = {"source", "derivatives"}


def main(argv: list[str]) -> int:
    """Write the files."""
    folder = Path(argv[0]) if argv else FOLDER
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    return 0


def files() -> dict[str, str]:
    """Return every generated file; Nipoppy wants the descriptor beside the rest of its folder."""
    made = {
        f"{name}.json": json.dumps(descriptor, indent=2, ensure_ascii=False) + "\n"
        for name, descriptor in descriptors().items()
    }
    return made | {"nipoppy/descriptor.json": made["pds-bids.json"]}


def descriptors() -> dict[str, dict[str, Any]]:
    """Return both descriptors by the name of the command."""
    return {
        "pds-bids": describe(
            app.build_parser(),
            outputs=[
                output("derivatives_out", "Derivative dataset", "[OUTPUT_DIR]"),
                output("reports", "Report of every participant", "[OUTPUT_DIR]/sub-*.html", is_list=True),
            ],
            resources={"cpu-cores": 2, "ram": 4, "walltime-estimate": 1800},
        ),
        "pds-bids-synth": describe(
            synth.build_parser(),
            outputs=[output("metadata", "Model, seeds and device", "[OUTPUT_DIR]/synthesis.json", False)],
            resources={"cpu-cores": 1, "ram": 2, "walltime-estimate": 300},
        ),
    }


def describe(
    parser: argparse.ArgumentParser, *, outputs: list[dict[str, Any]], resources: dict[str, Any]
) -> dict[str, Any]:
    """Return the descriptor of one command."""
    actions = [action for action in parser._actions if action.dest not in LEFT_OUT]
    groups = []
    for group in parser._action_groups:
        members = [action.dest for action in group._group_actions if action.dest not in LEFT_OUT]
        if members and group.title.startswith("Options"):
            groups.append(
                {"id": group.title.lower().replace(" ", "_"), "name": group.title, "members": members}
            )
    aliases = {a.dest: a.option_strings for a in actions if len(a.option_strings) > 1}
    return {
        "name": parser.prog,
        "description": parser.description,
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join([parser.prog, *(value_key(action) for action in actions)]),
        "container-image": {
            "type": "docker",
            "image": IMAGE,
            "index": "docker://",
            "entrypoint": False,
        },
        "inputs": [describe_input(action) for action in actions],
        **({"groups": groups} if groups else {}),
        "output-files": outputs,
        "error-codes": [{"code": code, "description": text} for code, text in ERROR_CODES.items()],
        "suggested-resources": resources,
        "tags": {"domain": ["neuroinformatics"], "toolbox": ["BIDS App"], "modality": ["BOLD", "DWI"]},
        "custom": {"aliases": aliases},
    }


def describe_input(action: argparse.Action) -> dict[str, Any]:
    """Return one option or positional argument."""
    described: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": (action.help or "") % {"default": action.default},
        "value-key": value_key(action),
        "optional": bool(action.option_strings) and not action.required,
    }
    if action.option_strings:
        described["command-line-flag"] = max(
            action.option_strings[:2], key=lambda flag: flag.startswith("--")
        )
    if action.nargs == 0:
        return described | {"type": "Flag"}
    if action.nargs in ("+", "*"):
        described["list"] = True
    if action.choices is not None:
        return described | {"type": "String", "value-choices": list(action.choices)}
    if action.type in (int, float):
        return described | {"type": "Number", "integer": action.type is int}
    is_file = action.dest in FILES - PAIRS
    return described | {"type": "File" if is_file else "String"}


def value_key(action: argparse.Action) -> str:
    """Return the placeholder of the command line."""
    return f"[{action.dest.upper()}]"


def output(identifier: str, name: str, template: str, is_list: bool = False) -> dict[str, Any]:
    """Return one kind of output."""
    described = {"id": identifier, "name": name, "path-template": template, "optional": True}
    return described | ({"list": True} if is_list else {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
