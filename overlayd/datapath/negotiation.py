"""Which ways to a peer work, by asking: no answer, no way beyond flannel's.

Every GREET_EVERY seconds each announced peer is asked on each path. A path is good from the first answer on, until
GOOD_FOR seconds pass without another: a peer that was exchanged for something else stops answering.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from overlayd.wire.hello import Ability, Greeting, Kind, Path

GREET_EVERY = 2.0
GOOD_FOR = 7.0


class Acquaintance:
    """One peer, as its answers show it. `now` is in seconds, from any steady clock."""

    __slots__ = ("_abilities", "_asked", "_good_until", "_now")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._asked: dict[Path, bytes] = {}
        self._good_until: dict[Path, float] = {}
        self._abilities = Ability(0)

    def questions(self, paths: Iterable[Path], abilities: Ability) -> list[Greeting]:
        """What to ask now, one for each path."""
        self._asked = {path: secrets.token_bytes(8) for path in paths}
        return [Greeting(Kind.QUESTION, path, abilities, nonce) for path, nonce in self._asked.items()]

    def heard(self, answer: Greeting) -> None:
        """An answer came from its address. One that nobody asked for, or a second one, changes nothing."""
        if answer.kind is Kind.ANSWER and self._asked.get(answer.path) == answer.nonce:
            del self._asked[answer.path]
            self._abilities = answer.abilities
            self._good_until[answer.path] = self._now() + GOOD_FOR

    def lost(self, path: Path) -> None:
        """The path is no longer good: an answer to a question from before does not count either."""
        self._asked.pop(path, None)
        self._good_until.pop(path, None)

    def good(self, path: Path) -> bool:
        """Whether a question on that path was answered lately."""
        return self._good_until.get(path, self._now()) > self._now()

    @property
    def abilities(self) -> Ability:
        """What the peer can receive; nothing while it does not answer."""
        return self._abilities if self.good(Path.SOCKET) else Ability(0)
