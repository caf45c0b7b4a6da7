"""Rate limits: of ICMP errors, probes and log lines."""

from __future__ import annotations


class TokenBucket:
    """A rate limit: `rate` tokens a second, at most `burst` saved up. `now` is in seconds, from any steady clock."""

    __slots__ = ("_burst", "_now", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._tokens, self._now = rate, burst, burst, now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._now) * self._rate)
        self._now = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
