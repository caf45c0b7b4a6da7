"""Watchdog notifications: sent while the event loop turns *and* packets that wait are forwarded.

A direction is stuck when packets waited at two checks in a row and none was read in between. The service manager is not
notified then, and ends the process after WatchdogSec; the files it keeps open are used by the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from overlayd.backend.base import Backend
from overlayd.datapath.stall import StallDetector
from overlayd.log import log
from overlayd.system.service_manager import ServiceManager

_CHECK_EVERY = 5.0  # seconds, where the service manager has no watchdog for us


class Watchdog:
    """`run` is a task of the daemon's; `status` gives the line for `systemctl status`, and None while it starts."""

    def __init__(self, manager: ServiceManager, backend: Callable[[], Backend], status: Callable[[], str]) -> None:
        self._manager, self._backend, self._status = manager, backend, status
        self._stalls = StallDetector()
        self._last_status = ""

    async def run(self) -> None:
        """Check twice in each watchdog interval."""
        while self._manager:
            self.check(time.monotonic())
            await asyncio.sleep((self._manager.watchdog or 2 * _CHECK_EVERY) / 2)
        await asyncio.Event().wait()

    def check(self, now: float) -> None:
        """Notify the service manager, unless packets wait and none is moved."""
        data_path = self._backend().data_path
        if data_path is not None and (stalled := self._stalls.update(data_path.waiting(), data_path.progress, now)):
            message = "data path is stuck: packets are waiting and none is forwarded; watchdog not notified"
            log.error(message, direction=", ".join(sorted(stalled)))
            return
        self._manager.alive()
        status = self._status()
        if status != self._last_status:
            self._last_status = status
            self._manager.status(status)
