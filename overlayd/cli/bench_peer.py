"""The two sides of `overlayctl bench --peer`."""

from __future__ import annotations

import argparse
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

from overlayd.bench import peer
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Machine
from overlayd.bench.scenario import Scenario, peer_scenario
from overlayd.cli.arguments import Parser
from overlayd.cli.common import add_common
from overlayd.core.errors import UsageError
from overlayd.lab.namespace import need_tools


def add_peer_options(parser: Parser) -> None:
    """The port of the other side, and the control socket of this one."""
    parser.add_argument("--port", type=int, default=peer.PORT, help="of bench serve, TCP (default: %(default)s)")
    add_common(parser, "socket")


def peer_scenarios(stack: ExitStack, given: argparse.Namespace) -> tuple[list[Scenario], Machine]:
    """One scenario for each --peer, all of them to one machine. Raises BenchError."""
    named = [
        (name, address) if equals else ("", name) for name, equals, address in (w.partition("=") for w in given.peer)
    ]
    for _, address in named:
        try:
            ip_address(address)
        except ValueError:
            raise UsageError(f"--peer {address}: is not an IP address; write 10.1.16.1 or vxlan=10.1.16.1") from None
    session = stack.enter_context(peer.Session(named[0][1], given.port))
    daemon = peer.daemon_here(given.socket)
    scenarios = [peer_scenario(name, peer.Remote(session, address), daemon) for name, address in named]
    if len({scenario.name for scenario in scenarios}) < len(scenarios):
        raise UsageError(
            f"--peer: {', '.join(scenario.name for scenario in scenarios)}: give each a name of its own, as a=10.1.16.1"
        )
    return scenarios, session.machine


def serve(given: argparse.Namespace) -> int:
    """Be the other side until interrupted; the exit status is 0 then. Raises BenchError."""
    need_tools("iperf3")

    def log(text: str) -> None:
        print(text, flush=True)

    with interruption() as stop:
        try:
            with peer.listen(given.listen, given.port) as listener:
                log(f"listening on TCP port {given.port}; load arrives on TCP 5201, 5210, 5211 and UDP 5211")
                peer.serve(listener, stop, given.socket, log)
        except OSError as error:
            raise BenchError(f"{given.listen or 'every address'}, port {given.port}: {error.strerror}") from None
    return 0


@contextmanager
def interruption() -> Iterator[socket.socket]:
    """A socket that is readable from the first SIGINT or SIGTERM on.

    An exception from a signal's handler would be late when the signal comes just before a system call blocks.
    """
    readable, written = socket.socketpair()
    with readable, written:
        written.setblocking(False)
        fd = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield readable
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(fd)
