"""What a person sees while the graph runs: a status block on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from threading import Event, RLock, Thread
from typing import Any, TextIO

from pds_bids.cli.gpu import GpuMemory
from pds_bids.cli.statusbar import StatusBar

__all__ = ["Progress"]

# On a terminal the clock ticks; in a log file a sign of life now and then is enough.
TICK_S, HEARTBEAT_S = 1.0, 600.0
SHOWN_RUNNING = 5
# An estimate needs durations of most kinds of steps that are left.
KNOWN_SHARE = 0.8


class Progress:
    """Sessions done, running and failed, the steps that run now, time left, memory of the GPU.

    On a terminal that is a block at the bottom of the screen, above which messages scroll. Elsewhere there is
    a line per finished or failed session, and a sign of life every ten minutes.

    Parameters
    ----------
    steps : mapping of str to sequence of str
        Names of the nodes of each session; the keys are the names of the session workflows.
    stream : text stream
        Where to write.
    gpu_memory : GpuMemory, optional
        Where a GPU is used.
    now : callable
        Seconds on a clock that does not jump.
    """

    def __init__(
        self,
        steps: Mapping[str, Sequence[str]],
        stream: TextIO = sys.stderr,
        *,
        gpu_memory: GpuMemory | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {name: Counter(nodes) for name, nodes in steps.items()}
        self._total = sum(map(len, steps.values()))
        self._running: dict[str, tuple[str, str, float]] = {}
        self._failed: dict[str, str] = {}
        self._durations: dict[str, list[float]] = defaultdict(list)
        self._stream, self._gpu_memory, self._now = stream, gpu_memory, now
        self._start = now()
        self._lock, self._closed = RLock(), Event()
        self._bar = StatusBar(stream) if stream.isatty() else None
        # Steps of all sessions together, such as the template, are not announced.
        self.executed = self._counted = 0
        self._ticker = Thread(target=self._tick, name="progress", daemon=True)
        self._ticker.start()

    def __call__(self, node: Any, status: str) -> None:
        """Take one event of Nipype: ``start``, ``end`` or ``exception`` of a node."""
        with self._lock:
            session = next((name for name in node.fullname.split(".") if name in self._left), "")
            if status == "start":
                self._running[node.fullname] = (session, node.name, self._now())
            else:
                started = self._running.pop(node.fullname, None)
                if started is not None and status == "end":
                    self._durations[node.name].append(self._now() - started[2])
                self.executed += 1
                self._count(session, failed=status == "exception", step=node.name)
            self._draw()

    def unfinished(self) -> frozenset[str]:
        """Return the sessions of which a step failed or was never reached."""
        return frozenset(self._failed) | {name for name, left in self._left.items() if left.total() > 0}

    def close(self) -> None:
        """Give the terminal back, and say how much memory of the GPU was used."""
        self._closed.set()
        self._ticker.join()
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            if self._gpu_memory is not None and (said := self._gpu_memory.peak()):
                self._line(f"GPU memory: at most {said}")

    def _tick(self) -> None:
        period_s = TICK_S if self._bar is not None else HEARTBEAT_S
        while not self._closed.wait(period_s):
            with self._lock:
                if self._bar is not None:
                    self._draw()
                else:
                    self._line("; ".join([self._header(), *self._running_lines()]))

    def _count(self, session: str, *, failed: bool, step: str) -> None:
        if session not in self._left:
            return
        self._counted += 1
        left = self._left[session]
        # A step under a name that was not announced counts all the same.
        left[step if left[step] > 0 else next(iter(+left), step)] -= 1
        if failed and session not in self._failed:
            self._failed[session] = step
            self._line(f"{_readable(session)}: FAILED at {step}; the other sessions go on")
        elif left.total() == 0 and session not in self._failed:
            # On a terminal the block says the rest.
            rest = "" if self._bar else f"; {self._header()}"
            self._line(f"{_readable(session)}: finished{rest}")

    def _line(self, text: str) -> None:
        self._stream.write(f"[{_clock(self._now() - self._start)}] {text}\n")
        self._stream.flush()

    def _draw(self) -> None:
        if self._bar is not None and not self._closed.is_set():
            title = f"[{_clock(self._now() - self._start)}] {self._header()}"
            self._bar.draw([title, *(f"  {line}" for line in self._running_lines())], 1 + SHOWN_RUNNING)

    def _header(self) -> str:
        running = {session for session, _, _ in self._running.values() if session} - set(self._failed)
        done = sum(left.total() <= 0 for name, left in self._left.items() if name not in self._failed)
        waiting = len(self._left) - done - len(self._failed) - len(running)
        parts = [f"{done} of {len(self._left)} sessions done", f"{len(running)} running"]
        parts += [f"{len(self._failed)} FAILED"] if self._failed else []
        parts += [f"{waiting} waiting"] if waiting > 0 else []
        parts.append(f"{self._counted}/{self._total} steps")
        if (left_s := self._seconds_left()) is not None:
            parts.append(f"{_duration(left_s)} left")
        if self._gpu_memory is not None and (said := self._gpu_memory.now()):
            parts.append(f"GPU {said}")
        return ", ".join(parts)

    def _running_lines(self) -> list[str]:
        now = self._now()
        lines = [
            f"{_readable(session) or 'all'}: {step} ({_clock(now - since)})"
            for session, step, since in self._running.values()
        ]
        more = len(lines) - SHOWN_RUNNING
        return [*lines[: SHOWN_RUNNING - 1], f"and {more + 1} more"] if more > 0 else lines

    def _seconds_left(self) -> float | None:
        """Estimate the time left: what each kind of step took so far, at the pace so far."""
        left: Counter[str] = Counter()
        for name, steps in self._left.items():
            if name not in self._failed:
                left += +steps
        known = sum(count for step, count in left.items() if step in self._durations)
        done_s = sum(sum(taken) for taken in self._durations.values())
        if left.total() == 0 or done_s <= 0 or known < KNOWN_SHARE * left.total():
            return None
        mean_s = {step: sum(taken) / len(taken) for step, taken in self._durations.items()}
        other_s = sum(mean_s.values()) / len(mean_s)
        left_s = sum(count * mean_s.get(step, other_s) for step, count in left.items())
        now = self._now()
        left_s -= sum(min(now - since, mean_s.get(step, 0.0)) for _, step, since in self._running.values())
        return max(left_s, 0.0) * (now - self._start) / done_s


def _readable(session: str) -> str:
    """Turn ``sub_01_ses_1_wf`` into ``sub-01 ses-1``."""
    return session.removesuffix("_wf").replace("sub_", "sub-").replace("_ses_", " ses-")


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return "under a minute"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {minutes / 60:.1f} h"
