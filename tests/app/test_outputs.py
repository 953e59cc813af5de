"""What a finished run has written."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pds_bids.bids.names import output_path
from pds_bids.imaging.grid import Grid
from pds_bids.modalities import Modality
from pds_bids.template import MODEL_GRID

KEYS = ["synthetic", "synthetic_segments", "synthetic_std"]
CASES = [({"sub": "01"}, Modality.DWI), ({"sub": "02"}, Modality.BOLD)]


def test_output_is_valid_bids(finished):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([validator, finished[1]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("entities", "target"), CASES)
@pytest.mark.parametrize("in_template", [True, False])
def test_synthetic_images_are_on_their_grid_and_in_the_brain(finished, entities, target, in_template):
    cohort, out, _ = finished
    if in_template:
        grid = MODEL_GRID
    else:
        source = next((cohort / f"sub-{entities['sub']}").rglob(f"*_{target.other}.nii.gz"))
        acquired = nib.load(source)
        grid = Grid(acquired.shape[:3], acquired.affine)
    mask_path = out / output_path("synthetic_mask", entities, target, in_template=in_template)
    mask = np.asanyarray(nib.load(mask_path).dataobj) > 0
    for key in KEYS:
        image = nib.load(out / output_path(key, entities, target, in_template=in_template))
        data = np.asanyarray(image.dataobj)
        assert Grid(image.shape[:3], image.affine) == grid
        assert image.get_data_dtype() == np.float32
        assert np.isfinite(data).all()
        assert (data[~mask] == 0).all()
        assert b"SYNTHETIC" in image.header["descrip"].item()
    assert data[mask].min() > 0, "an uncertainty of zero claims knowledge that nobody has"


@pytest.mark.parametrize(("entities", "target"), CASES)
def test_a_synthetic_image_is_near_its_unit_and_segments_are_its_neighbours(finished, entities, target):
    out = finished[1]
    mean, segments = (
        np.asanyarray(nib.load(out / output_path(key, entities, target, in_template=True)).dataobj)
        for key in KEYS[:2]
    )
    brain = mean > 0
    assert segments.shape[3] == 3
    assert mean[brain].mean() == pytest.approx(1, abs=0.15)
    for k in range(3):
        assert np.corrcoef(segments[..., k][brain], mean[brain])[0, 1] > 0.8


def test_synthetic_maps_have_units_and_plausible_values(finished):
    """FA between 0 and 1, MD of tissue; the mask and the watermark as for the other images."""
    out = finished[1]
    for key, low, high, unit in (("fa", 0.05, 0.5, "1"), ("md", 0.5e-3, 1.6e-3, "mm^2/s")):
        for name in (f"synthetic_{key}", f"synthetic_{key}std"):
            for in_template in (True, False):
                path = out / output_path(name, {"sub": "01"}, Modality.DWI, in_template=in_template)
                image = nib.load(path)
                assert b"SYNTHETIC" in image.header["descrip"].item()
                sidecar = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())
                assert sidecar["Synthetic"] is True
                assert sidecar["Units"] == unit
        path = out / output_path(f"synthetic_{key}", {"sub": "01"}, Modality.DWI, in_template=True)
        data = np.asanyarray(nib.load(path).dataobj)
        assert low < data[data > 0].mean() < high
        assert data.min() == 0


def test_sidecars_tell_how_an_image_was_made(finished):
    out = finished[1]
    sidecars = list(out.rglob("*desc-synthetic*ref.json"))
    assert len(sidecars) >= 12
    for path in sidecars:
        sidecar = json.loads(path.read_text())
        assert sidecar["Synthetic"] is True
        assert sidecar["SyntheticFrom"] == ("bold" if path.parent.name == "dwi" else "dwi")
        assert len(sidecar["GenerativeModel"]["WeightsSHA256"]) == 64
        assert isinstance(sidecar["RandomSeed"], int)
        assert all(uri.startswith("bids:raw:") for uri in sidecar["Sources"])


def test_a_synthetic_bold_has_no_task(finished):
    names = [path.name for path in (finished[1] / "sub-02" / "func").iterdir()]
    assert names
    assert not any("task-" in name for name in names)


def test_every_acquired_counterpart_is_there(finished):
    out = finished[1]
    for pattern in (
        "sub-01/func/*task-rest*_desc-mean_boldref.nii.gz",
        "sub-01/func/*_desc-confounds_timeseries.tsv",
        "sub-01/func/*_from-boldref_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz",
        "sub-01/func/*_desc-hmc_xfm.txt",
        "sub-02/dwi/*_desc-b0_dwiref.nii.gz",
        "sub-02/dwi/*_desc-segments_timeseries.tsv",
        "sub-02/dwi/*_desc-image_qc.json",
        "sub-02/figures/*_desc-gradients_dwiref.svg",
        "sub-02/func/*_stat-mean_desc-synthetic_timeseries.tsv",
    ):
        assert list(out.glob(pattern)), pattern


def test_itk_field_takes_the_reference_to_the_template(finished):
    """nitransforms, with the written field and nothing else, gives the image that the app wrote."""
    from nitransforms.nonlinear import DenseFieldTransform
    from nitransforms.resampling import apply

    folder = finished[1] / "sub-01" / "func"
    field = next(folder.glob("*_from-boldref_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz"))
    native = nib.load(next(folder.glob("*task-rest_desc-mean_boldref.nii.gz")))
    written = nib.load(next(folder.glob("*_space-MNI152NLin2009cAsym_res-3_desc-mean_boldref.nii.gz")))
    transform = DenseFieldTransform.from_filename(field, fmt="itk")
    # The field lies on the finer grid of the registration, and serves any grid of the template.
    moved = apply(
        transform, native, reference=nib.Nifti1Image(np.zeros(written.shape[:3]), written.affine), order=1
    )
    theirs = np.asanyarray(moved.dataobj)
    ours = np.asanyarray(written.dataobj)
    # Where the field of view ends, nitransforms mixes in zeros and the app does not.
    brain = ndimage.binary_erosion(ours > 0, iterations=3)
    assert np.corrcoef(theirs[brain], ours[brain])[0, 1] > 0.95


def test_the_report_shows_every_figure(finished):
    out = finished[1]
    for participant in ("01", "02"):
        page = (out / f"sub-{participant}.html").read_text()
        figures = [path.name for path in (out / f"sub-{participant}" / "figures").iterdir()]
        assert figures
        for name in figures:
            assert quote(name) in page
        assert "http://" not in page.split("<body")[0]


def test_images_in_units_of_their_mean_have_a_mean_of_one(finished):
    """What sidecars say of units is true of the voxels; shells and T1w stay in the unit of the scan."""
    means = {}
    for path in (*finished[1].rglob("*_desc-*ref.json"), *finished[1].rglob("*_desc-preproc_T1w.json")):
        sidecar = json.loads(path.read_text())
        if sidecar.get("Synthetic") or "divided by its mean" not in sidecar["Units"]:
            continue
        data = np.asanyarray(nib.load(path.with_name(path.name.replace(".json", ".nii.gz"))).dataobj)
        mask = path.with_name(f"{path.name.partition('_desc-')[0]}_desc-brain_mask.nii.gz")
        # The T1w image comes without a mask of its own; it is zero outside of the brain.
        inside = data[np.asanyarray(nib.load(mask).dataobj) > 0 if mask.exists() else data > 0]
        means |= {f"{path.name}[{n}]": mean for n, mean in enumerate(np.atleast_1d(inside.mean(0)))}
    assert any("desc-mean_dwiref" in name for name in means)
    assert all(0.8 < mean < 1.2 for mean in means.values()), means
