"""A terminal that is drawn on again and again, and read a key at a time; elsewhere, one page after the other."""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

from overlayd.cli.terminal import Block, Terminal

# The alternate screen, without a cursor, lines cut at its edge (xterm's control sequences); and all of it undone
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HEIGHT = 50  # lines, where it is unknown


class Screen:
    """A context manager: the terminal is as it was before at the end."""

    def __init__(self, keys: TextIO, output: TextIO) -> None:
        self._keys, self._output = keys, output
        self._former: list[Any] | None = None
        self._drawn_on = output.isatty()

    @property
    def height(self) -> int:
        """How many lines are shown at once."""
        lines = os.get_terminal_size(self._output.fileno()).lines if self._drawn_on else 0
        return lines or _HEIGHT  # some terminals do not say

    def __enter__(self) -> Screen:
        if self._keys.isatty():
            self._former = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSANOW)
        if self._drawn_on:
            print(_ENTER, end="", file=self._output, flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._drawn_on:
            print(_LEAVE, end="", file=self._output, flush=True)
        if self._former is not None:
            termios.tcsetattr(self._keys, termios.TCSANOW, self._former)

    def wait(self, seconds: float) -> str:
        """The key that is pressed within this time, or nothing."""
        if self._former is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._keys], [], [], seconds)
        return os.read(self._keys.fileno(), 1).decode(errors="replace") if ready else ""

    def draw(self, blocks: Sequence[Block]) -> None:
        """Show the blocks in place of those before."""
        lines = Terminal.of(self._output).lines(blocks)
        if self._drawn_on:
            page = "\x1b[K\n".join(lines[: self.height])
            print(f"\x1b[H{page}\x1b[J", end="", file=self._output, flush=True)
        else:
            print("\n".join([*lines, ""]), file=self._output, flush=True)
