"""The tools that measure between two endpoints: ping, iperf3, TCP request/response, UDP rates.

Each has a runner, which starts the programs, and a parser of what they print, which is pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overlayd.bench.endpoint import IPERF3_PORT, Endpoint, Local, program
from overlayd.bench.errors import BenchError
from overlayd.bench.load import tcp_rr, udp
from overlayd.core.address import Address
from overlayd.lab.namespace import Namespace, need_tools

CONGESTION = "cubic"
"""What is used where the machine has it: BBR, some machines' default, paces and probes, and figures then say more about
it than about the network."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Round trips of echo requests, in milliseconds."""

    sent: int
    received: int
    minimum_ms: float
    average_ms: float
    maximum_ms: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """The receiver's side, as iperf3 reports it."""

    bits_per_second: float
    bytes_received: float
    seconds: float
    retransmits: int
    """Segments that the sender sent again; 0 for UDP."""
    congestion: str
    """The sender's congestion control; empty for UDP."""
    sender_cpu: float
    """Percent of one core that iperf3 itself used, the kernel's work in its name included."""
    receiver_cpu: float


@dataclass(frozen=True, slots=True)
class Transactions:
    """TCP request and response, one byte in each direction, one at a time."""

    per_second: float
    quantiles_us: Mapping[str, float]
    """Microseconds by percentile, "50" being the median."""

    @property
    def p50_us(self) -> float:
        """The median."""
        return self.quantiles_us["50"]

    @property
    def p99_us(self) -> float:
        """What one transaction in a hundred exceeds."""
        return self.quantiles_us["99"]


@dataclass(frozen=True, slots=True)
class Blast:
    """Datagrams at full blast."""

    offered: float
    """A second, that the sender's kernel took."""
    received: float
    """A second, that a program received."""
    loss: float
    """0..1."""
    packets: int
    """Sent in all."""


@dataclass(frozen=True, slots=True)
class Search:
    """The highest rate at which nearly all datagrams cross."""

    per_second: float
    """Received, at a loss of at most udp.LOSS; 0 when every trial lost more."""
    trials: tuple[Mapping[str, float], ...]


def parse_ping(text: str) -> Ping:
    """The summary of Linux ping. Raises BenchError when nothing was answered or the text is something else."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
    if counts is None:
        raise BenchError(f"ping: no summary in its output: {text.strip()[-200:]!r}")
    sent, received = int(counts[1]), int(counts[2])
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/[\d.]+ ms", text)
    if times is None:
        raise BenchError(f"ping: {received} of {sent} answered")
    return Ping(sent, received, float(times[1]), float(times[2]), float(times[3]))


def parse_iperf3(text: str) -> Throughput:
    """The JSON of an iperf3 client, TCP or UDP. Raises BenchError with iperf3's own words when it failed."""
    try:
        data: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BenchError(f"iperf3: no JSON in its output: {text.strip()[-200:]!r}") from None
    if "error" in data:
        raise BenchError(f"iperf3: {data['error']}")
    try:
        end = data["end"]
        received = end.get("sum_received") or end["sum"]
        cpu = end["cpu_utilization_percent"]
        return Throughput(
            bits_per_second=float(received["bits_per_second"]),
            bytes_received=float(received["bytes"]),
            seconds=float(received["seconds"]),
            retransmits=int(end.get("sum_sent", {}).get("retransmits", 0)),
            congestion=str(end.get("sender_tcp_congestion", "")),
            sender_cpu=float(cpu["host_total"]),
            receiver_cpu=float(cpu["remote_total"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"iperf3: its JSON has no usable {error}; iperf3 3.7 or newer is needed") from None


def parse_tcp_rr(text: str) -> Transactions:
    """The JSON of `tcp_rr measure`. Raises BenchError for anything else."""
    try:
        data = json.loads(text)
        quantiles = {str(key): float(value) for key, value in data["quantiles_us"].items()}
        if not {"50", "99", "99.9"} <= quantiles.keys():
            raise ValueError
        return Transactions(float(data["per_second"]), quantiles)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BenchError(f"tcp_rr: no result in its output: {text.strip()[-200:]!r}") from None


def parse_blast(text: str) -> Blast:
    """The JSON of `udp blast`. Raises BenchError for anything else."""
    try:
        data = json.loads(text)
        return Blast(float(data["offered"]), float(data["received"]), float(data["loss"]), int(data["sent"]))
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"udp: no result in its output: {text.strip()[-200:]!r}") from None


def parse_search(text: str) -> Search:
    """The JSON of `udp search`. Raises BenchError for anything else."""
    try:
        data = json.loads(text)
        trials = tuple({key: float(one[key]) for key in ("rate", "offered", "loss")} for one in data["trials"])
        return Search(float(data["per_second"]), trials)
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"udp: no result in its output: {text.strip()[-200:]!r}") from None


