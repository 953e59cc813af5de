import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import group_tree


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Return a dataset of 18 and its outputs, not to be written to."""
    root = tmp_path_factory.mktemp("cohort")
    labels = [f"{k:02d}" for k in range(1, 19)]
    group_tree.write_dataset(root / "data", labels)
    group_tree.write_outputs(root / "out", labels)
    return root
