"""IP packets and ICMP errors built and read with struct alone, independently of overlayd.wire."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from hypothesis import strategies as st

UDP, ICMP, ICMPV6 = 17, 1, 58


def rfc1071(data: bytes) -> int:
    """The Internet checksum as RFC 1071 section 4.1 writes it: word by word, the carries folded back."""
    total = 0
    for index in range(0, len(data) - 1, 2):
        total += data[index] << 8 | data[index + 1]
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    source: str | IPv4Address,
    destination: str | IPv4Address,
    payload: bytes = b"",
    *,
    protocol: int = UDP,
    options: bytes = b"",
    ttl: int = 64,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    offset: int = 0,
) -> bytes:
    """A whole IPv4 packet; `offset` in units of 8 bytes, `options` a multiple of 4 bytes long."""
    fragment = dont_fragment << 14 | more_fragments << 13 | offset
    ihl = 5 + len(options) // 4
    head = struct.pack("!BBHHHBB", 4 << 4 | ihl, 0, ihl * 4 + len(payload), 0x1234, fragment, ttl, protocol)
    tail = IPv4Address(source).packed + IPv4Address(destination).packed + options
    return head + struct.pack("!H", rfc1071(head + b"\0\0" + tail)) + tail + payload


def ipv6(
    source: str | IPv6Address,
    destination: str | IPv6Address,
    payload: bytes = b"",
    *,
    next_header: int = UDP,
    hop_limit: int = 64,
) -> bytes:
    """A whole IPv6 packet without extension headers, but for what `payload` holds of them."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit)
    return head + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def packet(source: str, destination: str, payload: bytes = b"", **fields: Any) -> bytes:
    """A packet of the family that its addresses are of."""
    if ip_address(source).version == 4:
        return ipv4(source, destination, payload, **fields)
    return ipv6(source, destination, payload, **fields)


class IcmpError(NamedTuple):
    """What an ICMP or ICMPv6 error says."""

    source: str
    destination: str
    kind: int
    code: int
    mtu: int
    """The last 4 bytes of the ICMP header: an MTU or 0."""
    quoted: bytes


def read_error(message: bytes) -> IcmpError:
    """Take an ICMP error apart; every length and both checksums are asserted on the way."""
    if message[0] >> 4 == 4:
        assert message[0] == 0x45
        assert struct.unpack_from("!H", message, 2)[0] == len(message)
        assert message[9] == ICMP
        assert message[8] > 0, "TTL"
        assert rfc1071(message[:20]) == 0, "IPv4 header checksum"
        source, destination, body = IPv4Address(message[12:16]), IPv4Address(message[16:20]), message[20:]
        assert rfc1071(body) == 0, "ICMP checksum"
    else:
        assert message[0] >> 4 == 6
        assert struct.unpack_from("!H", message, 4)[0] == len(message) - 40
        assert message[6] == ICMPV6
        assert message[7] > 0, "hop limit"
        source, destination, body = IPv6Address(message[8:24]), IPv6Address(message[24:40]), message[40:]
        pseudo_header = message[8:40] + struct.pack("!IxxxB", len(body), ICMPV6)  # RFC 8200 section 8.1
        assert rfc1071(pseudo_header + body) == 0, "ICMPv6 checksum"
    kind, code, mtu = struct.unpack_from("!BBxxI", body)
    return IcmpError(str(source), str(destination), kind, code, mtu, body[8:])


@st.composite
def valid_packets(draw: st.DrawFn, max_payload: int = 64) -> bytes:
    """Sound packets of both families, with options, flags and any protocol."""
    payload = draw(st.binary(max_size=max_payload))
    protocol = draw(st.one_of(st.sampled_from((UDP, ICMP, ICMPV6)), st.integers(0, 255)))
    if draw(st.booleans()):
        source, destination = draw(st.ip_addresses(v=4)), draw(st.ip_addresses(v=4))
        return ipv4(
            source,
            destination,
            payload,
            protocol=protocol,
            options=bytes(4 * draw(st.integers(0, 10))),
            ttl=draw(st.integers(0, 255)),
            dont_fragment=draw(st.booleans()),
            more_fragments=draw(st.booleans()),
            offset=draw(st.one_of(st.just(0), st.integers(0, 0x1FFF))),
        )
    source, destination = draw(st.ip_addresses(v=6)), draw(st.ip_addresses(v=6))
    return ipv6(source, destination, payload, next_header=protocol, hop_limit=draw(st.integers(0, 255)))


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    """Packets that were sound until bytes were changed, cut off or added."""
    damaged = bytearray(draw(valid_packets()))
    for _ in range(draw(st.integers(0, 3))):
        damaged[draw(st.integers(0, len(damaged) - 1))] = draw(st.integers(0, 255))
    return bytes(damaged[: draw(st.integers(0, len(damaged)))]) + draw(st.binary(max_size=3))


def any_bytes() -> st.SearchStrategy[bytes]:
    """What may arrive: noise, damaged packets and sound ones."""
    return st.one_of(st.binary(max_size=80), damaged_packets(), valid_packets())
