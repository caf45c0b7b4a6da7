"""Limits on what the clients of one server may hold: connections, and the time that one may idle.

A connection that is idle for IDLE seconds is closed by aiohttp. When the limit is reached and another client connects,
the oldest idle connection is closed, and where none is idle the oldest of all: the new client may be Prometheus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from overlayd.system import descriptors

log = structlog.get_logger()

IDLE = 30.0
"""Seconds without a request."""
_MAXIMUM = 64
_SHARE = 8  # the part of the process's descriptors that one server's clients may hold; most are for packets and repair


def connection_limit() -> int:
    """Connections that one server may hold, by the process's limit of open files."""
    return max(1, min(_MAXIMUM, descriptors.limit() // _SHARE))


class ClientLimit:
    """One server's: its application has `middleware`, its listener makes connections with `protocols`."""

    def __init__(self, name: str) -> None:
        """`name`: the server's, for the log."""
        self._name = name
        self.connections = connection_limit()
        """The limit. A burst exceeds it by the listener's backlog at most, for a moment."""
        self._busy: set[RequestHandler] = set()
        self._reported = False

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Marks a connection as busy while its request is handled."""
        self._busy.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(request.protocol)

    def protocols(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """Makes the server's connections, and closes others where there are too many."""

        def connect() -> asyncio.Protocol:
            known = server.connections
            excess = len(known) + 1 - self.connections
            if excess > 0:
                self._report()
                for connection in sorted(known, key=self._busy.__contains__)[:excess]:
                    connection.force_close()
            return server()

        return connect

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            log.warning("too many clients: old connections are closed", server=self._name, limit=self.connections)
