"""Capability negotiation with one peer: without a reply, nothing beyond flannel's format is used.

Every HELLO_INTERVAL seconds an announced peer is sent a hello on each path. A path is confirmed by the first reply,
until HOLD_TIME seconds pass without another: a peer that was replaced by something else stops replying.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from overlayd.wire.hello import Capability, Hello, HelloKind, HelloPath

HELLO_INTERVAL = 2.0
HOLD_TIME = 7.0


class PeerCapabilities:
    """The capabilities of one peer, as its replies show them. `now` is in seconds, from any steady clock."""

    __slots__ = ("_capabilities", "_confirmed_until", "_now", "_pending")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._pending: dict[HelloPath, bytes] = {}
        self._confirmed_until: dict[HelloPath, float] = {}
        self._capabilities = Capability(0)

    def requests(self, paths: Iterable[HelloPath], capabilities: Capability) -> list[Hello]:
        """The requests to send now, one per path."""
        self._pending = {path: secrets.token_bytes(8) for path in paths}
        return [Hello(HelloKind.REQUEST, path, capabilities, nonce) for path, nonce in self._pending.items()]

    def receive(self, reply: Hello) -> None:
        """A reply came from the peer's address. An unsolicited or repeated one changes nothing."""
        if reply.kind is HelloKind.REPLY and self._pending.get(reply.path) == reply.nonce:
            del self._pending[reply.path]
            self._capabilities = reply.capabilities
            self._confirmed_until[reply.path] = self._now() + HOLD_TIME

    def invalidate(self, path: HelloPath) -> None:
        """The path no longer works: a reply to an earlier request does not count either."""
        self._pending.pop(path, None)
        self._confirmed_until.pop(path, None)

    def confirmed(self, path: HelloPath) -> bool:
        """Whether a request on that path was answered within the hold time."""
        return self._confirmed_until.get(path, self._now()) > self._now()

    @property
    def capabilities(self) -> Capability:
        """What the peer can receive; nothing while it does not reply."""
        return self._capabilities if self.confirmed(HelloPath.SOCKET) else Capability(0)
