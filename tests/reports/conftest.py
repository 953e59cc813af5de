"""An output folder with real images, and a browser that is asked no network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pds_bids.bids.names import output_path
from pds_bids.bids.write import write_json, write_nifti
from pds_bids.modalities import Direction, Modality

VOX2RAS = np.array([[3.0, 0, 0, -96], [0, 3, 0, -132], [0, 0, 3, -78], [0, 0, 0, 1]])
SHAPE = (33, 39, 33)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Software rendering: WebGL 2 without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def write_images(out_dir: Path, entities: dict[str, str], target: Modality, *, is_acquired: bool) -> Path:
    """Write a synthetic image with all that belongs to it; return its path."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    mask = np.linalg.norm((index - 16) / [1, 1.2, 1], axis=-1) < 14
    volume = np.where(mask, 0.5 + index[..., 2] / 33, 0).astype(np.float32)
    about = {"in_template": True}
    made = {"synthetic": volume, "synthetic_std": 0.1 * volume, "synthetic_mask": mask.astype(np.uint8)}
    for key, data in made.items():
        path = out_dir / output_path(key, entities, target, **about)
        write_nifti(path, data, VOX2RAS, description="SYNTHETIC for a test")
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), {"Sources": ["bids:raw:source"]})
    means = {target.other: 1.3 * volume[::-1]} | ({target: 0.9 * volume} if is_acquired else {})
    for modality, data in means.items():
        path = out_dir / output_path("mean", entities, modality, **about)
        write_nifti(path, data, VOX2RAS)
        sources = ["bids:raw:source" if modality is target.other else "bids:raw:target"]
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), {"Sources": sources})
    return output_path("synthetic", entities, target, **about)


def write_quality(out_dir: Path, entities: dict[str, str], direction: Direction) -> None:
    """Write what the gates said of the source."""
    path = out_dir / output_path("qc", entities, direction.source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"registration": {"passed": True, "stage": "deformable", "reason": ""}}))


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """Start Chromium, or skip with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(CHROMIUMS)} is on the PATH (`make browser` installs one)"
        )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
