"""Which fieldmap belongs to a series: skeletons in, kind and reason out."""

import json

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.collect import choose_series
from pds_bids.bids.fieldmaps import FieldmapKind, find_fieldmap, readout
from pds_bids.exceptions import DataError
from pds_bids.modalities import Modality

EPI = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}
OTHER_WAY = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.04}
ECHOES = {"EchoTime1": 0.00492, "EchoTime2": 0.00738}


@pytest.fixture
def dataset(tmp_path):
    """Write files: name to sidecar (None: no sidecar); images are 4D for bold and dwi."""

    def make(files, affine=None):
        for name, sidecar in files.items():
            path = tmp_path / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            suffix = name.rsplit("_", 1)[1]
            shape = (4, 4, 4, 3) if suffix in ("bold", "dwi") else (4, 4, 4)
            vox2ras = np.diag([3.0, 3, 3, 1]) if affine is None else affine(name)
            nib.Nifti1Image(np.ones(shape, np.int16), vox2ras).to_filename(path)
            if sidecar is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(sidecar))
            if suffix == "dwi":
                (tmp_path / f"{name}.bval").write_text("0 1000 1000\n")
                (tmp_path / f"{name}.bvec").write_text("0 1 0\n0 0 1\n0 0 0\n")
        return tmp_path

    return make


def series_in(root, name):
    modality = Modality.DWI if name.endswith("dwi") else Modality.BOLD
    return choose_series(modality, [root / f"{name}.nii.gz"], root).series


def find(root, name, others=()):
    fmaps = sorted(root.glob("sub-*/fmap/*.nii.gz")) + sorted(root.glob("sub-*/ses-*/fmap/*.nii.gz"))
    return find_fieldmap(series_in(root, name), fmaps, [series_in(root, o) for o in others], root)


BOLD = "sub-1/func/sub-1_task-rest_bold"
AP, PA = "sub-1/dwi/sub-1_dir-AP_dwi", "sub-1/dwi/sub-1_dir-PA_dwi"


def gre(intended, **more):
    return {
        "sub-1/fmap/sub-1_phasediff": {**ECHOES, "IntendedFor": intended, **more},
        "sub-1/fmap/sub-1_magnitude1": {},
        "sub-1/fmap/sub-1_magnitude2": {},
    }


@pytest.mark.parametrize(
    "intended",
    [
        "func/sub-1_task-rest_bold.nii.gz",
        ["func/sub-1_task-other_bold.nii.gz", "func/sub-1_task-rest_bold.nii.gz"],
        ["bids::sub-1/func/sub-1_task-rest_bold.nii.gz"],
        "bids:raw:sub-1/func/sub-1_task-rest_bold.nii.gz",
    ],
)
def test_intended_for_in_all_its_forms(dataset, intended):
    root = dataset({BOLD: EPI, **gre(intended)})
    fieldmap, reason = find(root, BOLD)
    assert reason == ""
    assert fieldmap.kind is FieldmapKind.PHASEDIFF
    assert fieldmap.how == "IntendedFor"
    assert [path.name for path in fieldmap.files] == ["sub-1_phasediff.nii.gz", "sub-1_magnitude1.nii.gz"]
    assert fieldmap.echo_times_s == (0.00492, 0.00738)
    assert (fieldmap.series.direction, fieldmap.series.readout_s) == ("j-", 0.05)


def test_a_fieldmap_of_another_series_does_not_belong(dataset):
    root = dataset({BOLD: EPI, **gre("func/sub-1_task-rest_run-2_bold.nii.gz")})
    assert find(root, BOLD) == (None, "no fieldmap in BIDS says that it belongs to it")


def test_session_is_part_of_the_name(dataset):
    bolds = {f"sub-1/ses-{s}/func/sub-1_ses-{s}_task-rest_bold": EPI for s in "ab"}
    fmaps = {
        "sub-1/ses-a/fmap/sub-1_ses-a_phasediff": {
            **ECHOES,
            "IntendedFor": "ses-a/func/sub-1_ses-a_task-rest_bold.nii.gz",
        },
        "sub-1/ses-a/fmap/sub-1_ses-a_magnitude1": {},
    }
    root = dataset({**bolds, **fmaps})
    first, second = (find(root, name) for name in bolds)
    assert first[0].phases[0].name == "sub-1_ses-a_phasediff.nii.gz"
    assert second[0] is None


