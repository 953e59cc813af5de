import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pds_bids.bids.series import Series
from pds_bids.config import RunConfig
from pds_bids.exceptions import InvalidBIDSError, NothingSelectedError, UsageError
from pds_bids.modalities import Direction, Modality
from pds_bids.plan import COMPLETE, Action, Plan, SessionPlan
from pds_bids.planning import make_plan

SKELETONS = [
    "one_missing",
    "sessions",
    "several_series",
    "multi_echo",
    "runs",
    "inheritance",
    "annex",
    "broken",
]


def plan_of(root: Path, **options) -> Plan:
    return make_plan(RunConfig(bids_dir=root, output_dir=root.parent / "out", **options))


def by_label(plan: Plan) -> dict[str, SessionPlan]:
    return {session.label: session for session in plan.sessions}


def name_of(file: Series | Path | None) -> str | None:
    path = file.path if isinstance(file, Series) else file
    return path.name if path else None


def check_session(session: SessionPlan, expected: dict) -> None:
    assert session.action == expected["action"]
    assert [str(direction) for direction in session.directions] == expected.get("directions", [])
    for kind in ("bold", "dwi", "t1w"):
        assert name_of(getattr(session, kind)) == expected.get(kind), kind
    assert expected["reason"] in session.reason
    notes = expected.get("notes", [])
    said = [note for note in session.notes if "distortion is" not in note and "eddy currents are" not in note]
    assert len(said) == len(notes)
    assert all(part in note for part, note in zip(notes, said, strict=True))
    not_used = {path.name: reason for path, reason in session.not_used}
    assert not_used.keys() == expected.get("not_used", {}).keys()
    for name, part in expected.get("not_used", {}).items():
        assert part in not_used[name]
    series = session.bold or session.dwi
    if "metadata" in expected:
        assert series is not None
        assert series.metadata == expected["metadata"]
    if "bval" in expected:
        assert name_of(session.dwi.bval) == expected["bval"]
        assert name_of(session.dwi.bvec) == expected["bval"].replace("bval", "bvec")


@pytest.mark.parametrize("name", SKELETONS)
def test_skeleton(name, make_skeleton):
    """What is planned for each dataset of ``tests/skeletons``, in memory, as JSON and as a table."""
    root, expected = make_skeleton(name)
    plan = plan_of(root)
    sessions = by_label(plan)
    assert list(sessions) == list(expected)
    for label, session in sessions.items():
        check_session(session, expected[label])
    check_json_and_table(plan, root.parent / "logs" / "plan.json")


def check_json_and_table(plan: Plan, path: Path) -> None:
    plan.save(path)
    assert Plan.from_json(path.read_text()) == plan
    table = plan.table()
    for session in plan.sessions:
        assert session.reason in " ".join(table.split())
        assert f"sub-{session.participant}" in table
    for action in Action:
        count = len(plan.with_action(action))
        assert (f"{count} to {action}" in table) == (count > 0)


def test_table_lines_up(make_skeleton):
    root, _ = make_skeleton("sessions")
    lines = plan_of(root).table().splitlines()
    header = next(line for line in lines if line.startswith("PARTICIPANT"))
    row = next(line for line in lines if line.startswith("sub-01") and "ses-2" in line)
    assert row.index("ses-2") == header.index("SESSION")
    assert row.index("task-rest (20 vol.)") == header.index("BOLD")
    assert row.index("-  ", header.index("DWI")) == header.index("DWI")
    assert row.index("synthesise DWI") == header.index("PLAN")


def test_table_tells_unusable_from_absent(make_skeleton):
    root, _ = make_skeleton("broken")
    lines = plan_of(root, participant_label=["01"]).table().splitlines()
    row = next(line for line in lines if line.startswith("sub-01"))
    assert row.split() == ["sub-01", "-", "not", "read", "-", "-", "FAIL"]


def test_plan_reads_the_input_only(make_skeleton):
    root, _ = make_skeleton("broken")
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    plan_of(root)
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


