"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers: checked once, read without copying.

 0                   1                   2                   3
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
+-------+-------+---------------+-------------------------------+
|   4   |  IHL  |      TOS      |          total length         |   IPv4: 20 to 60 bytes
+-------+-------+---------------+-----+-------------------------+
|         identification        |flags|     fragment offset     |
+---------------+---------------+-----+-------------------------+
|      TTL      |    protocol   |        header checksum        |
+---------------+---------------+-------------------------------+
|                        source address                         |
|                      destination address                      |

+-------+---------------+---------------------------------------+
|   6   | traffic class |              flow label               |   IPv6: 40 bytes
+-------+---------------+-------+---------------+---------------+
|         payload length        |  next header  |   hop limit   |
+-------------------------------+---------------+---------------+
|                   source address (16 bytes)                   |
|                 destination address (16 bytes)                |
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

IPV4_HEADER_MIN = 20
IPV6_HEADER = 40

PROTO_ICMP = 1
PROTO_UDP = 17
PROTO_ICMPV6 = 58

# Fields of the headers above. parse() checks the length once; behind that no access can fail.
_VERSION_TOS = slice(0, 2)
_TOS = 1  # the ECN field is in its lowest two bits
_IPV4_LENGTH = 2  # first of two bytes, as every length and _IPV4_FRAGMENT
_IPV4_FRAGMENT = 6
_IPV4_TTL = 8
_IPV4_PROTOCOL = 9
_IPV4_CHECKSUM = slice(10, 12)
_IPV4_SOURCE = slice(12, 16)
_IPV4_DESTINATION = slice(16, 20)
_TRAFFIC_CLASS = 1  # the ECN field is in bits 4 and 5 of this byte
_IPV6_LENGTH = 4
_IPV6_NEXT_HEADER = 6
_IPV6_HOP_LIMIT = 7
_IPV6_SOURCE = slice(8, 24)
_IPV6_DESTINATION = slice(24, 40)

_IPV4_OFFSET = 0x1FFF  # of the 16 bits at _IPV4_FRAGMENT
_ECN = 0b11
_ECN_SHIFT = 4  # of IPv6

NOT_ECT, ECT_1, ECT_0, CE = range(4)
"""The ECN field (RFC 3168)."""


class Malformed(StrEnum):
    """Why bytes are not an IP packet that fills exactly the buffer it came in."""

    TOO_SHORT = "too_short"
    """Shorter than the fixed header of its version."""
    VERSION = "bad_version"
    """The first nibble is neither 4 nor 6."""
    HEADER_LENGTH = "bad_header_length"
    """An IPv4 IHL below 5 words, or beyond the end of the packet."""
    LENGTH = "length_mismatch"
    """The header's length field disagrees with the number of bytes there are."""


class Header(NamedTuple):
    """What overlayd reads of an IP header. Addresses are integers, as a route look-up wants them."""

    version: int
    """4 or 6."""
    source: int
    destination: int
    header_length: int
    """Bytes, IPv4 options included; 40 for IPv6, extension headers not included."""
    protocol: int
    """IPv4 protocol, or the IPv6 next header that follows the fixed header."""
    fragment_offset: int
    """IPv4, in units of 8 bytes; 0 for IPv6 (a fragment header is an extension header)."""


def parse(packet: bytes) -> Header | Malformed:
    """Read and check the IP header of a packet; every length is checked here, once.

    `packet` must hold one whole IP packet and nothing after it: on a TUN and in a datagram alike, a
    length field that disagrees is an error of the sender, never a reason to cut or to pad.
    The IPv4 header checksum is left to the kernel, which verifies it on receipt.
    """
    length = len(packet)
    if length == 0:
        return Malformed.TOO_SHORT
    version = packet[0] >> 4
    if version == 4:
        if length < IPV4_HEADER_MIN:
            return Malformed.TOO_SHORT
        header_length = (packet[0] & 0x0F) * 4
        if header_length < IPV4_HEADER_MIN or header_length > length:
            return Malformed.HEADER_LENGTH
        if packet[_IPV4_LENGTH] << 8 | packet[_IPV4_LENGTH + 1] != length:
            return Malformed.LENGTH
        fragment = packet[_IPV4_FRAGMENT] << 8 | packet[_IPV4_FRAGMENT + 1]
        return Header(
            4,
            int.from_bytes(packet[_IPV4_SOURCE], "big"),
            int.from_bytes(packet[_IPV4_DESTINATION], "big"),
            header_length,
            packet[_IPV4_PROTOCOL],
            fragment & _IPV4_OFFSET,
        )
    if version == 6:
        if length < IPV6_HEADER:
            return Malformed.TOO_SHORT
        # A payload length of 0 with more bytes behind is a jumbogram (RFC 2675), which no datagram can carry.
        if packet[_IPV6_LENGTH] << 8 | packet[_IPV6_LENGTH + 1] != length - IPV6_HEADER:
            return Malformed.LENGTH
        return Header(
            6,
            int.from_bytes(packet[_IPV6_SOURCE], "big"),
            int.from_bytes(packet[_IPV6_DESTINATION], "big"),
            IPV6_HEADER,
            packet[_IPV6_NEXT_HEADER],
            0,
        )
    return Malformed.VERSION


def ttl(packet: bytes) -> int:
    """The TTL, or hop limit, of a valid packet."""
    return packet[_IPV4_TTL] if packet[0] >> 4 == 4 else packet[_IPV6_HOP_LIMIT]


def ecn(packet: bytes) -> int:
    """The ECN field of a sound packet."""
    return packet[_TOS] & _ECN if packet[0] >> 4 == 4 else packet[_TRAFFIC_CLASS] >> _ECN_SHIFT & _ECN


def decapsulate_ecn(packet: bytes, outer: int) -> bytes | None:
    """A sound inner packet with what the outer header's ECN field makes of its own (RFC 6040 section 4.2).

    None when it must be dropped: it was marked on the way, and its transport does not support ECN.
    """
    inner = ecn(packet)
    if outer == CE and inner == NOT_ECT:
        return None
    if not ((outer == CE and inner != CE) or (outer == ECT_1 and inner == ECT_0)):
        return packet
    edited = bytearray(packet)
    if packet[0] >> 4 == 6:
        edited[_TRAFFIC_CLASS] = packet[_TRAFFIC_CLASS] & ~(_ECN << _ECN_SHIFT) | outer << _ECN_SHIFT
        return bytes(edited)
    edited[_TOS] = packet[_TOS] & ~_ECN | outer
    # RFC 1624: a header checksum that was wrong stays wrong.
    total = (~int.from_bytes(packet[_IPV4_CHECKSUM], "big") & 0xFFFF) + (
        ~int.from_bytes(packet[_VERSION_TOS], "big") & 0xFFFF
    )
    total += int.from_bytes(edited[_VERSION_TOS], "big")
    total = (total & 0xFFFF) + (total >> 16)
    edited[_IPV4_CHECKSUM] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return bytes(edited)
