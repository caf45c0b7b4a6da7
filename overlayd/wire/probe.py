"""Probes between overlayd nodes, on the probe port: the state of a peer and of the path to it.

    0        4         5      6      7       8       16       18            20        36
    +--------+---------+------+------+-------+-------+--------+-------------+---------+-- - -
    | \\0 ovp | version | kind | mode | state | nonce | length | overlay MTU | release | zeros
    +--------+---------+------+------+-------+-------+--------+-------------+---------+-- - -

A question may be longer than this, filled with zeros, to probe the path with a packet of that size; `length` is that
of the whole datagram. An answer repeats nonce and length and is never filled, hence never longer than its question:
nothing is amplified. Both describe their sender.
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


class ProbeKind(IntEnum):
    """Question or answer."""

    QUESTION = 0
    ANSWER = 1


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a probe, as it describes itself."""

    mode: int
    """Its mode's number (`core.mode.ModeSpec`); 0 where unknown."""
    release: str
    """Printable ASCII, at most 16 characters."""
    overlay_mtu: int
    """Bytes; 0 if not known yet."""
    well: bool
    """Whether its own data path works."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question or answer."""

    kind: ProbeKind
    sender: Sender
    nonce: bytes
    """8 random bytes that only a receiver of the question can repeat."""
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
        return head.ljust(self.length, b"\0") if self.kind is ProbeKind.QUESTION else head

    def answer(self, sender: Sender) -> Probe:
        """The answer to this question."""
        return Probe(ProbeKind.ANSWER, sender, self.nonce, self.length)


def decode(payload: bytes) -> Probe | None:
    """The probe; None if the payload is not one, or one of an unknown version."""
    if len(payload) < LENGTH:
        return None
    magic, version, kind, mode, state, nonce, length, mtu, release = _LAYOUT.unpack_from(payload)
    if magic != _MAGIC or version != _VERSION or kind not in list(ProbeKind):
        return None
    if len(payload) != (length if kind == ProbeKind.QUESTION else LENGTH) or length < LENGTH:
        return None
    word = release.rstrip(b"\0")
    if not all(0x21 <= byte <= 0x7E for byte in word):
        return None
    sender = Sender(mode, word.decode("ascii"), mtu, bool(state & _WELL))
    return Probe(ProbeKind(kind), sender, nonce, length)
