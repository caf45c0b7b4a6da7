"""Every figure in tables, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from overlayd.bench import stats
from overlayd.bench.metric import Figure, Metric
from overlayd.bench.report.charts import kinds_of, number
from overlayd.bench.result import Result, ScenarioRecord
from overlayd.bench.stats import Spread


def table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Cells are HTML; where the page is narrow, each row becomes a list with the columns' names."""
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
    lines = []
    for label, cells in rows:
        inner = "".join(
            f'<td data-of="{escape(column)}"><span>{cell}</span></td>'
            for column, cell in zip(columns, cells, strict=True)
        )
        lines.append(f"<tr><th>{escape(label)}</th>{inner}</tr>")
    return f"<h3>{escape(title)}</h3><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def cell(values: Spread | None, figure: Figure) -> str:
    """The median, and below it the least and the most."""
    if values is None:
        return "-"
    low, high = number(values.low, figure.digits), number(values.high, figure.digits)
    return f"{number(values.median, figure.digits)}<small>{low}-{high}</small>"


def metric_table(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric) -> str:
    """A metric's figures, a column for each scenario; empty where there are none."""
    rows = []
    for name, figure in metric.figures.items():
        values = [result.spread(scenario.frames, scenario.name, metric.name, name) for scenario in scenarios]
        if any(values):
            unit = f", {figure.unit}" if figure.unit else ""
            rows.append(
                (f"{figure.title}{unit} {'↑' if figure.more_is_better else '↓'}", [cell(one, figure) for one in values])
            )
    if not rows:
        return ""
    main = next(iter(metric.figures))
    ratios = [
        result.ratio(scenario.frames, scenario.name, metric.name, main, result.plan.base) for scenario in scenarios
    ]
    rows.insert(
        1,
        (
            f"ratio to {result.plan.base}",
            [_ratio(one, scenario.name, result.plan.base) for one, scenario in zip(ratios, scenarios, strict=True)],
        ),
    )
    return table(metric.title, [scenario.title for scenario in scenarios], rows)


def _ratio(ratio: Spread | None, name: str, base: str) -> str:
    """A difference inside the spread is none."""
    if ratio is None or name == base or not ratio.noise:
        return cell(ratio, Figure("", ""))
    return f"≈<small>{number(ratio.low, 2)}-{number(ratio.high, 2)}</small>"


def profile_table(result: Result, scenarios: Sequence[ScenarioRecord]) -> str:
    """Seconds of each kind of work; empty without figures from perf."""
    seen = [kinds_of(result, scenario) for scenario in scenarios]
    kinds = sorted({kind for one in seen for kind in one}, key=lambda kind: -max(one.get(kind, 0.0) for one in seen))
    titles = [scenario.title for scenario in scenarios]
    rows = [(kind, [f"{one[kind]:.3f}" if kind in one else "-" for one in seen]) for kind in kinds]
    return table("What the processors do under one TCP stream, s/GB", titles, rows) if rows else ""


def scenarios_table(scenarios: Sequence[ScenarioRecord]) -> str:
    """What is known of each scenario beside its runs."""

    def listed(values: Sequence[float], digits: int) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values) or "-"

    rows = [
        ("seconds to come up, each host", [listed(scenario.facts.get("up_seconds", ()), 2) for scenario in scenarios]),
        ("memory of a daemon, MiB", [listed(scenario.memory_mib, 1) for scenario in scenarios]),
        ("MTU", [str(scenario.facts.get("mtu") or "-") for scenario in scenarios]),
        ("offloads on", [_offloads(scenario) for scenario in scenarios]),
        ("underlay's device", [escape(str(scenario.facts.get("device", "-"))) for scenario in scenarios]),
        ("its offloads", [escape(", ".join(scenario.facts.get("features", ()))) or "-" for scenario in scenarios]),
    ]
    return table("Scenarios", [scenario.title for scenario in scenarios], rows)


def _offloads(scenario: ScenarioRecord) -> str:
    return (
        escape(", ".join(name for name, value in (scenario.facts.get("offloads") or {}).items() if value == 1)) or "-"
    )


def change(a: Spread, b: Spread, figure: Figure) -> str:
    """B against A in words; a difference inside the spread is called so."""
    difference = f"{b.median / a.median - 1:+.0%}" if a.median else "-"
    if stats.worse(b, a, figure.more_is_better):
        return f'<span class="bad">{difference} worse</span>'
    if stats.worse(a, b, figure.more_is_better):
        return f'<span class="good">{difference} better</span>'
    return "≈ within the spread"
