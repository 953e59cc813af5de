"""A block of lines at the bottom of a terminal, above which everything else scrolls.

Worker processes write to the terminal too, past this program. A region of the screen that does not scroll is
the only place where a status survives that, and where it overwrites nothing.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import TextIO

__all__ = ["StatusBar"]

_SAVE, _RESTORE, _CLEAR_LINE = "\x1b7", "\x1b8", "\x1b[2K"
# A smaller screen belongs to the messages.
_LEAST_ROWS_ABOVE = 5


class StatusBar:
    """The block.

    Parameters
    ----------
    stream : text stream
        A terminal.
    size : callable
        Columns and rows of the terminal.
    """

    def __init__(
        self, stream: TextIO, size: Callable[[], tuple[int, int]] = shutil.get_terminal_size
    ) -> None:
        self._stream, self._size = stream, size
        self._place = (0, 0)

    def draw(self, lines: Sequence[str], height: int) -> None:
        """Show `lines` in a block of `height` rows; longer lines are cut."""
        columns, rows = self._size()
        height = min(height, rows - _LEAST_ROWS_ABOVE)
        if height < 1:
            return
        text = self._reserve(rows, height) + _SAVE
        for number in range(height):
            line = lines[number] if number < len(lines) else ""
            text += f"\x1b[{rows - height + number + 1};1H{_CLEAR_LINE}{line[: columns - 1]}"
        self._write(text + _RESTORE)

    def close(self) -> None:
        """Clear the block and let the whole screen scroll again."""
        rows, height = self._place
        if not height:
            return
        cleared = "".join(f"\x1b[{rows - height + n + 1};1H{_CLEAR_LINE}" for n in range(height))
        # Setting the region moves the cursor to the top, hence save and restore.
        self._write(f"{_SAVE}{cleared}\x1b[r{_RESTORE}")
        self._place = (0, 0)

    def _reserve(self, rows: int, height: int) -> str:
        """Return what keeps the block out of the region that scrolls, when it is new or has moved."""
        if (rows, height) == self._place:
            return ""
        self._place = (rows, height)
        # The new lines make room, for the cursor may stand where the block will be.
        return "\n" * height + f"\x1b[{height}A{_SAVE}\x1b[1;{rows - height}r{_RESTORE}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
