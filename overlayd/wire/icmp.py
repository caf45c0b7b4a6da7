"""ICMP (RFC 792, 1191) and ICMPv6 (RFC 4443) errors, built whole: IP header, ICMP header, quotation.

When an answer may be sent is RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e).
"""

from __future__ import annotations

import struct

from overlayd.wire.checksum import internet_checksum
from overlayd.wire.ip import IPV4_HEADER_MIN, IPV6_HEADER, PROTO_ICMP, PROTO_ICMPV6, Header

ICMP_UNREACHABLE = 3
ICMP_HOST_UNREACHABLE = 1  # code of type 3
ICMP_FRAGMENTATION_NEEDED = 4  # code of type 3
ICMPV6_UNREACHABLE = 1
ICMPV6_ADDRESS_UNREACHABLE = 3  # code of type 1
ICMPV6_PACKET_TOO_BIG = 2

_ICMP_QUERIES = frozenset({0, 8, 13, 14, 15, 16, 17, 18})  # all other types count as errors: none may be answered
_ICMPV6_INFORMATIONAL = 128  # types below are errors

_QUOTED_V4 = 576 - 28  # RFC 1812 section 4.3.2.3: as much as fits without the answer exceeding 576 bytes
_QUOTED_V6 = 1280 - IPV6_HEADER - 8  # RFC 4443: as much as fits into the minimum MTU
_HOP_LIMIT = 64

# An error, RFC 792 and RFC 4443:
#
#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +---------------+---------------+-------------------------------+
# |     type      |     code      |           checksum            |
# +---------------+---------------+-------------------------------+
# |             MTU (too big, fragmentation needed), or 0         |
# +---------------------------------------------------------------+
# |       the packet that is answered, as much as fits            |
_ERROR = struct.Struct("!BBHI")
_TYPE = 0
_CHECKSUM = slice(2, 4)
_IPV4 = struct.Struct("!BBHHHBBHII")  # the header of wire/ip.py, without options
_IPV4_CHECKSUM = slice(10, 12)
_IPV6 = struct.Struct("!IHBB")  # up to the addresses


def may_answer(packet: bytes, header: Header) -> bool:
    """Whether an ICMP error may answer this packet: not an error, a later fragment, a multicast or a broadcast."""
    payload = packet[header.header_length :]
    if header.version == 4:
        if header.fragment_offset or _is_group_v4(header.destination) or _is_group_v4(header.source):
            return False
        if header.source >> 24 in (0, 127):
            return False
        return not (header.protocol == PROTO_ICMP and (not payload or payload[_TYPE] not in _ICMP_QUERIES))
    if header.destination >> 120 == 0xFF or header.source >> 120 == 0xFF or header.source <= 1:
        return False
    # ICMPv6 behind extension headers is looked for nowhere here: RFC 4443 asks it of those that can parse them.
    return not (header.protocol == PROTO_ICMPV6 and (not payload or payload[_TYPE] < _ICMPV6_INFORMATIONAL))


def unreachable(packet: bytes, header: Header, source: int) -> bytes:
    """Destination host (IPv6: address) unreachable, from `source` (the answering router) to the packet's sender."""
    if header.version == 4:
        return _error_v4(packet, header, source, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE, 0)
    return _error_v6(packet, header, source, ICMPV6_UNREACHABLE, ICMPV6_ADDRESS_UNREACHABLE, 0)


def too_big(packet: bytes, header: Header, source: int, mtu: int) -> bytes:
    """Fragmentation needed (IPv6: packet too big) with the next hop's `mtu` in bytes, from `source` to the sender."""
    if header.version == 4:
        return _error_v4(packet, header, source, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, min(mtu, 0xFFFF))
    return _error_v6(packet, header, source, ICMPV6_PACKET_TOO_BIG, 0, mtu)


def _is_group_v4(address: int) -> bool:
    return address >> 28 >= 0xE  # multicast (224/4), reserved (240/4), limited broadcast


def _error_v4(packet: bytes, header: Header, source: int, kind: int, code: int, rest: int) -> bytes:
    message = bytearray(_ERROR.pack(kind, code, 0, rest) + packet[:_QUOTED_V4])
    message[_CHECKSUM] = internet_checksum(bytes(message)).to_bytes(2, "big")
    # TOS 0xc0: internetwork control, as RFC 1812 section 4.3.2.5 asks of errors.
    length = IPV4_HEADER_MIN + len(message)
    ip = bytearray(_IPV4.pack(0x45, 0xC0, length, 0, 0, _HOP_LIMIT, PROTO_ICMP, 0, source, header.source))
    ip[_IPV4_CHECKSUM] = internet_checksum(bytes(ip)).to_bytes(2, "big")
    return bytes(ip + message)


def _error_v6(packet: bytes, header: Header, source: int, kind: int, code: int, rest: int) -> bytes:
    message = bytearray(_ERROR.pack(kind, code, 0, rest) + packet[:_QUOTED_V6])
    addresses = source.to_bytes(16, "big") + header.source.to_bytes(16, "big")
    pseudo = addresses + struct.pack("!II", len(message), PROTO_ICMPV6)
    message[_CHECKSUM] = internet_checksum(pseudo + bytes(message)).to_bytes(2, "big")
    return _IPV6.pack(6 << 28, len(message), PROTO_ICMPV6, _HOP_LIMIT) + addresses + bytes(message)
