"""Scans that a known field has distorted, with the fieldmaps that BIDS says belong to them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pds_bids.imaging.grid import apply_affine

READOUT_S = 0.05
ECHO_DIFFERENCE_S = 0.00246


def field_hz(points):
    """Off-resonance as sinuses and ears make it, in Hz: up to 1.6 voxels."""
    x, y, z = np.moveaxis(points, -1, 0)
    front = 32 * np.exp(-0.5 * (x**2 + (y - 55) ** 2 + (z + 15) ** 2) / 22**2)
    sides = -20 * np.exp(-0.5 * ((np.abs(x) - 45) ** 2 + (y + 10) ** 2 + (z + 30) ** 2) / 20**2)
    return front + sides


def distort(series, vox2ras, sign):
    """Move the voxels of ``(X, Y, Z, N)`` along the second axis as the field does, and conserve signal."""
    index = np.moveaxis(np.indices(series.shape[:3], dtype=float), 0, -1)
    truth = index.copy()
    for _ in range(40):
        truth[..., 1] = index[..., 1] - sign * READOUT_S * field_hz(apply_affine(vox2ras, truth))
    half = np.array([0, 0.5, 0])
    slope = field_hz(apply_affine(vox2ras, truth + half)) - field_hz(apply_affine(vox2ras, truth - half))
    density = 1 + sign * READOUT_S * slope
    volumes = [
        ndimage.map_coordinates(series[..., k], np.moveaxis(truth, -1, 0), order=3, mode="nearest") / density
        for k in range(series.shape[3])
    ]
    return np.clip(np.stack(volumes, -1), 0, None).astype(np.float32)


def write(path, data, affine, sidecar):
    path.parent.mkdir(exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


@pytest.fixture(scope="module")
def distorted(cohort, tmp_path_factory):
    """The cohort after distortion: sub-01 with a gradient-echo fieldmap, sub-02 with two blip directions."""
    data = tmp_path_factory.mktemp("distorted") / "data"
    shutil.copytree(cohort, data)
    path = next((data / "sub-01/func").glob("*_bold.nii.gz"))
    image, sidecar = nib.load(path), path.with_name(path.name.replace(".nii.gz", ".json"))
    encoding = {"TotalReadoutTime": READOUT_S, "EffectiveEchoSpacing": None}
    metadata = {k: v for k, v in json.loads(sidecar.read_text()).items() if k not in encoding}
    bold = np.asarray(image.dataobj, np.float32)
    metadata |= {"TotalReadoutTime": READOUT_S, "PhaseEncodingDirection": "j-"}
    write(path, distort(bold, image.affine, -1), image.affine, metadata)
    points = apply_affine(image.affine, np.moveaxis(np.indices(image.shape[:3], dtype=float), 0, -1))
    # Fieldmaps are coarser than the series, and are not made of the same voxels.
    magnitude = ndimage.gaussian_filter(bold.mean(3), 0.8)
    # Where there is no signal the phase is noise.
    noise = 0.02 * magnitude.max() / np.maximum(magnitude, 1e-3 * magnitude.max())
    phase = 2 * np.pi * ECHO_DIFFERENCE_S * (field_hz(points) + 40)
    phase += noise * np.random.default_rng(0).normal(size=phase.shape)
    wrapped = (phase + np.pi) % (2 * np.pi) - np.pi
    fmap = data / "sub-01" / "fmap"
    common = {"IntendedFor": f"func/{path.name}", "EchoTime1": 0.00492, "EchoTime2": 0.00738}
    stored = np.round(wrapped / np.pi * 4096).astype(np.int16)
    write(fmap / "sub-01_phasediff.nii.gz", stored, image.affine, common)
    for k, time_s in ((1, 0.00492), (2, 0.00738)):
        write(fmap / f"sub-01_magnitude{k}.nii.gz", magnitude, image.affine, {"EchoTime": time_s})

    path = next((data / "sub-02/dwi").glob("*_dwi.nii.gz"))
    image, sidecar = nib.load(path), path.with_name(path.name.replace(".nii.gz", ".json"))
    metadata = {k: v for k, v in json.loads(sidecar.read_text()).items() if k not in encoding}
    dwi = np.asarray(image.dataobj, np.float32)
    for name, sign, direction in (("AP", -1, "j-"), ("PA", 1, "j")):
        stem = path.with_name(path.name.replace("_dwi.nii.gz", f"_dir-{name}_dwi.nii.gz"))
        own = metadata | {"TotalReadoutTime": READOUT_S, "PhaseEncodingDirection": direction}
        write(stem, distort(dwi, image.affine, sign), image.affine, own)
        for extension in (".bval", ".bvec"):
            source = path.with_name(path.name.replace(".nii.gz", extension))
            shutil.copy(source, stem.with_name(stem.name.replace(".nii.gz", extension)))
    for extension in (".nii.gz", ".json", ".bval", ".bvec"):
        path.with_name(path.name.replace(".nii.gz", extension)).unlink()
    return data


@pytest.fixture(scope="module")
def corrected(distorted, app, quick, tmp_path_factory):
    base = tmp_path_factory.mktemp("corrected")
    run = app(distorted, base / "out", "participant", "-w", base / "work", *quick)
    assert run.code == 0, run.text
    return base / "out"


def units(volume, inside):
    return volume / volume[inside].mean()


def native(out, pattern):
    image = nib.load(next(out.glob(pattern)))
    return np.asarray(image.dataobj, np.float32), image.affine


CASES = {
    "bold": ("sub-01/func/sub-01_*task-rest_desc-{}.nii.gz", "mean_boldref", "brain_mask", -1),
    "dwi": ("sub-02/dwi/sub-02_desc-{}.nii.gz", "b0_dwiref", "brain_mask", 1),
}


@pytest.mark.parametrize("modality", CASES)
def test_the_corrected_mean_is_that_of_the_undistorted_scan(corrected, finished, modality):
    pattern, mean, mask, sign = CASES[modality]
    ours, affine = native(corrected, pattern.format(mean))
    truth, _ = native(finished[1], pattern.format(mean))
    inside = native(finished[1], pattern.format(mask))[0] > 0
    inside &= np.abs(field_hz(apply_affine(affine, np.moveaxis(np.indices(inside.shape, float), 0, -1)))) > 8
    spoilt = distort(truth[..., None], affine, sign)[..., 0]
    before, after = (np.abs(units(i, inside) - units(truth, inside))[inside].mean() for i in (spoilt, ours))
    assert after < 0.6 * before


def test_the_field_is_the_planted_one(corrected):
    for pattern, limit_hz in (("sub-01/func/*_fieldmap.nii.gz", 3.0), ("sub-02/dwi/*_fieldmap.nii.gz", 6.0)):
        field, affine = native(corrected, pattern)
        truth = field_hz(apply_affine(affine, np.moveaxis(np.indices(field.shape, dtype=float), 0, -1)))
        masks = corrected.glob(pattern.rsplit("/", 1)[0] + "/*_desc-brain_mask.nii.gz")
        mask = next(path for path in masks if "_space-" not in path.name)
        inside = np.asarray(nib.load(mask).dataobj) > 0
        difference = (field - truth)[inside]
        # A constant is a shift of the whole head, which the registration takes up.
        assert np.abs(difference - np.median(difference)).mean() < limit_hz, pattern


def test_quality_says_what_was_used(corrected):
    for pattern in ("sub-01/func/*_desc-image_qc.json", "sub-02/dwi/*_desc-image_qc.json"):
        content = json.loads(next(corrected.glob(pattern)).read_text())
        assert content["distortion_corrected"] is True


def test_both_directions_are_in_the_average(corrected, finished):
    sidecar = json.loads(next(corrected.glob("sub-02/dwi/sub-02_desc-b0_dwiref.json")).read_text())
    assert {source.split("_dir-")[1][:2] for source in sidecar["Sources"]} == {"AP", "PA"}
    tables = [
        next(out.glob("sub-02/dwi/*_desc-confounds_timeseries.tsv")).read_text().splitlines()
        for out in (corrected, finished[1])
    ]
    assert len(tables[0]) - 1 == 2 * (len(tables[1]) - 1)
