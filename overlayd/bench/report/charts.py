"""The charts of a result, and of two compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from overlayd.bench.metric import METRICS, Figure, Metric
from overlayd.bench.perf import DAEMON, LOAD
from overlayd.bench.report import svg
from overlayd.bench.report.colours import REST, colour_of
from overlayd.bench.report.svg import Bar, Line, Stack
from overlayd.bench.result import Result, ScenarioRecord, spread
from overlayd.bench.runs import SIZES
from overlayd.bench.stats import Spread

QUANTILES = ("50", "90", "99", "99.9", "99.99")
STACK = {
    "daemon_user": ("daemons, in user space", 1),
    "daemon_system": ("daemons, in the kernel", 6),
    "load_cpu": ("iperf3 and the kernel for it", 0),
    "other_cpu": ("the rest, mostly the kernel's softirqs", REST),
}
"""Of processor time: figures, titles and colours."""
PROFILE = {
    DAEMON: 1,
    LOAD: 0,
    "copying": 3,
    "locks": 4,
    "packet buffers and memory": 5,
    "IP and routes": 2,
    "waking and switching": 6,
    "firewall hooks": 8,
    "segmenting and coalescing": 9,
}
"""Kinds of work that a profile's stack shows, with their colours; the rest is one."""
COUNTERS = ("retransmits", "reordering", "dsack")
"""Of TCP, that have a chart where they are not 0."""
LOWER = "Lower is better."
Kinds = Sequence[tuple[str, int]]
"""Names and colours."""


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
    scenarios = [scenario for scenario in result.scenarios if scenario.frames == frames]
    rated = [METRICS[name] for name in result.plan.metrics if "rate" in METRICS[name].figures]
    drawn = [_bar_chart(result, scenarios, metric, "rate") for metric in rated]
    drawn += [_bar_chart(result, scenarios, METRICS[f"udp{size}"], "lossless") for size in SIZES]
    drawn += [_bar_chart(result, scenarios, METRICS["tcp1"], figure) for figure in COUNTERS]
    drawn += [_latency(result, scenarios, "rr"), _latency(result, scenarios, "connect")]
    drawn += [_cost(result, scenarios), *_accounts(result, scenarios), *_profile(result, scenarios)]
    return [chart for chart in drawn if chart is not None]


def _bars(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric, figure: str) -> list[Bar]:
    rows, shown = [], metric.figures[figure]
    for scenario in scenarios:
        values = result.spread(scenario.frames, scenario.name, metric.name, figure)
        ratio = result.ratio(scenario.frames, scenario.name, metric.name, figure, result.plan.base)
        if values is not None:
            text = number(values.median, shown.digits) + _beside(ratio, scenario.name, result.plan.base)
            rows.append(Bar(scenario.title, text, values.low, values.median, values.high, colour_of(scenario.name)))
    return rows


def _beside(ratio: Spread | None, name: str, base: str) -> str:
    if ratio is None or name == base:
        return ""
    return f"  (≈ {base})" if ratio.noise else f"  ({ratio.median:.2f}x)"


def better(figure: Figure) -> str:
    """Which direction is the good one."""
    return "Higher is better." if figure.more_is_better else LOWER


def _bar_chart(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric, name: str) -> Chart | None:
    rows, figure = _bars(result, scenarios, metric, name), metric.figures[name]
    title = f"{metric.title}: {figure.title}, {figure.unit}"
    if not any(row.high for row in rows):
        return None  # nothing was lost, nothing came out of order
    return Chart(f"{metric.name}-{name}", title, better(figure), svg.bars(title, rows))


def _latency(result: Result, scenarios: Sequence[ScenarioRecord], name: str) -> Chart | None:
    rows = []
    for scenario in scenarios:
        found = [
            sample.detail["quantiles_us"]
            for sample in result.samples
            if (sample.frames, sample.scenario, sample.metric) == (scenario.frames, scenario.name, name)
            and sample.figures
        ]
        if found:
            medians = [statistics.median(one[quantile] for one in found) for quantile in QUANTILES]
            rows.append(Line(scenario.title, list(enumerate(medians)), colour_of(scenario.name)))
    title = f"{METRICS[name].title}: latency by percentile, µs"
    marks = [(float(at), quantile) for at, quantile in enumerate(QUANTILES)]
    note = "How long the quickest 50 %, 90 %, ... of all transactions took at most; logarithmic. " + LOWER
    return Chart(f"{name}-latency", title, note, svg.lines(title, rows, marks, "µs", log=True), True) if rows else None


