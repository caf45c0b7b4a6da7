"""The sessions with one peer, three at most:

current    what is sent under
previous   the one before, for what is still on its way
next       the peer began it, and has not used it yet: that it has the keys shows with its first message
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlayd.datapath.wireguard.session import Session


class Sessions:
    """`forget` is told the index of each session that goes."""

    def __init__(self, forget: Callable[[int], None]) -> None:
        self.current: Session | None = None
        self._previous: Session | None = None
        self._next: Session | None = None
        self._forget = forget

    def __iter__(self) -> Iterator[Session]:
        return (one for one in (self.current, self._previous, self._next) if one is not None)

    def of(self, index: int) -> Session | None:
        """The session that the peer names so."""
        return next((one for one in self if one.index == index), None)

    def begin(self, session: Session) -> None:
        """One of our handshakes is complete. Of two that crossed each other the later wins; the peer may use either."""
        self._drop(self._previous)
        if self._next is not None:
            self._drop(self.current)
            self._previous, self._next = self._next, None
        else:
            self._previous = self.current
        self.current = session

    def prepare(self, session: Session) -> None:
        """One of the peer's handshakes was answered."""
        self._drop(self._next)
        self._drop(self._previous)
        self._previous, self._next = None, session

    def confirm(self, session: Session) -> bool:
        """An authentic message came in under this one; whether that makes it the current one."""
        if session is not self._next:
            return False
        self._drop(self._previous)
        self._previous, self.current, self._next = self.current, session, None
        return True

    def expire(self, before: float) -> None:
        """Forget those that were born before."""
        for session in self:
            if session.born <= before:
                self._drop(session)
        self.current, self._previous, self._next = (
            None if one is None or one.born <= before else one for one in (self.current, self._previous, self._next)
        )

    def clear(self) -> None:
        """Forget all."""
        self.expire(float("inf"))

    def _drop(self, session: Session | None) -> None:
        if session is not None:
            self._forget(session.index)
