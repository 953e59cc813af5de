"""Every command and every Python block of the documentation, executed.

Simulators and the participant run of the tour run as they stand, on fewer voxels. A further run of the app
stops after its plan (``--dry-run``). What needs another machine (containers, clusters, installs) is taken
apart: its arguments for pds-bids go through the real parser, its files and targets have to exist.
"""

import importlib
import io
import itertools
import json
import linecache
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from snippets import ROOT, SHELL, commands, snippets

from pds_bids.cli.parser import build_parser as app_parser
from pds_bids.cli.phantom import build_parser as phantom_parser
from pds_bids.cli.synth import build_parser as synth_parser

PARSERS = {"pds-bids": app_parser, "pds-bids-phantom": phantom_parser, "pds-bids-synth": synth_parser}
MODULES = {"pds-bids": "run", "pds-bids-phantom": "phantom", "pds-bids-synth": "synth"}
# The last one wins: the same command on fewer voxels. The template is made once for all.
SMALL_PEOPLE = "--bold-volumes 8 --dwi-directions 6 --voxel-size-mm 4 --motion 0.5 --quiet --nprocs 1"
SMALL_PEOPLE += " --participants 2 --sites 1 --cache-dir demo/work/caches/templates"
SMALL_RUN = "--sloppy --n-segments 2 --participant-label 01 --nprocs 1 --skip-bids-validation"
# Folders that pages use as examples, and where they are in the sandbox.
PLACES = ("/data", "/out2", "/out", "/new", "/scratch", "/labels")
RUNNERS = ("docker run", "apptainer run", "apptainer exec", "singularity run")
FOLDERS = ("benchmarks/", "descriptors/", "docs/", "scripts/", "tests/", "workflows/", "singularity.def")
# First words of commands whose syntax and files are checked, but which are not executed here, and why.
NOT_HERE = {
    "python3": "makes or leaves a virtual environment",
    "docker": "no Docker where the tests run; the containers have tests of their own",
    "apptainer": "as docker",
    "sbatch": "no SLURM where the tests run; the scripts have tests of their own",
    "bosh": "executed by the tests of the descriptors",
    "export": "sets a variable for the next command",
    "git": "needs a clone of its own",
    "pre-commit": "writes to the repository's hooks",
    "cd": "goes into a folder that another command has made",
    "bids-validator-deno": "executed on the outputs by the tests of the app",
}
EXIT_NO_DEVICE = 75

BLOCKS = [pytest.param(block, id=block.name) for block in snippets(SHELL)]
COMMANDS = [
    pytest.param(block.page, command, id=f"{block.name}-{command[:60]}")
    for block in snippets(SHELL)
    for command in commands(block)
]
PYTHON = [pytest.param(block, id=block.name) for block in snippets({"python"})]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, write_skeleton):
    """A folder with ``/data`` and the other places of the pages."""
    folder = tmp_path_factory.mktemp("sandbox")
    files = {}
    for person in ("01", "02"):
        stem = f"sub-{person}/ses-1/{{}}/sub-{person}_ses-1"
        files[stem.format("func") + "_task-rest_bold.nii.gz"] = 12
        files[stem.format("func") + "_task-rest_bold.json"] = {"RepetitionTime": 2.0, "TaskName": "rest"}
        files[stem.format("anat") + "_T1w.nii.gz"] = 0
        files[stem.format("dwi") + "_dwi.nii.gz"] = 7
        for table in ("bval", "bvec"):
            files[stem.format("dwi") + f"_dwi.{table}"] = {"b0": 1, "b1000": 6}
    files["dataset_description.json"] = {"Name": "example", "BIDSVersion": "1.10.0"}
    for place in ("data", "new"):
        write_skeleton(folder / place, files)
    for pipeline in ("fMRIPrep", "QSIPrep"):
        made_by = {
            "Name": pipeline,
            "BIDSVersion": "1.10.0",
            "GeneratedBy": [{"Name": pipeline, "Version": "25.1.0"}],
        }
        write_skeleton(folder / "data/derivatives" / pipeline.lower(), {"dataset_description.json": made_by})
    for place in ("labels", "out/models/pds"):
        (folder / place).mkdir(parents=True)
    (folder / "participants.tsv").write_text("participant_id\tDX_bl\nsub-01\tEMCI\nsub-02\tCN\n")
    (folder / "filters.json").write_text('{"bold": {"task": "rest"}}')
    return folder


