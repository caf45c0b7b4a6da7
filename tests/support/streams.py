"""Bulk TCP between containers with the data compared, and the kernel's own counts of packets that it found wrong."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from overlayd.core.address import Address
from overlayd.lab import Namespace
from overlayd.lab.namespace import within
from support.wire import inet

MB = 1 << 20
PIECE = MB
STALL = 60.0
"""Seconds without a byte after which a stream has failed."""

_POOL = os.urandom(16 * MB + 4099)
"""Random bytes, no multiple of a power of two: a stream that repeats them shows every shift."""


def exchange(client: Namespace, server: Namespace, address: Address, streams: int, size: int) -> int:
    """Both ends of every stream send `size` random bytes at the same time; the test fails unless all arrive unharmed.

    Gives back the bytes that arrived, both directions together.
    """
    with (
        ThreadPoolExecutor(4 * streams) as pool,
        server.socket(inet(address), socket.SOCK_STREAM) as listener,
    ):
        listener.settimeout(STALL)
        listener.bind((str(address), 0))
        listener.listen(streams)
        ends: list[socket.socket] = []
        jobs: list[tuple[Future[bytes], Future[bytes]]] = []
        try:
            for number in range(streams):
                here = client.socket(inet(address), socket.SOCK_STREAM)
                ends.append(here)
                here.settimeout(STALL)
                here.connect(listener.getsockname())
                there, _ = listener.accept()
                ends.append(there)
                there.settimeout(STALL)
                for offset, (sender, receiver) in enumerate(((here, there), (there, here))):
                    start = (2 * number + offset) * 524287
                    jobs.append((pool.submit(_send, sender, size, start), pool.submit(_receive, receiver)))
            for number, (sent, came) in enumerate(jobs):
                if sent.result() != came.result():
                    pytest.fail(f"stream {number // 2}, {'back' if number % 2 else 'forth'}: other data than was sent")
        finally:
            for one in ends:
                one.close()
    return 2 * streams * size


def _send(out: socket.socket, size: int, start: int) -> bytes:
    digest, left, at = hashlib.sha256(), size, start % len(_POOL)
    view = memoryview(_POOL)
    while left:
        piece = view[at : at + min(PIECE, left)]
        out.sendall(piece)
        digest.update(piece)
        left -= len(piece)
        at = (at + len(piece)) % len(_POOL)
    out.shutdown(socket.SHUT_WR)
    return digest.digest()


def _receive(source: socket.socket) -> bytes:
    digest, buffer = hashlib.sha256(), bytearray(PIECE)
    view = memoryview(buffer)
    while got := source.recv_into(buffer):
        digest.update(view[:got])
    return digest.digest()


# --- the kernel's counters --------------------------------------------------------------------------------------------


def kernel_counters(node: Namespace) -> Counter[str]:
    """All of /proc/net/snmp, netstat and snmp6 in there, by nstat's names (TcpInCsumErrors, Udp6InCsumErrors, ...)."""

    def read() -> Counter[str]:
        here = Path(f"/proc/self/task/{threading.get_native_id()}/net")
        found: Counter[str] = Counter()
        for name in ("snmp", "netstat"):
            lines = [line.split() for line in (here / name).read_text().splitlines()]
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                group = names[0].rstrip(":")
                found.update({group + key: int(value) for key, value in zip(names[1:], values[1:], strict=True)})
        for line in (here / "snmp6").read_text().splitlines():
            key, value = line.split()
            found[key] = int(value)
        return found

    return within(node.namespace, read)


def checksum_errors(nodes: Iterable[Namespace]) -> Counter[str]:
    """Every count of a wrong checksum or of a broken IP header there, that is not 0: "h2c1 TcpInCsumErrors"."""
    return Counter({
        f"{node.name} {key}": value
        for node in nodes
        for key, value in kernel_counters(node).items()
        if value and (key.endswith(("CsumErrors", "InHdrErrors")))
    })  # fmt: skip
