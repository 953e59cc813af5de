"""One person stored in four ways gives one synthetic volume."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from pds_bids.bids.names import output_path
from pds_bids.modalities import Modality

pytestmark = pytest.mark.slow

# The oblique copy is interpolated once more than the others, from voxels of 4 mm.
TOLERANCE = {"LAS": 1e-3, "PSL": 1e-3, "OBLIQUE": 0.06}


def oblique(image):
    """Resample onto a grid that is turned by 20 degrees about all axes around the centre of the image."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [20, 20, 20], degrees=True).as_matrix()
    shape = np.array(image.shape[:3]) + 12
    centre = image.affine @ [*(np.array(image.shape[:3]) - 1) / 2, 1]
    affine = turn @ np.diag([*image.header.get_zooms()[:3], 1.0])
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    volumes = [
        resample_from_to(nib.Nifti1Image(data[..., k], image.affine), (tuple(shape), affine), order=3)
        for k in range(data.shape[3])
    ]
    moved = np.stack([np.asanyarray(volume.dataobj) for volume in volumes], -1).clip(0)
    result = nib.Nifti1Image(moved.astype(np.float32), affine)
    result.header.set_zooms((*result.header.get_zooms()[:3], image.header.get_zooms()[3]))
    return result


def stored_as(image, codes):
    start = nib.io_orientation(image.affine)
    transform = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    return image.as_reoriented(transform)


@pytest.fixture(scope="module")
def copies(make_cohort, tmp_path_factory):
    """A dataset with one simulated person in four storage orders."""
    data = make_cohort(participants=1, missing="dwi", seed=5, with_t1w=False)
    source = data / "sub-01"
    image_path = next(source.rglob("*_bold.nii.gz"))
    image = nib.load(image_path)
    for label, moved in {
        "RAS": stored_as(image, "RAS"),
        "LAS": stored_as(image, "LAS"),
        "PSL": stored_as(image, "PSL"),
        "OBLIQUE": oblique(image),
    }.items():
        folder = data / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        name = image_path.name.replace("sub-01", f"sub-{label}")
        moved.to_filename(folder / name)
        sidecar = image_path.with_name(image_path.name.replace(".nii.gz", ".json"))
        shutil.copy(sidecar, folder / name.replace(".nii.gz", ".json"))
    shutil.rmtree(source)
    (data / "participants.tsv").unlink(missing_ok=True)
    (data / "participants.json").unlink(missing_ok=True)
    return data


def test_storage_order_does_not_change_the_synthetic_volume(copies, app, tmp_path):
    run = app(
        copies, tmp_path / "out", "participant", "-w", tmp_path / "work",
        "--n-segments", 2, "--weights", "small", "--skip-bids-validation",
    )  # fmt: skip
    assert run.code == 0, run.text
    volumes = {}
    for label in ("RAS", *TOLERANCE):
        path = tmp_path / "out" / output_path("synthetic", {"sub": label}, Modality.DWI, in_template=True)
        volumes[label] = np.asanyarray(nib.load(path).dataobj)
    for label, tolerance in TOLERANCE.items():
        both = (volumes[label] > 0) & (volumes["RAS"] > 0)
        assert both.sum() > 0.95 * (volumes["RAS"] > 0).sum()
        difference = np.abs(volumes[label] - volumes["RAS"])[both]
        assert difference.mean() < tolerance, label
