"""The page: one HTML file with everything in it, for a phone or a desk, by day or by night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from overlayd.bench.metric import METRICS
from overlayd.bench.report import svg
from overlayd.bench.report.charts import Chart, charts, comparison
from overlayd.bench.report.colours import DAY, NIGHT
from overlayd.bench.report.conclusions import each, lead
from overlayd.bench.report.drawing import COPY, PATHS, WAKE, draw, path_of
from overlayd.bench.report.flame import flame, stacks_of
from overlayd.bench.report.glossary import GLOSSARY
from overlayd.bench.report.tables import cell, change, metric_table, profile_table, scenarios_table, table
from overlayd.bench.result import Machine, Result, ScenarioRecord

FRAMES = {
    "wire": "As between real machines: frames of the MTU on the cable, offloads everywhere else",
    "any": "Extreme case: superpackets cross the underlay",
    "1500": "Extreme case: no offloads anywhere",
    "peer": "Between two machines",
}
_NOTES = {
    "wire": "Containers send superpackets; the kernel segments them at the underlay's device and coalesces them (GRO)"
    " at the other end.",
    "any": "The veth between the hosts carries up to 64 KB unsegmented, unlike a wire; kernel paths gain from it.",
    "1500": "No veth segments or coalesces: each packet of the MTU is handled by itself. (In results from before “wire”"
    " existed, containers kept their offloads.)",
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
ul{{margin:.25rem 0 1rem;padding-left:1.2rem}} li{{margin:.15rem 0}}
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
{svg.style(DAY, "var(--ink)", "var(--soft)")}
@media (prefers-color-scheme:dark){{
:root{{--paper:#12161a;--card:#1b2127;--ink:#e6eaee;--soft:#9da8b3;--edge:#313a43;--warn:#ffb366}}
{svg.style(NIGHT, "var(--ink)", "var(--soft)")}
}}
"""


def page(results: Sequence[tuple[str, Result]]) -> str:
    """The HTML of one result or more, each with its name; the first is compared with each of the others."""
    body = "".join(part for part in _body(results))
    title = escape("overlayd bench: " + ", ".join(name for name, _ in results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_CSS}</style></head><body>{body}</body></html>\n"
    )


def _body(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    yield "<h1>Data paths between containers, compared</h1>"
    first_name, first = results[0]
    yield from _conclusions(first)
    for name, other in results[1:]:
        yield from _compared(name, other, first_name, first)
    yield f"<h2>{escape(first_name)}</h2>" if len(results) > 1 else ""
    yield from _figures(first)
    for name, other in results[1:]:
        yield f"<details><summary>{escape(name)}, measured {escape(other.started)}</summary>"
        yield from _conclusions(other)
        yield from _figures(other)
        yield "</details>"
    yield "<h2>Glossary</h2><dl>"
    yield "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in GLOSSARY)
    yield '</dl><p class="soft">Made by <code>overlayctl bench</code>; benchmarks/README.md explains the method.</p>'


def _figures(result: Result) -> Iterator[str]:
    yield _environment(result)
    yield from _paths(result)
    for frames in result.plan.frames:
        yield from _setting(result, frames)


def _conclusions(result: Result) -> Iterator[str]:
    """What the figures say, before any of them."""
    for frames in result.plan.frames:
        if text := lead(result, frames):
            yield f"<p><strong>{FRAMES[frames]}.</strong> {escape(text)}</p>"
    for frames in result.plan.frames:
        if sentences := list(each(result, frames)):
            setting = FRAMES[frames][0].lower() + FRAMES[frames][1:]
            yield f"<details open><summary>Ratios to {escape(result.plan.base)}: {escape(setting)}</summary><ul>"
            yield "".join(f"<li><strong>{escape(one.title)}</strong>: {escape(text)}</li>" for one, text in sentences)
            yield "</ul></details>"


def _paths(result: Result) -> Iterator[str]:
    """A drawing of each data path that some scenario takes."""
    taken: dict[str, dict[str, None]] = {}
    for one in result.scenarios if result.samples else ():
        if (key := path_of(one)) is not None:
            taken.setdefault(key, {})[one.title] = None
    shown = [
        Chart(
            f"path-{path.key}",
            f"{path.title}: {path.count(COPY)} copies, {path.count(WAKE)} wake-up{'s' if path.count(WAKE) > 1 else ''}",
            f"Taken by {'; '.join(taken[path.key])}. Boxes in colour are programs, the others the kernel.",
            draw(path),
        )
        for path in PATHS
        if path.key in taken
    ]
    if shown:
        yield "<h2>The data paths</h2><p>Copies of every byte, and wake-ups of a process for a burst of packets, in one"
        yield " direction. Copies cost throughput, wake-ups latency, and a system call for each packet costs both.</p>"
        yield _grid(shown, "all")


def _environment(result: Result) -> str:
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
    yield from _flames(result, scenarios)
    yield "<details><summary>All figures as tables</summary>"
    yield "<p>↑ higher is better, ↓ lower is better, ≈ within the spread of the rounds</p>"
    for name in result.plan.metrics:
        yield metric_table(result, scenarios, METRICS[name])
    yield profile_table(result, scenarios)
    yield scenarios_table(scenarios)
    yield "</details>"


def _flames(result: Result, scenarios: Sequence[ScenarioRecord]) -> Iterator[str]:
    graphs = []
    for one in scenarios:
        if (tree := stacks_of(result, one)) is not None:
            title = f"Flame graph: {one.title}"
            note = "One TCP stream, all processors: programs on top, what they call below. Point at a box for its name."
            graphs.append(Chart(f"flame-{one.name}", title, note, flame(title, tree)))
    if graphs:
        yield "<details><summary>Flame graphs</summary>"
        yield _grid(graphs, scenarios[0].frames)
        yield "</details>"


def _grid(drawn: Sequence[Chart], frames: str) -> str:
    return f'<div class="grid">{"".join(_figure(chart, frames) for chart in drawn)}</div>'


def _figure(chart: Chart, frames: str) -> str:
    caption = f"<figcaption>{escape(chart.note)}</figcaption>" if chart.note else ""
    return f'<figure data-chart="{chart.key}-{frames}"><h3>{escape(chart.title)}</h3>{chart.svg}{caption}</figure>'


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
                        rows.append((label, [cell(one, figure) for one in pair] + [change(pair[0], pair[1], figure)]))
        yield "<details><summary>All figures of both</summary>"
        yield table("A and B", ["A", "B", "B against A"], rows)
        yield "</details>"
