"""Which counters of a session have been seen (RFC 6479): a ring of bits behind the greatest one."""

from __future__ import annotations

_BITS = 8192  # as Linux; the newest word is not full, so 64 fewer are remembered
_WORD = 64
WINDOW = _BITS - _WORD
"""How far a counter may be behind the greatest."""


class ReplayWindow:
    """Asked by `fresh` before a message is authenticated, told by `mark` after."""

    __slots__ = ("_greatest", "_words")

    def __init__(self) -> None:
        self._greatest = -1
        self._words = [0] * (_BITS // _WORD)

    def fresh(self, counter: int) -> bool:
        """Whether this counter has not been marked, and is not too old to know."""
        if counter > self._greatest:
            return True
        if self._greatest - counter > WINDOW:
            return False
        word, bit = divmod(counter, _WORD)
        return not self._words[word % len(self._words)] >> bit & 1

    def mark(self, counter: int) -> None:
        """Note a fresh counter: its message is authentic."""
        word, bit = divmod(counter, _WORD)
        if counter > self._greatest:
            newest = self._greatest // _WORD  # -1 // 64 is -1: the first word is cleared, too
            for passed in range(max(newest + 1, word - len(self._words) + 1), word + 1):
                self._words[passed % len(self._words)] = 0
            self._greatest = counter
        self._words[word % len(self._words)] |= 1 << bit