def test_series_gives_entities_as_written_and_volumes(make_skeleton):
    root, _ = make_skeleton("several_series")
    bold = by_label(plan_of(root))["sub-01"].bold
    assert bold.entities == {"sub": "01", "task": "rest", "run": "2"}
    assert list(bold.entities) == ["sub", "task", "run"]
    assert (bold.n_volumes, bold.modality, bold.label) == (20, Modality.BOLD, "task-rest run-2")


def test_names_of_a_session():
    session = SessionPlan("01", "1")
    assert (session.label, session.name) == ("sub-01 ses-1", "sub_01_ses_1_wf")
    assert session.entities == {"sub": "01", "ses": "1"}
    assert (SessionPlan("A").label, SessionPlan("A").name) == ("sub-A", "sub_A_wf")
    assert SessionPlan("A").entities == {"sub": "A"}


# what is asked for: action and directions of sub-01 (BOLD only), sub-02 (DWI only), sub-03 (both)
ASKED = {
    "missing": (["bold2dwi"], ["dwi2bold"], []),
    "dwi": (["bold2dwi"], [], ["bold2dwi"]),
    "bold": ([], ["dwi2bold"], ["dwi2bold"]),
    "both": (["bold2dwi"], ["dwi2bold"], ["dwi2bold", "bold2dwi"]),
}


@pytest.mark.parametrize("asked", ASKED)
def test_synthesize(asked, make_skeleton):
    root, _ = make_skeleton("one_missing")
    sessions = by_label(plan_of(root, synthesize=asked))
    for label, directions in zip(("sub-01", "sub-02", "sub-03"), ASKED[asked], strict=True):
        assert [str(direction) for direction in sessions[label].directions] == directions, label
        assert sessions[label].action is (Action.RUN if directions else Action.SKIP)


def test_both_says_what_cannot_be_done(make_skeleton):
    root, _ = make_skeleton("one_missing")
    session = by_label(plan_of(root, synthesize="both"))["sub-01"]
    assert session.reason == "no DWI was acquired; no DWI to synthesise BOLD from"


def test_explicit_request_that_nobody_can_fulfil(make_skeleton):
    root, _ = make_skeleton("one_missing")
    with pytest.raises(
        NothingSelectedError, match=r"--synthesize dwi: .*sub-02: no BOLD to synthesise DWI from"
    ) as caught:
        plan_of(root, synthesize="dwi", participant_label=["02"])
    assert caught.value.exit_code == 18


def test_nothing_missing_anywhere_is_not_an_error(make_skeleton):
    root, _ = make_skeleton("one_missing")
    plan = plan_of(root, participant_label=["03"])
    assert [session.action for session in plan.sessions] == [Action.SKIP]


def test_nothing_missing_although_no_content_is_here(make_skeleton):
    root, _ = make_skeleton("annex")
    plan = plan_of(root, participant_label=["04"])
    assert [session.reason for session in plan.sessions] == [COMPLETE]


def test_no_series_at_all(make_skeleton):
    root, _ = make_skeleton("one_missing")
    with pytest.raises(NothingSelectedError, match=r"there is nothing.*sub-04: neither BOLD nor DWI"):
        plan_of(root, participant_label=["04", "05"])


def test_absent_participants_are_named_with_those_that_exist(make_skeleton):
    root, _ = make_skeleton("one_missing")
    with pytest.raises(
        NothingSelectedError, match="no such participant: 77, 99; the dataset has: 01, 02, 03, 04"
    ):
        plan_of(root, participant_label=["01", "99", "77"])


def test_selected_participants_only(make_skeleton):
    root, _ = make_skeleton("broken")
    assert list(by_label(plan_of(root, participant_label=["09", "01"]))) == ["sub-01", "sub-09"]


def test_selected_session_still_gets_t1w_of_another(make_skeleton):
    root, _ = make_skeleton("sessions")
    sessions = by_label(plan_of(root, session_label=["2"], participant_label=["01"]))
    assert list(sessions) == ["sub-01 ses-2"]
    assert name_of(sessions["sub-01 ses-2"].t1w) == "sub-01_ses-1_T1w.nii.gz"
    assert sessions["sub-01 ses-2"].t1w_session == "1"


