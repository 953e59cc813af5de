"""The image's recipe as far as it can be checked without building it; `.ci/run` builds and runs it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Split the Dockerfile into instructions; continued lines are joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("https://pypi.org/simple", ["--index-url", "https://pypi.org/simple"]),  # CUDA
        ("https://download.pytorch.org/whl/cpu", ["--index-url", "https://download.pytorch.org/whl/cpu"]),
        ("", []),
    ],
)
def test_the_index_decides_between_cpu_and_cuda(index, expected, tmp_path):
    """The shell itself expands the line, with a pip that writes down its arguments."""
    (line,) = [text for word, text in instructions() if word == "RUN" and "TORCH_INDEX_URL" in text]
    command = re.sub(r"--mount=\S+ ", "", line)
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin", "TORCH_INDEX_URL": index, "TORCH_VERSION": "2.13.0"}
    done = subprocess.run(
        ["sh", "-euc", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["install", *expected, "--find-links", "/wheels", "torch==2.13.0"]


def test_requirements_are_those_of_the_package():
    """The line that reads pyproject.toml gives every runtime dependency and those of the training."""
    import tomllib

    (line,) = [text for word, text in instructions() if word == "RUN" and "tomllib" in text]
    code = shlex.split(re.sub(r"--mount=\S+ ", "", line).split(" >")[0])[-1]
    code = code.replace("/src/pyproject.toml", str(ROOT / "pyproject.toml"))
    done = subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    assert done.stdout.splitlines() == expected


def test_only_tests_and_headers_are_cut_away(tmp_path):
    """The shell itself runs the line, on a small tree in place of the image's packages."""
    (line,) = [text for word, text in instructions() if word == "RUN" and "torch/bin" in text]
    kept = ["torch/bin/torch_shm_manager", "torch/testing/a.py", "jinja2/tests.py", "pds_bids/data/test.toml"]
    cut = ["torch/bin/protoc", "torch/include/a.h", "torch/test/a.py", "pandas/io/tests/json/test_a.py"]
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in kept + cut:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch()
    command = line.replace("/opt/pds-bids", str(tmp_path))
    assert command != line
    subprocess.run(["sh", "-euc", command], env={"PATH": "/bin:/usr/bin"}, check=True)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert left == set(kept)
    assert not [*(ROOT / "pds_bids").rglob("test"), *(ROOT / "pds_bids").rglob("tests")]


def test_rules_that_containers_live_by():
    words = dict.fromkeys(word for word, _ in instructions())
    assert "USER" not in words
    assert instructions()[-1] == ("ENTRYPOINT", '["/opt/pds-bids/bin/pds-bids"]')
    copied = [text for word, text in instructions() if word == "COPY" and not text.startswith("--from")]
    ignored = (ROOT / ".dockerignore").read_text()
    for source in " ".join(copied).split():
        if not source.startswith("/src"):
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored, "what is copied must not be ignored"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"ARG VERSION={version}" in DOCKERFILE
    assert f"FROM=pds-bids/pds-bids:{version}" in (ROOT / "singularity.def").read_text()
