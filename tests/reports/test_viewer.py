"""What the viewer is given: the right volumes on one scale, and NiiVue as its makers published it."""

import base64
import gzip
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.names import output_path
from pds_bids.bids.write import write_json, write_nifti
from pds_bids.modalities import Modality
from pds_bids.reports.images import synthetic_images
from pds_bids.reports.records import read_participant
from pds_bids.reports.viewer import LIBRARY, write_library, write_volumes

# Of dist/niivue.umd.js in the npm package @niivue/niivue 0.69.0.
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
VOX2RAS = np.array([[-3.0, 0, 0, 9], [0, 3, 0, -12], [0, 0, 3, -6], [0, 0, 0, 1]])
SHAPE = (6, 8, 5)
RUN = {"sub": "01", "ses": "1", "task": "rest"}


class Folder:
    """An output folder with images of constant brightness inside a box."""

    def __init__(self, path: Path):
        self.path = path
        self.mask = np.zeros(SHAPE, bool)
        self.mask[1:-1, 1:-1, 1:-1] = True

    def write(self, key, modality, value, *, sources=(), in_template=True, **entities):
        path = self.path / output_path(key, RUN | entities, modality, in_template=in_template)
        data = self.mask.astype(np.uint8) if key.endswith("mask") else np.float32(value) * self.mask
        write_nifti(path, data, VOX2RAS, description="SYNTHETIC" if "synthetic" in key else "")
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), {"Sources": list(sources)})
        return self

    def synthetic(self, value=1.2, **more):
        for key, own in (("synthetic", value), ("synthetic_std", 0.1), ("synthetic_mask", 1)):
            self.write(key, Modality.DWI, own, sources=["bids:raw:one"], **more)
        return self

    def images(self):
        return synthetic_images(self.path, "01", read_participant(self.path, "01").sessions[0])

    def panels(self):
        (image,) = self.images()
        text = (self.path / write_volumes(self.path, image)).read_text()
        content = json.loads(re.fullmatch(r"pdsViewer\.receive\((.*)\);\n", text, re.DOTALL)[1])
        assert content["image"] == image.path.as_posix()
        return {panel["key"]: panel for panel in content["panels"]}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def volume(panel):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(panel["base64"])))


def test_volumes_are_those_of_the_folder_on_one_scale(folder):
    folder.synthetic().write("mean", Modality.BOLD, 500, sources=["bids:raw:one"])
    folder.write("mean", Modality.DWI, 800, sources=["bids:raw:two"])
    panels = folder.panels()
    assert list(panels) == ["source", "synthetic", "acquired", "std"]
    for key, value in {"source": 1.0, "synthetic": 1.2, "acquired": 1.0, "std": 0.1}.items():
        image = volume(panels[key])
        assert np.array_equal(image.affine, VOX2RAS)
        assert image.get_fdata()[folder.mask] == pytest.approx(value, rel=2e-3)
        assert not image.get_fdata()[~folder.mask].any()
    assert panels["synthetic"]["maximum"] == panels["acquired"]["maximum"] == pytest.approx(1.0)
    assert panels["std"]["maximum"] == pytest.approx(0.25)
    assert [key for key, panel in panels.items() if panel["is_synthetic"]] == ["synthetic"]


def test_the_source_is_the_run_that_it_was_made_from(folder):
    folder.synthetic()
    for run, source in (("1", "bids:raw:other"), ("2", "bids:raw:one")):
        folder.write("mean", Modality.BOLD, 5, sources=[source], run=run)
    (image,) = folder.images()
    assert "run-2" in image.source.name
    assert image.acquired is None


def test_where_it_is_not_clear_nothing_is_compared(folder):
    folder.synthetic()
    for run in ("1", "2"):
        folder.write("mean", Modality.DWI, 5, run=run)
    (image,) = folder.images()
    assert image.acquired is None


def test_native_images_are_rated_where_there_are_no_others(folder):
    folder.synthetic(in_template=False)
    folder.write("mean", Modality.BOLD, 5, sources=["bids:raw:one"], in_template=False)
    folder.write("mean", Modality.DWI, 5, in_template=False)
    (image,) = folder.images()
    assert not image.name.in_template
    assert image.source is not None
    # The acquired target lies on another grid.
    assert image.acquired is None
    assert len(folder.synthetic().images()) == 1
    assert folder.images()[0].name.in_template


def test_an_image_without_a_mask_or_with_a_broken_file_has_no_viewer(folder):
    folder.synthetic()
    (image,) = folder.images()
    (folder.path / image.path).write_bytes(b"not an image")
    (image,) = folder.images()
    assert write_volumes(folder.path, image) is None
    (folder.path / image.mask).unlink()
    (image,) = folder.images()
    assert write_volumes(folder.path, image) is None


def test_niivue_is_unchanged_and_named_everywhere(tmp_path):
    write_library(tmp_path)
    assert hashlib.sha256((tmp_path / LIBRARY).read_bytes()).hexdigest() == NIIVUE_SHA256
    version = re.search(r"-([\d.]+)\.js", LIBRARY.name)[1]
    licences = files("pds_bids").joinpath("data/viewer/LICENSES.txt").read_text()
    assert licences.startswith(f"NiiVue {version} ")
    assert "BSD 2-Clause License" in (tmp_path / LIBRARY.with_suffix(".LICENSES.txt")).read_text()
    for name in ("NOTICE", "Makefile"):
        path = Path(__file__).parents[2] / name
        assert not path.exists() or version in path.read_text()
