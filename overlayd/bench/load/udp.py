"""UDP packet rates: how many datagrams of one size cross in a second, and at which rate nearly all of them do.

    udp.py serve [--port 5211]
    udp.py blast ADDRESS --size 64 [--seconds 1]         # as many as can be sent
    udp.py search ADDRESS --size 64 [--seconds 0.3] [--offered N --received N]

`search` finds the highest rate at which at most 1 % is lost, by bisection between rates that did and did not do; the
two figures of a blast, in packets a second, are where it begins. `serve` counts until it is killed, for one client
at a time, and prints "listening" when it does. The client marks over TCP, on the same port number, where a trial
begins and ends. Sizes are bytes of UDP payload. The clients print one JSON object.

Packets are handed to the kernel and taken from it BATCH in a call (sendmmsg, recvmmsg): on loopback that is several
hundred thousand a second on one core. Below that it is the path that limits, above it this program.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PORT = 5211
TIMEOUT = 10.0
BATCH = 64
LOSS = 0.01
"""The share that may be lost at the rate that `search` finds."""
RESOLUTION = 1.05
"""The search ends when a rate that does and one that does not are as near as this."""
TRIALS = 8
QUIET, QUIET_MAX = 0.05, 3.0
"""Seconds without a packet after which none is in flight any more, and how long to wait for that."""
WARM_UP = 0.1

_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>; needs CAP_NET_ADMIN
_BUFFER = 8 << 20
_MSG_WAITFORONE = 0x10000  # <linux/socket.h>
_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


class Batch:
    """BATCH messages that share one buffer: what they hold is of no interest to anybody."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self._iovec = _Iovec(ctypes.addressof(self._buffer), size)
        self._messages = (_Mmsghdr * BATCH)()
        for message in self._messages:
            message.header.iov = ctypes.pointer(self._iovec)
            message.header.iovlen = 1

    def send(self, handle: int, count: int) -> int:
        """How many of `count` the kernel took; 0 when it refused, for want of buffers or because nobody listens."""
        return max(0, int(_libc.sendmmsg(handle, self._messages, count, 0)))

    def receive(self, handle: int) -> int:
        """Wait for one datagram and take those that are there with it; 0 after the socket's timeout."""
        return max(0, int(_libc.recvmmsg(handle, self._messages, BATCH, _MSG_WAITFORONE, None)))


class Sink:
    """Counts what arrives at a UDP socket, in a thread of its own."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if address == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(8) + (100_000).to_bytes(8, sys.byteorder))
        self.socket.bind((address, port))
        self.packets = 0
        self.first = self.last = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        batch, handle, clock = Batch(65536), self.socket.fileno(), time.monotonic
        while True:
            count = batch.receive(handle)
            if count:
                self.last = clock()
                self.first = self.first or self.last
                self.packets += count

    def begin(self) -> None:
        """Forget what was counted."""
        self.first = self.last = 0.0
        self.packets = 0

    def end(self) -> dict[str, float]:
        """What came since `begin`, once nothing comes any more: packets, and seconds from the first to the last."""
        deadline = time.monotonic() + QUIET_MAX
        seen = -1
        while seen != self.packets and time.monotonic() < deadline:
            seen = self.packets
            time.sleep(QUIET)
        return {"packets": self.packets, "seconds": self.last - self.first}


def serve(port: int, address: str = "") -> None:
    """Count for one client after the other, until killed; without an address on both families."""
    address = address or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sink = Sink(address, port)
    with socket.create_server((address, port), family=family, dualstack_ipv6=address == "::") as listener:
        print("listening", flush=True)
        while True:
            control, _ = listener.accept()
            control.settimeout(60)
            with control, control.makefile("rw") as lines:
                try:
                    for line in lines:
                        if line == "begin\n":
                            sink.begin()
                        print(json.dumps(sink.end() if line == "end\n" else {}), file=lines, flush=True)
                except OSError:
                    continue  # the client went away


Trial = Callable[["float | None", float], dict[str, float]]
"""Packets a second (None: as many as can be sent), seconds -> sent, offered, received (both a second), loss (0..1)."""


@contextlib.contextmanager
def trials(address: str, port: int, size: int) -> Iterator[Trial]:
    """Connect to a sink; the block gets what runs one trial against it. Raises OSError."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # sleeps end when they should, not 50 us later
    with (
        socket.create_connection((address, port), timeout=TIMEOUT) as control,
        control.makefile("rw") as lines,
        socket.socket(control.family, socket.SOCK_DGRAM) as out,
    ):
        control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        out.connect(control.getpeername())
        batch = Batch(size)

        def request(word: str) -> dict[str, Any]:
            print(word, file=lines, flush=True)
            answer: dict[str, Any] = json.loads(lines.readline() or "{}")
            return answer

        def trial(rate: float | None, seconds: float) -> dict[str, float]:
            request("begin")
            sent, took = _flood(out.fileno(), batch, rate, seconds)
            seen = request("end")
            packets, span = seen.get("packets", 0), seen.get("seconds", 0.0)
            return {
                "sent": sent,
                "offered": sent / took,
                "received": packets / span if span else 0.0,
                "loss": max(0.0, 1 - packets / sent) if sent else 1.0,
            }

        yield trial


