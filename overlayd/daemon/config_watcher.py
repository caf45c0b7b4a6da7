"""Reloads when a configuration file changes; stat() finds a replaced file and a moved link alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

_POLL_EVERY = 1.0  # seconds

Stamp = tuple[tuple[str, int, int, int], ...]


class ConfigWatcher:
    """`run` is a task of the daemon's."""

    def __init__(self, files: Callable[[], Iterable[Path]], reload: Callable[[], Awaitable[object]]) -> None:
        """`files`: those that the configuration in force was read from."""
        self._files, self._reload = files, reload
        self._seen = self._stamp()

    async def run(self) -> None:
        """Poll without end."""
        while True:
            await asyncio.sleep(_POLL_EVERY)
            now = self._stamp()
            if now != self._seen:
                self._seen = now  # before the reload: a change that comes while it reads is seen at the next poll
                await self._reload()

    def _stamp(self) -> Stamp:
        stamps = []
        for file in self._files():
            with suppress(OSError):
                found = file.stat()
                stamps.append((str(file), found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)