def test_sidecars_are_inherited(dataset):
    root = dataset({BOLD: None, **gre("func/sub-1_task-rest_bold.nii.gz")})
    (root / "task-rest_bold.json").write_text(json.dumps(EPI))
    (root / "phasediff.json").write_text(json.dumps({"Units": "rad"}))
    fieldmap, _ = find(root, BOLD)
    assert fieldmap.series.readout_s == 0.05
    assert fieldmap.units == "rad"


def test_named_source_wins_over_intended_for(dataset):
    epis = {
        f"sub-1/fmap/sub-1_dir-{d}_epi": {**e, "B0FieldIdentifier": "pepolar0"}
        for d, e in (("AP", EPI), ("PA", OTHER_WAY))
    }
    root = dataset(
        {BOLD: {**EPI, "B0FieldSource": ["pepolar0"]}, **epis, **gre("func/sub-1_task-rest_bold.nii.gz")}
    )
    fieldmap, _ = find(root, BOLD)
    assert fieldmap.kind is FieldmapKind.EPI_PAIR
    assert fieldmap.how == "B0FieldSource"
    assert [epi.readout_s for epi in fieldmap.epis] == [0.05, 0.04]


def test_a_named_source_that_is_not_there_is_said(dataset):
    root = dataset({BOLD: {**EPI, "B0FieldSource": "gone"}, **gre("func/sub-1_task-rest_bold.nii.gz")})
    fieldmap, reason = find(root, BOLD)
    assert fieldmap is None
    assert "B0FieldSource names gone" in reason


def test_one_opposite_image_and_the_series(dataset):
    intended = {"IntendedFor": "func/sub-1_task-rest_bold.nii.gz"}
    root = dataset({BOLD: EPI, "sub-1/fmap/sub-1_dir-PA_epi": {**OTHER_WAY, **intended}})
    assert find(root, BOLD)[0].kind is FieldmapKind.EPI_AND_SERIES
    root = dataset({BOLD: EPI, "sub-1/fmap/sub-1_dir-PA_epi": {**EPI, **intended}})
    fieldmap, reason = find(root, BOLD)
    assert fieldmap is None
    assert "no two opposite directions" in reason


def test_opposite_images_win_over_phases_and_the_rest_is_noted(dataset):
    intended = {"IntendedFor": "func/sub-1_task-rest_bold.nii.gz"}
    epis = {f"sub-1/fmap/sub-1_dir-{d}_epi": {**e, **intended} for d, e in (("AP", EPI), ("PA", OTHER_WAY))}
    root = dataset({BOLD: EPI, **epis, **gre(intended["IntendedFor"])})
    fieldmap, _ = find(root, BOLD)
    assert fieldmap.kind is FieldmapKind.EPI_PAIR
    assert any("sub-1_phasediff" in note for note in fieldmap.notes)


def test_two_phases_and_a_field(dataset):
    intended = {"IntendedFor": "func/sub-1_task-rest_bold.nii.gz"}
    phases = {f"sub-1/fmap/sub-1_phase{k}": {"EchoTime": 0.0023 * k, **intended} for k in (1, 2)} | {
        "sub-1/fmap/sub-1_magnitude1": {}
    }
    root = dataset({BOLD: EPI, **phases})
    fieldmap, _ = find(root, BOLD)
    assert fieldmap.kind is FieldmapKind.PHASES
    assert [p.name for p in fieldmap.phases] == ["sub-1_phase1.nii.gz", "sub-1_phase2.nii.gz"]
    field = {"sub-1/fmap/sub-1_fieldmap": {"Units": "Hz", **intended}, "sub-1/fmap/sub-1_magnitude": {}}
    root = dataset(field)
    assert find(root, BOLD)[0].kind is FieldmapKind.DIRECT


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"PhaseEncodingDirection": "j"}, "no TotalReadoutTime"),
        ({"PhaseEncodingAxis": "j", "EstimatedTotalReadoutTime": 0.03}, "does not say which way"),
        ({}, "no PhaseEncodingDirection and no TotalReadoutTime"),
    ],
)
def test_a_series_that_cannot_be_corrected_is_said(dataset, sidecar, words):
    root = dataset({BOLD: sidecar, **gre("func/sub-1_task-rest_bold.nii.gz")})
    fieldmap, reason = find(root, BOLD)
    assert fieldmap is None
    assert words in reason
    assert "sub-1_phasediff.nii.gz" in reason


