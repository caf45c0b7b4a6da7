"""Time stamps of handshakes (TAI64N): each is greater than the one before, so that an old handshake is not replayed."""

from __future__ import annotations

from collections.abc import Callable

_EPOCH = 2**62 + 10  # of 1970 in TAI64
_ROUNDING = 2**24  # ns: what a stamp tells of this host's clock
_SECOND = 10**9  # ns


class Stamps:
    """12 bytes each. They grow although the clock jumps back."""

    def __init__(self, wall: Callable[[], int]) -> None:
        """`wall`: nanoseconds since 1970, as `time.time_ns`."""
        self._wall, self._last = wall, 0

    def next(self) -> bytes:
        """The next stamp."""
        self._last = max(self._wall() // _ROUNDING, self._last + 1)
        seconds, rest = divmod(self._last * _ROUNDING, _SECOND)
        return (_EPOCH + seconds).to_bytes(8, "big") + rest.to_bytes(4, "big")
