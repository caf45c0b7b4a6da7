"""What overlayd nodes ask one another on the probe port, to know how a peer and the path to it are.

    0        4         5      6      7       8       16       18            20        36
    +--------+---------+------+------+-------+-------+--------+-------------+---------+-- - -
    | \\0 ovp | version | kind | mode | state | nonce | length | overlay MTU | release | zeros
    +--------+---------+------+------+-------+-------+--------+-------------+---------+-- - -

A question may be longer than this, filled with zeros, so that it tries the path with a packet of that size; `length` is
that of the whole datagram. An answer repeats nonce and length, is never filled, and so is no longer than any question:
nothing is amplified. Both say what their sender is; the rest of an answer costs its sender nothing to look up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_LAYOUT = struct.Struct(">4sBBBB8sHH16s")
_MAGIC = b"\0ovp"
_VERSION = 1
_WELL = 0x01
_RELEASE = 16
LENGTH = _LAYOUT.size
"""Bytes of an answer, and of the shortest question."""
NONCE = 8
"""Bytes."""


class Kind(IntEnum):
    """What a probe is."""

    QUESTION = 0
    ANSWER = 1


@dataclass(frozen=True, slots=True)
class Sender:
    """What the sender of a probe says of itself."""

    mode: int
    """Its mode's number (`core.mode.ModeSpec`); 0 where unknown."""
    release: str
    """Printable ASCII, at most 16 characters."""
    overlay_mtu: int
    """Bytes; 0 where it does not know yet."""
    well: bool
    """Whether it finds nothing wrong with its own data path."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question or answer."""

    kind: Kind
    sender: Sender
    nonce: bytes
    """8 bytes that only who saw the question can repeat."""
    length: int
    """Bytes of the question's whole datagram."""

    def encode(self) -> bytes:
        """As a datagram's payload."""
        one = self.sender
        release = one.release.encode("ascii", "replace")[:_RELEASE]
        state = _WELL if one.well else 0
        head = _LAYOUT.pack(
            _MAGIC, _VERSION, self.kind, one.mode, state, self.nonce, self.length, one.overlay_mtu, release
        )
        return head.ljust(self.length, b"\0") if self.kind is Kind.QUESTION else head

    def answer(self, sender: Sender) -> Probe:
        """The answer to this question."""
        return Probe(Kind.ANSWER, sender, self.nonce, self.length)


def decode(payload: bytes) -> Probe | None:
    """The probe; None for what is none, or of a version that we do not know."""
    if len(payload) < LENGTH:
        return None
    magic, version, kind, mode, state, nonce, length, mtu, release = _LAYOUT.unpack_from(payload)
    if magic != _MAGIC or version != _VERSION or kind not in list(Kind):
        return None
    if len(payload) != (length if kind == Kind.QUESTION else LENGTH) or length < LENGTH:
        return None
    word = release.rstrip(b"\0")
    if not all(0x21 <= byte <= 0x7E for byte in word):
        return None
    sender = Sender(mode, word.decode("ascii"), mtu, bool(state & _WELL))
    return Probe(Kind(kind), sender, nonce, length)
