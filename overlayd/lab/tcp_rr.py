"""TCP request and response: how often one byte crosses to the other side and one comes back, one at a time.

    python -m overlayd.lab.tcp_rr serve [--port 5210]
    python -m overlayd.lab.tcp_rr measure ADDRESS [--port 5210] [--seconds 2]

It is what netperf calls TCP_RR: latency seen by a program, with nothing to gain from batches. Blocking sockets,
TCP_NODELAY. `serve` answers on both families until it is killed; `measure` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from array import array
from collections.abc import Sequence

PORT = 5210
TIMEOUT = 5.0
"""Seconds to connect, and to wait for one answer."""


def serve(listener: socket.socket) -> None:
    """Answer every byte of every connection with one byte, for ever."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while connection.recv(1):
                connection.send(b"y")
        except OSError:
            return  # the other side went away


def listen(port: int) -> socket.socket:
    """A listening socket for both families; for IPv4 alone where the machine has no IPv6."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))


def measure(address: str, port: int, seconds: float) -> dict[str, float]:
    """Transactions for `seconds`: how many in a second, and the median and 99th percentile of one, in microseconds.

    Raises OSError when the server cannot be reached or stops answering.
    """
    taken = array("q")
    with socket.create_connection((address, port), timeout=TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's timeout would add a poll() to every call; the kernel's does not.
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(TIMEOUT).to_bytes(8, sys.byteorder) + bytes(8))
        send, receive, clock = connection.send, connection.recv, time.perf_counter_ns
        begin = before = clock()
        end = begin + int(seconds * 1e9)
        while before < end:
            send(b"x")
            if not receive(1):
                raise ConnectionError("the server closed the connection")
            now = clock()
            taken.append(now - before)
            before = now
    return summary(taken, (before - begin) / 1e9)


def summary(taken_ns: Sequence[int], seconds: float) -> dict[str, float]:
    """What `measure` prints, from the nanoseconds that each transaction took; there is at least one."""
    ordered = sorted(taken_ns)
    last = len(ordered) - 1
    return {
        "transactions": len(ordered),
        "seconds": round(seconds, 3),
        "per_second": round(len(ordered) / seconds, 1),
        "p50_us": round(ordered[last // 2] / 1e3, 1),
        "p99_us": round(ordered[round(last * 0.99)] / 1e3, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m overlayd.lab.tcp_rr", description="TCP request/response")
    verbs = parser.add_subparsers(dest="verb", required=True)
    server = verbs.add_parser("serve", help="answer until killed")
    client = verbs.add_parser("measure", help="print transactions per second and latency as JSON")
    client.add_argument("address")
    client.add_argument("--seconds", type=float, default=2.0)
    for verb in (server, client):
        verb.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args(argv)
    try:
        if given.verb == "serve":
            serve(listen(given.port))
        print(json.dumps(measure(given.address, given.port, given.seconds)))
    except OSError as error:
        print(f"tcp_rr: port {given.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
