"""HTTP/1.1 for a few clients: h11 knows the protocol, this has the connections.

1. data      h11 makes requests of it; a body is read and ignored
2. request   its route answers, in a task; a second request waits until the first is answered
3. answer    whole, or as it comes, no faster than the client reads
4. idle      a client that sends no whole request for a while is disconnected
"""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import aclosing
from http import HTTPStatus
from typing import cast

import h11

from overlayd.api.routes import Answer, Routes
from overlayd.log import log

_AHEAD = 1 << 16  # bytes that a client may send before it is answered


class Connection(asyncio.Protocol):
    """One client's. `connections` holds it while it is open."""

    def __init__(self, routes: Routes, connections: dict[Connection, None], idle: float) -> None:
        """`connections`: in the order in which they were opened. `idle`: seconds."""
        self._routes, self._connections, self._idle = routes, connections, idle
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle
        self._request: h11.Request
        self._writable = asyncio.Event()
        self._writable.set()
        self.answering: asyncio.Task[None] | None = None
        """The task, while a request is answered."""
        self.streams = False
        """Whether its answer is a stream."""

    def close(self) -> None:
        """Disconnect. A request that is being handled is handled to its end, a stream is not."""
        self._transport.abort()
        self._connections.pop(self, None)

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it
        self._connections[self] = None
        self._expect_request()

    def connection_lost(self, _: Exception | None) -> None:
        self._connections.pop(self, None)
        self._timer.cancel()
        self._writable.set()
        if self.answering is not None and self.streams:
            self.answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        if self.answering is None:
            self._read_request()
        elif len(self._http.trailing_data[0]) > _AHEAD:
            self._transport.abort()

    # --- 1., 2. a request ---------------------------------------------------------------------------------------------

    def _expect_request(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._transport.abort)

    def _read_request(self) -> None:
        try:
            while isinstance(event := self._http.next_event(), h11.Event):
                if isinstance(event, h11.Request):
                    self._request = event
                elif isinstance(event, h11.EndOfMessage):
                    self._timer.cancel()
                    self.answering = asyncio.create_task(self._respond(self._request))
                    return
        except h11.RemoteProtocolError as error:
            log.debug("HTTP request refused", error=str(error))
            self._send_whole(_error(error.error_status_hint), "GET")
            self._transport.close()

    async def _respond(self, request: h11.Request) -> None:
        method, path = request.method.decode(), request.target.decode(errors="replace").partition("?")[0]
        try:
            await self._send(await self._answer(method, path), method)
        except Exception:
            log.error("HTTP request failed", path=path, error=traceback.format_exc())
            if self._http.our_state is h11.SEND_RESPONSE:  # nothing is sent yet
                self._send_whole(_error(500), method)
        self._expect_request()
        await self._writable.wait()
        self.answering = None
        if self._transport.is_closing():
            return
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._read_request()
        else:
            self._transport.close()

    async def _answer(self, method: str, path: str) -> Answer:
        handler = self._routes.get(("GET" if method == "HEAD" else method, path))
        if handler is None:
            return _error(405 if any(path == known for _, known in self._routes) else 404)
        return await handler()

    # --- 3. its answer ------------------------------------------------------------------------------------------------

    async def _send(self, answer: Answer, method: str) -> None:
        if isinstance(answer.body, bytes):
            self._send_whole(answer, method)
            return
        self.streams = True
        async with aclosing(answer.body) as parts:
            self._write(_head(answer))
            if method != "HEAD":
                async for part in parts:
                    self._write(h11.Data(data=part))
                    await self._writable.wait()
        self._write(h11.EndOfMessage())
        self.streams = False

    def _send_whole(self, answer: Answer, method: str) -> None:
        assert isinstance(answer.body, bytes)
        self._write(_head(answer, len(answer.body)))
        if method != "HEAD":
            self._write(h11.Data(data=answer.body))
        self._write(h11.EndOfMessage())

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data and not self._transport.is_closing():
            self._transport.write(data)


def _head(answer: Answer, length: int | None = None) -> h11.Response:
    """Without a length the connection's end or chunks show where the body ends: h11 chooses."""
    headers = [
        ("Content-Type", answer.content_type),
        ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
    ]
    if length is not None:
        headers.append(("Content-Length", str(length)))
    return h11.Response(status_code=answer.status, reason=HTTPStatus(answer.status).phrase, headers=headers)


def _error(status: int) -> Answer:
    return Answer(f"{status}: {HTTPStatus(status).phrase}".encode(), status=status)