def test_absent_session_is_named_with_those_that_exist(make_skeleton):
    root, _ = make_skeleton("sessions")
    with pytest.raises(
        NothingSelectedError, match="no such session: 9; the selected participants have: 1, 2"
    ):
        plan_of(root, session_label=["9", "1"])


def test_participant_without_the_session_is_shown(make_skeleton):
    root, _ = make_skeleton("inheritance")
    (root / "sub-03" / "ses-1").rename(root / "sub-03" / "ses-9")
    file = root / "sub-03/ses-9/func/sub-03_ses-1_task-rest_bold.nii.gz"
    file.rename(file.with_name("sub-03_ses-9_task-rest_bold.nii.gz"))
    sessions = by_label(plan_of(root, session_label=["1"]))
    assert sessions["sub-03"].action is Action.SKIP
    assert "of the sessions asked for" in sessions["sub-03"].reason


def test_task_chooses_the_series(make_skeleton):
    root, _ = make_skeleton("several_series")
    sessions = by_label(plan_of(root, task_id=["rest"], participant_label=["03"]))
    assert name_of(sessions["sub-03"].bold) == "sub-03_task-rest_bold.nii.gz"
    not_used = {path.name: reason for path, reason in sessions["sub-03"].not_used}
    assert "left out by the filters" in not_used["sub-03_task-nback_part-mag_bold.nii.gz"]


def test_filtered_series_is_not_a_missing_modality(make_skeleton):
    """What was acquired but filtered away must not be synthesised as if it had never been acquired."""
    root, _ = make_skeleton("one_missing")
    other = root / "sub-01/func/sub-01_task-nback_bold.nii.gz"
    other.write_bytes((root / "sub-01/func/sub-01_task-rest_bold.nii.gz").read_bytes())
    sessions = by_label(plan_of(root, task_id=["nback"]))
    assert sessions["sub-01"].action is Action.RUN
    assert sessions["sub-03"].action is Action.SKIP
    assert sessions["sub-03"].directions == ()


def test_absent_task_is_named_with_those_that_exist(make_skeleton):
    root, _ = make_skeleton("several_series")
    with pytest.raises(NothingSelectedError, match=r"no BOLD series of task faces; .* have: nback, rest"):
        plan_of(root, task_id=["faces"])


def test_runs_of_one_task_are_averaged_on_request(make_skeleton):
    root, _ = make_skeleton("runs")
    plan = plan_of(root, runs="average")
    bold = by_label(plan)["sub-01"].bold
    assert [run.path.name[:22] for run in bold.runs] == ["sub-01_task-rest_run-2", "sub-01_task-rest_run-1"]
    assert (bold.total_volumes, bold.entities) == (30, {"sub": "01", "task": "rest"})
    not_used = {path.name: reason for path, reason in by_label(plan)["sub-01"].not_used}
    assert "differs in task-" in not_used["sub-01_task-nback_bold.nii.gz"]
    check_json_and_table(plan, root.parent / "plan.json")


def test_runs_on_another_grid_are_not_averaged(make_skeleton):
    root, _ = make_skeleton("runs")
    path = root / "sub-01/func/sub-01_task-rest_run-1_bold.nii.gz"
    image = nib.load(path)
    nib.Nifti1Image(np.asarray(image.dataobj), np.diag([4.0, 4, 4, 1])).to_filename(path)
    session = by_label(plan_of(root, runs="average"))["sub-01"]
    assert session.bold.joined == ()
    assert "is not on the grid of sub-01_task-rest_run-2" in dict(session.not_used)[path]


