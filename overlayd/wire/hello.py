"""Hellos: how two overlayd nodes negotiate capabilities on udp mode's port.

    0        4         5        6       7              8               16
    +--------+---------+--------+-------+--------------+---------------+
    | \\0 ovl | version |  kind  | path  | capabilities |     nonce     |
    +--------+---------+--------+-------+--------------+---------------+

The first nibble is 0 where an inner packet has its IP version, so the two cannot be confused. A reply repeats path and
nonce of the request and is no longer than it: nothing is amplified. A hello is only sent to a peer whose lease says
that it is overlayd: flannel would write it to its TUN.
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


class HelloKind(IntEnum):
    """Request or reply."""

    REQUEST = 0
    REPLY = 1


class HelloPath(IntEnum):
    """How a request travelled; a reply always comes through the socket."""

    SOCKET = 0
    TUNNEL = 1
    """Through the kernel's tunnel GSO."""


class Capability(IntFlag):
    """What the sender of a hello can receive. Unknown bits are ignored."""

    PARTIAL_SUMS = 1
    """Inner TCP and UDP packets whose checksum field holds the pseudo header's sum, and TCP superpackets of them."""
    ECN = 2
    """An outer ECN field that counts (RFC 6040, normal mode)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """One request or reply."""

    kind: HelloKind
    path: HelloPath
    capabilities: Capability
    nonce: bytes
    """8 bytes that only a receiver of the request can repeat."""

    def encode(self) -> bytes:
        """As a datagram's payload."""
        return _LAYOUT.pack(_MAGIC, _VERSION, self.kind, self.path, self.capabilities, self.nonce)

    def reply(self, capabilities: Capability) -> Hello:
        """The reply to this request."""
        return replace(self, kind=HelloKind.REPLY, capabilities=capabilities)


def decode(payload: bytes) -> Hello | None:
    """The hello; None if it is not one, or has an unknown version."""
    if len(payload) != LENGTH:
        return None
    magic, version, kind, path, capabilities, nonce = _LAYOUT.unpack(payload)
    if magic != _MAGIC or version != _VERSION or kind not in list(HelloKind) or path not in list(HelloPath):
        return None
    known = Capability(capabilities & (Capability.PARTIAL_SUMS | Capability.ECN))
    return Hello(HelloKind(kind), HelloPath(path), known, nonce)
