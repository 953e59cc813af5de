"""The status line, fed with events as Nipype sends them."""

import io
from types import SimpleNamespace

from pds_bids.cli.progress import Progress


def node(name):
    return SimpleNamespace(fullname=f"pds_bids_wf.{name}", name=name.rsplit(".", 1)[-1])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def feed(progress):
    for name in ("sub_01_ses_1_wf.a", "sub_02_wf.a", "sub_01_ses_1_wf.b"):
        progress(node(name), "start")
        progress(node(name), "exception" if name.startswith("sub_02") else "end")


def test_without_a_terminal_there_is_a_line_per_session():
    stream = io.StringIO()
    progress = Progress({"sub_01_ses_1_wf": 2, "sub_02_wf": 2}, stream)
    feed(progress)
    lines = stream.getvalue().splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "sub-02: failed at a; the other sessions go on",
        "sub-01 ses-1: computed",
    ]
    assert progress.executed == 3
    assert progress.unfinished() == {"sub_02_wf"}


def test_a_terminal_shows_what_runs_and_how_much_is_left():
    stream = Terminal()
    progress = Progress({"sub_01_ses_1_wf": 2}, stream)
    progress(node("sub_01_ses_1_wf.hmc"), "start")
    assert "0/1 sessions, 0/2 steps: sub-01 ses-1 hmc" in stream.getvalue()
    progress.close()
    assert stream.getvalue().endswith("\x1b[K")


def test_a_step_that_was_never_reached_leaves_its_session_unfinished():
    progress = Progress({"sub_01_wf": 2}, io.StringIO())
    progress(node("sub_01_wf.a"), "end")
    assert progress.unfinished() == {"sub_01_wf"}
