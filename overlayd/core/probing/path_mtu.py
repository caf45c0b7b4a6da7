"""The search for a path's MTU by probes of that size: packetization layer PMTUD (RFC 8899), where no ICMP comes back.

A search starts at the interface's MTU and halves what is left between the largest size that was acknowledged and the
smallest that was lost. It is repeated every SEARCH_EVERY seconds, so that a path that has changed is noticed.
"""

from __future__ import annotations

SEARCH_EVERY = 60.0
"""Seconds from the end of a search to the next (RFC 8899: PMTU_RAISE_TIMER)."""

_MAX_PROBES_FIRST, _MAX_PROBES = 3, 2  # of one size, before it counts as too long: the first size is the decisive one


class PathMtuSearch:
    """One path's. Sizes are bytes of IP packet."""

    __slots__ = ("_high", "_lost", "_low", "_maximum", "_minimum", "due", "mtu", "probed_size")

    def __init__(self, minimum: int, maximum: int, now: float) -> None:
        """`minimum` passes on any path; `maximum` is what the interface can send (MIN_PLPMTU, MAX_PLPMTU)."""
        self._minimum, self._maximum, self._low, self._high = minimum, maximum, minimum, maximum + 1
        self._lost = 0
        """Probes of this size that were lost in a row (PROBE_COUNT)."""
        self.probed_size = maximum
        """The size to try next (PROBED_SIZE)."""
        self.mtu: int | None = None
        """The result of the last complete search (PLPMTU)."""
        self.due = now
        """When to try."""

    @property
    def narrow(self) -> bool:
        """Whether the path takes less than the interface."""
        return self.mtu is not None and self.mtu < self._maximum

    def acknowledged(self, now: float) -> None:
        """A packet of `probed_size` arrived."""
        self._low, self._lost = self.probed_size, 0
        self._next_size(now)

    def lost(self, now: float, *, certain: bool = False) -> None:
        """It did not, or no answer came. `certain`: the kernel refused to send it."""
        self._lost += 1
        if certain or self._lost >= (_MAX_PROBES_FIRST if self.probed_size == self._maximum else _MAX_PROBES):
            self._high, self._lost = self.probed_size, 0
            self._next_size(now)

    def _next_size(self, now: float) -> None:
        if self._high - self._low <= 1:
            self.mtu = self._low
            self._low, self._high, self.probed_size = self._minimum, self._maximum + 1, self._maximum
            self.due = now + SEARCH_EVERY
        elif self.mtu is not None and self._low < self.mtu < self._high:
            self.probed_size = self.mtu  # a path that is still narrow is most likely as narrow as it was
        else:
            self.probed_size = self._low + 1 if self._low == self.mtu else (self._low + self._high) // 2
