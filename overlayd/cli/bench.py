"""`overlayctl bench`: compare the data paths between containers, in a lab or against a live peer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from overlayd.bench import attach
from overlayd.bench.attach import ATTACHMENTS, attachments
from overlayd.bench.environment import environment
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS
from overlayd.bench.report import page, write_pngs
from overlayd.bench.result import Machine, Result
from overlayd.bench.runs import Durations
from overlayd.bench.scenario import OFFLOADS, SCENARIOS, Frames, Scenario, labs
from overlayd.bench.session import QUICK_PLAN, Benchmark, Plan
from overlayd.bench.tunnels import TUNNELS
from overlayd.cli.arguments import Command, Parser
from overlayd.cli.bench_peer import add_peer_options, peer_scenarios, serve
from overlayd.cli.bench_progress import terminable, watched
from overlayd.cli.bench_table import show
from overlayd.cli.render import invocation
from overlayd.core.errors import UsageError
from overlayd.lab.namespace import need_root, need_tools
from overlayd.system.files import write_atomically

ATTACH_METRICS = ("tcp1", "tcp4", "rr", "connect")


def configure(parser: Parser) -> None:
    """The command's options and verbs; each sets `run` to a function that returns the exit status."""
    parser.description = (
        "Compare the data paths between containers: throughput, latency, CPU; in a lab or to a live peer."
    )
    parser.epilog = "benchmarks/README.md explains how each figure is measured, and its limits."
    _add_options(parser)
    parser.set_defaults(run=run)
    parser.add_commands(
        (
            Command("serve", "be the other side of `bench --peer`, until interrupted", __name__, "_add_serve"),
            Command("report", "make a page of a result; of several, compare the newest", __name__, "_add_report"),
        ),
        required=False,
    )


def _add_serve(server: Parser) -> None:
    server.add_argument("--listen", default="", metavar="ADDRESS", help="default: every address")
    add_peer_options(server)
    server.set_defaults(run=serve)


def _add_report(report: Parser) -> None:
    report.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: the newest result's name, with .html")
    report.add_argument("--png", type=Path, metavar="DIRECTORY", help="write the newest result's charts there as well")
    report.set_defaults(run=_report, accepts=())