@pytest.fixture(scope="module")
def tour(sandbox):
    """The commands of the tour, executed in their order; the first call of the app really runs."""
    done: dict[str, subprocess.CompletedProcess[str]] = {}
    has_run = False
    for block in snippets(SHELL):
        for command in commands(block) if block.page == "docs/tour.md" else []:
            words = shlex.split(command, comments=True)
            if words[0] == "pds-bids-phantom":
                words += SMALL_PEOPLE.split()
            elif words[0] == "pds-bids" and "--dry-run" not in words:
                words += ["--dry-run"] if has_run else SMALL_RUN.split()
                has_run = True
            done[command] = call(["bash", "-c", command] if "|" in words else words, sandbox)
    return done


@pytest.mark.parametrize("block", BLOCKS)
def test_block_is_valid_shell(block):
    text = "\n".join(commands(block))
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command(page, command, sandbox, request):
    if page == "docs/tour.md":
        done = request.getfixturevalue("tour")[command]
        assert done.returncode == 0, done.stdout + done.stderr
        return
    words = without_assignments(shlex.split(command, comments=True))
    check_files(words)
    if " ".join(words[:2]) in RUNNERS or words[:1] in (["srun"], ["torchrun"]):
        check_arguments(words)
    elif not words or words[0] in NOT_HERE:
        return
    elif words[0] == "make":
        check_targets(words[1:])
    elif words[:2] == ["pip", "install"]:
        check_requirements([word for word in words[2:] if not word.startswith("-")])
    elif words[0] == "python" and words[1].endswith(".py"):
        check_script(words[1:])
    elif words[0].endswith(".sh"):
        check_script(words)
    elif words[0] in PARSERS:
        if needs_outputs(words):
            request.getfixturevalue("tour")
        run_app(words, sandbox)
    else:
        done = call(["bash", "-c", command], sandbox)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", PYTHON)
def test_python(block, sandbox, monkeypatch, request):
    if "demo/" in block.body + block.setup:
        request.getfixturevalue("tour")
    monkeypatch.chdir(sandbox)
    pages = request.config.stash.setdefault(NAMESPACES, {})
    namespace = pages.setdefault(block.page, {"__name__": "__main__"})
    text = block.setup + "\n" + block.body
    # Nipype asks for the source of a function.
    linecache.cache[block.name] = (len(text), None, text.splitlines(keepends=True), block.name)
    exec(compile(text, block.name, "exec"), namespace)


def test_snippet_of_the_cohort_page_renames_diagnoses(sandbox):
    """What the page promises: one word per group, in the column that the training reads."""
    block = next(b for b in snippets({"python"}) if b.page == "docs/cohorts.md")
    folder = sandbox / "renamed"
    folder.mkdir()
    (folder / "participants.tsv").write_text("participant_id\tDX_bl\nsub-01\tEMCI\nsub-02\tCN\nsub-03\t\n")
    subprocess.run([sys.executable, "-c", block.body], cwd=folder, check=True, capture_output=True)
    rows = [line.split("\t")[-1] for line in (folder / "participants.tsv").read_text().splitlines()]
    assert rows == ["diagnosis", "MCI", "NC", "n/a"]


def test_tour_shows_the_files_that_its_first_command_writes(sandbox, tour):
    """The listing in the page is what is there."""
    block = next(b for b in snippets({"console"}) if b.page == "docs/tour.md")
    shown = [line for line in block.body.splitlines() if not line.startswith("$")]
    written = sorted(str(path.relative_to(sandbox)) for path in (sandbox / "demo/data").rglob("*.nii.gz"))
    assert sorted(shown) == written


