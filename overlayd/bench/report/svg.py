"""Three kinds of chart as SVG text: bars with their spread, stacks, lines.

A chart is WIDTH units wide, which is a phone's width in pixels, so that its letters are readable there; elsewhere it
grows. Colours are classes: c0, c1 ... are those of colours.py, `ink` is text, `soft` stands back. The page defines them
for day and night; `standalone` has the day's colours in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from overlayd.bench.report.colours import DAY

WIDTH = 320.0
INK, SOFT, PAPER = "#1d2329", "#5a646e", "#ffffff"
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "12 4")
_ROW, _BAR = 34.0, 12.0


@dataclass(frozen=True)
class Bar:
    """A bar to the median, and a line from the least to the most."""

    label: str
    text: str
    low: float
    median: float
    high: float
    colour: int


@dataclass(frozen=True)
class Stack:
    """Parts of a whole; the text says how much the whole is."""

    label: str
    text: str
    parts: Sequence[float]
    """One for each kind."""


@dataclass(frozen=True)
class Line:
    """A line through points."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from 0, each below its label and its text."""
    most = max((row.high for row in rows), default=0) or 1.0
    parts = []
    for number, row in enumerate(rows):
        top = number * _ROW
        low, median, high = (max(0.0, value) / most * WIDTH for value in (row.low, row.median, row.high))
        middle = top + 17 + _BAR / 2
        parts += [
            text(0, top + 12, row.label),
            text(WIDTH, top + 12, row.text, "soft", "end"),
            rect(0, top + 17, max(median, 1.0), _BAR, f"c{row.colour}"),
        ]
        if high - low > 1:
            ends = f"M{low:.1f} {middle - 4:.1f}v8M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 4:.1f}v8"
            parts.append(f'<path d="{ends}" class="spread"/>')
    return drawing(title, len(rows) * _ROW, parts)


def stacks(title: str, kinds: Sequence[tuple[str, int]], rows: Sequence[Stack]) -> str:
    """Horizontal bars on one scale, divided into kinds, each a name and a colour; below them what each colour is."""
    parts = []
    most = max((sum(row.parts) for row in rows), default=0) or 1.0
    for number, row in enumerate(rows):
        top, at, whole = number * _ROW, 0.0, sum(row.parts) or 1.0
        parts += [text(0, top + 12, row.label), text(WIDTH, top + 12, row.text, "soft", "end")]
        for index, part in enumerate(row.parts):
            width = part / most * WIDTH
            if width > 0.2:
                shown = f"{row.label}: {kinds[index][0]} {part / whole:.0%}"
                parts.append(rect(at, top + 17, width, _BAR, f"c{kinds[index][1]}", shown))
            at += width
    top = len(rows) * _ROW + 6
    for index, (kind, colour) in enumerate(kinds):
        y = top + index * 17
        parts += [rect(0, y, 11, 11, f"c{colour}"), text(17, y + 10, kind)]
    return drawing(title, top + len(kinds) * 17 + 2, parts)


def lines(title: str, rows: Sequence[Line], marks: Sequence[tuple[float, str]], unit: str, *, log: bool) -> str:
    """Lines over an axis with these marks, the vertical one logarithmic or from 0; below them what each line is."""
    left, right, top, bottom = 44.0, WIDTH - 12, 20.0, 200.0
    values = [y for row in rows for _, y in row.points if y > 0]
    ticks = (log_ticks if log else ticks_to)(min(values, default=1.0), max(values, default=1.0))
    first, last = marks[0][0], marks[-1][0]
    span = last - first or 1.0
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return left + (value - first) / span * (right - left)

    def y(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low) if log else (value - low) / (high - low)
        return bottom - share * (bottom - top)

    parts = [text(0, 11, unit, "soft")]
    for tick in ticks:
        parts += [
            f'<path d="M{left} {y(tick):.1f}H{right}" class="rule"/>',
            text(left - 5, y(tick) + 4, short(tick), "soft", "end"),
        ]
    for at, mark in marks:
        anchor = "end" if at == last else "middle"
        parts.append(text(x(at) + (8 if at == last else 0), bottom + 15, mark, "soft", anchor))
    for number, row in enumerate(rows):
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in row.points)
        look = f'class="s{row.colour} line" stroke-dasharray="{_DASHES[number % len(_DASHES)]}"'
        key = bottom + 34 + number * 17
        parts += [
            f'<path d="{path}" {look}/>',
            f'<path d="M0 {key - 4}H26" {look}/>',
            text(33, key, row.label),
            *(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.4" class="c{row.colour}"/>' for a, b in row.points),
        ]
    return drawing(title, bottom + 26 + len(rows) * 17, parts)


def short(value: float) -> str:
    """A tick's number in few letters."""
    return f"{value:g}" if value < 10_000 else f"{value / 1e3:g}k" if value < 1e7 else f"{value / 1e6:g}M"


def ticks_to(_: float, most: float) -> list[float]:
    """From 0 to at least `most`, in three to six steps of 1, 2 or 5 times a power of ten."""
    raw = most / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [round(step * number, 10) for number in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from below the least to above the most; powers alone where they are many."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    factors = (1, 2, 5) if len(decades) < 4 else (1,)
    marks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    below = [mark for mark in marks if mark <= least]
    above = [mark for mark in marks if mark >= most]
    kept = [mark for mark in marks if below[-1] <= mark <= above[0]] if below and above else marks
    return kept if len(kept) > 1 else [kept[0], kept[0] * 10]


def standalone(svg: str) -> str:
    """The same chart as a file of its own, by day."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        "<title>", f'<style>{style(DAY, INK, SOFT)}</style><rect width="100%" height="100%" fill="{PAPER}"/><title>', 1
    )


def style(colours: Sequence[str], ink: str, soft: str) -> str:
    """The rules for the classes."""
    series = "".join(
        f".c{number}{{fill:{colour}}}.s{number}{{stroke:{colour}}}" for number, colour in enumerate(colours)
    )
    return (
        "text{font:12px system-ui,'DejaVu Sans',sans-serif}"
        f"{series}.ink{{fill:{ink}}}.soft{{fill:{soft}}}.spread{{stroke:{ink};stroke-width:1.4;fill:none}}"
        f".rule{{stroke:{soft};stroke-opacity:.3}}.line{{fill:none;stroke-width:2.4}}.wash{{fill-opacity:.3}}"
        f".box{{fill:none;stroke:{soft}}}.arrow{{fill:none;stroke:{ink};stroke-width:1.4}}.strong{{fill:{ink};font-weight:600}}"
    )


def drawing(title: str, height: float, parts: Sequence[str]) -> str:
    """The SVG of these parts, as wide as any chart."""
    box = f"-2 0 {WIDTH + 4:g} {height:g}"
    said = escape(title)
    return f'<svg viewBox="{box}" role="img" aria-label="{said}"><title>{said}</title>{"".join(parts)}</svg>'


def rect(x: float, y: float, width: float, height: float, look: str, title: str = "") -> str:
    """A box; the title shows where a pointer rests."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}" class="{look}">{inner}</rect>'


def text(x: float, y: float, words: str, look: str = "ink", anchor: str = "start") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{look}" text-anchor="{anchor}">{escape(words)}</text>'
