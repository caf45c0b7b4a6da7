"""`overlayctl bench`: what each way between containers costs, in a lab or against a live peer."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from overlayd.bench.context import context
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result
from overlayd.bench.runs import Durations
from overlayd.bench.session import QUICK_PLAN, Listener, Plan, Session
from overlayd.bench.stats import Spread
from overlayd.bench.way import WAYS, labs
from overlayd.cli.render import invocation
from overlayd.lab.namespace import need_root, need_tools


def add_parser(subparsers: Any) -> None:
    """Add `bench` and its verbs to overlayctl's parser; each sets `run` to a function that returns the exit status."""
    parser = subparsers.add_parser(
        "bench",
        help="measure what each way between containers costs, and make a report of it",
        description=__doc__,
        epilog="benchmarks/README.md says how each figure is measured and what its limits are.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a benchmark."""
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer ways, metrics and rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {Plan.rounds}, quick {QUICK_PLAN.rounds}")
    parser.add_argument(
        "--seconds", type=int, metavar="N", help="of each TCP run; the others in proportion (default: 2)"
    )
    parser.add_argument("--ways", metavar="A,B", help=f"of {','.join(WAYS)} (default: all)")
    parser.add_argument("--metrics", metavar="A,B", help=f"of {','.join(METRICS)} (default: all)")
    parser.add_argument(
        "--frames",
        choices=("any", "1500", "both"),
        help="whether the underlay carries superpackets, or frames of its MTU (default: both; quick: any)",
    )
    parser.add_argument("--family", type=int, choices=(4, 6), default=4, help="of the containers (default: 4)")
    parser.add_argument("--underlay", type=int, choices=(4, 6), default=4, help="between the hosts (default: 4)")
    parser.add_argument(
        "--patience", type=float, metavar="N", help="seconds to wait for an idle machine before each run"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: bench-DATE-TIME.json")


def run(given: argparse.Namespace) -> int:
    """Measure; the exit status: 0, 1 where some figure could not be had, 130 when interrupted. Labs are taken down."""
    need_root()
    need_tools("ip", "nsenter", "iperf3", "ethtool")
    plan = plan_of(given)
    output = given.output or Path(f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    console = Console(stderr=True)
    with _terminable(), _watched(console, plan) as listener:
        session = Session(plan, context(), lambda result: result.save(output), listener)
        session.result.save(output)
        try:
            for frames in plan.frames:
                listener.step("labs come up")
                with labs(list(plan.ways), frames, plan.family, plan.underlay, _failed(session)) as ways:
                    session.measure(ways, frames)
            session.finish()
        except KeyboardInterrupt:
            listener.note(f"interrupted; what was measured is in {output}, the labs are down")
    show(session.result, Console())
    print(f"{output}: {invocation()} bench report {output}")
    if not session.result.complete:
        return 130
    return 1 if any(sample.error for sample in session.result.samples) else 0


def plan_of(given: argparse.Namespace) -> Plan:
    """The plan that the options make. Raises BenchError for a word that is none."""
    plan = QUICK_PLAN if given.quick else Plan()
    chosen: dict[str, Any] = {"family": given.family, "underlay": given.underlay}
    for key, known in (("ways", WAYS), ("metrics", METRICS)):
        if (words := getattr(given, key)) is not None:
            chosen[key] = words.split(",")
            if unknown := [word for word in chosen[key] if word not in known]:
                raise BenchError(f"--{key}: {unknown[0]!r} is not one of {', '.join(known)}")
    for key, low, high in (("rounds", 1, 1000), ("seconds", 1, 600), ("patience", 0, 3600)):
        if (value := getattr(given, key)) is not None:
            if not low <= value <= high:
                raise BenchError(f"--{key} {value:g}: use {low} to {high}")
            if key == "seconds":
                chosen["durations"] = scaled(plan.durations, value)
            else:
                chosen[key] = value
    if given.frames is not None:
        chosen["frames"] = ("any", "1500") if given.frames == "both" else (given.frames,)
    plan = replace(plan, **chosen)
    return plan if plan.base in plan.ways else replace(plan, base=plan.ways[0])


def scaled(durations: Durations, seconds: int) -> Durations:
    """The durations with TCP runs of so many seconds, and all others in proportion."""
    factor = seconds / durations.tcp
    return Durations(
        seconds, durations.udp * factor, durations.search * factor, durations.rr * factor, durations.connect * factor
    )


class _Shown(Listener):
    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=seconds)

    def step(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def done(self, seconds: float) -> None:
        self._progress.advance(self._task, seconds)

    def note(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _watched(console: Console, plan: Plan) -> Iterator[Listener]:
    """Say what will be done and how long it takes, then show how it goes on."""
    console.print(
        f"{len(plan.ways)} ways, {len(plan.metrics)} metrics, {plan.rounds} rounds"
        f"{', with superpackets and with 1500-byte frames' if len(plan.frames) > 1 else ''}:"
        f" about {duration(plan.seconds())} while the machine does nothing else; Ctrl-C keeps what there is by then",
        highlight=False,
    )
    columns = (SpinnerColumn(), TextColumn("{task.description:<52}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield _Shown(progress, plan.seconds())


def duration(seconds: float) -> str:
    """Seconds as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _failed(session: Session) -> Callable[[str, str], None]:
    return lambda name, reason: session.note(f"{name} did not come up: {reason}")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM takes the labs down, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- tables -----------------------------------------------------------------------------------------------------------


def show(result: Result, console: Console) -> None:
    """A table for each setting of the underlay: a row for each way, the main figure of each metric."""
    base = result.plan.base
    for frames in result.plan.frames:
        ways = [way for way in result.ways if way.frames == frames]
        table = Table(title=FRAMES[frames], title_justify="left", padding=(0, 1))
        table.add_column("")
        chosen = [METRICS[name] for name in result.plan.metrics if next(iter(METRICS[name].figures)) == "rate"]
        for metric in chosen:
            table.add_column(f"{metric.title}\n[dim]{metric.figures['rate'].unit}[/]", justify="right", no_wrap=True)
        for way in ways:
            cells = [
                cell(
                    result.spread(frames, way.name, metric.name, "rate"),
                    result.ratio(frames, way.name, metric.name, "rate", base),
                    metric.figures["rate"].digits,
                )
                for metric in chosen
            ]
            table.add_row(way.title, *cells)
        wanted = Measurement.get(console, console.options.update(max_width=200), table).maximum
        console.width = max(console.width, wanted)  # better cut by the terminal than by us
        console.print(table)
    rounds, machine = result.plan.rounds, result.context.machine
    console.print(
        f"Median, its ratio to {base} of the same round, and minimum-maximum of {rounds} rounds."
        f" Linux {machine.kernel}, {machine.cores} cores, {result.context.congestion_control}."
        f" Runs on a machine that was busy before: {result.disturbed} of {len(result.samples)}.",
        style="dim",
        highlight=False,
    )


FRAMES = {
    "any": "superpackets cross the underlay",
    "1500": "no frame longer than the underlay's MTU",
    "peer": "between two machines",
}


def cell(values: Spread | None, ratio: Spread | None, digits: int) -> str:
    """Two lines: the median, with its ratio to the base where there is one; minimum and maximum."""
    if values is None:
        return "-"
    times = f" {ratio.median:5.2f}x" if ratio else ""
    return f"{values.median:.{digits}f}{times}\n[dim]{values.low:.{digits}f}-{values.high:.{digits}f}[/]"
