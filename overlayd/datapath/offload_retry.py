"""Offloads that the kernel refused are tried again, less and less often: one path, or one moment, is not everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from overlayd.log import log

_FIRST, _LAST = 60.0, 3600.0  # seconds until a refused offload is tried again; doubled each time


class OffloadRetry:
    """Needs a running event loop."""

    def __init__(self, restore: Callable[[], None]) -> None:
        """`restore` makes the engine use all its offloads again."""
        self._restore = restore
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = _FIRST

    def refused(self, offload: str, seen: str) -> None:
        """An offload was disabled, because of what was seen."""
        log.warning("offload refused; disabled for a while", offload=offload, error=seen, seconds=self._seconds)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._retry)
            self._seconds = min(2 * self._seconds, _LAST)

    def _retry(self) -> None:
        self._timer = None
        self._restore()

    def cancel(self) -> None:
        """Try no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
