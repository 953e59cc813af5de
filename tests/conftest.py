"""Fixtures that several test files share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from pds_bids.devices import _listed_gpus

SKELETONS = Path(__file__).parent / "skeletons"


@pytest.fixture
def make_skeleton(tmp_path: Path) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Build the dataset that a file of ``tests/skeletons`` describes; gives its folder and what is expected.

    Values of ``files``: a number is a NIfTI file of so many volumes (0: 3D); ``{b0: 1, b1000: 5}``
    a gradient table; a mapping for a ``.json`` its content; ``empty``, ``pointer``, ``broken link`` and
    ``garbage`` what the name says; other text the content.
    """

    def make(name: str) -> tuple[Path, dict[str, Any]]:
        skeleton = yaml.safe_load((SKELETONS / f"{name}.yaml").read_text())
        root = tmp_path / name
        files = {"dataset_description.json": {"Name": name, "BIDSVersion": "1.10.0"}} | skeleton["files"]
        for path, content in files.items():
            write_skeleton_file(root / path, content)
        return root, skeleton["expect"]

    return make


@pytest.fixture(scope="session")
def write_skeleton() -> Callable[[Path, dict[str, Any]], None]:
    """Give the function that writes the ``files`` of a skeleton into a folder."""

    def write(root: Path, files: dict[str, Any]) -> None:
        for path, content in files.items():
            write_skeleton_file(root / path, content)

    return write


def write_skeleton_file(path: Path, content: Any) -> None:
    """Write one file of a skeleton."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, int):
        shape = (4, 4, 4, content) if content else (4, 4, 4)
        nib.Nifti1Image(np.ones(shape, np.int16), np.diag([3.0, 3.0, 3.0, 1.0])).to_filename(path)
    elif isinstance(content, dict) and path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif isinstance(content, dict):
        bvals = np.concatenate([[int(key[1:])] * count for key, count in content.items()])
        vectors = np.tile([[1.0], [0.0], [0.0]], (1, len(bvals))) * (bvals > 0)
        np.savetxt(path, bvals[None] if path.suffix == ".bval" else vectors, fmt="%g")
    elif content == "broken link":
        path.symlink_to("../.git/annex/objects/no/where")
    elif content == "pointer":
        path.write_text("/annex/objects/MD5E-s123--0123456789abcdef.nii.gz\n")
    elif content == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    else:
        path.write_text("" if content == "empty" else content)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Replace the GPU driver's command by one that prints and exits as asked."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(output: str, code: int) -> None:
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\necho '{output}'\nexit {code}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        _listed_gpus.cache_clear()

    yield install
    _listed_gpus.cache_clear()
