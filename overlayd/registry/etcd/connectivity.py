"""Whether etcd is reachable, for status and log: each change is logged once, however often it is noticed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from overlayd.log import log
from overlayd.registry.etcd.messages import EtcdError

Sleep = Callable[[float], Awaitable[None]]
"""Seconds to sleep."""

_BACKOFF = 0.25, 10.0  # seconds between attempts, the first and the longest


def backoff(failures: int) -> float:
    """Seconds to wait after this many failures in a row, with jitter so that nodes do not retry in step."""
    first, longest = _BACKOFF
    whole = min(longest, first * float(1 << min(failures, 16)))
    return whole * random.uniform(0.7, 1.0)  # noqa: S311  # no secret


async def nap(sleep: Awaitable[None], event: asyncio.Event) -> None:
    """Sleep, or until the event is set."""
    tasks = [asyncio.ensure_future(sleep), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Connectivity:
    """The last known state of the connection to etcd."""

    def __init__(self) -> None:
        self.connected: bool | None = None
        """None before the first watch or failure."""
        self.since: float | None = None
        """Seconds since the epoch of the last change of `connected`."""
        self.error: str | None = None
        """Why it is unreachable, or what this node waits for."""

    def waiting(self, reason: str, endpoints: tuple[str, ...]) -> None:
        """This node cannot start before `reason` is gone."""
        if self.error != reason:
            log.error("waiting for etcd: no lease yet", reason=reason, endpoints=",".join(endpoints))
        self.error = reason

    def lost(self, error: EtcdError) -> None:
        """A request or the watch failed."""
        self.error = str(error)
        if self.connected is not False:
            self.connected, self.since = False, time.time()
            log.error("etcd is unreachable; keeping the last known leases", error=str(error))

    def connected_to(self, endpoint: str) -> None:
        """The watch is confirmed."""
        if self.connected is False:
            away = time.time() - self.since if self.since is not None else 0.0
            log.info("etcd is reachable again", endpoint=endpoint, after=f"{away:.1f}s")
        if not self.connected:
            self.connected, self.since = True, time.time()
        self.error = None
