"""Measurements between two namespaces: ping, iperf3 and TCP request/response.

Each has a runner, which starts the programs, and a parser of what they print, which is pure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from overlayd.core.address import Address
from overlayd.lab import tcp_rr
from overlayd.lab.host import ROOT
from overlayd.lab.namespace import Namespace, need_tools
from overlayd.lab.spec import LabError

IPERF3_PORT = 5201
_LISTEN_TIMEOUT = 5.0
"""Seconds that a server has to start listening."""


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
    """What iperf3 says that the receiving side got."""

    bits_per_second: float
    retransmits: int
    """Segments that the sender sent again; 0 for UDP."""
    congestion: str
    """The sender's congestion control; empty for UDP."""
    sender_cpu: float
    """Percent of one core that iperf3 itself used, the kernel's work in its name included."""
    receiver_cpu: float


@dataclass(frozen=True, slots=True)
class Transactions:
    """TCP request and response, one byte each way, one at a time."""

    per_second: float
    p50_us: float
    p99_us: float


def parse_ping(text: str) -> Ping:
    """The summary of Linux ping. Raises LabError when nothing was answered or the text is something else."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
    if counts is None:
        raise LabError(f"ping: no summary in its output: {text.strip()[-200:]!r}")
    sent, received = int(counts[1]), int(counts[2])
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)/[\d.]+ ms", text)
    if times is None:
        raise LabError(f"ping: {received} of {sent} answered")
    return Ping(sent, received, float(times[1]), float(times[2]), float(times[3]))


def parse_iperf3(text: str) -> Throughput:
    """The JSON of an iperf3 client, TCP or UDP. Raises LabError with iperf3's own words when it failed."""
    try:
        data: dict[str, Any] = json.loads(text)
    except ValueError:
        raise LabError(f"iperf3: no JSON in its output: {text.strip()[-200:]!r}") from None
    if "error" in data:
        raise LabError(f"iperf3: {data['error']}")
    try:
        end = data["end"]
        received = end.get("sum_received") or end["sum"]
        cpu = end["cpu_utilization_percent"]
        return Throughput(
            bits_per_second=float(received["bits_per_second"]),
            retransmits=int(end.get("sum_sent", {}).get("retransmits", 0)),
            congestion=str(end.get("sender_tcp_congestion", "")),
            sender_cpu=float(cpu["host_total"]),
            receiver_cpu=float(cpu["remote_total"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"iperf3: its JSON has no usable {error}; iperf3 3.7 or newer is needed") from None


def parse_tcp_rr(text: str) -> Transactions:
    """The JSON of `tcp_rr measure`. Raises LabError for anything else."""
    try:
        data = json.loads(text)
        return Transactions(float(data["per_second"]), float(data["p50_us"]), float(data["p99_us"]))
    except (ValueError, KeyError, TypeError):
        raise LabError(f"tcp_rr: no result in its output: {text.strip()[-200:]!r}") from None


def ping(source: Namespace, address: Address | str, count: int = 10, interval: float = 0.02) -> Ping:
    """Round trips from `source`; `interval` seconds apart. Raises LabError when nothing is answered."""
    need_tools("ping")
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", "2", str(address)]
    return parse_ping(source.run(*argv, check=False, timeout=count * interval + 15).stdout)


def throughput(
    client: Namespace,
    server: Namespace,
    address: Address | str,
    seconds: float = 2.0,
    *,
    extra: tuple[str, ...] = (),
) -> Throughput:
    """iperf3 from client to server at `address`: TCP with cubic, one stream; `extra` are options of the client's.

    iperf3 knows whole seconds only, and 0 is for ever: `seconds` is rounded, to 1 at least.

    Raises LabError when it fails.
    """
    need_tools("iperf3")
    argv = ["iperf3", "-c", str(address), "-p", str(IPERF3_PORT), "-t", str(max(1, round(seconds))), "-J", *extra]
    # BBR, the default of some machines, paces and probes: figures then say more about it than about the network.
    if "-u" not in extra and "-C" not in extra and "cubic" in congestion_controls(client):
        argv += ["-C", "cubic"]
    daemon = server.popen(
        "iperf3", "-s", "-1", "-p", str(IPERF3_PORT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return parse_iperf3(_until_listening(client, argv, seconds))
    finally:
        daemon.kill()
        daemon.wait()


def transactions(client: Namespace, server: Namespace, address: Address | str, seconds: float = 2.0) -> Transactions:
    """TCP request and response from client to server at `address`. Raises LabError when it fails."""
    program = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", tcp_rr.__name__)
    daemon = server.popen(*program, "serve", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        argv = [*program, "measure", str(address), "--seconds", f"{seconds:g}"]
        return parse_tcp_rr(_until_listening(client, argv, seconds))
    finally:
        daemon.kill()
        daemon.wait()


def congestion_controls(namespace: Namespace) -> list[str]:
    """The TCP congestion controls that programs in there may choose; the default comes first."""
    default = namespace.read_sysctl("net/ipv4/tcp_congestion_control")
    others = namespace.read_sysctl("net/ipv4/tcp_available_congestion_control").split()
    return [default, *(name for name in others if name != default)]


def _until_listening(client: Namespace, argv: list[str], seconds: float) -> str:
    """The client's output; it is started again while it says that its server, just started, is not there yet."""
    deadline = time.monotonic() + _LISTEN_TIMEOUT
    while True:
        done = client.run(*argv, check=False, timeout=seconds + 30)
        said = done.stdout + done.stderr
        # Not the exit status: `iperf3 -J` ends with 0 also when it could not connect.
        if "Connection refused" not in said or time.monotonic() > deadline:
            return done.stdout or done.stderr
        time.sleep(0.05)
