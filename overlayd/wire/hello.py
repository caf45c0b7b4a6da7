"""What overlayd nodes say to one another on udp mode's port, to find out which ways work between them.

    0        4         5        6       7          8               16
    +--------+---------+--------+-------+----------+---------------+
    | \\0 ovl | version |  kind  |  way  | abilities|     nonce     |
    +--------+---------+--------+-------+----------+---------------+

The first nibble is 0 where an inner packet has its IP version, so the two cannot be taken for each other. An answer
repeats way and nonce of the question, and is no longer than it: nothing is amplified. A greeting is sent to nobody
whose lease does not say that it is overlayd: flannel would put it on its TUN.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag

_LAYOUT = struct.Struct(">4sBBBB8s")
_MAGIC = b"\0ovl"
_VERSION = 1
LENGTH = _LAYOUT.size
"""Bytes."""


class Kind(IntEnum):
    """What a greeting is."""

    QUESTION = 0
    ANSWER = 1


class Path(IntEnum):
    """How a question travelled; an answer always comes by the socket."""

    SOCKET = 0
    TUNNEL = 1
    """Through the kernel's tunnel GSO."""


class Ability(IntFlag):
    """What the sender of a greeting can receive. Bits that are not known are ignored."""

    PARTIAL_SUMS = 1
    """Inner TCP and UDP packets whose checksum field holds the pseudo header's sum, and TCP superpackets of such."""
    ECN = 2
    """An outer ECN field that counts (RFC 6040, normal mode)."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """One question or answer."""

    kind: Kind
    path: Path
    abilities: Ability
    nonce: bytes
    """8 bytes that only who saw the question can repeat."""

    def encode(self) -> bytes:
        """As a datagram's payload."""
        return _LAYOUT.pack(_MAGIC, _VERSION, self.kind, self.path, self.abilities, self.nonce)

    def answer(self, abilities: Ability) -> Greeting:
        """The answer to this question."""
        return replace(self, kind=Kind.ANSWER, abilities=abilities)


def decode(payload: bytes) -> Greeting | None:
    """The greeting, or None for what is none or of a version that we do not know."""
    if len(payload) != LENGTH:
        return None
    magic, version, kind, path, abilities, nonce = _LAYOUT.unpack(payload)
    if magic != _MAGIC or version != _VERSION or kind not in list(Kind) or path not in list(Path):
        return None
    return Greeting(Kind(kind), Path(path), Ability(abilities & (Ability.PARTIAL_SUMS | Ability.ECN)), nonce)
