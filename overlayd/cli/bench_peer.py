"""The two sides of `overlayctl bench --peer`."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from overlayd.bench import peer
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Machine
from overlayd.bench.way import Way, peer_way
from overlayd.cli.bench_progress import terminable
from overlayd.core.errors import UsageError
from overlayd.core.settings.defaults import CONTROL_SOCKET
from overlayd.lab.namespace import need_tools


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Where the other side is spoken to, and the daemon of this one."""
    parser.add_argument("--port", type=int, default=peer.PORT, help="of bench serve, TCP (default: %(default)s)")
    path = os.environ.get("OVERLAYD_CONTROL_SOCKET", CONTROL_SOCKET)
    parser.add_argument("--socket", type=Path, default=Path(path), help="the daemon's control socket (%(default)s)")


def peer_ways(stack: ExitStack, given: argparse.Namespace) -> tuple[list[Way], Machine]:
    """One way for each --peer, all of them to one machine. Raises BenchError."""
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
    ways = [peer_way(name, peer.Remote(session, address), daemon) for name, address in named]
    if len({way.name for way in ways}) < len(ways):
        raise UsageError(f"--peer: {', '.join(way.name for way in ways)}: name each way differently, as a=10.1.16.1")
    return ways, session.machine


def serve(given: argparse.Namespace) -> int:
    """Be the other side until interrupted; the exit status is 0 then. Raises BenchError."""
    need_tools("iperf3")

    def tell(text: str) -> None:
        print(text, flush=True)

    with terminable():
        try:
            with peer.listen(given.listen, given.port) as listener:
                tell(f"listening on TCP port {given.port}; the load comes to TCP 5201, 5210, 5211 and UDP 5211")
                peer.serve(listener, given.socket, tell)
        except OSError as error:
            raise BenchError(f"{given.listen or 'every address'}, port {given.port}: {error.strerror}") from None
        except KeyboardInterrupt:
            return 0
