"""A session: the keys of one handshake, and how far they have been used."""

from __future__ import annotations

from dataclasses import dataclass

from overlayd.datapath.wireguard.noise import SessionKeys
from overlayd.datapath.wireguard.primitives import ChaCha20Poly1305, InvalidTag
from overlayd.datapath.wireguard.replay import ReplayWindow
from overlayd.wire.wireguard import DATA_HEADER, PADDING, data_header

REKEY_AFTER_MESSAGES = 2**60
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds (paper, section 6.1); tests have shorter ones."""

    rekey_after: float = 120.0
    """The initiator makes new keys once these are that old and it has something to send."""
    reject_after: float = 180.0
    """Keys are not used any longer than that."""
    retry_after: float = 5.0
    """Between two initiations to one peer."""
    give_up_after: float = 90.0
    """An unanswered handshake; the next packet begins another."""
    keepalive_after: float = 10.0
    """Silence after data came in, until its receipt is shown by an empty packet."""

    @property
    def lost_after(self) -> float:
        """Silence after data went out, until the session is taken to be lost."""
        return self.keepalive_after + self.retry_after

    @property
    def last_chance(self) -> float:
        """The age of keys at which the initiator makes new ones although it only receives."""
        return self.reject_after - self.keepalive_after - self.retry_after


class Session:
    """Each counter is used once: `seal` counts up, and keys are never kept over a restart."""

    __slots__ = ("_open", "_seal", "born", "counter", "index", "initiator", "remote_index", "window")

    def __init__(self, keys: SessionKeys, index: int, remote_index: int, initiator: bool, born: float) -> None:
        """`index`: by which the peer names it, `remote_index`: by which we do."""
        self._seal, self._open = ChaCha20Poly1305(keys.send), ChaCha20Poly1305(keys.receive)
        self.index, self.remote_index, self.initiator, self.born = index, remote_index, initiator, born
        self.counter = 0
        self.window = ReplayWindow()

    def usable(self, now: float, timing: Timing) -> bool:
        """Whether something may be sent."""
        return now - self.born < timing.reject_after and self.counter < REJECT_AFTER_MESSAGES

    def seal(self, packet: bytes, mtu: int) -> bytes:
        """The data message for a usable session. It is padded, but never beyond the `mtu` of the packet."""
        size = len(packet)
        padded = packet.ljust(min(size + -size % PADDING, max(mtu, size)), b"\0")
        counter = self.counter
        self.counter += 1
        text = self._seal.encrypt(_nonce(counter), padded, None)
        return data_header(self.remote_index, counter) + text

    def open(self, message: bytes, counter: int) -> bytes | None:
        """The padded packet in a data message of this session; None where it is not authentic."""
        try:
            return self._open.decrypt(_nonce(counter), message[DATA_HEADER:], None)
        except InvalidTag:
            return None


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")
