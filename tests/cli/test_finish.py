"""The end of a run: reports from a folder alone, and what the last lines say."""

from dataclasses import replace
from pathlib import Path

import pytest

from pds_bids.cli.finish import LISTED_REPORTS, _summarise, _why
from pds_bids.cli.run import clean_work_dir, main
from pds_bids.config import RunConfig
from pds_bids.options import Synthesize
from pds_bids.plan import Action, Plan, SessionPlan


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """An output folder of which nothing but one image is left, and an empty folder to stand in."""
    image = tmp_path / "copy" / "sub-01" / "dwi" / "sub-01_desc-synthetic_dwiref.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "copy"


def test_reports_are_made_again_without_input_and_work_folder(copied, capsys):
    assert main(["/not/there", str(copied), "participant", "--reports-only"]) == 0
    assert capsys.readouterr().out.strip() == str(copied / "sub-01.html")
    assert "SYNTHETIC" in (copied / "sub-01.html").read_text()
    assert not list(Path.cwd().iterdir())


def test_a_participant_that_the_folder_does_not_hold_is_named(copied, capsys):
    arguments = ["/not/there", str(copied), "participant", "--reports-only", "--participant-label"]
    assert main([*arguments, "01", "07"]) == 18
    assert "holds no output of sub-07" in capsys.readouterr().err
    assert not (copied / "sub-01.html").exists()


def make_plan(count):
    sessions = tuple(
        SessionPlan(f"{n:02d}", action=Action.SKIP if n == 1 else Action.RUN) for n in range(1, count + 1)
    )
    return Plan("Demo", Path("/d"), Synthesize.MISSING, sessions)


def test_the_last_lines_say_what_failed_why_and_where_to_look(tmp_path, capsys):
    config = RunConfig(bids_dir=Path("/d"), output_dir=tmp_path)
    crash = tmp_path / "sub-03" / "log" / config.run_uuid / "crash-1.txt"
    crash.parent.mkdir(parents=True)
    crash.touch()
    _summarise(make_plan(4), config, {"sub-03": "mask overlap 0.4", "sub-04": "truncated gzip"})
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "1 done (0 of them by an earlier run), 1 skipped, 2 failed."
    assert lines[1:5] == [
        "  FAILED sub-03: mask overlap 0.4",
        f"    crash files: {crash.parent}",
        "  FAILED sub-04: truncated gzip",
        "    nothing was computed for it",
    ]
    assert lines[5:] == [f"  report: {tmp_path}/sub-{n:02d}.html" for n in range(1, 5)]


def test_a_cohort_lists_the_reports_of_failures_only(tmp_path, capsys):
    config = RunConfig(bids_dir=Path("/d"), output_dir=tmp_path)
    _summarise(make_plan(LISTED_REPORTS + 30), config, {"sub-09": "odd"})
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-2:] == [
        f"  report: {tmp_path}/sub-09.html",
        f"  all reports: {tmp_path}/sub-*.html ({LISTED_REPORTS + 30})",
    ]


def test_done_earlier_counts_as_done(tmp_path, capsys):
    plan = make_plan(3)
    plan = replace(plan, sessions=tuple(replace(s, action=Action.DONE) for s in plan.sessions))
    _summarise(plan, RunConfig(bids_dir=Path("/d"), output_dir=tmp_path), {})
    assert "3 done (3 of them by an earlier run), 0 skipped, 0 failed." in capsys.readouterr().out


def test_the_reason_is_the_error_and_not_what_nipype_adds(tmp_path):
    config = RunConfig(bids_dir=Path("/d"), output_dir=tmp_path)
    session = make_plan(3).sessions[2]
    crash = tmp_path / "sub-03" / "log" / config.run_uuid / "crash-1.txt"
    crash.parent.mkdir(parents=True)
    crash.write_text(
        f"Node: pds_bids_wf.{session.name}.mean\n"
        "concurrent.futures.process.BrokenProcessPool: a worker process died; lower --nprocs\n\n\n"
        "When creating this crashfile, the results file corresponding\nto the node could not be found."
    )
    assert _why(session, config, []) == "a worker process died; lower --nprocs"


def test_cleaning_takes_the_sessions_of_this_run_and_nothing_else(tmp_path):
    kept = [tmp_path / "notes.txt", tmp_path / "pds_bids_wf" / "sub-02" / "node" / "result.pklz"]
    gone = tmp_path / "pds_bids_wf" / "sub-01" / "node" / "result.pklz"
    for path in (*kept, gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    clean_work_dir(tmp_path, ["sub-01"])
    assert all(path.exists() for path in kept)
    assert not gone.parent.parent.exists()
