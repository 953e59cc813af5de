"""The nodes on files: what is handed on when a field is good, and what when it is not."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.fieldmaps import EchoPlanar, Fieldmap, FieldmapKind
from pds_bids.imaging.grid import Grid, apply_affine
from pds_bids.interfaces.distortion import EstimateField, FieldFromBlipGroups, fieldmap_spec
from pds_bids.interfaces.images import load_distortion

READOUT_S = 0.04
ECHOES_S = (0.00492, 0.00738)


def brain(points):
    """A lopsided head of soft blobs that can be evaluated anywhere."""
    rng = np.random.default_rng(5)
    x, y, z = np.moveaxis(points, -1, 0)
    radius = np.sqrt((x / 68) ** 2 + (y / 85) ** 2 + (z / 62) ** 2)
    image = np.ones(radius.shape)
    for centre in rng.uniform(-1, 1, (40, 3)) * [50, 65, 45]:
        square = ((points - centre) ** 2).sum(-1)
        image += rng.uniform(-0.35, 0.35) * np.exp(-0.5 * square / rng.uniform(7, 12) ** 2)
    return np.clip(image, 0.2, None) / (1 + np.exp(np.clip((radius - 1) / 0.04, None, 50)))


def field_hz(points):
    x, y, z = np.moveaxis(points, -1, 0)
    return 90 * np.exp(-0.5 * ((x / 25) ** 2 + ((y - 55) / 25) ** 2 + ((z + 20) / 25) ** 2))


def save(path, data, vox2ras):
    nib.Nifti1Image(data.astype(np.float32), vox2ras).to_filename(path)
    return path


def epi(grid, readout_s):
    """The distorted head: looked up where its signal came from, thinned or piled up."""
    there, step = grid.points(), grid.vox2ras[:3, 1]
    source = there.copy()
    for _ in range(40):
        source = there - readout_s * field_hz(source)[..., None] * step
    slope = field_hz(source + step / 2) - field_hz(source - step / 2)
    noise = np.random.default_rng(0).normal(0, 5, grid.shape)
    return 1000 * brain(source) / (1 + readout_s * slope) + noise


@pytest.fixture(scope="module")
def grid():
    vox2ras = np.diag([5.0, 5.0, 5.0, 1.0])
    vox2ras[:3, 3] = [-92.5, -107.5, -77.5]
    return Grid((38, 44, 32), vox2ras)


@pytest.fixture(scope="module")
def files(tmp_path_factory, grid):
    """A series of 4 volumes, its mean, and a gradient-echo fieldmap, on one grid."""
    folder = tmp_path_factory.mktemp("fmap")
    mean = epi(grid, READOUT_S)
    rng = np.random.default_rng(1)
    head = brain(grid.points())
    turn = 2 * np.pi * field_hz(grid.points()) * (ECHOES_S[1] - ECHOES_S[0])
    turn += rng.normal(size=grid.shape) * 0.01 / np.maximum(head, 0.01)
    images = {
        "bold": np.repeat(mean[..., None], 4, -1),
        "mean": mean,
        "opposite": epi(grid, -READOUT_S),
        "phasediff": np.angle(np.exp(1j * turn)),
        "magnitude": 1000 * head,
    }
    return {name: save(folder / f"{name}.nii", data, grid.vox2ras) for name, data in images.items()}


def run(files, direction, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = EchoPlanar(files["bold"], direction, READOUT_S)
    fieldmap = Fieldmap(
        FieldmapKind.PHASEDIFF, "IntendedFor", own, (files["phasediff"],), ECHOES_S, "rad", files["magnitude"]
    )
    node = EstimateField(
        distorted_mean=files["mean"],
        spec=fieldmap_spec(fieldmap),
        files=[str(path) for path in fieldmap.files],
        n_volumes=4,
    )
    outputs = node.run().outputs
    return outputs, json.loads(Path(outputs.qc).read_text())


def test_a_good_field_is_handed_on(files, grid, monkeypatch, tmp_path):
    outputs, qc = run(files, "j", monkeypatch, tmp_path)
    assert qc["used"], qc["reason"]
    assert qc["compared_with"] == "fieldmap"
    assert qc["nmi_after"] > qc["nmi_before"]
    assert qc["files"] == ["phasediff.nii", "magnitude.nii"]
    distortion = load_distortion(outputs.distortion)
    assert distortion.readout_s.tolist() == [READOUT_S] * 4
    assert distortion.axes.tolist() == [1] * 4
    inside = brain(grid.points()) > 0.5
    off = (distortion.hz - field_hz(grid.points()))[inside]
    assert np.abs(off - np.median(off)).mean() < 4


def test_wrong_polarity_is_not_used_and_said(files, monkeypatch, tmp_path, caplog):
    outputs, qc = run(files, "j-", monkeypatch, tmp_path)
    assert not qc["used"]
    assert "opposite sign" in qc["reason"]
    assert not isinstance(outputs.distortion, str)
    assert "NOT corrected" in caplog.text


def groups_node(files, tmp_path, second):
    motion = np.tile(np.eye(4), (5, 1, 1))
    motion[:, 0, 3] = [0, 0.5, 0, 0, 0.25]
    np.save(tmp_path / "within.npy", motion)
    return motion, FieldFromBlipGroups(
        b0_files=[files["mean"], files[second]],
        stored=[files["bold"]] * 2,
        metadata=[
            {"PhaseEncodingDirection": "j", "TotalReadoutTime": READOUT_S},
            {"PhaseEncodingDirection": "j-", "TotalReadoutTime": READOUT_S},
        ],
        groups=[0, 0, 0, 1, 1],
        motion=tmp_path / "within.npy",
    )


def test_groups_are_joined(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    motion, node = groups_node(files, tmp_path, "opposite")
    outputs = node.run().outputs
    qc = json.loads(Path(outputs.qc).read_text())
    assert qc["used"], qc["reason"]
    assert qc["blips"]["correlation_after"] > 0.98 > qc["blips"]["correlation_before"]
    assert outputs.volumes == [0, 1, 2, 3, 4]
    distortion = load_distortion(outputs.distortion)
    np.testing.assert_allclose(distortion.readout_s, [READOUT_S] * 3 + [-READOUT_S] * 2)
    joined = np.load(outputs.motion)
    np.testing.assert_allclose(joined[:3], motion[:3], atol=1e-9)
    between = joined[3]
    np.testing.assert_allclose(joined[4], motion[4] @ between, atol=1e-9)
    # The head did not move; a shift along the phase encoding stands for the mean of the field.
    moved = apply_affine(between, np.array([[0.0, 0, 0], [0, 40, 0]])) - [[0, 0, 0], [0, 40, 0]]
    assert np.abs(moved[:, [0, 2]]).max() < 1.0


def test_groups_without_a_field_keep_to_the_first(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    motion, node = groups_node(files, tmp_path, "opposite")
    node.inputs.metadata = [node.inputs.metadata[0]] * 2
    outputs = node.run().outputs
    qc = json.loads(Path(outputs.qc).read_text())
    assert not qc["used"]
    assert "at least two directions" in qc["reason"]
    assert outputs.volumes == [0, 1, 2]
    np.testing.assert_allclose(np.load(outputs.motion), motion)
