"""The charts of a result, and of two compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from overlayd.bench.metric import METRICS, Metric
from overlayd.bench.perf import DAEMON
from overlayd.bench.report import svg
from overlayd.bench.report.svg import Bar, Line, Stack
from overlayd.bench.result import Result, WayRecord, spread
from overlayd.bench.runs import SIZES

QUANTILES = ("50", "90", "99", "99.9", "99.99")
STACK = {
    "daemon_user": "daemons, in user space",
    "daemon_system": "daemons, in the kernel",
    "load_cpu": "iperf3 and the kernel for it",
    "other_cpu": "the rest, mostly the kernel's softirqs",
}
COUNTERS = ("retransmits", "reordering", "dsack")
"""Of TCP, that have a chart where they are not 0."""
_KINDS = 8
"""Kinds of work that a profile's stack shows; the rest is one."""


@dataclass(frozen=True)
class Chart:
    """One drawing."""

    key: str
    title: str
    note: str
    svg: str
    tall: bool = False
    """Whether it is of the taller kind, which stand together."""


def number(value: float, digits: int) -> str:
    """As people read it."""
    return f"{value:,.{digits}f}"


def charts(result: Result, frames: str) -> list[Chart]:
    """All of one setting of the underlay; those without figures are left out."""
    ways = [way for way in result.ways if way.frames == frames]
    rated = [METRICS[name] for name in result.plan.metrics if "rate" in METRICS[name].figures]
    drawn = [_bar_chart(result, ways, metric, "rate") for metric in rated]
    drawn += [_bar_chart(result, ways, METRICS[f"udp{size}"], "lossless") for size in SIZES]
    drawn += [_bar_chart(result, ways, METRICS["tcp1"], figure) for figure in COUNTERS]
    drawn += [_latency(result, ways, "rr"), _latency(result, ways, "connect")]
    drawn += [_cost(result, ways), _stack(result, ways), _profile(result, ways)]
    return [chart for chart in drawn if chart is not None]


def _colour(result: Result, way: WayRecord) -> int:
    """The same in every chart."""
    return list(dict.fromkeys(one.name for one in result.ways)).index(way.name)


def _bars(result: Result, ways: Sequence[WayRecord], metric: Metric, figure: str) -> list[Bar]:
    rows, shown = [], metric.figures[figure]
    for way in ways:
        values = result.spread(way.frames, way.name, metric.name, figure)
        ratio = result.ratio(way.frames, way.name, metric.name, figure, result.plan.base)
        if values is not None:
            text = number(values.median, shown.digits) + (f"  ({ratio.median:.2f}x)" if ratio else "")
            rows.append(Bar(way.title, text, values.low, values.median, values.high, _colour(result, way)))
    return rows


def _bar_chart(result: Result, ways: Sequence[WayRecord], metric: Metric, name: str) -> Chart | None:
    rows, figure = _bars(result, ways, metric, name), metric.figures[name]
    title = f"{metric.title}: {figure.title}, {figure.unit}"
    if not any(row.high for row in rows):
        return None  # nothing was lost, nothing came out of order
    return Chart(f"{metric.name}-{name}", title, "", svg.bars(title, rows))


def _latency(result: Result, ways: Sequence[WayRecord], name: str) -> Chart | None:
    rows = []
    for way in ways:
        found = [
            sample.detail["quantiles_us"]
            for sample in result.samples
            if (sample.frames, sample.way, sample.metric) == (way.frames, way.name, name) and sample.figures
        ]
        if found:
            medians = [statistics.median(one[quantile] for one in found) for quantile in QUANTILES]
            rows.append(Line(way.title, list(enumerate(medians)), _colour(result, way)))
    title = f"{METRICS[name].title}: latency by percentile, µs"
    marks = [(float(at), quantile) for at, quantile in enumerate(QUANTILES)]
    note = "How long the quickest 50 %, 90 %, ... of all transactions took at most; logarithmic."
    return Chart(f"{name}-latency", title, note, svg.lines(title, rows, marks, "µs", log=True), True) if rows else None


