"""The graph for every kind of fieldmap."""

import pytest

from pds_bids.bids.fieldmaps import EchoPlanar, Fieldmap, FieldmapKind
from pds_bids.bids.series import Series
from pds_bids.exceptions import UsageError
from pds_bids.modalities import Modality
from pds_bids.workflows.distortion import init_distortion_wf


@pytest.fixture
def series(tmp_path):
    path = tmp_path / "sub-1_dir-AP_dwi.nii.gz"
    path.touch()
    return Series(Modality.DWI, path, {}, {"sub": "1", "dir": "AP"})


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "sub-1_dir-PA_dwi.nii.gz"
    path.touch()
    return Series(Modality.DWI, path, {}, {"sub": "1", "dir": "PA"})


def test_fields_of_one_series(series, other):
    own, epi = EchoPlanar(series.path, "j-", 0.05), EchoPlanar(other.path, "j", 0.04)
    for fieldmap in (
        Fieldmap(FieldmapKind.PHASEDIFF, "IntendedFor", own, (other.path,), (0.005, 0.007), "", other.path),
        Fieldmap(FieldmapKind.EPI_AND_SERIES, "IntendedFor", own, epis=(epi,)),
    ):
        workflow = init_distortion_wf(series, fieldmap, omp_nthreads=1, mem_gb=1)
        assert sorted(workflow.list_node_names()) == ["estimate", "inputnode", "outputnode"]
        estimate = workflow.get_node("estimate")
        assert estimate.inputs.spec["kind"] == fieldmap.kind.name
        assert estimate.inputs.files == [str(path) for path in fieldmap.files]
        assert {"distorted_mean", "n_volumes", "t1w", "t1w_mask"} <= workflow.get_node(
            "inputnode"
        ).outputs.get().keys()


def test_a_pair(series, other):
    own, epi = EchoPlanar(series.path, "j-", 0.05), EchoPlanar(other.path, "j", 0.04)
    fieldmap = Fieldmap(FieldmapKind.DWI_PAIR, "same session", own, epis=(epi,), partner=other)
    estimate = init_distortion_wf(series, fieldmap, omp_nthreads=1, mem_gb=1).get_node("estimate")
    assert estimate.inputs.stored == [str(series.path), str(other.path)]
    assert [m["TotalReadoutTime"] for m in estimate.inputs.metadata] == [0.05, 0.04]
    with pytest.raises(UsageError, match="without the second series"):
        init_distortion_wf(
            series, Fieldmap(FieldmapKind.DWI_PAIR, "", own, epis=(epi,)), omp_nthreads=1, mem_gb=1
        )
