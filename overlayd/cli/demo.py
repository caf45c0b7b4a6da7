"""`overlayctl demo`: all modes side by side on this machine, measured in turn.

 1. a lab for each mode, all at once, each of two hosts with one container, daemons started one lab after the other
 2. does ping cross, in both families?
 3. rounds: in each, every mode gets its ping, its TCP throughput and its TCP request/response, begun on an idle machine
 4. one table: medians with minimum and maximum, and ratios to vxlan
Rounds are interleaved because a machine's speed drifts by more than the modes differ: what is compared was measured
within the same seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import rich.box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from overlayd.backend.modes import MODES as REGISTERED
from overlayd.bench import counters, tools
from overlayd.bench.endpoint import Local
from overlayd.bench.errors import BenchError
from overlayd.cli.arguments import Parser
from overlayd.cli.common import add_common
from overlayd.cli.lab_options import OFFLOADS, add_offloads
from overlayd.cli.render import invocation
from overlayd.core.address import FAMILIES
from overlayd.lab import Lab, LabError, LabSpec
from overlayd.lab.lab import unique_name
from overlayd.lab.spec import Offloads, SpecError

MODES = tuple(mode.name for mode in reversed(REGISTERED))
BASELINE = "vxlan"


PATIENCE = 4.0
"""Seconds that a measurement waits for an idle machine."""


@dataclass
class Result:
    """What one mode showed; the lists have one figure for each round."""

    mode: str
    overlay_mtu: int = 0
    up_seconds: list[float] = field(default_factory=list)
    """From the start of the process until it was ready, one figure for each host."""
    ping_ms: list[float] = field(default_factory=list)
    tcp_bits_per_second: list[float] = field(default_factory=list)
    transactions_per_second: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    unreliable: int = 0
    """Measurements that started on a busy machine."""
    error: str | None = None
    """Why there are no (further) figures."""


Stage = Callable[[Lab, Result], None]


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = "Build a lab for each mode and measure ping, TCP throughput and TCP request/response in turn."
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="N", help="of each TCP measurement; iperf3 rounds it (default: 2)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    add_offloads(parser, "wire")
    add_common(parser, "json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the exit status: 0, 1 where a mode failed, 130 when interrupted. The labs are always taken down."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        if arguments.rounds < 1 or not 0 < arguments.seconds <= 3600:
            raise SpecError(
                f"--rounds {arguments.rounds} --seconds {arguments.seconds:g}: use at least 1 and up to 3600"
            )
        setup, results = _demo(arguments)
    except KeyboardInterrupt:
        print("overlayctl demo: interrupted; the labs are down", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if arguments.json:
        print(json.dumps({"setup": setup, "modes": [asdict(result) for result in results]}, indent=2))
    else:
        _show(setup, results)
    return 1 if any(result.error for result in results) else 0


def _demo(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Result]]:
    results = [Result(mode) for mode in MODES]
    columns = (SpinnerColumn(), TextColumn("{task.description:<44}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True, quiet=arguments.json)
    steps = len(MODES) * (3 + 3 * arguments.rounds)
    with ExitStack() as stack, Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=steps)

        def step(text: str) -> None:
            progress.update(bar, description=text)

        def each(stages: Sequence[tuple[str, Stage]]) -> None:
            for result in results:
                for text, stage in stages:
                    if result.error is None:
                        step(f"{result.mode}: {text}")
                        result.error = _failure(stage, labs, result)
                    progress.advance(bar)

        labs: dict[str, Lab] = {}
        step(f"{len(MODES)} labs")
        for mode in MODES:
            labs[mode] = stack.enter_context(_lab(mode, arguments.offloads))
            progress.advance(bar)
        setup = _setup(labs[BASELINE], arguments)
        each([("overlayd starts on two hosts", _start), ("ping in both families", _check)])
        for number in range(1, arguments.rounds + 1):
            at = f"(round {number} of {arguments.rounds})"
            each([(f"{name} {at}", on_idle_machine(stage)) for name, stage in _stages(arguments.seconds).items()])
        step("labs go down")
    return setup, results


def _lab(mode: str, offloads: Offloads) -> Lab:
    spec = LabSpec(name=unique_name(), mode=mode, family="dual", underlay="dual", offloads=offloads, start=False)
    return Lab.up(spec, owned=True)


def _failure(stage: Stage, labs: Mapping[str, Lab], result: Result) -> str | None:
    try:
        stage(labs[result.mode], result)
    except (BenchError, LabError) as error:
        return str(error)
    return None


def _start(lab: Lab, result: Result) -> None:
    lab.start()
    result.up_seconds = [round(host.ready_after, 3) for host in lab.hosts if host.ready_after is not None]
    result.overlay_mtu = lab.hosts[0].plan.overlay_mtu


def _check(lab: Lab, result: Result) -> None:
    client, server = (host.container(0) for host in lab.hosts)
    for family in FAMILIES:
        if not client.ping(server.address(family), count=3):
            raise LabError(f"{client.name} gets no answer to ping from {server.name} ({server.address(family)})")


def _stages(seconds: float) -> dict[str, Stage]:
    def ping(lab: Lab, result: Result) -> None:
        client, server = (host.container(0) for host in lab.hosts)
        result.ping_ms.append(tools.ping(client, server.address()).average_ms)

    def tcp(lab: Lab, result: Result) -> None:
        client, server = (host.container(0) for host in lab.hosts)
        seen = tools.throughput(
            Local(client), Local(server), server.address(), seconds, congestion=tools.congestion_control(client)
        )
        result.tcp_bits_per_second.append(seen.bits_per_second)

    def request_response(lab: Lab, result: Result) -> None:
        client, server = (host.container(0) for host in lab.hosts)
        seen = tools.transactions(Local(client), Local(server), server.address(), seconds)
        result.transactions_per_second.append(seen.per_second)
        result.p50_us.append(seen.p50_us)
        result.p99_us.append(seen.p99_us)

    return {"ping": ping, "TCP throughput": tcp, "TCP request/response": request_response}


def on_idle_machine(stage: Stage) -> Stage:
    """The measurement, begun when the machine is idle, or marked when it stays busy."""

    def measure(lab: Lab, result: Result) -> None:
        result.unreliable += counters.wait_idle(counters.busy, PATIENCE) > counters.BUSY
        stage(lab, result)

    return measure


def _setup(lab: Lab, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "congestion_control": tools.congestion_control(lab.hosts[0]),
        "offloads": arguments.offloads,
        "underlay_mtu": lab.spec.underlay_mtu,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }


# --- the table --------------------------------------------------------------------------------------------------------


def _show(setup: Mapping[str, Any], results: Sequence[Result]) -> None:
    console = Console()
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("mode")
    for column in ("up in (s)", "MTU", "ping (ms)", "TCP (Gbit/s)", "TCP_RR (k/s)"):
        table.add_column(column, justify="right", no_wrap=True)
    base = next(result for result in results if result.mode == BASELINE)
    for result in results:
        table.add_row(
            result.mode,
            "[red]failed[/]" if result.error else cell(result.up_seconds, (), 2),
            str(result.overlay_mtu or "-"),
            cell(result.ping_ms, base.ping_ms, 3),
            cell([value / 1e9 for value in result.tcp_bits_per_second], [v / 1e9 for v in base.tcp_bits_per_second], 2),
            cell(
                [value / 1e3 for value in result.transactions_per_second],
                [value / 1e3 for value in base.transactions_per_second],
                1,
            ),
        )
    console.width = max(console.width, 80)
    console.print(table)
    for result in results:
        if result.error:
            console.print(f"{result.mode} failed: {result.error}", style="bold red", markup=False, soft_wrap=True)
    console.print(
        f"Median, and below it minimum-maximum, of {setup['rounds']} interleaved rounds; 0.5x is half of {BASELINE}'s."
        f" Two hosts in namespaces of one machine share its {setup['cores']} cores: compare the modes with each other,"
        " not with a network card.\n"
        f"Linux {setup['kernel']} {setup['machine']}, {setup['cores']} cores, Python {setup['python']},"
        f" {setup['congestion_control']}, underlay MTU {setup['underlay_mtu']},"
        f" {OFFLOADS[setup['offloads']]}.",
        style="dim",
        markup=False,
        highlight=False,
    )
    if unreliable := sum(result.unreliable for result in results):
        count = len(results) * len(_stages(0)) * setup["rounds"]
        text = f"{unreliable} of {count} measurements started on a busy machine and are unreliable"
        console.print(f"{text}; end other programs and repeat.", style="yellow", markup=False, soft_wrap=True)
    console.print("\n[bold]What to try next[/]")
    for command, what in (
        (f"{invocation()} bench --quick --output quick.json", "more data paths and metrics, in a minute"),
        (f"{invocation()} bench report quick.json", "what these figures say, as a page: quick.html"),
        (f"{invocation()} lab up --mode udp", "a lab of your own, with what to type in it"),
        (f"{invocation()} demo --offloads on", "with superpackets on the underlay, as between containers of one host"),
    ):
        console.print(f"  [cyan]{command}[/]  [dim]# {what}[/]", highlight=False, soft_wrap=True)


def cell(values: Sequence[float], base: Sequence[float], digits: int) -> str:
    """Two lines: the median, with its ratio to the median of `base` where there is one; minimum and maximum."""
    if not values:
        return "-"
    median = statistics.median(values)
    ratio = f" {median / statistics.median(base):5.2f}x" if base and statistics.median(base) else ""
    span = f"{min(values):.{digits}f}-{max(values):.{digits}f}"
    return f"{median:.{digits}f}{ratio}\n[dim]{span}[/]"
