"""Whether packets move, judged from an engine's progress and counters at regular looks.

A process that runs proves little. What proves more: packets wait and none is read (`StallDetector`); everything that is
tried is refused (`Refusals`). `now` is in seconds, from any steady clock.
"""

from __future__ import annotations

from collections.abc import Collection

from overlayd.datapath.contract import Progress

STALLED_AFTER = 3.0
"""Seconds for which packets wait unread before that is more than a busy moment."""
PERIOD = 5.0
"""Seconds over which refusals are compared with successes."""


class StallDetector:
    """Both directions of one data path: packets that wait now and waited at the look before, and none read between."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._reads: dict[str, int] = {}

    def update(self, waiting: Collection[str], progress: Progress | None, now: float) -> dict[str, float]:
        """Seconds for which each stalled direction has made no progress; directions that move are left out.

        `waiting`: the directions, "outbound" and "inbound", in which packets could be read now.
        `progress`: since the engine was made; None where there is no engine, so that nothing can stall.
        """
        reads = {"outbound": progress.tx_reads, "inbound": progress.rx_reads} if progress is not None else {}
        unread = [one for one in reads.keys() & set(waiting) if self._reads.get(one) == reads[one]]
        self._since = {one: self._since.get(one, now) if one in unread else now for one in waiting}
        self._reads = reads
        return {one: now - self._since[one] for one in unread if self._since[one] < now}


class Refusals:
    """One direction, in which the kernel takes packets or refuses them."""

    def __init__(self) -> None:
        self._taken = self._refused = 0
        self._due: float | None = None
        self.verdict = 0
        """How many were refused in the last whole period, if none was taken in it."""

    def due(self, now: float) -> bool:
        """Whether a period has ended, and `update` is to be called."""
        return self._due is None or now >= self._due

    def update(self, taken: int, refused: int, now: float) -> None:
        """Judge the period that ends now. The counts are totals since the engine was made."""
        first, self._due = self._due is None, now + PERIOD
        self.verdict = refused - self._refused if taken == self._taken and not first else 0
        self._taken, self._refused = taken, refused
