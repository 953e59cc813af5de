"""What benchmarks, scripts and recipes import from the package is there; they run too long for the tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [path for folder in ("benchmarks", "scripts", "workflows") for path in (ROOT / folder).glob("*.py")]


def defined_in(module: str) -> set[str]:
    """Names at the top of a module, and the modules of a package, without importing anything."""
    place = ROOT.joinpath(*module.split("."))
    names = {path.stem for path in place.iterdir()} if place.is_dir() else set()
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_imported_exists(script):
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pds_bids")
        for alias in node.names
        if alias.name not in defined_in(str(node.module))
    ]
    assert not missing
