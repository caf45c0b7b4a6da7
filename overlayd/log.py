"""The log: events, each a text that the code holds and fields beside it. `cli/logs.py` says where they are written.

An event that a stranger can cause again and again must not fill a disk: each kind of event has a rate limit of its own,
and the next line of that kind says how many were suppressed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from overlayd.core.rate_limit import TokenBucket

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""As the standard library numbers them."""
RATE, BURST = 10.0, 300.0
"""Lines per second of one kind, and how many of it in a burst."""
_KINDS = 500  # remembered at most; there are fewer, because their texts are in the code

Event = dict[str, Any]
"""Its fields, then `level`, `suppressed` where lines were, and `msg`."""


class Limit:
    """How many events of each kind are let through."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: seconds of a monotonic clock."""
        self._now = now
        self._kinds: dict[str, tuple[TokenBucket, int]] = {}

    def admit(self, kind: str) -> int | None:
        """How many of this kind were suppressed since the last one; None if this one is, too."""
        bucket, suppressed = self._kinds.get(kind) or (TokenBucket(RATE, BURST, self._now()), 0)
        passes = bucket.take(self._now())
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self._kinds.clear()
        self._kinds[kind] = bucket, 0 if passes else suppressed + 1
        return suppressed if passes else None


class Log:
    """Events from a level upwards, at a limited rate. Debug events were asked for: all of them pass."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.level = "info"
        """The lowest level that is written."""
        self.write: Callable[[Event], None] = _write_plainly
        self._limit = Limit(now)

    def debug(self, text: str, /, **fields: object) -> None:
        """What is written only where it was asked for."""
        self.event("debug", text, fields)

    def info(self, text: str, /, **fields: object) -> None:
        """What an operator may want to read later."""
        self.event("info", text, fields)

    def warning(self, text: str, /, **fields: object) -> None:
        """What an operator should look at."""
        self.event("warning", text, fields)

    def error(self, text: str, /, **fields: object) -> None:
        """What does not work."""
        self.event("error", text, fields)

    def event(self, level: str, text: str, fields: Event, kind: str | None = None) -> None:
        """Any level. The kind, which the rate is limited by, is the text unless `kind` names it."""
        if LEVELS[level] < LEVELS[self.level]:
            return
        suppressed = 0 if level == "debug" else self._limit.admit(kind or text)
        if suppressed is not None:
            count = {"suppressed": suppressed} if suppressed else {}
            self.write({**fields, "level": level, **count, "msg": text})


def _write_plainly(event: Event) -> None:
    """Before anything is set up: to standard error."""
    sys.stderr.write(f"{event}\n")


log = Log()
"""The process's."""