def ping(source: Namespace, address: Address | str, count: int = 10, interval: float = 0.02) -> Ping:
    """Round trips from `source`; `interval` seconds apart. Raises BenchError when nothing is answered."""
    need_tools("ping")
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", "2", str(address)]
    return parse_ping(source.run(*argv, check=False, timeout=count * interval + 15).stdout)


def throughput(
    client: Local,
    server: Endpoint,
    address: Address | str,
    seconds: float = 2.0,
    *,
    congestion: str = "",
    extra: tuple[str, ...] = (),
) -> Throughput:
    """iperf3 from client to server at `address`: TCP, one stream; `extra` are options of the client's.

    iperf3 knows whole seconds only, and 0 is for ever: `seconds` is rounded, to 1 at least.

    Raises BenchError when it fails.
    """
    need_tools("iperf3")
    argv = ["iperf3", "-c", str(address), "-p", str(IPERF3_PORT), "-t", str(max(1, round(seconds))), "-J", *extra]
    if congestion and "-u" not in extra:
        argv += ["-C", congestion]
    with server.serving("iperf3"):
        return parse_iperf3(client.run(argv, seconds))


def transactions(
    client: Local,
    server: Endpoint,
    address: Address | str,
    seconds: float = 2.0,
    *,
    congestion: str = "",
    connect: bool = False,
) -> Transactions:
    """TCP request and response, if `connect` with a connection for each. Raises BenchError when it fails."""
    argv = [*program(tcp_rr), "measure", str(address), "--seconds", f"{seconds:g}", "--congestion", congestion]
    with server.serving("tcp_rr", congestion):
        return parse_tcp_rr(client.run([*argv, "--connect"] if connect else argv, seconds))


def blast(client: Local, address: Address | str, size: int, seconds: float = 1.0) -> Blast:
    """Datagrams of `size` bytes as fast as they can be sent, to a server that runs. Raises BenchError."""
    argv = [*program(udp), "blast", str(address), "--size", str(size), "--seconds", f"{seconds:g}"]
    return parse_blast(client.run(argv, seconds))


def search(client: Local, address: Address | str, size: int, begin: Blast, seconds: float = 0.3) -> Search:
    """The highest rate at which at most udp.LOSS is lost, `seconds` for each trial, to a server that runs.

    A blast that lost no more than that is the answer itself.
    """
    if begin.loss <= udp.LOSS:
        return Search(begin.received, ())
    known = ["--offered", f"{begin.offered:.0f}", "--received", f"{begin.received:.0f}"]
    argv = [*program(udp), "search", str(address), "--size", str(size), "--seconds", f"{seconds:g}", *known]
    return parse_search(client.run(argv, (seconds + udp.QUIET_MAX) * udp.TRIALS))


def congestion_control(where: Namespace) -> str:
    """The one that is used in there: CONGESTION if the kernel lets programs choose it, or else its default."""
    available = where.read_sysctl("net/ipv4/tcp_available_congestion_control").split()
    return CONGESTION if CONGESTION in available else where.read_sysctl("net/ipv4/tcp_congestion_control")
