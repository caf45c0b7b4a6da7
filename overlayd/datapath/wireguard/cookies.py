"""The MACs behind a handshake message, and cookies (paper, section 5.4.7): a host under load has whoever sends from an
address prove that it can receive there, before it spends a Diffie-Hellman on it.

mac1   keyed by the receiver's public key: the sender knows who we are
mac2   keyed by a cookie that we sent to the sender's address: it can receive there; zeros without one
"""

from __future__ import annotations

from collections.abc import Callable

from overlayd.datapath.wireguard.primitives import InvalidTag, equal, hash_of, mac, open_xsealed, xseal
from overlayd.wire.wireguard import NONCE, TAG, CookieReply, sender_of, split_macs

REFRESH = 120.0
"""Seconds that a cookie is good for, at either end."""

_LABEL_MAC1, _LABEL_COOKIE = b"mac1----", b"cookie--"


class CookieGuard:
    """Of a host: what others must know to be answered."""

    def __init__(self, public: bytes, random: Callable[[int], bytes]) -> None:
        """`public`: this host's key."""
        self._mac1_key = hash_of(_LABEL_MAC1, public)
        self._cookie_key = hash_of(_LABEL_COOKIE, public)
        self._random = random
        self._secret, self._made = b"", float("-inf")

    def knows_us(self, message: bytes) -> bool:
        """Whether mac1 of an initiation or a response is right."""
        covered, mac1, _ = split_macs(message)
        return equal(mac(self._mac1_key, covered), mac1)

    def is_reachable(self, message: bytes, source: bytes, now: float) -> bool:
        """Whether mac2 is right, by a cookie that we sent to `source`: an address and port as bytes."""
        covered, mac1, mac2 = split_macs(message)
        return now - self._made < REFRESH and equal(mac(self._cookie(source), covered + mac1), mac2)

    def reply(self, message: bytes, source: bytes, now: float) -> bytes:
        """The cookie reply to a message; shorter than it, so that nothing is amplified."""
        if now - self._made >= REFRESH:
            self._secret, self._made = self._random(32), now
        nonce = self._random(NONCE)
        _, mac1, _ = split_macs(message)
        return CookieReply(
            sender_of(message), nonce, xseal(self._cookie_key, nonce, self._cookie(source), mac1)
        ).encode()

    def _cookie(self, source: bytes) -> bytes:
        return mac(self._secret, source)


class CookieJar:
    """What this host needs for messages to one peer: its last mac1, and the cookie that the peer sent, if it did."""

    def __init__(self, public: bytes) -> None:
        """`public`: the peer's key."""
        self._mac1_key = hash_of(_LABEL_MAC1, public)
        self._cookie_key = hash_of(_LABEL_COOKIE, public)
        self._mac1: bytes | None = None
        self._cookie, self._received = b"", float("-inf")

    def sign(self, message: bytes, now: float) -> bytes:
        """A handshake message with its MACs."""
        self._mac1 = mac(self._mac1_key, message)
        signed = message + self._mac1
        return signed + (mac(self._cookie, signed) if now - self._received < REFRESH else bytes(TAG))

    def take(self, reply: CookieReply, now: float) -> bool:
        """Keep the cookie; False where the reply is not the peer's to the last message, which is answered once."""
        if self._mac1 is None:
            return False
        try:
            self._cookie = open_xsealed(self._cookie_key, reply.nonce, reply.cookie, self._mac1)
        except InvalidTag:
            return False
        self._received, self._mac1 = now, None
        return True
