"""The graph against a list of its nodes that is kept in the repository, so that a change shows in review."""

from dataclasses import replace
from pathlib import Path

import pytest

from pds_bids.bids.fieldmaps import EchoPlanar, Fieldmap, FieldmapKind
from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.modalities import Direction, Modality
from pds_bids.plan import Action, Plan, SessionPlan
from pds_bids.workflows.base import init_pds_bids_wf

GRAPHS = Path(__file__).parents[1] / "graphs"


def make_plan(folder, modalities, *, with_t1w, directions):
    files = {}
    for modality in modalities:
        path = folder / f"sub-01_{modality}.nii.gz"
        path.touch()
        extra = {}
        if modality is Modality.DWI:
            extra = {kind: folder / f"sub-01_dwi.{kind}" for kind in ("bval", "bvec")}
            for table in extra.values():
                table.touch()
        files[str(modality)] = Series(modality, path, {"RepetitionTime": 2.0}, {"sub": "01"}, **extra)
    t1w = folder / "sub-01_T1w.nii.gz" if with_t1w else None
    if t1w:
        t1w.touch()
    session = SessionPlan("01", None, **files, t1w=t1w, directions=directions, action=Action.RUN)
    return Plan("test", folder, "both", (session,))


def everything(folder):
    """Echoes, a fieldmap, two directions, denoising, a T1w image: each node that is not always there."""
    plan = make_plan(folder, list(Modality), with_t1w=True, directions=tuple(Direction))
    session = plan.sessions[0]
    other = folder / "sub-01_dir-PA_dwi.nii.gz"
    echo = folder / "sub-01_echo-2_bold.nii.gz"
    phase = folder / "sub-01_phasediff.nii.gz"
    for path in (other, echo, phase):
        path.touch()
    timed = [replace(session.bold, metadata={"EchoTime": 0.03}) for _ in range(2)]
    timed[1] = replace(timed[1], path=echo, metadata={"EchoTime": 0.05})
    bold = replace(session.bold, echoes=tuple(timed), n_volumes=4)
    dwi = replace(session.dwi, n_volumes=7, metadata={"PhaseEncodingDirection": "j-"})
    partner = replace(dwi, path=other, metadata={"PhaseEncodingDirection": "j"})
    own = EchoPlanar(bold.path, "j", 0.05)
    gradient_echo = Fieldmap(FieldmapKind.PHASEDIFF, "IntendedFor", own, (phase,), magnitude=phase)
    pair = Fieldmap(
        FieldmapKind.DWI_PAIR, "same session", EchoPlanar(dwi.path, "j-", 0.05),
        epis=(EchoPlanar(other, "j", 0.05),), partner=partner,
    )  # fmt: skip
    session = replace(
        session,
        bold=bold,
        dwi=replace(dwi, joined=(partner,)),
        bold_fieldmap=gradient_echo,
        dwi_fieldmap=pair,
    )
    return replace(plan, sessions=(session,))


CASES = {
    "bold_with_t1w": ([Modality.BOLD], True, (Direction.BOLD2DWI,)),
    "dwi_alone": ([Modality.DWI], False, (Direction.DWI2BOLD,)),
    "both": ([Modality.BOLD, Modality.DWI], False, tuple(Direction)),
}


@pytest.mark.parametrize("name", CASES)
def test_nodes_of_the_expanded_graph(tmp_path, name):
    modalities, with_t1w, directions = CASES[name]
    (tmp_path / "data").mkdir()
    plan = make_plan(tmp_path / "data", modalities, with_t1w=with_t1w, directions=directions)
    config = RunConfig(bids_dir=tmp_path / "data", output_dir=tmp_path / "out", work_dir=tmp_path / "work")
    workflow = init_pds_bids_wf(plan, config)
    graph = workflow._create_flat_graph()
    nodes = sorted(f"{node.fullname}" for node in graph.nodes())
    assert nodes == (GRAPHS / f"{name}.txt").read_text().split()


def test_nodes_that_are_not_always_there(tmp_path):
    (tmp_path / "data").mkdir()
    plan = everything(tmp_path / "data")
    config = make_config(tmp_path, denoise_method="mppca")
    graph = init_pds_bids_wf(plan, config)._create_flat_graph()
    nodes = sorted(f"{node.fullname}" for node in graph.nodes())
    assert nodes == (GRAPHS / "everything.txt").read_text().split()


def make_config(folder, **options):
    return RunConfig(bids_dir=folder / "data", output_dir=folder / "out", work_dir=folder / "work", **options)


@pytest.mark.parametrize("has_everything", [False, True])
def test_every_mandatory_input_is_connected_or_set(tmp_path, has_everything):
    """A node whose mandatory input nobody gives would fail after minutes, not now."""
    (tmp_path / "data").mkdir()
    modalities, _, directions = CASES["both"]
    plan = make_plan(tmp_path / "data", modalities, with_t1w=True, directions=directions)
    if has_everything:
        plan = everything(tmp_path / "data")
    config = make_config(tmp_path, denoise_method="mppca" if has_everything else "none")
    from nipype.interfaces.base import isdefined
    from nipype.pipeline.engine.utils import generate_expanded_graph

    graph = generate_expanded_graph(init_pds_bids_wf(plan, config)._create_flat_graph())
    open_inputs = []
    for node in graph.nodes():
        connected = {pair[1] for _, _, data in graph.in_edges(node, data=True) for pair in data["connect"]}
        for trait in node.inputs.traits(mandatory=True):
            if trait not in connected and not isdefined(getattr(node.inputs, trait)):
                open_inputs.append(f"{node.fullname}.{trait}")
    assert not open_inputs


def test_the_graph_is_written_without_graphviz(tmp_path, monkeypatch):
    from pds_bids.cli.execute import write_graph

    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "data").mkdir()
    plan = make_plan(tmp_path / "data", [Modality.BOLD], with_t1w=False, directions=(Direction.BOLD2DWI,))
    config = RunConfig(bids_dir=tmp_path / "data", output_dir=tmp_path / "out", work_dir=tmp_path / "work")
    write_graph(init_pds_bids_wf(plan, config), tmp_path / "graph")
    assert "synthesize" in (tmp_path / "graph" / "graph.dot").read_text()
