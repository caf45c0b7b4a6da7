"""The runs: each uses a tool on a scenario, reads the kernel's counters before and after, and returns figures (plain
numbers by name) and details for the report. Each raises BenchError or LabError when it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from overlayd.bench import perf, tools
from overlayd.bench.counters import Counters
from overlayd.bench.endpoint import Daemon
from overlayd.bench.load import tcp_rr
from overlayd.bench.load import udp as udp_load
from overlayd.bench.scenario import Scenario

SIZES = (64, 512, 1400)
"""Bytes of UDP payload."""


@dataclass(frozen=True)
class Durations:
    """Seconds of each kind of run."""

    tcp: int = 2
    """iperf3 knows whole seconds."""
    udp: float = 1.0
    search: float = 0.3
    """Of each trial."""
    rr: float = 1.5
    connect: float = 1.0
    perf: float = 0.6


@dataclass
class Measurement:
    """The outcome of one run."""

    figures: dict[str, float]
    detail: dict[str, Any] = field(default_factory=dict)


Run = Callable[[Scenario, Durations, str], Measurement]
"""A scenario, durations, TCP's congestion control -> its outcome."""


class Accounts:
    """Seconds and counts between two readings of the counters of both endpoints."""

    def __init__(self, scenario: Scenario) -> None:
        self._way = scenario
        self._before = self._counters()

    def _counters(self) -> tuple[Counters, Counters]:
        return self._way.client.counters(), self._way.server.counters()

    def close(self) -> None:
        """Read the counters again; only then are there figures."""
        (a0, b0), (a1, b1) = self._before, self._counters()
        machines = ((a0, a1),) if self._way.one_machine else ((a0, a1), (b0, b1))
        self.machine = sum(after.processor.busy - before.processor.busy for before, after in machines)
        self.steal = sum(after.processor.steal - before.processor.steal for before, after in machines)
        self.daemon_user = a1.daemon_user - a0.daemon_user + b1.daemon_user - b0.daemon_user
        self.daemon_system = a1.daemon_system - a0.daemon_system + b1.daemon_system - b0.daemon_system
        self.tcp = {name: a1.tcp[name] - a0.tcp[name] + b1.tcp[name] - b0.tcp[name] for name in a0.tcp}

    @property
    def daemons(self) -> float:
        """Seconds of the daemons, user space and kernel."""
        return self.daemon_user + self.daemon_system


def tcp(streams: int) -> Run:
    """TCP throughput and what it costs."""

    def run(scenario: Scenario, durations: Durations, congestion: str) -> Measurement:
        extra = ("-P", str(streams)) if streams > 1 else ()
        accounts = Accounts(scenario)
        seen = tools.throughput(
            scenario.client, scenario.server, scenario.address, durations.tcp, congestion=congestion, extra=extra
        )
        accounts.close()
        gigabytes = max(seen.bytes_received / 1e9, 1e-9)
        load = (seen.sender_cpu + seen.receiver_cpu) / 100 * seen.seconds
        figures = {
            "rate": seen.bits_per_second / 1e9,
            "machine_cpu": accounts.machine / gigabytes,
            "daemon_cpu": accounts.daemons / gigabytes,
            "daemon_user": accounts.daemon_user / gigabytes,
            "daemon_system": accounts.daemon_system / gigabytes,
            "load_cpu": load / gigabytes,
            "other_cpu": max(0.0, accounts.machine - accounts.daemons - load) / gigabytes,
            **{name: count / gigabytes for name, count in accounts.tcp.items()},
        }
        return Measurement(figures, {"congestion": seen.congestion, "steal": round(accounts.steal, 2)})

    return run


def udp(size: int) -> Run:
    """UDP packet rates: at full blast, and the highest without loss."""

    def run(scenario: Scenario, durations: Durations, _: str) -> Measurement:
        with scenario.server.serving("udp"):
            accounts = Accounts(scenario)
            blast = tools.blast(scenario.client, scenario.address, size, durations.udp)
            accounts.close()
            found = tools.search(scenario.client, scenario.address, size, blast, durations.search)
        packets = max(1.0, blast.packets * (1 - blast.loss) * (1 + udp_load.WARM_UP / durations.udp))
        figures = {
            "rate": blast.received / 1e3,
            "offered": blast.offered / 1e3,
            "loss": blast.loss * 100,
            "lossless": found.per_second / 1e3,
            "machine_us": accounts.machine / packets * 1e6,
            "daemon_us": accounts.daemons / packets * 1e6,
        }
        return Measurement(figures, {"trials": [dict(one) for one in found.trials]})

    return run


