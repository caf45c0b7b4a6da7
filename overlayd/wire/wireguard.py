"""WireGuard's messages. All integers are little endian; a type is one byte and three zero bytes.

    1 initiation    sender 4, ephemeral 32, sealed static 48, sealed TAI64N 28, mac1 16, mac2 16        148 bytes
    2 response      sender 4, receiver 4, ephemeral 32, sealed nothing 16, mac1 16, mac2 16              92
    3 cookie reply  receiver 4, nonce 24, sealed cookie 32                                               64
    4 data          receiver 4, counter 8, ciphertext n (padded to 16 where that fits), tag 16           32 + n

The length of a message is checked once, by `kind_of`; after that no accessor can fail. Source: the WireGuard paper,
section 5.4.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The type of a message."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    DATA = 4


KEY = 32  # bytes: a key, public, private or of a cipher; a hash
TAG = 16  # bytes: what a cipher adds; a MAC
STAMP = 12  # bytes of a TAI64N time stamp
NONCE = 24  # bytes of a cookie reply's nonce
DATA_HEADER = 16
DATA_OVERHEAD = DATA_HEADER + TAG
KEEPALIVE_LENGTH = DATA_OVERHEAD
PADDING = 16

_INITIATION = struct.Struct(f"<II{KEY}s{KEY + TAG}s{STAMP + TAG}s")
_RESPONSE = struct.Struct(f"<III{KEY}s{TAG}s")
_COOKIE_REPLY = struct.Struct(f"<II{NONCE}s{TAG + TAG}s")
_DATA = struct.Struct("<IIQ")
_LENGTHS = {
    Kind.INITIATION: _INITIATION.size + 2 * TAG,
    Kind.RESPONSE: _RESPONSE.size + 2 * TAG,
    Kind.COOKIE_REPLY: _COOKIE_REPLY.size,
}
_TYPES = {struct.pack("<I", kind): kind for kind in Kind}


class Initiation(NamedTuple):
    """The first message of a handshake, without its MACs."""

    sender: int
    ephemeral: bytes
    static: bytes
    stamp: bytes

    def encode(self) -> bytes:
        """Without MACs."""
        return _INITIATION.pack(Kind.INITIATION, *self)


class Response(NamedTuple):
    """The second, without its MACs."""

    sender: int
    receiver: int
    ephemeral: bytes
    nothing: bytes

    def encode(self) -> bytes:
        """Without MACs."""
        return _RESPONSE.pack(Kind.RESPONSE, *self)


class CookieReply(NamedTuple):
    """The answer of a host under load to either."""

    receiver: int
    nonce: bytes
    cookie: bytes

    def encode(self) -> bytes:
        """The whole message."""
        return _COOKIE_REPLY.pack(Kind.COOKIE_REPLY, *self)


def kind_of(message: bytes) -> Kind | None:
    """What a datagram holds by its type and length; None where it is not a WireGuard message."""
    kind = _TYPES.get(message[:4])
    if kind is Kind.DATA:
        return kind if len(message) >= DATA_OVERHEAD else None
    return kind if kind is not None and len(message) == _LENGTHS[kind] else None


def decode_initiation(message: bytes) -> Initiation:
    """Of an INITIATION."""
    return Initiation(*_INITIATION.unpack_from(message)[1:])


def decode_response(message: bytes) -> Response:
    """Of a RESPONSE."""
    return Response(*_RESPONSE.unpack_from(message)[1:])


def decode_cookie_reply(message: bytes) -> CookieReply:
    """Of a COOKIE_REPLY."""
    return CookieReply(*_COOKIE_REPLY.unpack(message)[1:])


def split_macs(message: bytes) -> tuple[bytes, bytes, bytes]:
    """What mac1 covers, mac1 and mac2 of an INITIATION or a RESPONSE; mac2 covers the first two."""
    return message[: -2 * TAG], message[-2 * TAG : -TAG], message[-TAG:]


def sender_of(message: bytes) -> int:
    """The sender's index in an INITIATION or a RESPONSE."""
    return int.from_bytes(message[4:8], "little")


def data_header(receiver: int, counter: int) -> bytes:
    """What stands before the ciphertext."""
    return _DATA.pack(Kind.DATA, receiver, counter)


def read_data_header(message: bytes) -> tuple[int, int]:
    """The receiver's index and the counter of a DATA message. Neither is authenticated before the text is."""
    _, receiver, counter = _DATA.unpack_from(message)
    return receiver, counter
