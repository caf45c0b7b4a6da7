"""What is measured, and how each figure is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overlayd.bench import runs
from overlayd.bench.runs import SIZES, Durations, Run


@dataclass(frozen=True)
class Figure:
    """How a figure is shown."""

    title: str
    unit: str
    digits: int = 2
    more_is_better: bool = False


@dataclass(frozen=True)
class Metric:
    """One kind of run."""

    name: str
    title: str
    run: Run
    seconds: Callable[[Durations], float]
    """How long it takes, for the estimate."""
    figures: dict[str, Figure]
    """The first is the one that it is about."""


_CPU = {
    "machine_cpu": Figure("processor time, whole machine", "s/GB"),
    "daemon_cpu": Figure("processor time, daemons", "s/GB", 3),
    "daemon_user": Figure("daemons in user space", "s/GB", 3),
    "daemon_system": Figure("daemons in the kernel", "s/GB", 3),
    "load_cpu": Figure("iperf3, both ends", "s/GB", 3),
    "other_cpu": Figure("rest of the machine", "s/GB", 3),
    "retransmits": Figure("retransmits", "/GB", 1),
    "reordering": Figure("reordering seen", "/GB", 1),
    "dsack": Figure("DSACK received", "/GB", 1),
    "out_of_order": Figure("out of order", "/GB", 1),
}
_LATENCY = {
    "p50": Figure("latency p50", "µs", 1),
    "p99": Figure("latency p99", "µs", 1),
    "p99.9": Figure("latency p99.9", "µs", 1),
    "machine_us": Figure("processor time, whole machine", "µs each", 1),
    "daemon_us": Figure("processor time, daemons", "µs each", 1),
}
_PACKETS = {
    "lossless": Figure("highest rate with 1% loss or less", "thousand/s", 1, True),
    "offered": Figure("sent at full blast", "thousand/s", 1, True),
    "loss": Figure("lost at full blast", "%", 1),
    "machine_us": Figure("processor time, whole machine", "µs/packet", 2),
    "daemon_us": Figure("processor time, daemons", "µs/packet", 2),
}
_WAKEUPS = {
    f"{load}_per_{what}": Figure(f"{title}: packets per {words}", "", 1, True)
    for load, title in (("udp64", "UDP 64 B"), ("udp1400", "UDP 1400 B"), ("tcp1", "TCP x1"), ("rr", "TCP_RR"))
    for what, words in (("wakeup", "wake-up"), ("syscall", "system call"))
}

METRICS = {
    one.name: one
    for one in (
        *(
            Metric(
                f"tcp{streams}",
                f"TCP x{streams}",
                runs.tcp(streams),
                lambda durations: durations.tcp + 0.15,
                {"rate": Figure("throughput", "Gbit/s", 2, True), **_CPU},
            )
            for streams in (1, 4)
        ),
        *(
            Metric(
                f"udp{size}",
                f"UDP {size} B",
                runs.udp(size),
                lambda durations: durations.udp + 0.4 + 5 * (durations.search + 0.1),
                {"rate": Figure("received at full blast", "thousand/s", 1, True), **_PACKETS},
            )
            for size in SIZES
        ),
        Metric(
            "rr",
            "TCP_RR",
            runs.request_response(False),
            lambda durations: durations.rr + 0.2,
            {"rate": Figure("transactions", "thousand/s", 2, True), **_LATENCY},
        ),
        Metric(
            "connect",
            "TCP connections",
            runs.request_response(True),
            lambda durations: durations.connect + 0.2,
            {"rate": Figure("connections", "thousand/s", 2, True), **_LATENCY},
        ),
        Metric("wakeups", "Bursts", runs.wakeups, lambda durations: 2 * (durations.perf + 1.2), _WAKEUPS),
        Metric(
            "profile",
            "Where the time goes",
            runs.profile,
            lambda durations: durations.perf + 2.0,
            {"seconds": Figure("processor time sampled", "s/GB", 2)},
        ),
    )
}