def _cost(result: Result, scenarios: Sequence[ScenarioRecord]) -> Chart | None:
    rows = []
    for scenario in scenarios:
        found = [(size, result.spread(scenario.frames, scenario.name, f"udp{size}", "machine_us")) for size in SIZES]
        points = [(float(size), values.median) for size, values in found if values is not None]
        if len(points) > 1:
            rows.append(Line(scenario.title, points, colour_of(scenario.name)))
    title = "Processor time of the whole machine per UDP packet received, against its size, µs"
    marks = [(float(size), f"{size} B") for size in SIZES]
    note = "At full blast, load programs included; a packet that is lost was paid for too. " + LOWER
    return Chart("cost", title, note, svg.lines(title, rows, marks, "µs", log=False), True) if rows else None


def _stacks(key: str, title: str, note: str, kinds: Kinds, rows: Sequence[Stack]) -> list[Chart]:
    """The chart, and where some bars are too short to be read, a second one of those alone."""
    if not rows:
        return []
    most = max(sum(row.parts) for row in rows)
    small = [row for row in rows if sum(row.parts) < most / 4]
    drawn = [Chart(key, title, f"{note} {LOWER}", svg.stacks(title, kinds, rows), True)]
    if small and len(small) < len(rows):
        title = f"{title}: the short bars enlarged"
        drawn.append(Chart(f"{key}-small", title, f"{note} {LOWER}", svg.stacks(title, kinds, small), True))
    return drawn


def _accounts(result: Result, scenarios: Sequence[ScenarioRecord]) -> list[Chart]:
    rows = []
    for scenario in scenarios:
        parts = [result.spread(scenario.frames, scenario.name, "tcp1", figure) for figure in STACK]
        whole = result.spread(scenario.frames, scenario.name, "tcp1", "machine_cpu")
        if whole is not None and all(parts):
            text = f"{number(whole.median, 2)} s/GB"
            rows.append(Stack(scenario.title, text, [part.median for part in parts if part]))
    note = "By the kernel's accounts, which charge a softirq to whom it interrupts."
    return _stacks("stack", "Who uses the processors under one TCP stream", note, list(STACK.values()), rows)


def kinds_of(result: Result, scenario: ScenarioRecord) -> dict[str, float]:
    """Seconds per GB by kind of work, from perf: medians of the rounds; empty without."""
    found = [
        sample.detail["kinds"]
        for sample in result.samples
        if (sample.frames, sample.scenario, sample.metric) == (scenario.frames, scenario.name, "profile")
        and sample.figures
    ]
    names = dict.fromkeys(name for one in found for name in one)
    return {name: statistics.median(one.get(name, 0.0) for one in found) for name in names}


def _profile(result: Result, scenarios: Sequence[ScenarioRecord]) -> list[Chart]:
    rows = []
    for scenario in scenarios:
        if found := kinds_of(result, scenario):
            parts, whole = [found.get(kind, 0.0) for kind in PROFILE], sum(found.values())
            rows.append(Stack(scenario.title, f"{number(whole, 2)} s/GB", [*parts, whole - sum(parts)]))
    kinds = [*PROFILE.items(), ("everything else", REST)]
    note = "Samples of perf by the kind of function that ran."
    return _stacks("profile", "What the processors do under one TCP stream", note, kinds, rows)


def comparison(a: Result, b: Result, frames: str) -> list[Chart]:
    """The rates of both, scenario by scenario: of each pair the upper bar is `a`, the lower one `b`."""
    drawn = []
    for metric in METRICS.values():
        rows = []
        for scenario in (one for one in a.scenarios if one.frames == frames and "rate" in metric.figures):
            digits = metric.figures["rate"].digits
            pair = [spread(one.series(frames, scenario.name, metric.name, "rate")) for one in (a, b)]
            for letter, colour, values in zip("AB", (7, 0), pair, strict=True):
                if values is not None and all(pair):
                    label, text = f"{letter}: {scenario.title}", number(values.median, digits)
                    rows.append(Bar(label, text, values.low, values.median, values.high, colour))
        if rows:
            rate = metric.figures["rate"]
            title = f"{metric.title}: {rate.title}, {rate.unit}"
            drawn.append(Chart(f"compare-{metric.name}", title, better(rate), svg.bars(title, rows)))
    return drawn
