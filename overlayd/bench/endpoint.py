"""The two ends of a scenario: the load's client and its server.

The client's end is always on this machine, in a namespace or not; the server's end is too, or it is another machine
that runs `overlayctl bench serve` (peer.py). Both can start a server and read their counters.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from overlayd.bench import counters
from overlayd.bench.counters import Counters
from overlayd.bench.errors import BenchError
from overlayd.bench.load import tcp_rr, udp
from overlayd.lab.namespace import Namespace, need_tools
from overlayd.system.control_client import ControlError, ask

IPERF3_PORT = 5201
TOOLS = ("iperf3", "tcp_rr", "udp")
"""What an endpoint can serve."""
_START = 5.0
"""Seconds that a server has to start listening."""
T = TypeVar("T")


def program(module: Any) -> list[str]:
    """The command line of a load generator; isolated, so that it starts fast and alike everywhere."""
    return [sys.executable, "-I", "-S", str(module.__file__)]


def server(tool: str, congestion: str = "", address: str = "") -> list[str]:
    """The command line of a server, which says that it is listening. Raises BenchError for a tool that there is not."""
    bind = ["--bind", address] if address else []
    if tool == "iperf3":
        need_tools("iperf3")
        return ["iperf3", "-s", "-p", str(IPERF3_PORT), "--forceflush", *bind]
    if tool == "tcp_rr":
        return [*program(tcp_rr), "serve", "--congestion", congestion, *bind]
    if tool == "udp":
        return [*program(udp), "serve", *bind]
    raise BenchError(f"tool: {tool!r} is not one of {', '.join(TOOLS)}")


class Endpoint(Protocol):
    """What a server's end offers."""

    name: str

    def serving(self, tool: str, congestion: str = "") -> AbstractContextManager[None]:
        """Has the tool's server listening while the block lasts. Raises BenchError when it does not come up."""

    def counters(self) -> Counters:
        """The counters now."""

    def busy(self) -> float:
        """The share (0..1) of the machine that is in use now."""


@dataclass(frozen=True)
class Daemon:
    """The overlayd of an endpoint."""

    pid: int
    socket: Path

    def status(self) -> Mapping[str, Any]:
        """Its answer to GET /v1/status. Raises BenchError."""
        try:
            return ask(self.socket, "/v1/status")
        except ControlError as error:
            raise BenchError(str(error)) from None

    def packets(self) -> int:
        """Packets that it, or the kernel for it, has carried in either direction. Raises BenchError."""
        traffic = self.status().get("traffic") or {}
        return int(traffic.get("tx_packets", 0)) + int(traffic.get("rx_packets", 0))


@dataclass(frozen=True)
class Program:
    """Another program that carries packets, through a device of its host."""

    pid: int
    host: Namespace
    device: str

    def packets(self) -> int:
        """Packets that its device has carried in either direction. Raises LabError."""
        (link,) = json.loads(self.host.run("ip", "-s", "-j", "link", "show", "dev", self.device).stdout)
        return sum(int(link["stats64"][direction]["packets"]) for direction in ("rx", "tx"))


class ThisHost(Namespace):
    """The namespace in which this process is already."""

    def __init__(self) -> None:
        super().__init__("this host", "")

    def enter(self, *argv: str) -> list[str]:
        return list(argv)

    def inside(self, action: Callable[[], T]) -> T:
        return action()


class Local:
    """An endpoint on this machine."""

    def __init__(self, where: Namespace, daemon: Daemon | Program | None = None) -> None:
        self.name = where.name
        self.where = where
        self.daemon = daemon

    def run(self, argv: list[str], seconds: float) -> str:
        """What a program printed that takes about `seconds`. Raises LabError when it hangs."""
        done = self.where.run(*argv, check=False, timeout=seconds + 30)
        return done.stdout or done.stderr

    @contextlib.contextmanager
    def serving(self, tool: str, congestion: str = "", address: str = "") -> Iterator[None]:
        """At that address, or at every one. Raises BenchError with the server's words when it does not come up."""
        argv = server(tool, congestion, address)
        process = self.where.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        try:
            output, deadline = b"", time.monotonic() + _START
            while b"listening" not in output:
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                if not ready or not (more := os.read(process.stdout.fileno(), 4096)):
                    raise BenchError(
                        f"{self.name}: {tool}'s server does not listen: {output.decode().strip()[-300:]!r}"
                    )
                output += more
            yield
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def counters(self) -> Counters:
        pid = self.daemon.pid if self.daemon else None
        return self.where.inside(lambda: counters.read(pid))

    def busy(self) -> float:
        return counters.busy()
