"""Limits on what the clients of one server may hold: connections, and the time that one may idle.

A connection that is idle for IDLE seconds is closed. When the limit is reached and another client connects, the oldest
idle connection is closed, and where none is idle the oldest of all: the new client may be Prometheus.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from overlayd.api.routes import Routes
from overlayd.log import log
from overlayd.system import descriptors

if TYPE_CHECKING:
    from overlayd.api.connection import Connection

IDLE = 30.0
"""Seconds without a request."""
_MAXIMUM = 64
_SHARE = 8  # the part of the process's descriptors that one server's clients may hold; most are for packets and repair
_LAST_ANSWERS = 0.5  # seconds that requests have to be answered in when the server closes


def connection_limit() -> int:
    """Connections that one server may hold, by the process's limit of open files."""
    return max(1, min(_MAXIMUM, descriptors.limit() // _SHARE))


class Clients:
    """One server's. Its listener calls it for a new connection; others are closed where there are too many."""

    def __init__(self, name: str, routes: Routes) -> None:
        """`name`: the server's, for the log."""
        self._name, self._routes = name, routes
        self.limit = connection_limit()
        """A burst exceeds it by the listener's backlog at most, for a moment."""
        self._connections: dict[Connection, None] = {}
        self._reported = False

    def __call__(self) -> asyncio.Protocol:
        from overlayd.api.connection import Connection  # and h11: for the first client, so after the first packet

        excess = len(self._connections) + 1 - self.limit
        if excess > 0:
            self._report()
            for connection in sorted(self._connections, key=lambda one: one.answering is not None)[:excess]:
                connection.close()
        return Connection(self._routes, self._connections, IDLE)

    async def close(self) -> None:
        """Close all connections, after a moment for the requests that are being answered."""
        answering = [one.answering for one in self._connections if one.answering is not None and not one.streams]
        if answering:
            await asyncio.wait(answering, timeout=_LAST_ANSWERS)
        for connection in list(self._connections):
            connection.close()

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            log.warning("too many clients: old connections are closed", server=self._name, limit=self.limit)
