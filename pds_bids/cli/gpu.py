"""How much memory of the GPUs is in use, by the driver's own tool; torch is not loaded for it."""

import shutil
import subprocess
import time
from collections.abc import Callable

__all__ = ["GpuMemory"]

QUERY = ("--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")
TIMEOUT_S = 5
# Asking takes some 50 ms.
PERIOD_S = 5.0


class GpuMemory:
    """Memory of all GPUs, by everybody on the machine.

    Parameters
    ----------
    ask : callable
        Gives what ``nvidia-smi`` says; empty when it says nothing.
    now : callable
        Seconds.

    Examples
    --------
    >>> memory = GpuMemory(ask=lambda: "2048, 81920")
    >>> memory.now(), memory.peak()
    ('2.0 of 80.0 GB', '2.0 of 80.0 GB')
    """

    def __init__(
        self, ask: Callable[[], str] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._now = ask or _nvidia_smi, now
        self._asked = -PERIOD_S
        self._used = self._most = self._total = 0.0

    def now(self) -> str:
        """Return what is in use; empty where the driver does not say."""
        if self._now() - self._asked >= PERIOD_S:
            self._asked = self._now()
            self._read(self._ask())
        return self._text(self._used)

    def peak(self) -> str:
        """Return the most that was seen in use."""
        return self._text(self._most)

    def _read(self, text: str) -> None:
        try:
            pairs = [
                [float(number) for number in line.split(",")] for line in text.split("\n") if line.strip()
            ]
            self._used, self._total = (sum(pair[k] for pair in pairs) / 1024 for k in (0, 1))
        except (ValueError, IndexError):
            # A card that shares its memory says "[N/A]".
            return
        self._most = max(self._most, self._used)

    def _text(self, used_gb: float) -> str:
        return f"{used_gb:.1f} of {self._total:.1f} GB" if self._total else ""


def _nvidia_smi() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        found = subprocess.run(
            [command, *QUERY], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout if found.returncode == 0 else ""
