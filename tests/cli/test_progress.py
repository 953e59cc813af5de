"""The progress of a run, fed with events as Nipype sends them, on a clock that the test turns."""

import io
import re
from types import SimpleNamespace

import pytest

from pds_bids.cli.gpu import GpuMemory
from pds_bids.cli.progress import Progress
from pds_bids.cli.statusbar import StatusBar


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Screen:
    """A terminal of a few rows that knows the sequences that are used; enough to see what a person sees."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.text = [""] * rows
        self.row, self.saved, self.bottom = 0, 0, rows

    def feed(self, text):
        for sequence, plain in re.findall(r"(\x1b(?:\[[0-9;]*[A-Za-z]|[78]))|([^\x1b\n]+|\n)", text):
            if plain == "\n":
                self.newline()
            elif plain:
                self.text[self.row] += plain
            elif sequence == "\x1b7":
                self.saved = self.row
            elif sequence == "\x1b8":
                self.row = self.saved
            elif sequence == "\x1b[2K":
                self.text[self.row] = ""
            elif sequence.endswith("r"):
                self.bottom = int(sequence[2:-1].split(";")[1]) if ";" in sequence else self.rows
                self.row = 0
            elif sequence.endswith("A"):
                self.row = max(self.row - int(sequence[2:-1]), 0)
            elif sequence.endswith("H"):
                self.row = int(sequence[2:-1].split(";")[0]) - 1

    def newline(self):
        if self.row == self.bottom - 1:
            self.text[: self.bottom] = [*self.text[1 : self.bottom], ""]
        else:
            self.row += 1


def node(name):
    return SimpleNamespace(fullname=f"pds_bids_wf.{name}", name=name.rsplit(".", 1)[-1])


def run(progress, clock, session, **seconds):
    for step, taken in seconds.items():
        progress(node(f"{session}.{step}"), "start")
        clock.seconds += taken
        progress(node(f"{session}.{step}"), "end")


@pytest.fixture
def make():
    made = []

    def build(steps, stream, **more):
        made.append(Progress({name: tuple(nodes) for name, nodes in steps.items()}, stream, **more))
        return made[-1]

    yield build
    for progress in made:
        progress.close()


def test_without_a_terminal_there_is_a_line_per_session(make):
    stream = io.StringIO()
    progress = make({"sub_01_ses_1_wf": "ab", "sub_02_wf": "ab"}, stream)
    for name in ("sub_01_ses_1_wf.a", "sub_02_wf.a", "sub_01_ses_1_wf.b"):
        progress(node(name), "start")
        progress(node(name), "exception" if name.startswith("sub_02") else "end")
    lines = [line.split("] ")[1] for line in stream.getvalue().splitlines()]
    assert lines[0] == "sub-02: FAILED at a; the other sessions go on"
    assert lines[1].startswith("sub-01 ses-1: finished; 1 of 2 sessions done, 0 running, 1 FAILED, 3/4 steps")
    assert "\x1b" not in stream.getvalue()
    assert progress.executed == 3
    assert progress.unfinished() == {"sub_02_wf"}


def test_a_step_that_was_never_reached_leaves_its_session_unfinished(make):
    progress = make({"sub_01_wf": "ab"}, io.StringIO())
    progress(node("sub_01_wf.a"), "end")
    assert progress.unfinished() == {"sub_01_wf"}


def test_the_time_left_is_what_the_steps_left_took_before(make):
    """Exact: one session of 10 + 50 s is done, three are left, one at a time."""
    clock, stream = Clock(), io.StringIO()
    progress = make({f"sub_{n}_wf": ("a", "b") for n in range(4)}, stream, now=clock)
    progress(node("sub_0_wf.a"), "start")
    assert "left" not in progress._header()
    clock.seconds += 10
    progress(node("sub_0_wf.a"), "end")
    assert progress._seconds_left() is None
    run(progress, clock, "sub_0_wf", b=50)
    assert progress._seconds_left() == pytest.approx(180)
    assert "about 3 min left" in stream.getvalue()
    run(progress, clock, "sub_1_wf", a=10)
    assert progress._seconds_left() == pytest.approx(170)
    # What failed is not waited for.
    progress(node("sub_1_wf.b"), "exception")
    assert progress._seconds_left() == pytest.approx(120)


def test_two_at_a_time_take_half_as_long(make):
    clock = Clock()
    progress = make({f"sub_{n}_wf": ("a",) for n in range(4)}, io.StringIO(), now=clock)
    for event in ("start", "end"):
        for n in (0, 1):
            progress(node(f"sub_{n}_wf.a"), event)
        clock.seconds += 60 if event == "start" else 0
    assert progress._seconds_left() == pytest.approx(60)


def test_a_terminal_shows_numbers_and_what_runs_and_is_given_back(make):
    clock, stream = Clock(), Terminal()
    progress = make({"sub_01_ses_1_wf": "ab", "sub_02_wf": "ab"}, stream, now=clock)
    progress(node("sub_01_ses_1_wf.hmc"), "start")
    clock.seconds += 75
    progress._draw()
    assert "[1:15] 0 of 2 sessions done, 1 running, 1 waiting, 0/4 steps" in stream.getvalue()
    assert "sub-01 ses-1: hmc (1:15)" in stream.getvalue()
    progress.close()
    assert "\x1b[r" in stream.getvalue()


def test_messages_of_others_scroll_above_the_block_and_are_not_lost():
    stream, screen = Terminal(), Screen(40, 10)
    bar = StatusBar(stream, size=lambda: (40, 10))

    def flush():
        screen.feed(stream.getvalue())
        stream.truncate(0)
        stream.seek(0)

    screen.feed("".join(f"old {n}\n" for n in range(9)))
    bar.draw(["head", "x" * 60], 2)
    flush()
    for number in range(4):
        screen.feed(f"message {number}\n")
        bar.draw(["head", f"step {number}"], 2)
        flush()
    assert screen.text[-2:] == ["head", "step 3"]
    assert screen.text[3:7] == [f"message {n}" for n in range(4)]
    bar.close()
    flush()
    assert screen.text[-2:] == ["", ""]
    screen.feed("last\n")
    assert "last" in screen.text
    assert "message 3" in screen.text


def test_a_line_longer_than_the_terminal_is_cut():
    stream = Terminal()
    StatusBar(stream, size=lambda: (40, 10)).draw(["x" * 60], 1)
    assert "x" * 39 in stream.getvalue()
    assert "x" * 40 not in stream.getvalue()


def test_a_tiny_terminal_is_left_alone():
    stream = Terminal()
    StatusBar(stream, size=lambda: (40, 5)).draw(["head"], 3)
    assert stream.getvalue() == ""


def test_memory_of_the_gpu_is_the_sum_of_the_cards_and_the_peak_is_kept():
    clock, said = Clock(), iter(["1024, 8192\n2048, 8192\n", "512, 8192\n512, 8192\n", "[N/A], [N/A]"])
    memory = GpuMemory(ask=lambda: next(said), now=clock)
    assert memory.now() == "3.0 of 16.0 GB"
    assert memory.now() == "3.0 of 16.0 GB"  # not asked again so soon
    clock.seconds += 10
    assert memory.now() == "1.0 of 16.0 GB"
    clock.seconds += 10
    assert memory.now() == "1.0 of 16.0 GB"
    assert memory.peak() == "3.0 of 16.0 GB"


def test_no_driver_no_memory(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert GpuMemory().now() == ""