def test_runs_are_kept_apart_on_request(make_skeleton):
    root, _ = make_skeleton("runs")
    plan = plan_of(root, runs="separate", participant_label=["01", "02"])
    sessions = by_label(plan)
    assert list(sessions) == [
        "sub-01 task-rest run-2",
        "sub-01 task-nback",
        "sub-01 task-rest run-1",
        "sub-02 dir-AP",
        "sub-02 dir-PA",
    ]
    assert len({session.name for session in plan.sessions}) == 5
    entities = sessions["sub-01 task-rest run-1"].entities_of(Direction.BOLD2DWI)
    assert entities == {"sub": "01", "task": "rest", "run": "1"}
    assert all(session.dwi.joined == () for session in plan.sessions if session.dwi)
    check_json_and_table(plan, root.parent / "plan.json")


def test_distortion_is_told_for_every_series_that_is_read(make_skeleton):
    root, _ = make_skeleton("runs")
    sessions = by_label(plan_of(root))

    def told(label):
        return [note for note in sessions[label].notes if "distortion is" in note]

    assert told("sub-01") == [
        "BOLD: susceptibility distortion is not corrected: no fieldmap in BIDS says that it belongs to it"
    ]
    kind = "two diffusion series with opposite phase encoding"
    assert told("sub-02") == [f"DWI: distortion is corrected with {kind} (sub-02_dir-PA_dwi.nii.gz)"]
    assert sessions["sub-02"].dwi_fieldmap.partner.path.name == "sub-02_dir-PA_dwi.nii.gz"
    ignored = by_label(plan_of(root, ignore=["fieldmaps"]))["sub-02"]
    assert ignored.dwi_fieldmap is None
    assert any("not corrected: --ignore fieldmaps" in note for note in ignored.notes)


def test_directions_are_not_joined_for_another_fieldmap(make_skeleton):
    """Series of two directions lie on one another only with the field that was made of both."""
    root, _ = make_skeleton("runs")
    sidecar = root / "sub-02/dwi/sub-02_dir-AP_dwi.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"B0FieldSource": "elsewhere"}))
    session = by_label(plan_of(root))["sub-02"]
    assert session.dwi.joined == ()
    assert session.dwi.entities == {"sub": "02", "dir": "AP"}
    reasons = {path.name: reason for path, reason in session.not_used}
    assert "without correction not joined" in reasons["sub-02_dir-PA_dwi.nii.gz"]


def test_directions_are_not_paired_when_fieldmaps_are_ignored(make_skeleton):
    root, _ = make_skeleton("runs")
    session = by_label(plan_of(root, ignore=["fieldmaps"]))["sub-02"]
    assert session.dwi.joined == ()
    assert session.dwi.entities == {"sub": "02", "dir": "AP"}


def test_pair_of_directions_loses_its_direction(make_skeleton):
    root, _ = make_skeleton("runs")
    dwi = by_label(plan_of(root))["sub-02"].dwi
    assert dwi.entities == {"sub": "02"}
    assert [path.name for path in dwi.files()] == [
        f"sub-02_dir-{d}_dwi.{extension}" for extension, d in
        [("nii.gz", "AP"), ("nii.gz", "PA"), ("bval", "AP"), ("bvec", "AP"), ("bval", "PA"), ("bvec", "PA")]
    ]  # fmt: skip


@pytest.mark.parametrize("combination", ["mean", "one"])
def test_echoes_as_asked_for(make_skeleton, combination):
    root, _ = make_skeleton("multi_echo")
    session = by_label(plan_of(root, combine_echoes=combination))["sub-01"]
    times = [echo.metadata["EchoTime"] for echo in session.bold.echoes]
    assert times == ([0.012, 0.028, 0.045] if combination == "mean" else [])
    assert ("echo" in session.bold.entities) == (combination == "one")
    assert len(session.not_used) == (0 if combination == "mean" else 2)


