"""What sidecars say against suffixes; those of real scanners say nothing against their own."""

from pathlib import Path

import pytest

from pds_bids.bids.doubts import sidecar_doubts
from pds_bids.bids.series import Series
from pds_bids.modalities import Modality

# As dcm2niix writes them for scanners of four makers; the second DWI calls itself a gradient echo.
GENUINE = [
    (Modality.BOLD, {"ScanningSequence": "GR", "PulseSequenceType": "Gradient Echo", "EchoTime": 0.03}),
    (Modality.BOLD, {"ScanningSequence": "EP", "SequenceName": "epfid2d1_64", "ImageType": ["M", "FMRI"]}),
    (Modality.BOLD, {"ScanningSequence": ["EP", "GR"], "EchoTime": 0.066, "MagneticFieldStrength": 1.5}),
    (Modality.BOLD, {"EchoTime": "unknown", "ImageType": "ORIGINAL", "ScanningSequence": None}),
    (Modality.BOLD, {"ScanningSequence": "SE\\GR"}),
    (Modality.BOLD, {}),
    (Modality.DWI, {"ScanningSequence": "SE", "SequenceName": "DwiSE", "EchoTime": 0.0607}),
    (
        Modality.DWI,
        {
            "ScanningSequence": "EP",
            "PulseSequenceType": "Multiband Gradient Echo EPI",
            "SequenceName": "epse2d1_72",
            "DiffusionScheme": "Monopolar",
            "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "MAGNITUDE"],
        },
    ),
    (Modality.DWI, {"ScanningSequence": "SE\\EP", "EchoTime": 0.079}),
    (Modality.DWI, {}),
]
CONTRADICTIONS = [
    (Modality.BOLD, {"EchoTime": 0.08, "MagneticFieldStrength": 3}, "echo time of 80 ms"),
    (Modality.BOLD, {"EchoTime": 0.062, "MagneticFieldStrength": 7}, "echo time of 62 ms"),
    (Modality.BOLD, {"EchoTime": 0.08}, "echo time of 80 ms"),
    (Modality.BOLD, {"ImageType": ["ORIGINAL", "DIFFUSION"]}, "diffusion MRI"),
    (Modality.BOLD, {"DiffusionScheme": "Bipolar"}, "b-values or a diffusion scheme"),
    (Modality.BOLD, {"ScanningSequence": "SE\\EP"}, "spin echo"),
    (Modality.BOLD, {"SequenceName": "*epse2d1_64"}, "spin echo"),
    (Modality.DWI, {"EchoTime": 0.00298}, "echo time of 3 ms"),
    (Modality.DWI, {"ScanningSequence": ["GR", "IR"]}, "gradient echo"),
    (Modality.DWI, {"ImageType": ["ORIGINAL", "FMRI"]}, "functional MRI"),
    (Modality.DWI, {"ImageType": ["DERIVED", "ADC", "FA"]}, "a map"),
]


def series(modality, metadata, folder=Path("sub-01"), **more):
    return Series(modality, folder / f"sub-01_{modality}.nii.gz", metadata, {"sub": "01"}, **more)


@pytest.mark.parametrize(("modality", "metadata"), GENUINE)
def test_genuine_sidecars_raise_no_doubt(modality, metadata):
    assert sidecar_doubts(series(modality, metadata)) == ()


@pytest.mark.parametrize(("modality", "metadata", "expected"), CONTRADICTIONS)
def test_a_contradiction_is_told_once(modality, metadata, expected):
    (doubt,) = sidecar_doubts(series(modality, metadata))
    assert doubt.startswith(f"{modality.upper()}: sub-01_{modality}.nii.gz: ")
    assert expected in doubt


def test_b_values_beside_a_bold_series_are_told(tmp_path):
    assert not sidecar_doubts(series(Modality.BOLD, {}, tmp_path))
    (tmp_path / "sub-01_bold.bval").write_text("0 1000\n")
    (doubt,) = sidecar_doubts(series(Modality.BOLD, {}, tmp_path))
    assert "b-values" in doubt


def test_every_run_is_looked_at_and_late_echoes_are_not():
    late = series(Modality.BOLD, {"EchoTime": 0.062, "MagneticFieldStrength": 3})
    early = series(Modality.BOLD, {"EchoTime": 0.02, "MagneticFieldStrength": 3}, echoes=(late,))
    assert not sidecar_doubts(early)
    both = series(Modality.BOLD, {"EchoTime": 0.02}, joined=(late,))
    assert len(sidecar_doubts(both)) == 1
