"""The health port bears whoever connects to it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from overlayd.api.server import ControlServer
from overlayd.observe.lifecycle import Lifecycle

MANY = 500


class Healthy:
    """A daemon of which all is well."""

    @staticmethod
    def health_report() -> dict[str, Any]:
        return {"state": "ready", "broken": []}


async def get(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.asyncio
async def test_who_opens_connections_and_says_nothing_shuts_nobody_out() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ControlServer(Lifecycle("ready"), Healthy())  # type: ignore[arg-type]  # the health port asks for no more
    await server.open_health("127.0.0.1", port)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MANY)]
    try:
        assert (await get(port)).startswith(b"HTTP/1.1 200 OK")
        ended = [reader for reader, _ in silent if reader.at_eof()]
        assert len(ended) >= MANY - 128, "the oldest were closed"
        assert not silent[-1][0].at_eof(), "the newest was not"
    finally:
        for _, writer in silent:
            writer.close()
        await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
