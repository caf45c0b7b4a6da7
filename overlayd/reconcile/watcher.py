"""Watches the kernel's state: repairs it when somebody changes it, and compares everything once a minute.

    notification -> gathered for a moment -> single objects are repaired
                                          -> where that is not enough: a full comparison
                                          -> where the underlay has changed: its address and MTU are followed

A full comparison takes up to a second with thousands of leases, and somebody may change things for ever: those that
changes ask for have a budget of CPU time. Repairs of single objects cost next to nothing; where each is undone at once,
changes are gathered for longer.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from overlayd.log import log
from overlayd.reconcile.results import RepairResult
from overlayd.system.errors import HostError
from overlayd.system.netlink import Monitor

T = TypeVar("T")

_GATHER = 0.02  # seconds, within which the changes of one command or program arrive
_GATHER_MOST = 0.5  # seconds, where another program undoes each repair at once
_COMPARE_EVERY = 60.0  # seconds, without a reason
_JITTER = 0.1  # of that, so that the hosts of a cluster do not compare at the same time
_RETRY_AFTER = 10.0  # seconds after which what the kernel refused is tried again
_MIN_INTERVAL = 0.5  # seconds between two comparisons
_MAX_WAIT = 10.0  # seconds that one waits for the budget
_SHARE, _BURST = 0.1, 3.0  # of the time may go into comparisons; seconds of it that can be saved up


class TimeBudget:
    """A token bucket of CPU seconds: `share` of those that pass, of which at most `most` are saved up."""

    def __init__(self, share: float, most: float, now: float) -> None:
        self._share, self._most = share, most
        self._left, self._at = most, now

    def spend(self, seconds: float, now: float) -> None:
        """Take these seconds, even where there are fewer."""
        self._left = min(self._most, self._left + (now - self._at) * self._share) - seconds
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until the budget is positive."""
        left = self._left + (now - self._at) * self._share
        return max(0.0, -left / self._share)


class Backoff:
    """How long to gather notifications: longer and longer while repair follows repair without a pause."""

    def __init__(self) -> None:
        self.seconds = _GATHER
        self._last = -math.inf

    def update(self, now: float, *, repaired: bool) -> None:
        """What was gathered has been handled."""
        if not repaired:
            return
        # In a series the next change is there when the gathering ends; a later one does not undo the repair.
        series = now - self._last < 2 * self.seconds + 0.1
        self.seconds = min(2 * self.seconds, _GATHER_MOST) if series else _GATHER
        self._last = now


class Watcher:
    """Watches the kernel through one monitor."""

    def __init__(
        self,
        monitor: Monitor,
        repair: Callable[[], Awaitable[RepairResult]],
        compare: Callable[[], Awaitable[bool]],
        follow: Callable[[], Awaitable[float | None]],
    ) -> None:
        """`repair` repairs what others have changed; `compare` compares everything, and returns whether all is as
        desired now; `follow` checks the underlay, and returns in how many seconds to check again, if at all."""
        self._monitor, self._repair, self._compare, self._follow = monitor, repair, compare, follow
        self._notified = asyncio.Event()
        self._budget = TimeBudget(_SHARE, _BURST, time.monotonic())
        self._compare_at, self._follow_at = time.monotonic() + _next_interval(), math.inf
        self._not_before = 0.0
        self._backoff = Backoff()
        self._comparison_due = False

    async def run(self) -> None:
        """Watch without end."""
        self._listen()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(self._compare_at, self._follow_at) - time.monotonic())):
                    await self._notified.wait()
            if self._notified.is_set():
                await asyncio.sleep(self._backoff.seconds)
                result = await self._repair_changes()
                self._backoff.update(time.monotonic(), repaired=result.repaired)
                if result.comparison or self._comparison_due:
                    self._compare_at = min(self._compare_at, self._soon())
                if result.refused:
                    self._compare_at = min(self._compare_at, time.monotonic() + _RETRY_AFTER)
                self._comparison_due = False
                if result.underlay:
                    self._follow_at = min(self._follow_at, self._soon())
            if time.monotonic() >= self._follow_at:
                again = await self._spend(self._follow())
                self._follow_at = math.inf if again is None else time.monotonic() + again
            if time.monotonic() >= self._compare_at:
                well = await self._spend(self._compare())
                self._compare_at = time.monotonic() + (_next_interval() if well else _RETRY_AFTER)

    def wake(self) -> None:
        """Repair soon: there are changes that were received already."""
        self._notified.set()

    def compare(self) -> None:
        """Compare everything soon: something else went wrong."""
        self._comparison_due = True
        self._notified.set()

    def _soon(self) -> float:
        """When the budget allows for a comparison."""
        now = time.monotonic()
        return max(now + min(self._budget.wait(now), _MAX_WAIT), self._not_before)

    async def _spend(self, work: Awaitable[T]) -> T:
        """The result of work whose time counts against the budget."""
        began, used = time.monotonic(), time.process_time()
        result = await work
        now = time.monotonic()
        # On a busy machine it takes longer than it costs; in udp mode packets cost something at the same time.
        self._budget.spend(min(now - began, time.process_time() - used), now)
        self._not_before = now + _MIN_INTERVAL
        return result

    async def _repair_changes(self) -> RepairResult:
        self._notified.clear()
        try:
            return await self._repair()
        except (HostError, OSError) as error:
            log.error("changes cannot be repaired one by one: comparing everything", error=str(error))
            return RepairResult(repaired=False, comparison=True, underlay=True, refused=False)
        finally:
            self._listen()

    def _listen(self) -> None:
        for number in self._monitor.filenos():
            asyncio.get_running_loop().add_reader(number, self._on_readable)

    def _on_readable(self) -> None:
        """Stop polling: the queue is read soon, and is not worth a wake-up for each notification."""
        for number in self._monitor.filenos():
            asyncio.get_running_loop().remove_reader(number)
        self._notified.set()


def _next_interval() -> float:
    return _COMPARE_EVERY * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # not a secret