def request_response(connect: bool) -> Run:
    """TCP request and response; if `connect` with a connection for each."""

    def run(scenario: Scenario, durations: Durations, congestion: str) -> Measurement:
        seconds = durations.connect if connect else durations.rr
        accounts = Accounts(scenario)
        seen = tools.transactions(
            scenario.client, scenario.server, scenario.address, seconds, congestion=congestion, connect=connect
        )
        accounts.close()
        count = max(1.0, seen.per_second * (seconds + tcp_rr.WARM_UP))
        figures = {
            "rate": seen.per_second / 1e3,
            "p50": seen.quantiles_us["50"],
            "p99": seen.quantiles_us["99"],
            "p99.9": seen.quantiles_us["99.9"],
            "machine_us": accounts.machine / count * 1e6,
            "daemon_us": accounts.daemons / count * 1e6,
        }
        return Measurement(figures, {"quantiles_us": dict(seen.quantiles_us)})

    return run


_HEAD = 0.4
"""Seconds from the start of a load until it is under way."""


def _loads(scenario: Scenario, durations: Durations, congestion: str) -> dict[str, Callable[[float], Any]]:
    """Loads by name; each takes its duration in seconds."""

    def udp(size: int) -> Callable[[float], Any]:
        def run(seconds: float) -> Any:
            with scenario.server.serving("udp"):
                return tools.blast(scenario.client, scenario.address, size, seconds)

        return run

    def tcp(seconds: float) -> Any:
        whole = int(seconds + 0.999)
        return tools.throughput(scenario.client, scenario.server, scenario.address, whole, congestion=congestion)

    def rr(seconds: float) -> Any:
        return tools.transactions(scenario.client, scenario.server, scenario.address, seconds, congestion=congestion)

    return {"tcp1": tcp, "rr": rr, **{f"udp{size}": udp(size) for size in (SIZES[0], SIZES[-1])}}


def wakeups(scenario: Scenario, durations: Durations, congestion: str) -> Measurement:
    """Packets that the daemons, both ends together, carry for each time that they wake up and for each system call."""
    figures: dict[str, float] = {}
    # Elsewhere the kernel carries the packets.
    if scenario.facts.get("engine") is None or perf.unusable():
        return Measurement(figures)
    with ThreadPoolExecutor(1) as pool:
        for name, load in _loads(scenario, durations, congestion).items():
            running = pool.submit(load, durations.perf + 2 * _HEAD)
            time.sleep(_HEAD)
            begin, before = time.monotonic(), sum(one.packets() for one in scenario.daemons)
            calls, waits = perf.stat([one.pid for one in scenario.daemons], durations.perf)
            packets = sum(one.packets() for one in scenario.daemons) - before
            rate = packets / (time.monotonic() - begin)
            running.result()
            if all(isinstance(one, Daemon) for one in scenario.daemons):  # others may block in a read instead
                figures[f"{name}_per_wakeup"] = rate / max(1.0, waits)
            figures[f"{name}_per_syscall"] = rate / max(1.0, calls)
    return Measurement(figures)


def profile(scenario: Scenario, durations: Durations, congestion: str) -> Measurement:
    """Where the processors' time goes under one TCP stream, in seconds for a gigabyte."""
    if perf.unusable():
        return Measurement({})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_loads(scenario, durations, congestion)["tcp1"], durations.perf + 2 * _HEAD)
        time.sleep(_HEAD)
        kinds, stacks = perf.profile([one.pid for one in scenario.daemons], durations.perf)
        gigabytes = running.result().bits_per_second / 8e9 * durations.perf
    per_gigabyte = {kind: seconds / gigabytes for kind, seconds in kinds.items()}
    return Measurement({"seconds": sum(per_gigabyte.values())}, {"kinds": per_gigabyte, "stacks": stacks})