def test_readout_time_from_echo_spacing():
    sidecar = {"PhaseEncodingDirection": "i", "EffectiveEchoSpacing": 0.000540003, "ReconMatrixPE": 64}
    assert readout(sidecar, BOLD_PATH).readout_s == pytest.approx(0.0340202, abs=1e-6)
    with pytest.raises(DataError, match="between 1 ms and 1 s"):
        readout({"PhaseEncodingDirection": "i", "TotalReadoutTime": 34.0}, BOLD_PATH)


class BOLD_PATH:
    name = "sub-1_task-rest_bold.nii.gz"


def test_missing_pieces_are_said(dataset):
    files = gre("func/sub-1_task-rest_bold.nii.gz")
    del files["sub-1/fmap/sub-1_magnitude1"], files["sub-1/fmap/sub-1_magnitude2"]
    root = dataset({BOLD: EPI, **files})
    assert "no magnitude1 or magnitude2 or magnitude beside it" in find(root, BOLD)[1]


def test_placeholder_content_is_said(dataset):
    root = dataset({BOLD: EPI, **gre("func/sub-1_task-rest_bold.nii.gz")})
    (root / "sub-1/fmap/sub-1_phasediff.nii.gz").write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    assert "datalad get" in find(root, BOLD)[1]


def test_two_diffusion_series_are_a_pair_without_being_told(dataset):
    root = dataset({AP: EPI, PA: OTHER_WAY})
    fieldmap, _ = find(root, AP, [AP, PA])
    assert fieldmap.kind is FieldmapKind.DWI_PAIR
    assert fieldmap.partner.path.name == "sub-1_dir-PA_dwi.nii.gz"
    assert (fieldmap.series.direction, fieldmap.epis[0].direction) == ("j-", "j")
    back, _ = find(root, PA, [AP, PA])
    assert back.partner.path.name == "sub-1_dir-AP_dwi.nii.gz"


def test_a_pair_comes_before_intended_for(dataset):
    root = dataset({AP: EPI, PA: OTHER_WAY, **gre("dwi/sub-1_dir-AP_dwi.nii.gz")})
    assert find(root, AP, [PA])[0].kind is FieldmapKind.DWI_PAIR


def test_series_that_are_no_pair(dataset):
    def elsewhere(name):
        vox2ras = np.diag([3.0, 3, 3, 1])
        vox2ras[2, 3] = 5.0 if "PA" in name else 0.0
        return vox2ras

    root = dataset({AP: EPI, PA: EPI})
    assert find(root, AP, [PA])[1] == "no fieldmap in BIDS says that it belongs to it"
    root = dataset({AP: EPI, PA: OTHER_WAY}, elsewhere)
    assert "another grid (5.00 mm apart)" in find(root, AP, [PA])[1]
    root = dataset({AP: EPI, PA: OTHER_WAY})
    both = [series_in(root, name) for name in (AP, PA)]
    # The plan refuses such a series; who calls this alone is told, too.
    (root / f"{PA}.bval").write_text("1000 1000 1000\n")
    assert "has no b = 0" in find_fieldmap(both[0], [], both[1:], root)[1]


def test_another_shim_is_noted(dataset):
    root = dataset(
        {BOLD: {**EPI, "ShimSetting": [1, 2]}, **gre("func/sub-1_task-rest_bold.nii.gz", ShimSetting=[1, 3])}
    )
    assert "the shim of sub-1_phasediff.nii.gz" in find(root, BOLD)[0].notes[0]
