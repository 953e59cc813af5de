"""Descriptors against the commands that they describe: what `--help` prints, what Boutiques makes of it."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pds_bids.cli.parser import build_parser, parse_args

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "descriptors"
COMMANDS = {"pds-bids": "pds_bids.cli.run", "pds-bids-synth": "pds_bids.cli.synth"}
NOT_INPUTS = {"-h", "--help", "--version"}
BOSH = Path(sys.executable).with_name("bosh")

needs_bosh = pytest.mark.skipif(not BOSH.exists(), reason="boutiques is not installed (extra `test`)")


def descriptor(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_that_help_prints_is_in_the_descriptor_and_back(name):
    text = subprocess.run(
        [sys.executable, "-m", COMMANDS[name], "--help"], capture_output=True, text=True, check=True
    ).stdout
    # Options start a line of the list, after two spaces; their other names follow a comma.
    listed = re.findall(r"^  (-[^\n]*)", text.split("options:", 1)[1], re.MULTILINE)
    printed = {flag for line in listed for flag in re.findall(r"(?:^|, )(--?[a-zA-Z][\w-]*)", line)}
    made = descriptor(name)
    flags = {item["command-line-flag"] for item in made["inputs"] if "command-line-flag" in item}
    aliases = {flag for names in made["custom"]["aliases"].values() for flag in names}
    assert flags | aliases == printed - NOT_INPUTS


def test_the_files_are_those_that_the_script_writes():
    path = ROOT / "scripts" / "make_descriptors.py"
    spec = importlib.util.spec_from_file_location("make_descriptors", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, text in script.files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"run python scripts/{path.name}"


def bosh(*arguments):
    return subprocess.run([BOSH, *arguments], capture_output=True, text=True, check=False)


@needs_bosh
@pytest.mark.parametrize("name", COMMANDS)
def test_boutiques_validates_and_simulates(name):
    path, invocation = FOLDER / f"{name}.json", FOLDER / f"{name}_invocation.json"
    validated = bosh("validate", path)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    simulated = bosh("exec", "simulate", "-i", invocation, path)
    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    command = shlex.split(simulated.stdout.strip().splitlines()[-1])
    assert command[0] == name
    for value in json.loads(invocation.read_text()).values():
        for item in value if isinstance(value, list) else [value]:
            assert item is True or str(item) in command


@needs_bosh
def test_the_simulated_command_is_understood(tmp_path):
    """A command with every option that Boutiques can fill in goes through the parser."""
    simulated = bosh("exec", "simulate", "-c", FOLDER / "pds-bids.json")
    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    command = shlex.split(simulated.stdout.strip().splitlines()[-1])
    known = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert {word for word in command if word.startswith("-") and not word.lstrip("-")[0].isdigit()} <= known


def test_invocations_of_others_give_a_valid_run(tmp_path):
    """What Nipoppy and BABS would call, with their placeholders filled in."""
    ids = {item["id"] for item in descriptor("pds-bids")["inputs"]}
    nipoppy = json.loads((FOLDER / "nipoppy" / "invocation.json").read_text())
    assert set(nipoppy) <= ids
    babs = yaml.safe_load((FOLDER / "babs.yaml").read_text())
    arguments = []
    for flag, value in babs["bids_app_args"].items():
        name, argument = (value, "01") if flag == "$SUBJECT_SELECTION_FLAG" else (flag, value)
        arguments += [name, argument.replace("$BABS_TMPDIR", str(tmp_path / "work"))] if argument else [name]
    config = parse_args([str(tmp_path / "in"), str(tmp_path / "out"), "participant", *arguments])
    assert config.participant_label == ("01",)
    assert config.skip_bids_validation
    assert config.nprocs == 2
