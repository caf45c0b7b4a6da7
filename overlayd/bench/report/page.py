"""The page: one HTML file with everything in it, for a phone or a desk, by day or by night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from overlayd.bench import stats
from overlayd.bench.metric import METRICS, Figure, Metric
from overlayd.bench.report import svg
from overlayd.bench.report.charts import Chart, charts, comparison, kinds_of, number
from overlayd.bench.result import Machine, Result, ScenarioRecord
from overlayd.bench.stats import Spread

FRAMES = {
    "any": "Superpackets cross the underlay",
    "1500": "No frame longer than the underlay's MTU",
    "peer": "Between two machines",
}
_NOTES = {
    "any": "The veth between the hosts carries up to 64 KB unsegmented, unlike a wire; kernel paths gain from it.",
    "1500": "Segmentation offloads of the underlay are off: every packet is segmented before it leaves a host.",
    "peer": "As the network between them is.",
}

_CSS = f"""
:root{{color-scheme:light dark;--paper:#fff;--card:#f5f7f9;--ink:{svg.INK};--soft:{svg.SOFT};--edge:#d5dbe1;
--warn:#9a4b00}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:76rem;padding:1rem .75rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,'DejaVu Sans',sans-serif;overflow-wrap:anywhere}}
h1{{font-size:1.5rem;line-height:1.2;margin:.5rem 0}}
h2{{font-size:1.2rem;margin:2.5rem 0 .25rem;border-top:1px solid var(--edge);padding-top:1.25rem}}
h3{{font-size:.95rem;margin:0 0 .6rem;line-height:1.3}}
p{{margin:.25rem 0 .75rem}} .soft,small{{color:var(--soft)}} .warn{{color:var(--warn)}}
.grid{{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));margin:1rem 0}}
figure{{margin:0;padding:.9rem;background:var(--card);border:1px solid var(--edge);border-radius:.5rem;min-width:0}}
figcaption{{font-size:.8rem;color:var(--soft);margin-top:.5rem}}
svg{{display:block;width:100%;height:auto}}
details{{margin:.5rem 0}} summary{{cursor:pointer;padding:.4rem 0;font-weight:600}}
table{{border-collapse:collapse;width:100%;font-size:.85rem;margin:0 0 1rem;font-variant-numeric:tabular-nums}}
th,td{{text-align:right;padding:.3rem .5rem;border-bottom:1px solid var(--edge);vertical-align:top}}
th:first-child,td:first-child{{text-align:left}} td small{{display:block}}
.bad{{color:var(--warn);font-weight:600}} .good{{font-weight:600}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0;font-size:.9rem}}
dt{{color:var(--soft)}} dd{{margin:0}}
@media (max-width:52rem){{
table,tbody,tr,td,th{{display:block;width:100%}} thead{{display:none}}
tr{{padding:.5rem 0;border-bottom:1px solid var(--edge)}}
td{{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.1rem 0}}
td::before{{content:attr(data-of);color:var(--soft);text-align:left}}
td small{{display:inline;margin-left:.5rem}}
th:first-child{{border:0;padding:.1rem 0}} dl{{grid-template-columns:1fr}} dd{{margin-bottom:.3rem}}
}}
{svg.style(svg.DAY, "var(--ink)", "var(--soft)")}
@media (prefers-color-scheme:dark){{
:root{{--paper:#12161a;--card:#1b2127;--ink:#e6eaee;--soft:#9da8b3;--edge:#313a43;--warn:#ffb366}}
{svg.style(svg.NIGHT, "var(--ink)", "var(--soft)")}
}}
"""


def page(results: Sequence[tuple[str, Result]]) -> str:
    """The HTML of one result or more, each with its name; the second and later ones are compared with the first."""
    body = "".join(part for part in _body(results))
    title = escape("overlayd bench: " + ", ".join(name for name, _ in results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_CSS}</style></head><body>{body}</body></html>\n"
    )


def _body(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    yield "<h1>What each scenario between containers costs</h1>"
    yield '<p class="soft">Measured by <code>overlayctl bench</code>; benchmarks/README.md says how.</p>'
    first_name, first = results[0]
    for name, other in results[1:]:
        yield from _compared(first_name, first, name, other)
    for name, result in results:
        yield f"<h2>{escape(name)}</h2>" if len(results) > 1 else ""
        yield _context(result)
        for frames in result.plan.frames:
            yield from _setting(result, frames)


def _context(result: Result) -> str:
    facts = [("measured", f"{result.started}{'' if result.complete else ', interrupted'}")]
    environment, plan = result.environment, result.plan
    facts.append(("machine", _machine(environment.machine)))
    if environment.peer is not None:
        facts.append(("other machine", _machine(environment.peer)))
    facts += [
        ("TCP", f"{environment.congestion_control}, IPv{plan.family} over IPv{plan.underlay}"),
        ("rounds", f"{plan.rounds}, scenarios in turn; medians, and the least and the most of the rounds"),
        ("ratios", f"to {plan.base} in the same round"),
    ]
    if environment.udp_limit is not None:
        facts.append(("load", f"UDP: {environment.udp_limit:.0f} thousand/s on loopback is the generator's own limit"))
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts)
    notes = list(result.notes)
    if not result.complete:
        notes.insert(0, "Interrupted: this is what was measured by then.")
    if result.unreliable:
        busy = f"{result.unreliable} of {len(result.samples)} runs started on a busy machine and are unreliable."
        notes.insert(0, busy)
    warnings = "".join(f'<p class="warn">{escape(note)}</p>' for note in notes)
    return f"<dl>{rows}</dl>{warnings}"


def _machine(machine: Machine) -> str:
    virtual = ", virtual" if machine.hypervisor else ""
    return (
        f"{machine.cpu}, {machine.cores} cores{virtual}, {machine.memory_mib // 1024} GiB, Linux {machine.kernel}"
        f" {machine.architecture}, {machine.python}, overlayd {machine.overlayd}, iperf3 {machine.iperf3 or 'missing'}"
    )


def _setting(result: Result, frames: str) -> Iterator[str]:
    yield f'<h2>{FRAMES[frames]}</h2><p class="soft">{_NOTES[frames]}</p>'
    drawn = charts(result, frames)
    for tall in (False, True):
        yield _grid([chart for chart in drawn if chart.tall is tall], frames)
    scenarios = [scenario for scenario in result.scenarios if scenario.frames == frames]
    yield "<details><summary>All figures as tables</summary>"
    for name in result.plan.metrics:
        yield _metric_table(result, scenarios, METRICS[name])
    yield _profile_table(result, scenarios)
    yield _scenarios_table(scenarios)
    yield "</details>"


def _grid(drawn: Sequence[Chart], frames: str) -> str:
    return f'<div class="grid">{"".join(_figure(chart, frames) for chart in drawn)}</div>'


def _figure(chart: Chart, frames: str) -> str:
    caption = f"<figcaption>{escape(chart.note)}</figcaption>" if chart.note else ""
    return f'<figure data-chart="{chart.key}-{frames}"><h3>{escape(chart.title)}</h3>{chart.svg}{caption}</figure>'


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
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


def _cell(values: Spread | None, figure: Figure) -> str:
    if values is None:
        return "-"
    low, high = number(values.low, figure.digits), number(values.high, figure.digits)
    return f"{number(values.median, figure.digits)}<small>{low}-{high}</small>"


def _metric_table(result: Result, scenarios: Sequence[ScenarioRecord], metric: Metric) -> str:
    rows = []
    for name, figure in metric.figures.items():
        values = [result.spread(scenario.frames, scenario.name, metric.name, name) for scenario in scenarios]
        if any(values):
            unit = f", {figure.unit}" if figure.unit else ""
            rows.append((f"{figure.title}{unit}", [_cell(one, figure) for one in values]))
    if not rows:
        return ""
    main = next(iter(metric.figures))
    ratios = [
        result.ratio(scenario.frames, scenario.name, metric.name, main, result.plan.base) for scenario in scenarios
    ]
    rows.insert(1, (f"ratio to {result.plan.base}", [_cell(one, Figure("", "")) for one in ratios]))
    return _table(metric.title, [scenario.title for scenario in scenarios], rows)


def _profile_table(result: Result, scenarios: Sequence[ScenarioRecord]) -> str:
    seen = [kinds_of(result, scenario) for scenario in scenarios]
    kinds = sorted({kind for one in seen for kind in one}, key=lambda kind: -max(one.get(kind, 0.0) for one in seen))
    titles = [scenario.title for scenario in scenarios]
    rows = [(kind, [f"{one[kind]:.3f}" if kind in one else "-" for one in seen]) for kind in kinds]
    return _table("What the processors do under one TCP stream, s/GB", titles, rows) if rows else ""


def _scenarios_table(scenarios: Sequence[ScenarioRecord]) -> str:
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
    return _table("Scenarios", [scenario.title for scenario in scenarios], rows)


def _offloads(scenario: ScenarioRecord) -> str:
    return (
        escape(", ".join(name for name, value in (scenario.facts.get("offloads") or {}).items() if value == 1)) or "-"
    )


def _compared(a_name: str, a: Result, b_name: str, b: Result) -> Iterator[str]:
    yield f"<h2>A against B</h2><p>A is {escape(a_name)}, B is {escape(b_name)}. A difference counts where every round"
    yield " of one lies beyond every round of the other.</p>"
    for frames in (one for one in a.plan.frames if one in b.plan.frames):
        yield f"<h3>{FRAMES[frames]}</h3>"
        yield _grid(comparison(a, b, frames), frames)
        rows = []
        for metric in METRICS.values():
            for name, figure in metric.figures.items():
                for scenario in (one for one in a.scenarios if one.frames == frames):
                    pair = [one.spread(frames, scenario.name, metric.name, name) for one in (a, b)]
                    if pair[0] is not None and pair[1] is not None:
                        unit = f", {figure.unit}" if figure.unit else ""
                        label = f"{metric.title}, {scenario.title}: {figure.title}{unit}"
                        rows.append((label, [_cell(one, figure) for one in pair] + [_change(pair[0], pair[1], figure)]))
        yield "<details><summary>All figures of both</summary>"
        yield _table("A and B", ["A", "B", "B against A"], rows)
        yield "</details>"


def _change(a: Spread, b: Spread, figure: Figure) -> str:
    change = f"{b.median / a.median - 1:+.0%}" if a.median else "-"
    if stats.worse(b, a, figure.more_is_better):
        return f'<span class="bad">{change} worse</span>'
    if stats.worse(a, b, figure.more_is_better):
        return f'<span class="good">{change} better</span>'
    return f"{change} within the spread"
