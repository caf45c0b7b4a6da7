"""Whether etcd is in reach, for the status and the log: each change is said once, however often it is noticed."""

from __future__ import annotations

import random
import time

import structlog

from overlayd.registry.etcd.messages import EtcdError

log = structlog.get_logger()

_BACKOFF = 0.25, 10.0  # seconds between attempts, the first and the longest


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, with a spread so that nodes do not knock all at once."""
    first, longest = _BACKOFF
    whole = min(longest, first * float(1 << min(failures, 16)))
    return whole * random.uniform(0.7, 1.0)  # noqa: S311  # no secret


class Reach:
    """What was noticed of etcd last."""

    def __init__(self) -> None:
        self.connected: bool | None = None
        """None before anything was noticed."""
        self.since: float | None = None
        """Seconds since the epoch at which `connected` became what it is."""
        self.error: str | None = None
        """Why it is out of reach, or has nothing for this node yet."""

    def waiting(self, reason: str, endpoints: tuple[str, ...]) -> None:
        """Nothing is known yet, and without it this node cannot begin."""
        if self.error != reason:
            log.error("no leases yet: waiting for etcd", reason=reason, endpoints=",".join(endpoints))
        self.error = reason

    def lost(self, error: EtcdError) -> None:
        """A request or the watch failed."""
        self.error = str(error)
        if self.connected is not False:
            self.connected, self.since = False, time.time()
            log.error("etcd is lost; leases stay as last known", error=str(error))

    def back(self, endpoint: str) -> None:
        """The watch stands."""
        if self.connected is False:
            away = time.time() - self.since if self.since is not None else 0.0
            log.info("etcd is back", endpoint=endpoint, after=f"{away:.1f}s")
        if not self.connected:
            self.connected, self.since = True, time.time()
        self.error = None
