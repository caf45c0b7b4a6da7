"""The charts of a result, and of two compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from overlayd.bench.metric import METRICS, Metric
from overlayd.bench.perf import DAEMON
from overlayd.bench.report import svg
from overlayd.bench.report.svg import Bar, Line, Stack
from overlayd.bench.result import Result, ScenarioRecord, spread
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
    scenarios = [scenario for scenario in result.scenarios if scenario.frames == frames]
    rated = [METRICS[name] for name in result.plan.metrics if "rate" in METRICS[name].figures]
    drawn = [_bar_chart(result, scenarios, metric, "rate") for metric in rated]
    drawn += [_bar_chart(result, scenarios, METRICS[f"udp{size}"], "lossless") for size in SIZES]
    drawn += [_bar_chart(result, scenarios, METRICS["tcp1"], figure) for figure in COUNTERS]
    drawn += [_latency(result, scenarios, "rr"), _latency(result, scenarios, "connect")]
    drawn += [_cost(result, scenarios), _stack(result, scenarios), _profile(result, scenarios)]
    return [chart for chart in drawn if chart is not None]


def _colour(result: Result, scenario: ScenarioRecord) -> int:
    """The same in every chart."""
    return list(dict.fromkeys(one.name for one in result.scenarios)).index(scenario.name)


def _bars(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric, figure: str) -> list[Bar]:
    rows, shown = [], metric.figures[figure]
    for scenario in scenarios:
        values = result.spread(scenario.frames, scenario.name, metric.name, figure)
        ratio = result.ratio(scenario.frames, scenario.name, metric.name, figure, result.plan.base)
        if values is not None:
            text = number(values.median, shown.digits) + (f"  ({ratio.median:.2f}x)" if ratio else "")
            rows.append(Bar(scenario.title, text, values.low, values.median, values.high, _colour(result, scenario)))
    return rows


def _bar_chart(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric, name: str) -> Chart | None:
    rows, figure = _bars(result, scenarios, metric, name), metric.figures[name]
    title = f"{metric.title}: {figure.title}, {figure.unit}"
    if not any(row.high for row in rows):
        return None  # nothing was lost, nothing came out of order
    return Chart(f"{metric.name}-{name}", title, "", svg.bars(title, rows))


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
            rows.append(Line(scenario.title, list(enumerate(medians)), _colour(result, scenario)))
    title = f"{METRICS[name].title}: latency by percentile, µs"
    marks = [(float(at), quantile) for at, quantile in enumerate(QUANTILES)]
    note = "How long the quickest 50 %, 90 %, ... of all transactions took at most; logarithmic."
    return Chart(f"{name}-latency", title, note, svg.lines(title, rows, marks, "µs", log=True), True) if rows else None


def _cost(result: Result, scenarios: Sequence[ScenarioRecord]) -> Chart | None:
    rows = []
    for scenario in scenarios:
        found = [(size, result.spread(scenario.frames, scenario.name, f"udp{size}", "machine_us")) for size in SIZES]
        points = [(float(size), values.median) for size, values in found if values is not None]
        if len(points) > 1:
            rows.append(Line(scenario.title, points, _colour(result, scenario)))
    title = "Processor time of the whole machine per UDP packet received, against its size, µs"
    marks = [(float(size), f"{size} B") for size in SIZES]
    note = "At full blast, load programs included; a packet that is lost was paid for too."
    return Chart("cost", title, note, svg.lines(title, rows, marks, "µs", log=False), True) if rows else None


def _stack(result: Result, scenarios: Sequence[ScenarioRecord]) -> Chart | None:
    rows = []
    for scenario in scenarios:
        parts = [result.spread(scenario.frames, scenario.name, "tcp1", figure) for figure in STACK]
        whole = result.spread(scenario.frames, scenario.name, "tcp1", "machine_cpu")
        if whole is not None and all(parts):
            rows.append(
                Stack(scenario.title, f"{number(whole.median, 2)} s/GB", [part.median for part in parts if part])
            )
    title = "Who uses the processors under one TCP stream"
    note = "By the kernel's accounts, which charge a softirq to whom it interrupts."
    return Chart("stack", title, note, svg.stacks(title, list(STACK.values()), rows), True) if rows else None


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


def _profile(result: Result, scenarios: Sequence[ScenarioRecord]) -> Chart | None:
    seen = {scenario.title: kinds for scenario in scenarios if (kinds := kinds_of(result, scenario))}
    # Shares of each scenario's whole: one scenario's second is another's minute.
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
            title = f"{metric.title}: {metric.figures['rate'].title}, {metric.figures['rate'].unit}"
            drawn.append(Chart(f"compare-{metric.name}", title, "", svg.bars(title, rows)))
    return drawn
