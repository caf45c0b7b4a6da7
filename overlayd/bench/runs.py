"""The runs: each uses a tool on a way, with the kernel's accounts taken before and after, and gives figures, plain
numbers by name, and details for the report. Each raises BenchError or LabError when it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from overlayd.bench import perf, tools
from overlayd.bench.load import tcp_rr
from overlayd.bench.load import udp as udp_load
from overlayd.bench.probe import Look
from overlayd.bench.station import Daemon
from overlayd.bench.way import Way

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
class Seen:
    """What one run showed."""

    figures: dict[str, float]
    detail: dict[str, Any] = field(default_factory=dict)


Run = Callable[[Way, Durations, str], Seen]
"""A way, durations, TCP's congestion control -> what was seen."""


class Accounts:
    """Seconds and counts between two looks at both stations of a way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._before = self._looks()

    def _looks(self) -> tuple[Look, Look]:
        return self._way.client.look(), self._way.server.look()

    def close(self) -> None:
        """Take the second look; only then are there figures."""
        (a0, b0), (a1, b1) = self._before, self._looks()
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

    def run(way: Way, durations: Durations, congestion: str) -> Seen:
        extra = ("-P", str(streams)) if streams > 1 else ()
        accounts = Accounts(way)
        seen = tools.throughput(way.client, way.server, way.address, durations.tcp, congestion=congestion, extra=extra)
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
        return Seen(figures, {"congestion": seen.congestion, "steal": round(accounts.steal, 2)})

    return run


def udp(size: int) -> Run:
    """UDP packet rates: at full blast, and the highest without loss."""

    def run(way: Way, durations: Durations, _: str) -> Seen:
        with way.server.serving("udp"):
            accounts = Accounts(way)
            blast = tools.blast(way.client, way.address, size, durations.udp)
            accounts.close()
            found = tools.search(way.client, way.address, size, blast, durations.search)
        packets = max(1.0, blast.packets * (1 - blast.loss) * (1 + udp_load.WARM_UP / durations.udp))
        figures = {
            "rate": blast.received / 1e3,
            "offered": blast.offered / 1e3,
            "loss": blast.loss * 100,
            "lossless": found.per_second / 1e3,
            "machine_us": accounts.machine / packets * 1e6,
            "daemon_us": accounts.daemons / packets * 1e6,
        }
        return Seen(figures, {"trials": [dict(one) for one in found.trials]})

    return run


def request_response(connect: bool) -> Run:
    """TCP request and response; if `connect` with a connection for each."""

    def run(way: Way, durations: Durations, congestion: str) -> Seen:
        seconds = durations.connect if connect else durations.rr
        accounts = Accounts(way)
        seen = tools.transactions(way.client, way.server, way.address, seconds, congestion=congestion, connect=connect)
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
        return Seen(figures, {"quantiles_us": dict(seen.quantiles_us)})

    return run


_HEAD = 0.4
"""Seconds from the start of a load until it is under way."""


def _loads(way: Way, durations: Durations, congestion: str) -> dict[str, Callable[[float], Any]]:
    """Loads by name: each runs for so many seconds."""

    def udp(size: int) -> Callable[[float], Any]:
        def run(seconds: float) -> Any:
            with way.server.serving("udp"):
                return tools.blast(way.client, way.address, size, seconds)

        return run

    def tcp(seconds: float) -> Any:
        whole = int(seconds + 0.999)
        return tools.throughput(way.client, way.server, way.address, whole, congestion=congestion)

    def rr(seconds: float) -> Any:
        return tools.transactions(way.client, way.server, way.address, seconds, congestion=congestion)

    return {"tcp1": tcp, "rr": rr, **{f"udp{size}": udp(size) for size in (SIZES[0], SIZES[-1])}}


def wakeups(way: Way, durations: Durations, congestion: str) -> Seen:
    """Packets that the daemons, both ends together, carry for each time that they wake up and for each system call."""
    figures: dict[str, float] = {}
    # Elsewhere the kernel carries the packets.
    if way.facts.get("engine") is None or perf.unusable():
        return Seen(figures)
    with ThreadPoolExecutor(1) as pool:
        for name, load in _loads(way, durations, congestion).items():
            running = pool.submit(load, durations.perf + 2 * _HEAD)
            time.sleep(_HEAD)
            begin, before = time.monotonic(), sum(one.packets() for one in way.daemons)
            calls, waits = perf.stat([one.pid for one in way.daemons], durations.perf)
            packets = sum(one.packets() for one in way.daemons) - before
            rate = packets / (time.monotonic() - begin)
            running.result()
            if all(isinstance(one, Daemon) for one in way.daemons):  # others may block in a read instead
                figures[f"{name}_per_wakeup"] = rate / max(1.0, waits)
            figures[f"{name}_per_syscall"] = rate / max(1.0, calls)
    return Seen(figures)


def profile(way: Way, durations: Durations, congestion: str) -> Seen:
    """Where the processors' time goes under one TCP stream, in seconds for a gigabyte."""
    if perf.unusable():
        return Seen({})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_loads(way, durations, congestion)["tcp1"], durations.perf + 2 * _HEAD)
        time.sleep(_HEAD)
        kinds = perf.profile([one.pid for one in way.daemons], durations.perf)
        gigabytes = running.result().bits_per_second / 8e9 * durations.perf
    return Seen({"seconds": sum(kinds.values()) / gigabytes}, {"kinds": {k: v / gigabytes for k, v in kinds.items()}})