def write_filter(root: Path, content) -> Path:
    path = root.parent / "filter.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({"bold": {"run": 1}}, "sub-01_task-rest_run-1_bold.nii.gz"),
        ({"bold": {"run": [1, 3]}}, "sub-01_task-rest_run-3_bold.nii.gz"),
        ({"bold": {"run": "*"}}, "sub-01_task-rest_run-2_bold.nii.gz"),
        ({"bold": {"run": None}}, None),
        ({"fmap": {"run": 1}}, "sub-01_task-rest_run-2_bold.nii.gz"),
    ],
)
def test_filter_file(filters, chosen, make_skeleton):
    root, _ = make_skeleton("several_series")
    session = by_label(plan_of(root, bids_filter_file=write_filter(root, filters)))["sub-01"]
    assert name_of(session.bold) == chosen
    if chosen is None:
        assert session.action is Action.SKIP
        assert session.reason == "the filters leave no BOLD to synthesise DWI from"


def test_filter_file_chooses_the_t1w_image(make_skeleton):
    root, _ = make_skeleton("sessions")
    path = write_filter(root, {"t1w": {"acquisition": "b"}})
    session = by_label(plan_of(root, bids_filter_file=path))["sub-02 ses-1"]
    assert name_of(session.t1w) == "sub-02_ses-2_acq-b_T1w.nii.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "not of the form"),
        ({"bold": 1}, "not of the form"),
        ({"blod": {}}, r"unknown keys \['blod'\]; known: bold, dwi, t1w"),
        ({"bold": {"colour": "red"}}, "PyBIDS cannot apply"),
    ],
)
def test_bad_filter_file(content, message, make_skeleton):
    root, _ = make_skeleton("several_series")
    with pytest.raises(UsageError, match=message):
        plan_of(root, bids_filter_file=write_filter(root, content))


def test_unusable_target_is_not_compared_with(make_skeleton):
    root, _ = make_skeleton("one_missing")
    (root / "sub-03/dwi/sub-03_dwi.bvec").unlink()
    session = by_label(plan_of(root, synthesize="dwi"))["sub-03"]
    assert session.directions == (Direction.BOLD2DWI,)
    assert any(
        "acquired DWI is not compared with: sub-03_dwi.nii.gz has no .bvec" in n for n in session.notes
    )


def test_unusable_source_fails_what_was_asked_for(make_skeleton):
    root, _ = make_skeleton("one_missing")
    (root / "sub-03/dwi/sub-03_dwi.bvec").unlink()
    session = by_label(plan_of(root, synthesize="both"))["sub-03"]
    assert session.action is Action.FAIL
    assert session.directions == ()


def test_database_is_made_once_and_serves_other_participants(make_skeleton, tmp_path):
    root, _ = make_skeleton("one_missing")
    first = by_label(plan_of(root, bids_database_dir=tmp_path / "db", participant_label=["01"]))
    database = next((tmp_path / "db").glob("*.sqlite"))
    changed = database.stat().st_mtime_ns
    second = by_label(plan_of(root, bids_database_dir=tmp_path / "db"))
    assert list(first) == ["sub-01"]
    assert second["sub-01"] == first["sub-01"]
    assert second["sub-02"].directions == (Direction.DWI2BOLD,)
    assert database.stat().st_mtime_ns == changed


def test_done_sessions_are_marked(make_skeleton):
    root, _ = make_skeleton("one_missing")
    plan = plan_of(root).with_done(lambda session: "all outputs are there" * (session.participant != "02"))
    assert [session.label for session in plan.with_action(Action.DONE)] == ["sub-01"]
    assert [session.label for session in plan.with_action(Action.RUN)] == ["sub-02"]
    assert by_label(plan)["sub-01"].reason == "all outputs are there"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "dataset_description.json").unlink(), "has no dataset_description.json"),
        (lambda root: (root / "dataset_description.json").write_text("{"), "cannot be read as JSON"),
        (lambda root: (root / "dataset_description.json").write_text("{}"), "has no Name"),
        (lambda root: root.rename(root.with_name("elsewhere")), "is not a folder"),
    ],
)
def test_not_bids(break_it, message, make_skeleton):
    root, _ = make_skeleton("one_missing")
    break_it(root)
    with pytest.raises(InvalidBIDSError, match=message) as caught:
        plan_of(root)
    assert caught.value.exit_code == 16
