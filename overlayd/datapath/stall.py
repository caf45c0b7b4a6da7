"""Whether packets move: what can be told from an engine's progress and counters, looked at again and again.

A process that lives says little. What says more: something waits to be read and nothing is read; everything that is
tried is refused. `now` is in seconds, from any steady clock.
"""

from __future__ import annotations

STANDSTILL = 3.0
"""Seconds for which something waits before that is no longer a busy moment."""
PERIOD = 5.0
"""Seconds over which refusals are held against successes."""


class Standstill:
    """One thing that is read, such as a TUN."""

    def __init__(self) -> None:
        self._reads = -1
        self._since: float | None = None

    def look(self, waiting: bool, reads: int, now: float) -> float:
        """Seconds for which something has waited while nothing was read. `reads`: so far."""
        if not waiting or reads != self._reads or self._since is None:
            self._reads, self._since = reads, now if waiting else None
        return 0.0 if self._since is None else now - self._since


class Refusals:
    """One direction, in which the kernel takes packets or refuses them."""

    def __init__(self) -> None:
        self._taken = self._refused = 0
        self._due: float | None = None
        self.verdict = 0
        """How many were refused in the last whole period, if none was taken in it."""

    def due(self, now: float) -> bool:
        """Whether a period has ended, and `look` wants to be called."""
        return self._due is None or now >= self._due

    def look(self, taken: int, refused: int, now: float) -> None:
        """Judge the period that ends now. Counts are those since ever."""
        first, self._due = self._due is None, now + PERIOD
        self.verdict = refused - self._refused if taken == self._taken and not first else 0
        self._taken, self._refused = taken, refused