def _flood(handle: int, batch: Batch, rate: float | None, seconds: float) -> tuple[int, float]:
    """Send for that time; packets that the kernel took, and seconds."""
    clock = time.perf_counter
    burst = BATCH if rate is None else max(1, min(BATCH, int(rate * 200e-6)))  # not more often than every 200 us
    sent, begin = 0, clock()
    now, end = begin, begin + seconds
    while now < end:
        if rate is not None and (early := begin + sent / rate - now) > 0:
            time.sleep(early)
        sent += batch.send(handle, burst)
        now = clock()
    return sent, now - begin


def highest(trial: Callable[[float], dict[str, float]], offered: float, received: float) -> dict[str, Any]:
    """The search: `offered` and `received` packets a second of a blast say where it begins.

    Returns the rate received in the best trial that lost at most LOSS (0.0 if none did), and all trials.
    """
    low, high, best = 0.0, max(offered, received), 0.0
    rate, made = received, []
    for _ in range(TRIALS):
        if rate < 1:
            break
        seen = trial(rate)
        made.append({"rate": round(rate), "offered": round(seen["offered"]), "loss": round(seen["loss"], 5)})
        if seen["loss"] <= LOSS:
            low, best = rate, max(best, seen["received"])
            if seen["offered"] < rate / RESOLUTION:
                break  # the sender is at its own limit
        else:
            high = rate
        if low and high / low < RESOLUTION:
            break
        rate = (low * high) ** 0.5 if low else high * 0.6
    return {"per_second": round(best), "trials": made}


def _measure(trial: Trial, given: argparse.Namespace) -> dict[str, Any]:
    first = {"offered": given.offered, "received": given.received} if given.verb == "search" else {}
    if not first.get("received"):
        trial(None, WARM_UP)
        first = trial(None, given.seconds)
    if given.verb == "blast":
        return {key: round(value, 5) for key, value in first.items()}
    return highest(lambda rate: trial(rate, given.seconds), first["offered"], first["received"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="udp.py", description="UDP packet rates")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("serve", "blast", "search"):
        verb = verbs.add_parser(name)
        verb.add_argument("--port", type=int, default=PORT)
        if name == "serve":
            verb.add_argument("--bind", default="", metavar="ADDRESS", help="listen there only")
        else:
            verb.add_argument("address")
            verb.add_argument("--size", type=int, required=True)
            verb.add_argument("--seconds", type=float, default=1.0 if name == "blast" else 0.3)
        if name == "search":
            verb.add_argument("--offered", type=float, default=0.0)
            verb.add_argument("--received", type=float, default=0.0)
    given = parser.parse_args(argv)
    try:
        if given.verb == "serve":
            serve(given.port, given.bind)
        else:
            with trials(given.address, given.port, given.size) as trial:
                print(json.dumps(_measure(trial, given)))
    except OSError as error:
        print(f"udp: port {given.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