@pytest.mark.parametrize("level", ["group", "participant --reports-only"])
def test_levels_that_read_outputs_take_those_of_the_tour(level, sandbox, tour):
    """No page need show them for this file to notice that they break on the tour's folders."""
    run_app(["pds-bids", "/data", "/out", *level.split()], sandbox)


def test_tour_ends_with_a_report_and_a_second_call_does_nothing(sandbox, tour):
    assert (sandbox / "demo/out/sub-01.html").stat().st_size > 1000
    again = [command for command in tour if command.startswith("pds-bids demo/data")][-1]
    words = shlex.split(again, comments=True) + SMALL_RUN.split()
    done = call(words, sandbox)
    assert done.returncode == 0
    assert "1 by an earlier run" in done.stdout or "1 of them by an earlier run" in done.stdout, done.stdout


def test_every_file_of_the_tour_is_on_the_page_of_outputs(sandbox, tour):
    """No output is left unexplained; names are those of a finished run, not of the table in the code."""
    page = (ROOT / "docs" / "outputs.md").read_text()
    names = re.findall(r"`\*(_[\w+.-]+?)(?:\.nii\.gz|\.tsv|\.json|\.txt)`", page)
    entities = re.compile(
        r"^sub-01(_ses-1)?(_task-rest)?(_space-MNI152NLin2009cAsym)?(_atlas-[A-Za-z0-9]+)?(_res-3)?"
    )
    unknown = []
    for path in sorted((sandbox / "demo/out/sub-01").rglob("sub-01_*")):
        if path.parent.name in ("figures", "log") or "log" in path.parts:
            continue
        rest = entities.sub("", path.name.split(".")[0])
        if rest not in names:
            unknown.append(path.name)
    assert not unknown


NAMESPACES = pytest.StashKey[dict[str, dict[str, object]]]()


