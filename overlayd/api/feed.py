"""Lease events for whoever watches them through the control API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

Json = dict[str, Any]

_BACKLOG = 20_000  # events; a reader that is further behind is disconnected


class Feed:
    """Sends events to any number of readers; a slow one does not delay the others."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[Json | None]] = set()

    @property
    def has_readers(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    def publish(self, events: Iterable[Json]) -> None:
        """Send these to every reader; one that is too far behind gets no more."""
        for event in events:
            for reader in list(self._readers):
                if reader.qsize() >= _BACKLOG:
                    self._readers.discard(reader)
                    reader.put_nowait(None)
                else:
                    reader.put_nowait(event)

    async def read(self, first: Iterable[Json]) -> AsyncIterator[Json]:
        """`first`, then every event from now on, until the reader is too slow."""
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        self._readers.add(queue)
        try:
            for event in list(first):
                yield event
            while (event_or_end := await queue.get()) is not None:
                yield event_or_end
        finally:
            self._readers.discard(queue)
