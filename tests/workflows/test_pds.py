"""The graphs for workflows of others: whole without any input, and what the GPU scheduler sees."""

from pathlib import Path

import pytest
from nipype.pipeline.engine.utils import generate_expanded_graph

from pds_bids.bids.series import Series
from pds_bids.modalities import Modality
from pds_bids.workflows import pds

CARD = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)"


@pytest.fixture(autouse=True)
def any_weights(monkeypatch, tmp_path):
    """A graph needs no weights, but the folder and the checksum of some."""
    monkeypatch.setattr(pds, "checked_weights_sha256", lambda folder: "0" * 64)
    monkeypatch.setattr(pds, "default_model_dir", lambda *method: tmp_path)


def nodes(workflow):
    return {node.name: node for node in generate_expanded_graph(workflow._create_flat_graph()).nodes()}


@pytest.mark.parametrize("source", list(Modality))
def test_inputs_may_come_later(source):
    found = nodes(pds.init_pds_synth_wf(str(source), seed_names=["sub-01"]))
    assert {"conform", "their_registration", "synthesize", "named"} <= set(found)
    assert ("gradients" in found) is (source is Modality.DWI)


@pytest.mark.parametrize("has_t1w", [True, False])
def test_a_raw_series_with_and_without_t1w(tmp_path, has_t1w):
    path = tmp_path / "sub-01_ses-2_bold.nii.gz"
    path.touch()
    series = Series(Modality.BOLD, path, {"RepetitionTime": 2.0}, {"sub": "01", "ses": "2"})
    workflow = pds.init_pds_wf(series, has_t1w=has_t1w)
    found = nodes(workflow)
    assert ("anat_on_grid" in found) is has_t1w
    assert found["synthesize"].inputs.seed_names == ["sub-01", "ses-2"]


def test_a_gpu_is_claimed_where_one_is_visible_and_leaves_no_trace_in_the_hash(driver, monkeypatch):
    def synthesize(**options):
        workflow = pds.init_pds_synth_wf("bold", seed_names=["sub-01"], omp_nthreads=3, **options)
        return nodes(workflow)["synthesize"]

    driver(CARD, 0)
    with_gpu = synthesize()
    assert with_gpu.is_gpu_node()
    assert with_gpu.n_procs == 1
    assert not synthesize(device="cpu").is_gpu_node()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    without = synthesize()
    assert not without.is_gpu_node()
    assert without.n_procs == 3
    assert with_gpu.inputs.get_hashval()[1] == without.inputs.get_hashval()[1]
    assert Path(without.inputs.model_dir).is_dir()