def call(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in the sandbox; console scripts as modules of this interpreter."""
    if words[0] in MODULES:
        words = [sys.executable, "-m", f"pds_bids.cli.{MODULES[words[0]]}", *words[1:]]
    # The tour is for somebody without label maps: they would be registered first, for minutes.
    kept = {name: value for name, value in os.environ.items() if name != "PDS_LABELS"}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def call_here(words: list[str], folder: Path) -> tuple[int, str]:
    """Call a console script in this process, which saves the imports, and leave the process as it was."""
    module = importlib.import_module(f"pds_bids.cli.{MODULES[words[0]]}")
    environment, text = dict(os.environ), io.StringIO()
    try:
        with chdir(folder), redirect_stdout(text), redirect_stderr(text):
            code = module.main(words[1:])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return code, text.getvalue()


def placed(word: str, folder: Path) -> str:
    """Move the folders of the examples into the sandbox."""
    word = word.replace("$participant", "01").replace("$TMPDIR", str(folder))
    pattern = rf"(?<![\w.])({'|'.join(PLACES)})(?=[/:]|$)"
    return re.sub(pattern, lambda match: f"{folder}{match[1]}", word)


def run_app(words: list[str], folder: Path) -> None:
    """Run the app up to its plan; levels that read outputs get those of the tour, where the simulator ran."""
    if words[0] == "pds-bids-phantom":
        parse(words)
        return
    finished = {"/data": "demo/data", "/out": "demo/out"} if needs_outputs(words) else {}
    words = [placed(finished.get(word, word), folder) for word in words]
    if words[0] == "pds-bids" and len(words) > 2 and "--reports-only" not in words:
        words += ["--dry-run", "--skip-bids-validation"]  # the validator takes seconds for every command
    code, text = call_here(words, folder)
    allowed = {0, EXIT_NO_DEVICE} if "cuda" in words else {0}
    assert code in allowed, text


def without_assignments(words: list[str]) -> list[str]:
    """Leave out variables that are set for the command alone."""
    first = next((n for n, word in enumerate(words) if not re.match(r"[A-Za-z_]\w*=", word)), len(words))
    return words[first:]


def check_files(words: list[str]) -> None:
    """Files of the repository that a command names exist."""
    missing = [word for word in words if word.startswith(FOLDERS) and not (ROOT / word).exists()]
    assert not [word for word in missing if "*" not in word and not word.endswith(".png")]


def needs_outputs(words: list[str]) -> bool:
    """Whether a command reads what an earlier one has written."""
    return "group" in words or "--reports-only" in words


def parse(words: list[str]) -> None:
    """Let the real parser read the arguments; variables of the shell stand for a number."""
    arguments = [re.sub(r"\$\(?\w[^\s]*|\$\{?\w+\}?", "1", word) for word in words[1:]]
    if arguments != ["--help"]:
        PARSERS[words[0]]().parse_args(arguments)


def check_arguments(words: list[str]) -> None:
    """Parse what a container or a launcher hands to the app: from its name, or that of its image, on."""
    starts = [
        n for n, word in enumerate(words) if re.fullmatch(r"(.*/)?pds-bids[-\w]*(:[\w.-]+|\.sif)?\)?", word)
    ]
    assert starts, f"no pds-bids in {words}"
    entry = [word for before, word in itertools.pairwise(words) if before == "--entrypoint"]
    program = entry[0] if entry else "pds-bids"
    parse([program, *words[starts[-1] + 1 :]])


def check_targets(targets: list[str]) -> None:
    """Targets have to exist; .ci/run executes those that do something."""
    makefile = (ROOT / "Makefile").read_text()
    executed = (ROOT / ".ci" / "run").read_text()
    for target in (word for word in targets if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert re.search(rf"make( --silent)? {target}\b", executed), f"nothing executes make {target}"


def check_requirements(requirements: list[str]) -> None:
    """What pip is to install: this package with extras that exist, or the torch of the Makefile."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in requirements:
        match = re.fullmatch(r"(?:pds-bids|\.)(?:\[([\w,]+)\])?", requirement)
        if match:
            extras = (match[1] or "").split(",") if match[1] else []
            assert set(extras) <= set(project["optional-dependencies"]), requirement
        elif not requirement.startswith("https://"):
            assert requirement in (ROOT / "Makefile").read_text(), (
                f"{requirement} is not what the Makefile installs"
            )


def check_script(words: list[str]) -> None:
    """A script of the repository that takes the options that it is given."""
    script = ROOT / words[0]
    text = "".join(path.read_text() for path in script.parent.iterdir() if path.suffix == script.suffix)
    handed_on = {name for action in app_parser()._actions for name in action.option_strings}
    for option in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
        is_own = re.search(rf"(?<![\w-]){option}(?![\w-])", text)
        assert is_own or (script.suffix == ".sh" and option in handed_on), f"{words[0]} has no {option}"


def test_inline_commands_name_what_exists():
    """Commands within sentences: their options and files exist, too."""
    inline = re.compile(r"`((?:pds-bids|pds-bids-phantom|python benchmarks/\S+|pytest) [^`\n]+)`")
    problems = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for command in inline.findall(page.read_text()):
            words = command.split()
            if words[0] == "python":
                check_script(words[1:])
            elif words[0] == "pytest":
                assert (ROOT / words[1].split("::")[0]).exists(), command
            else:
                known = {name for action in PARSERS[words[0]]()._actions for name in action.option_strings}
                problems += [
                    f"{page.name}: {w}" for w in words if w.startswith("--") and w.split("=")[0] not in known
                ]
    assert not problems


def test_filters_of_the_faq_are_json():
    page = (ROOT / "docs" / "faq.md").read_text()
    filters = json.loads(re.search(r'`(\{"bold".*?\})` in `filters.json`', page)[1])
    assert set(filters) <= {"bold", "dwi", "t1w"}