def _cost(result: Result, ways: Sequence[WayRecord]) -> Chart | None:
    rows = []
    for way in ways:
        found = [(size, result.spread(way.frames, way.name, f"udp{size}", "machine_us")) for size in SIZES]
        points = [(float(size), values.median) for size, values in found if values is not None]
        if len(points) > 1:
            rows.append(Line(way.title, points, _colour(result, way)))
    title = "Processor time of the whole machine per UDP packet received, against its size, µs"
    marks = [(float(size), f"{size} B") for size in SIZES]
    note = "At full blast, load programs included; a packet that is lost was paid for too."
    return Chart("cost", title, note, svg.lines(title, rows, marks, "µs", log=False), True) if rows else None


def _stack(result: Result, ways: Sequence[WayRecord]) -> Chart | None:
    rows = []
    for way in ways:
        parts = [result.spread(way.frames, way.name, "tcp1", figure) for figure in STACK]
        whole = result.spread(way.frames, way.name, "tcp1", "machine_cpu")
        if whole is not None and all(parts):
            rows.append(Stack(way.title, f"{number(whole.median, 2)} s/GB", [part.median for part in parts if part]))
    title = "Who uses the processors under one TCP stream"
    note = "By the kernel's accounts, which charge a softirq to whom it interrupts."
    return Chart("stack", title, note, svg.stacks(title, list(STACK.values()), rows), True) if rows else None


def kinds_of(result: Result, way: WayRecord) -> dict[str, float]:
    """Seconds per GB by kind of work, from perf: medians of the rounds; empty without."""
    found = [
        sample.detail["kinds"]
        for sample in result.samples
        if (sample.frames, sample.way, sample.metric) == (way.frames, way.name, "profile") and sample.figures
    ]
    names = dict.fromkeys(name for one in found for name in one)
    return {name: statistics.median(one.get(name, 0.0) for one in found) for name in names}


def _profile(result: Result, ways: Sequence[WayRecord]) -> Chart | None:
    seen = {way.title: kinds for way in ways if (kinds := kinds_of(result, way))}
    # Of each way's whole, since one way's second is another's minute.
    shares: dict[str, float] = {}
    for kinds in seen.values():
        for kind, seconds in kinds.items():
            shares[kind] = shares.get(kind, 0.0) + seconds / sum(kinds.values())
    shown = sorted(shares, key=lambda kind: (kind != DAEMON, -shares[kind]))[:_KINDS]  # its own work, however small
    rows = []
    for title, kinds in seen.items():
        parts = [kinds.get(kind, 0.0) for kind in shown]
        whole = sum(kinds.values())
        rows.append(Stack(title, f"{number(whole, 2)} s/GB", [*parts, whole - sum(parts)]))
    title = "What the processors do under one TCP stream"
    note = "Samples of perf by the kind of function that ran."
    return Chart("profile", title, note, svg.stacks(title, [*shown, "everything else"], rows), True) if rows else None


def comparison(a: Result, b: Result, frames: str) -> list[Chart]:
    """The rates of both, way by way: of each pair the upper bar is `a`, the lower one `b`."""
    drawn = []
    for metric in METRICS.values():
        rows = []
        for way in (one for one in a.ways if one.frames == frames and "rate" in metric.figures):
            digits = metric.figures["rate"].digits
            pair = [spread(one.series(frames, way.name, metric.name, "rate")) for one in (a, b)]
            for letter, colour, values in zip("AB", (7, 0), pair, strict=True):
                if values is not None and all(pair):
                    label, text = f"{letter}: {way.title}", number(values.median, digits)
                    rows.append(Bar(label, text, values.low, values.median, values.high, colour))
        if rows:
            title = f"{metric.title}: {metric.figures['rate'].title}, {metric.figures['rate'].unit}"
            drawn.append(Chart(f"compare-{metric.name}", title, "", svg.bars(title, rows)))
    return drawn
