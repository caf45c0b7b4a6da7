"""TCP request and response, and connections: one byte crosses to the other side and one comes back, one at a time.

    tcp_rr.py serve [--port 5210]
    tcp_rr.py measure ADDRESS [--port 5210] [--seconds 2] [--connect]

It is what netperf calls TCP_RR, and TCP_CRR with --connect: latency seen by a program, with nothing to gain from
batches. Blocking sockets, TCP_NODELAY. `serve` answers one connection after the other, on both families, until it is
killed; it prints "listening" when it does. `measure` prints one JSON object.

With --connect every transaction has a connection of its own, which the server closes first, as one of HTTP/1.0: what
waits in TIME_WAIT is the server's, so the client never runs out of ports.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from array import array
from collections.abc import Callable, Sequence

PORT = 5210
TIMEOUT = 5.0
"""Seconds to connect, and to wait for one answer."""
WARM_UP = 0.1
"""Seconds of transactions before those that count."""
QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99, 100)
"""Percentiles that are kept of the latency's distribution."""
AGAIN, ONCE = b"x", b"c"
"""Requests: answer and wait for more; answer and close."""


def serve(listener: socket.socket) -> None:
    """Answer every connection until the listener is closed from elsewhere (OSError)."""
    while True:
        connection, _ = listener.accept()
        with connection:
            _prepare(connection)
            try:
                while request := connection.recv(1):
                    connection.send(b"y")
                    if request == ONCE:
                        break
            except OSError:
                continue  # the other side went away, or said nothing for TIMEOUT


def listen(port: int, congestion: str = "", address: str = "") -> socket.socket:
    """A listening socket at the address; without one for both families, or IPv4 alone where there is no IPv6."""
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family, backlog=1024)
    elif socket.has_dualstack_ipv6():
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    else:
        listener = socket.create_server(("0.0.0.0", port), backlog=1024)
    if congestion:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())  # accept() inherits it
    return listener


def _prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Python's timeout would add a poll() to every call; the kernel's does not.
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(TIMEOUT).to_bytes(8, sys.byteorder) + bytes(8))


def measure(address: str, port: int, seconds: float, congestion: str = "") -> dict[str, object]:
    """Transactions on one connection for `seconds`, after WARM_UP: `summary` of them.

    Raises OSError when the server cannot be reached or stops answering.
    """
    with socket.create_connection((address, port), timeout=TIMEOUT) as connection:
        _prepare(connection)
        if congestion:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        send, receive = connection.send, connection.recv

        def once() -> None:
            send(AGAIN)
            if not receive(1):
                raise ConnectionError("the server closed the connection")

        return _timed(once, seconds)


def connections(address: str, port: int, seconds: float, congestion: str = "") -> dict[str, object]:
    """Transactions with a connection each for `seconds`, after WARM_UP: `summary` of them. Raises OSError likewise."""
    family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]

    def once() -> None:
        with socket.socket(family, kind, protocol) as connection:
            _prepare(connection)
            connection.connect(target)
            connection.send(ONCE)
            if connection.recv(2) != b"y" or connection.recv(1):
                raise ConnectionError("the server did not answer with one byte and close")

    return _timed(once, seconds)


def _timed(once: Callable[[], None], seconds: float) -> dict[str, object]:
    taken = array("q")
    clock = time.perf_counter_ns
    warm = clock() + int(min(WARM_UP, seconds) * 1e9)
    while clock() < warm:
        once()
    begin = before = clock()
    end = begin + int(seconds * 1e9)
    while before < end:
        once()
        now = clock()
        taken.append(now - before)
        before = now
    return summary(taken, (before - begin) / 1e9)


def summary(taken_ns: Sequence[int], seconds: float) -> dict[str, object]:
    """What `measure` prints, from the nanoseconds that each transaction took; there is at least one."""
    ordered = sorted(taken_ns)
    last = len(ordered) - 1
    return {
        "transactions": len(ordered),
        "seconds": round(seconds, 3),
        "per_second": round(len(ordered) / seconds, 1),
        "quantiles_us": {f"{one:g}": round(ordered[round(last * one / 100)] / 1e3, 1) for one in QUANTILES},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tcp_rr.py", description="TCP request/response")
    verbs = parser.add_subparsers(dest="verb", required=True)
    server = verbs.add_parser("serve", help="answer until killed")
    server.add_argument("--bind", default="", metavar="ADDRESS", help="listen there only")
    client = verbs.add_parser("measure", help="print transactions per second and latency as JSON")
    client.add_argument("address")
    client.add_argument("--seconds", type=float, default=2.0)
    client.add_argument("--connect", action="store_true", help="a connection for each transaction")
    for verb in (server, client):
        verb.add_argument("--port", type=int, default=PORT)
        verb.add_argument("--congestion", default="", help="TCP congestion control (default: the machine's)")
    given = parser.parse_args(argv)
    try:
        if given.verb == "serve":
            with listen(given.port, given.congestion, given.bind) as listener:
                print("listening", flush=True)
                serve(listener)
        scenario = connections if given.connect else measure
        print(json.dumps(scenario(given.address, given.port, given.seconds, given.congestion)))
    except OSError as error:
        print(f"tcp_rr: port {given.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
