"""A result as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result
from overlayd.bench.stats import Spread


def unreliable(result: Result) -> str:
    """A sentence about runs that started on a busy machine; none where all were quiet."""
    if not result.unreliable:
        return f"All {len(result.samples)} runs started on an idle machine."
    return f"{result.unreliable} of {len(result.samples)} runs started on a busy machine and are unreliable."


def show(result: Result, console: Console) -> None:
    """A table for each setting of the underlay: a row for each scenario, the main figure of each metric."""
    base = result.plan.base
    for frames in result.plan.frames:
        scenarios = [scenario for scenario in result.scenarios if scenario.frames == frames]
        table = Table(title=FRAMES[frames], title_justify="left", padding=(0, 1))
        table.add_column("")
        chosen = [METRICS[name] for name in result.plan.metrics if next(iter(METRICS[name].figures)) == "rate"]
        for metric in chosen:
            table.add_column(f"{metric.title}\n[dim]{metric.figures['rate'].unit}[/]", justify="right", no_wrap=True)
        for scenario in scenarios:
            cells = [
                cell(
                    result.spread(frames, scenario.name, metric.name, "rate"),
                    result.ratio(frames, scenario.name, metric.name, "rate", base) if scenario.name != base else None,
                    metric.figures["rate"].digits,
                )
                for metric in chosen
            ]
            table.add_row(scenario.title, *cells)
        wanted = Measurement.get(console, console.options.update(max_width=200), table).maximum
        console.width = max(console.width, wanted)  # the terminal truncates better than we do
        console.print(table)
    rounds, machine = result.plan.rounds, result.environment.machine
    console.print(
        f"Median, its ratio to {base} in the same round (≈: within the spread), and minimum-maximum of {rounds} rounds."
        f" Linux {machine.kernel}, {machine.cores} cores, {result.environment.congestion_control}."
        f" {unreliable(result)}",
        style="dim",
        highlight=False,
    )


FRAMES = {
    "wire": "as between real machines: frames of the MTU on the cable, offloads everywhere else",
    "any": "extreme case: superpackets cross the underlay",
    "1500": "extreme case: no offloads anywhere",
    "peer": "between two machines",
}


def cell(values: Spread | None, ratio: Spread | None, digits: int) -> str:
    """Two lines: the median, with its ratio to the base where there is one; minimum and maximum."""
    if values is None:
        return "-"
    times = f" {'≈' if ratio.noise else f'{ratio.median:.2f}x':>6}" if ratio else ""
    return f"{values.median:.{digits}f}{times}\n[dim]{values.low:.{digits}f}-{values.high:.{digits}f}[/]"
