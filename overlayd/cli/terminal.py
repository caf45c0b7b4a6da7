"""Text and tables as a terminal shows them: in its width, without splitting a word, in colours where it has them.

Where a table is too wide, its optional columns are left out, the last one first; then the widest columns are wrapped
between words, but never below their longest word. Output that goes elsewhere has no width and no colours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from overlayd.core.text import printable

_STYLES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
_GAP = "  "


class Text(NamedTuple):
    """A word or a sentence with a style: a key of `_STYLES`, or none."""

    text: str
    style: str = ""


Cell = str | Text


class Column(NamedTuple):
    """One column of a table."""

    title: str = ""
    right: bool = False
    """Aligned to the right, as numbers are."""
    optional: bool = False
    """May be left out where the terminal is narrow."""
    style: str = ""


class Row(NamedTuple):
    """Cells, and sentences about them that are shown below."""

    cells: tuple[Cell, ...]
    notes: tuple[Text, ...] = ()


class Table(NamedTuple):
    """Columns and rows; the heading is shown if a column has a title."""

    columns: Sequence[Column]
    rows: Sequence[Row]


Block = Text | Table


class Terminal(NamedTuple):
    """Where output goes."""

    width: int | None = None
    """In characters; None: no line is too long."""
    colours: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Terminal:
        """The terminal behind the stream, if one is; NO_COLOR and COLUMNS are respected."""
        terminal = stream.isatty()
        colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns):
            return cls(int(columns), colours)
        return cls(os.get_terminal_size(stream.fileno()).columns or None if terminal else None, colours)

    def lines(self, blocks: Iterable[Block]) -> list[str]:
        """The blocks, one below the other."""
        found: list[str] = []
        for one in blocks:
            found += self._table(one) if isinstance(one, Table) else self._wrapped(one, self.width)
        return found

    def _wrapped(self, text: Text, width: int | None, indent: str = "") -> list[str]:
        return [indent + self._painted(line, text.style) for line in wrap(printable(text.text), width)]

    def _painted(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colours and style and text else text

    def _table(self, table: Table) -> list[str]:
        rows = [
            [_text(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)] for row in table.rows
        ]
        titles = [Text(column.title, "bold") for column in table.columns]
        heading = [titles] if any(column.title for column in table.columns) else []
        widths = fit(table.columns, [*heading, *rows], self.width)
        found = [self._line(line, table.columns, widths) for cells in heading for line in _side_by_side(cells, widths)]
        for cells, row in zip(rows, table.rows, strict=True):
            found += [self._line(line, table.columns, widths) for line in _side_by_side(cells, widths)]
            for note in row.notes:
                found += self._wrapped(note, self.width and self.width - len(_GAP), _GAP)
        return found

    def _line(self, cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int | None]) -> str:
        shown = []
        for cell, column, width in zip(cells, columns, widths, strict=True):
            if width is not None:
                padding = " " * (width - len(cell.text))
                painted = self._painted(cell.text, cell.style)
                shown.append(padding + painted if column.right else painted + padding)
        return _GAP.join(shown).rstrip()


def show(*blocks: Block) -> None:
    """Print to standard output."""
    for line in Terminal.of(sys.stdout).lines(blocks):
        print(line)


def wrap(text: str, width: int | None) -> list[str]:
    """The text in lines of that width where its words allow it."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and width is not None and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def fit(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int | None) -> list[int | None]:
    """How wide each column is; None: it is left out."""
    widths: list[int | None] = [max((len(row[at].text) for row in rows), default=0) for at in range(len(columns))]
    for at in reversed(range(len(columns))):
        if columns[at].optional and _excess(widths, width) > 0:
            widths[at] = None
    floors = [max((len(w) for row in rows for w in row[at].text.split(" ")), default=0) for at in range(len(columns))]
    while (excess := _excess(widths, width)) > 0:
        room = [(size - floors[at], at) for at, size in enumerate(widths) if size is not None and size > floors[at]]
        if not room:
            break
        most, at = max(room)
        widths[at] = (widths[at] or 0) - min(excess, most)
    return widths


def _excess(widths: Sequence[int | None], width: int | None) -> int:
    shown = [one for one in widths if one is not None]
    return sum(shown) + len(_GAP) * (len(shown) - 1) - width if width is not None else 0


def _text(cell: Cell, column: Column) -> Text:
    text, style = cell if isinstance(cell, Text) else (cell, column.style)
    return Text(printable(text), style)


def _side_by_side(cells: Sequence[Text], widths: Sequence[int | None]) -> list[list[Text]]:
    """The lines that a row takes, each as wide as its columns."""
    wrapped = [wrap(cell.text, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(len(one) for one, width in zip(wrapped, widths, strict=True) if width is not None)
    return [
        [Text(lines[at] if at < len(lines) else "", cell.style) for cell, lines in zip(cells, wrapped, strict=True)]
        for at in range(height)
    ]
