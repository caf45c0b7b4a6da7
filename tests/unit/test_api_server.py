"""The control socket and the health port bear whoever connects to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from overlayd.api import clients
from overlayd.api.server import ControlServer
from overlayd.observe.lifecycle import Lifecycle
from support.logs import capture_logs
from support.waiting import eventually_async

MANY = 500
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Healthy:
    """A daemon without a problem and with one lease, that its watchers wait to see change."""

    @staticmethod
    def health_report() -> dict[str, Any]:
        return {"state": "ready", "broken": []}

    @staticmethod
    async def status() -> dict[str, Any]:
        raise RuntimeError("a defect")

    @staticmethod
    async def reload() -> str:
        return "mtu: is wrong"

    @staticmethod
    async def metrics() -> str:
        return "a_metric 1\n" * 500

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
    monkeypatch.setattr(clients, "IDLE", 0.05)
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


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def exchange(served: Server, request: bytes) -> bytes:
    """What one connection is answered until the server closes it."""
    reader, writer = await served.connect("control")
    writer.write(request)
    return await asyncio.wait_for(reader.read(), 10)


LAST = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_requests_follow_one_another_on_one_connection(served: Server) -> None:
    body = b'POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"a": 1}\n'
    answers = await exchange(served, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + body + LAST)
    head, reload, last = answers.split(b"HTTP/1.1 ")[1:]
    assert head.startswith(b"200 OK\r\n")
    assert head.endswith(b"\r\nContent-Length: 32\r\n\r\n"), "a length, and no body"
    assert reload.startswith(b"400 Bad Request\r\n")
    assert b'"error": "mtu: is wrong"' in reload
    assert last.startswith(b"200 OK\r\nContent-Type: application/json; charset=utf-8\r\n")
    assert last.endswith(b'{"state": "ready", "broken": []}')


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1", b"404 Not Found"),
        (b"GET /v1/reload HTTP/1.1", b"405 Method Not Allowed"),
        (b"GET /healthz?verbose=1 HTTP/1.1", b"200 OK"),
        (b"GET /healthz HTTP/1.0", b"200 OK"),
        (b"no HTTP", b"400 Bad Request"),
    ],
)
async def test_the_status_of_an_answer(served: Server, request_line: bytes, status: bytes) -> None:
    answer = await exchange(served, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")


async def test_a_defect_is_logged_and_answered(served: Server) -> None:
    with capture_logs() as logs:
        answer = await exchange(served, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"HTTP/1.1 200 OK" in answer, "the connection goes on"
    assert [(entry["msg"], entry["path"]) for entry in logs] == [("HTTP request failed", "/v1/status")]
    assert "RuntimeError: a defect" in logs[0]["error"]


async def test_what_follows_the_last_request_is_ignored(served: Server) -> None:
    answer = await exchange(served, LAST * 3)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1


async def flood(writer: asyncio.StreamWriter, requests: int) -> None:
    for _ in range(requests):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(writer.drain(), 10)
        await asyncio.sleep(0)


async def test_a_client_that_reads_no_answer_cannot_ask_on_and_on(served: Server) -> None:
    _, writer = await served.connect("control")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        await flood(writer, 5000)


async def test_a_request_has_a_longest_length(served: Server) -> None:
    answer = await exchange(served, b"GET /" + b"x" * 20_000)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_stream_ends_when_its_reader_leaves_or_sends_without_end(served: Server, leaves: bool) -> None:
    reader, writer = await served.connect("control")
    writer.write(b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"present")
    assert len(asyncio.all_tasks()) == 2
    if leaves:
        writer.close()
    else:
        writer.write(LAST * 10_000)
    await eventually_async(lambda: len(asyncio.all_tasks()) == 1, "nothing is left of it")


def test_on_the_daemons_event_loop(tmp_path: Path) -> None:
    async def serve_and_leave() -> None:
        one = Server(tmp_path)
        await one.server.open(one.path)
        assert (await one.get("control")).endswith(b'{"state": "ready", "broken": []}')
        reader, writer = await one.connect("control")
        writer.write(b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"present")
        writer.close()
        await eventually_async(lambda: len(asyncio.all_tasks()) == 1, "nothing is left of it")
        await one.server.close()

    uvloop.run(serve_and_leave())
