"""What a person at a terminal sees while the graph runs; nothing where there is no terminal."""

import sys
import time
from collections import Counter
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """One status line: sessions done, steps done of all, what runs now, elapsed time.

    Parameters
    ----------
    steps : dict of str to int
        How many nodes each session has; the keys are the names of the session workflows.
    stream : text stream
        Where to write. On a terminal the line is rewritten in place; elsewhere only a line per finished
        or failed session appears.
    """

    def __init__(self, steps: dict[str, int], stream: TextIO = sys.stderr) -> None:
        self._left = Counter(steps)
        self._total = sum(steps.values())
        self._running: dict[str, str] = {}
        self._failed: set[str] = set()
        self._stream = stream
        self._start = time.monotonic()
        self.executed = 0

    def __call__(self, node: Any, status: str) -> None:
        """Take one event of Nipype: ``start``, ``end`` or ``exception`` of a node."""
        session = next((name for name in node.fullname.split(".") if name in self._left), "")
        if status == "start":
            self._running[node.fullname] = f"{_readable(session)} {node.name}".strip()
        else:
            self._running.pop(node.fullname, None)
            self.executed += 1
            self._count(session, failed=status == "exception", step=node.name)
        if self._stream.isatty():
            self._draw()

    def unfinished(self) -> frozenset[str]:
        """Return the sessions of which a step failed or was never reached."""
        return frozenset(self._failed | {name for name, left in self._left.items() if left > 0})

    def close(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _count(self, session: str, *, failed: bool, step: str) -> None:
        if session not in self._left:
            return
        self._left[session] -= 1
        if failed and session not in self._failed:
            self._failed.add(session)
            self._line(f"{_readable(session)}: failed at {step}; the other sessions go on")
        elif self._left[session] == 0 and session not in self._failed:
            self._line(f"{_readable(session)}: computed")

    def _line(self, text: str) -> None:
        clear = "\r\x1b[K" if self._stream.isatty() else ""
        self._stream.write(f"{clear}[{self._elapsed()}] {text}\n")
        self._stream.flush()

    def _draw(self) -> None:
        sessions = sum(left <= 0 for left in self._left.values())
        now = ", ".join(list(self._running.values())[:3])
        text = (
            f"[{self._elapsed()}] {sessions}/{len(self._left)} sessions, {self.executed}/{self._total} steps"
        )
        self._stream.write(f"\r\x1b[K{text}: {now}"[:160])
        self._stream.flush()

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60:d}:{seconds % 60:02d}"


def _readable(session: str) -> str:
    """Turn ``sub_01_ses_1_wf`` into ``sub-01 ses-1``."""
    return session.removesuffix("_wf").replace("sub_", "sub-").replace("_ses_", " ses-")
