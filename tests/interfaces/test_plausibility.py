"""The verdict on a series as files of the pipeline, and where its doubts end up."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from pds_bids.exceptions import DataError
from pds_bids.imaging.grid import Grid
from pds_bids.interfaces.images import save
from pds_bids.interfaces.plausibility import JudgeSeries
from pds_bids.interfaces.quality import SourceQuality

GRID = Grid((6, 7, 5), np.diag([4.0, 4, 4, 1]))
TOLD = "DWI: dwi.nii.gz: a gradient echo"


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Return a function that judges a series of the given brightness per volume."""
    monkeypatch.chdir(tmp_path)
    mask = np.zeros(GRID.shape, np.float32)
    mask[1:5, 1:6, 1:4] = 1

    def run(levels, bvals=None, **more):
        # Outside of the brain all volumes are alike: a verdict on the whole image would be another one.
        series = np.where(mask[..., None] > 0, np.array(levels, np.float32), 5000)
        inputs = {"in_file": save("series.nii", series, GRID.vox2ras)}
        inputs["mask"] = save("mask.nii", mask, GRID.vox2ras)
        if bvals:
            vectors = np.resize(np.eye(3), (len(bvals), 3)).tolist()
            Path("gradients.json").write_text(json.dumps({"bvals": bvals, "bvecs_ras": vectors}))
            inputs["gradients"] = str(tmp_path / "gradients.json")
        return JudgeSeries(series_name="dwi.nii.gz", **inputs, **more).run().outputs

    return run


def test_weighting_is_measured_in_the_brain(judge):
    outputs = judge([900, 300, 310, 305], [0, 1000, 1000, 1000])
    verdict = json.loads(Path(outputs.plausibility).read_text())
    assert verdict == {"weighted_to_b0": pytest.approx(305 / 900, abs=1e-4), "doubts": []}
    assert outputs.mask.endswith("mask.nii")


def test_an_unweighted_series_stops_here(judge):
    with pytest.raises(DataError, match="not diffusion-weighted"):
        judge([900, 880, 910, 890], [0, 1000, 1000, 1000])


def test_doubts_are_logged_and_kept(judge, caplog):
    with caplog.at_level(logging.WARNING, "pds_bids.interfaces"):
        outputs = judge([900, 300, 890, 310], [0, 1000, 1000, 1000], told=[TOLD])
    doubts = json.loads(Path(outputs.plausibility).read_text())["doubts"]
    assert len(doubts) == 2
    assert doubts[0] == TOLD
    assert "volumes 2" in doubts[1]
    assert [record.message for record in caplog.records] == doubts


def test_bold_is_judged_without_a_table(judge):
    outputs = judge([900, 500, 505, 250], dummies=[0])
    (doubt,) = json.loads(Path(outputs.plausibility).read_text())["doubts"]
    assert "volumes 3" in doubt


def test_the_quality_file_tells_every_doubt_once(tmp_path):
    """What the plan has said of the sidecar is not said again."""
    path = tmp_path / "plausibility.json"
    path.write_text(json.dumps({"weighted_to_b0": 0.4, "doubts": [TOLD, "another"]}))
    warnings = [TOLD]
    content = SourceQuality(plausibility=str(path))._more(warnings)
    assert warnings == [TOLD, "another"]
    assert content["weighted_to_b0"] == 0.4
