"""Wakes whoever puts the kernel's state right: at once when it was changed, and once a minute in any case.

    a change is heard -> a moment later, when what belongs together has come -> notice: single objects are repaired
                      -> what that cannot tell: a full comparison
                      -> the underlay is another: its address and MTU are looked at

A full comparison costs something, with thousands of leases a second's work, and somebody may change things for ever: so
there is a budget of time for those that changes ask for. Repairs of single objects cost next to nothing, and are made
at a slower pace where each is undone at once.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from overlayd.reconcile.reconciler import Repaired
from overlayd.system.errors import HostError
from overlayd.system.netlink import Monitor

log = structlog.get_logger()

T = TypeVar("T")

_GATHER = 0.02  # seconds; what one command or one program changes comes within them
_GATHER_MOST = 0.5  # where each repair is undone at once, by another program that fights for it
_EVERY = 60.0  # seconds between comparisons that nothing asks for
_SPREAD = 0.1  # of that, so that the hosts of a cluster do not compare at one time
_AGAIN = 10.0  # seconds after which what the kernel refused is tried again
_APART = 0.5  # seconds at least between two that something asks for
_LONGEST = 10.0  # seconds that one waits for the budget
_SHARE, _SAVED = 0.1, 3.0  # of the time may go into comparisons that are asked for; so many seconds are saved up


class Budget:
    """Seconds that may be spent: `share` of those that pass, of which at most `most` are saved up."""

    def __init__(self, share: float, most: float, now: float) -> None:
        self._share, self._most = share, most
        self._left, self._at = most, now

    def spend(self, seconds: float, now: float) -> None:
        """So much was spent, be it there or not."""
        self._left = min(self._most, self._left + (now - self._at) * self._share) - seconds
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until there is something to spend."""
        left = self._left + (now - self._at) * self._share
        return max(0.0, -left / self._share)


class Pace:
    """How long to gather what is heard: longer and longer while repair follows repair without a rest."""

    def __init__(self) -> None:
        self.seconds = _GATHER
        self._last = -math.inf

    def looked(self, now: float, *, repaired: bool) -> None:
        """What was gathered has been looked at."""
        if not repaired:
            return
        # The next of a series comes with the end of the pause; who comes back later fights for nothing.
        series = now - self._last < 2 * self.seconds + 0.1
        self.seconds = min(2 * self.seconds, _GATHER_MOST) if series else _GATHER
        self._last = now


class Watcher:
    """Watches the kernel through one monitor."""

    def __init__(
        self,
        monitor: Monitor,
        notice: Callable[[], Awaitable[Repaired]],
        compare: Callable[[], Awaitable[bool]],
        follow: Callable[[], Awaitable[float | None]],
    ) -> None:
        """`compare` compares everything, and says whether all is well now; `follow` looks at the underlay, and says in
        how many seconds it wants to look again, if at all."""
        self._monitor, self._notice, self._compare, self._follow = monitor, notice, compare, follow
        self._heard = asyncio.Event()
        self._budget = Budget(_SHARE, _SAVED, time.monotonic())
        self._compare_at, self._follow_at = time.monotonic() + _rest(), math.inf
        self._not_before = 0.0
        self._pace = Pace()
        self._woken = False

    async def run(self) -> None:
        """Watch without end."""
        self._listen()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(self._compare_at, self._follow_at) - time.monotonic())):
                    await self._heard.wait()
            if self._heard.is_set():
                await asyncio.sleep(self._pace.seconds)
                noticed = await self._look()
                self._pace.looked(time.monotonic(), repaired=noticed.repaired)
                if noticed.comparison or self._woken:
                    self._compare_at = min(self._compare_at, self._soon())
                if noticed.refused:
                    self._compare_at = min(self._compare_at, time.monotonic() + _AGAIN)
                self._woken = False
                if noticed.underlay:
                    self._follow_at = min(self._follow_at, self._soon())
            if time.monotonic() >= self._follow_at:
                again = await self._spend(self._follow())
                self._follow_at = math.inf if again is None else time.monotonic() + again
            if time.monotonic() >= self._compare_at:
                well = await self._spend(self._compare())
                self._compare_at = time.monotonic() + (_rest() if well else _AGAIN)

    def look(self) -> None:
        """Notice soon what was heard already."""
        self._heard.set()

    def compare(self) -> None:
        """Compare soon: something else went wrong."""
        self._woken = True
        self._heard.set()

    def _soon(self) -> float:
        """When there may be work of the costly kind."""
        now = time.monotonic()
        return max(now + min(self._budget.wait(now), _LONGEST), self._not_before)

    async def _spend(self, work: Awaitable[T]) -> T:
        """The result of costly work, whose time is counted."""
        began, used = time.monotonic(), time.process_time()
        result = await work
        now = time.monotonic()
        # On a busy machine it takes longer than it costs; in udp mode packets cost something at the same time.
        self._budget.spend(min(now - began, time.process_time() - used), now)
        self._not_before = now + _APART
        return result

    async def _look(self) -> Repaired:
        self._heard.clear()
        try:
            return await self._notice()
        except (HostError, OSError) as error:
            log.error("a change in the kernel's state was not understood: everything is compared", error=str(error))
            return Repaired(repaired=False, comparison=True, underlay=True, refused=False)
        finally:
            self._listen()

    def _listen(self) -> None:
        for number in self._monitor.filenos():
            asyncio.get_running_loop().add_reader(number, self._hear)

    def _hear(self) -> None:
        """The queue fills until it is read, which is soon: no need to be told of every notification."""
        for number in self._monitor.filenos():
            asyncio.get_running_loop().remove_reader(number)
        self._heard.set()


def _rest() -> float:
    return _EVERY * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311  # no secret
