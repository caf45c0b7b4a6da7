"""The control socket and the health port bear whoever connects to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from overlayd.api import clients, server
from overlayd.api.server import ControlServer
from overlayd.observe.lifecycle import Lifecycle
from support.waiting import eventually_async

MANY = 500
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Healthy:
    """A daemon without a problem and with one lease, that its watchers wait to see change."""

    @staticmethod
    def health_report() -> dict[str, Any]:
        return {"state": "ready", "broken": []}

    @staticmethod
    async def leases() -> AsyncIterator[dict[str, Any]]:
        yield {"event": "present"}
        await asyncio.Event().wait()


class Server:
    """Both listeners of one server, and their clients."""

    def __init__(self, path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.path = path / "control"
        self.server = ControlServer(Lifecycle("ready"), Healthy())  # type: ignore[arg-type]
        self.streams: list[Stream] = []

    async def connect(self, listener: str) -> Stream:
        if listener == "health":
            stream = await asyncio.open_connection("127.0.0.1", self.port)
        else:
            stream = await asyncio.open_unix_connection(self.path)
        self.streams.append(stream)
        return stream

    async def get(self, listener: str, path: str = "/readyz") -> bytes:
        reader, writer = await self.connect(listener)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Server]:
    one = Server(tmp_path)
    await one.server.open(one.path)
    await one.server.open_health("127.0.0.1", one.port)
    yield one
    for _, writer in one.streams:
        writer.close()
    await one.server.close()


LISTENERS = pytest.mark.parametrize("listener", ["control", "health"])


@LISTENERS
async def test_idle_connections_shut_nobody_out(served: Server, listener: str) -> None:
    silent = [await served.connect(listener) for _ in range(MANY)]
    assert (await served.get(listener)).startswith(b"HTTP/1.1 200 OK")
    ended = [reader for reader, _ in silent if reader.at_eof()]
    assert len(ended) >= MANY - 2 * clients.connection_limit(), "the oldest were closed"
    assert not silent[-1][0].at_eof(), "the newest was not"


async def test_a_client_that_is_served_stays_while_idle_ones_go(served: Server) -> None:
    reader, writer = await served.connect("control")
    writer.write(b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"present")
    for _ in range(MANY):
        await served.connect("control")
    assert (await served.get("control")).startswith(b"HTTP/1.1 200 OK")
    await reader.read(100)  # the rest of the first lease
    assert not reader.at_eof()


@LISTENERS
async def test_an_idle_connection_is_closed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: str
) -> None:
    monkeypatch.setattr(server, "IDLE", 0.05)
    one = Server(tmp_path)
    await one.server.open(one.path)
    await one.server.open_health("127.0.0.1", one.port)
    reader, writer = await one.connect(listener)
    try:
        await eventually_async(reader.at_eof, "the connection is closed")
    finally:
        writer.close()
        await one.server.close()


def test_clients_leave_most_descriptors_to_packets_and_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((64, 8), (1024, 64), (1 << 20, 64), (4, 1)):
        monkeypatch.setattr(clients.descriptors, "limit", lambda limit=limit: limit)
        assert clients.connection_limit() == expected


async def test_a_closed_server_refuses(served: Server) -> None:
    await served.server.close()
    assert not served.path.exists()
    with pytest.raises(ConnectionRefusedError):
        await served.connect("health")
