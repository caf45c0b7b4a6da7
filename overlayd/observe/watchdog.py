"""Signs of life for the service manager: given while the event loop turns *and* packets that wait are moved.

A direction is stuck when packets waited at two looks in a row and nothing was counted in between. The service manager
then hears nothing, and ends the process after WatchdogSec; what it kept open goes on in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from overlayd.backend.base import Backend
from overlayd.datapath.contract import Counters
from overlayd.system.service_manager import ServiceManager

log = structlog.get_logger()

_LOOK_EVERY = 5.0  # seconds, where the service manager does not watch us


class Progress:
    """Whether a backend moves the packets that wait for it. Look at it now and then."""

    def __init__(self) -> None:
        self._waited: frozenset[str] = frozenset()
        self._moved: dict[str, int] = {}

    def stuck(self, backend: Backend) -> frozenset[str]:
        """The directions in which nothing has moved since the last look though packets wait, then as now."""
        waiting, counters = backend.waiting(), backend.counters()
        moved = _moved(counters) if counters is not None else {}
        still = {way for way in self._waited & waiting if moved.get(way) == self._moved.get(way)}
        self._waited, self._moved = waiting, moved
        return frozenset(still)


def _moved(counters: Counters) -> dict[str, int]:
    """Packets that an engine has taken, whatever became of them."""
    answers = counters.icmp_sent + counters.icmp_limited
    return {
        "outbound": counters.total.tx_packets + sum(counters.tx_drops.values()) + answers,
        "inbound": counters.total.rx_packets + sum(counters.rx_drops.values()) + answers,
    }


class Watchdog:
    """`run` is a task of the daemon's; `status` gives the line for `systemctl status`, and None while it starts."""

    def __init__(self, manager: ServiceManager, backend: Callable[[], Backend], status: Callable[[], str]) -> None:
        self._manager, self._backend, self._status = manager, backend, status
        self._progress = Progress()
        self._told = ""

    async def run(self) -> None:
        """Look, and tell, twice in the time after which silence is death."""
        while self._manager:
            self.look()
            await asyncio.sleep((self._manager.watchdog or 2 * _LOOK_EVERY) / 2)
        await asyncio.Event().wait()

    def look(self) -> None:
        """One look."""
        stuck = self._progress.stuck(self._backend())
        if stuck:
            log.error("packets wait and none is moved: no sign of life is given", direction=", ".join(sorted(stuck)))
            return
        self._manager.alive()
        status = self._status()
        if status != self._told:
            self._told = status
            self._manager.status(status)
