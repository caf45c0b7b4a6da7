"""Receive and send on, as the data path does: asyncio-dgram, or a plain socket with a reader callback, on uvloop."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from contextlib import suppress

import asyncio_dgram
import uvloop
from rounds import interleave, show

SECONDS = 1.0
SIZE = 64  # bytes
BURST = 64


def flood(port: int, stop: multiprocessing.synchronize.Event) -> None:
    """Send as fast as possible until told to stop, or for ten seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        end = time.monotonic() + 10
        while not stop.is_set() and time.monotonic() < end:
            for _ in range(100):
                with suppress(OSError):
                    sock.send(bytes(SIZE))


async def with_asyncio_dgram(sock: socket.socket, sink: tuple[str, int]) -> int:
    """Datagrams received and sent on in SECONDS."""
    stream = await asyncio_dgram.from_socket(sock)
    count, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        data, _ = await stream.recv()
        await stream.send(data, sink)
        count += 1
    stream.close()
    return count


async def with_reader(sock: socket.socket, sink: tuple[str, int]) -> int:
    """Likewise, in bounded bursts from a reader callback."""
    loop, count = asyncio.get_running_loop(), 0

    def readable() -> None:
        nonlocal count
        for _ in range(BURST):
            try:
                data, _ = sock.recvfrom(65536)
            except BlockingIOError:
                return
            sock.sendto(data, sink)
            count += 1

    loop.add_reader(sock.fileno(), readable)
    await asyncio.sleep(SECONDS)
    loop.remove_reader(sock.fileno())
    sock.close()
    return count


def measure(scenario) -> float:
    """Thousand datagrams a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("127.0.0.1", 0))
        stop = multiprocessing.Event()
        sender = multiprocessing.Process(target=flood, args=(sock.getsockname()[1], stop))
        sender.start()
        try:
            return uvloop.run(scenario(sock, sink.getsockname())) / SECONDS / 1000
        finally:
            stop.set()
            sender.join()


if __name__ == "__main__":
    scenarios = {
        "plain socket, reader callback": lambda: measure(with_reader),
        "asyncio-dgram": lambda: measure(with_asyncio_dgram),
    }
    show(
        "Receive and send on, one process, 64-byte datagrams on loopback", "thousand/s", interleave(scenarios), digits=1
    )