def _add_options(parser: Parser) -> None:
    """The options of a benchmark."""
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer scenarios, metrics and rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {Plan.rounds}, quick {QUICK_PLAN.rounds}")
    parser.add_argument(
        "--seconds", type=int, metavar="N", help="of each TCP run; the other runs in proportion (default: 2)"
    )
    parser.add_argument(
        "--scenarios", metavar="A,B", help=f"of {', '.join(SCENARIOS)} (default: all whose programs are installed)"
    )
    parser.add_argument("--metrics", metavar="A,B", help=f"of {', '.join(METRICS)} (default: all)")
    parser.add_argument(
        "--frames",
        metavar="A,B",
        help="wire: frames of the MTU on the underlay, offloads everywhere else; any: superpackets cross it; 1500: no"
        " offloads anywhere; or all (default: wire,any; quick: wire)",
    )
    parser.add_argument(
        "--family", type=int, choices=(4, 6), default=4, help="IP version of the containers (default: 4)"
    )
    parser.add_argument(
        "--underlay", type=int, choices=(4, 6), default=4, help="IP version between the hosts (default: 4)"
    )
    parser.add_argument(
        "--patience", type=float, metavar="N", help="seconds to wait for an idle machine before each run"
    )
    parser.add_argument(
        "--attachments",
        action="store_true",
        help=f"compare the attachments of containers instead, of {', '.join(ATTACHMENTS)}",
    )
    parser.add_argument(
        "--peer",
        action="append",
        metavar="[NAME=]ADDRESS",
        help="measure to that address of a machine where `bench serve` runs, in place of a lab; may be repeated",
    )
    add_peer_options(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: bench-DATE-TIME.json")


Build = Callable[[Plan, Frames, Callable[[str, str], None]], AbstractContextManager[list[Scenario]]]
"""Brings up the scenarios of a plan with that underlay, and reports the name and the reason of each that fails."""


def run(given: argparse.Namespace) -> int:
    """Measure; the exit status: 0, 1 where some figure could not be had, 130 when interrupted. Labs are taken down."""
    need_tools("iperf3")
    plan = plan_of(given)
    output = given.output or Path(f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    with ExitStack() as stack:
        build: Build = _in_labs
        machine = None
        if given.peer:
            scenarios, machine = peer_scenarios(stack, given)
            plan = replace(plan, scenarios=[scenario.name for scenario in scenarios], frames=("peer",))
            build = _as_they_are(scenarios)
        elif given.attachments:
            build = _attached
        benchmark = _execute(plan, output, build, machine, tried=() if given.scenarios else TUNNELS)
    show(benchmark.result, Console())
    print(f"{output}: {invocation()} bench report {output}")
    if not benchmark.result.complete:
        return 130
    return 1 if benchmark.failed else 0


def measured(plan: Plan, output: Path) -> Result:
    """The result of the plan in labs, which is in the file as well. Raises BenchError when interrupted."""
    result = _execute(plan, output, _in_labs).result
    if not result.complete:
        raise BenchError("interrupted")
    return result


def _execute(
    plan: Plan, output: Path, build: Build, machine: Machine | None = None, tried: Container[str] = ()
) -> Benchmark:
    """`tried`: scenarios that nobody asked for by name."""
    if machine is None:
        need_root()
        need_tools("ip", "nsenter", "ethtool")
    plan = plan if plan.base in plan.scenarios else replace(plan, base=plan.scenarios[0])
    with terminable(), watched(Console(stderr=True), plan) as listener:
        benchmark = Benchmark(plan, environment(machine), lambda result: result.save(output), listener)

        def failed(name: str, reason: str) -> None:
            begin = f"{name} did not come up: "
            if not any(note.startswith(begin) for note in benchmark.result.notes):
                benchmark.note(begin + reason)
            benchmark.failed |= build is not _attached and name not in tried  # a kernel may lack a kind

        try:
            for frames in plan.frames:
                listener.step("the scenarios come up")
                with build(plan, frames, failed) as scenarios:
                    benchmark.measure(scenarios, frames)
            benchmark.finish()
        except KeyboardInterrupt:
            listener.note(f"interrupted; results so far are in {output}, the labs are down")
    return benchmark


def _in_labs(plan: Plan, frames: Frames, failed: Callable[[str, str], None]) -> AbstractContextManager[list[Scenario]]:
    return labs(plan.scenarios, frames, plan.family, plan.underlay, failed)


def _attached(plan: Plan, frames: Frames, failed: Callable[[str, str], None]) -> AbstractContextManager[list[Scenario]]:
    return attachments(plan.scenarios, frames, plan.family, failed)


def _as_they_are(scenarios: list[Scenario]) -> Build:
    return lambda plan, frames, failed: nullcontext(scenarios)


def _report(given: argparse.Namespace) -> int:
    results = newest_first(given.results)
    newest, result = results[0]
    output = given.output or newest.with_suffix(".html")
    write_atomically(output, page([(path.stem, one) for path, one in results]))
    print(output)
    if given.png is not None:
        for path in write_pngs(result, given.png):
            print(path)
    return 0


def newest_first(paths: Sequence[Path]) -> list[tuple[Path, Result]]:
    """The results by the time when they were measured: a shell's glob sorts by name. Raises BenchError."""
    return sorted(((path, Result.load(path)) for path in paths), key=lambda one: one[1].started, reverse=True)


def plan_of(given: argparse.Namespace) -> Plan:
    """The plan that the options make. Raises UsageError for a word that is none."""
    plan, scenarios = QUICK_PLAN if given.quick else Plan(), tuple(SCENARIOS)
    chosen: dict[str, Any] = {"family": given.family, "underlay": given.underlay}
    if given.attachments:
        if given.peer:
            raise UsageError("--attachments cannot be used with --peer")
        scenarios = tuple(ATTACHMENTS)
        plan = replace(plan, scenarios=scenarios, metrics=ATTACH_METRICS, base=attach.BASE)
    for key, known in (("scenarios", scenarios), ("metrics", tuple(METRICS)), ("frames", tuple(OFFLOADS))):
        if (words := getattr(given, key)) is not None:
            chosen[key] = known if key == "frames" and words == "all" else tuple(dict.fromkeys(words.split(",")))
            if unknown := [word for word in chosen[key] if word not in known]:
                raise UsageError(f"--{key}: {unknown[0]!r} is not one of {', '.join(known)}")
    for key, low, high in (("rounds", 1, 1000), ("seconds", 1, 600), ("patience", 0, 3600)):
        if (value := getattr(given, key)) is not None:
            if not low <= value <= high:
                raise UsageError(f"--{key} {value:g}: use {low} to {high}")
            if key == "seconds":
                chosen["durations"] = scaled(plan.durations, value)
            else:
                chosen[key] = value
    return replace(plan, **chosen)


def scaled(durations: Durations, seconds: int) -> Durations:
    """The durations with TCP runs of so many seconds, and all others in proportion."""
    factor = seconds / durations.tcp
    return Durations(
        seconds, durations.udp * factor, durations.search * factor, durations.rr * factor, durations.connect * factor
    )
