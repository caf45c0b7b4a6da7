from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.wire.ip import Header, Malformed, parse
from support.packets import any_bytes, ipv4, ipv6, valid_packets

V4 = ipv4("10.1.1.2", "10.1.2.3", b"payload")
V6 = ipv6("fd00:1::2", "fd00:2::3", b"payload")


def with_byte(packet: bytes, index: int, value: int) -> bytes:
    return packet[:index] + bytes([value]) + packet[index + 1 :]


def test_ipv4() -> None:
    assert parse(V4) == Header(
        version=4,
        source=int(IPv4Address("10.1.1.2")),
        destination=int(IPv4Address("10.1.2.3")),
        header_length=20,
        protocol=17,
        fragment_offset=0,
    )


def test_ipv6() -> None:
    assert parse(V6) == Header(
        version=6,
        source=int(IPv6Address("fd00:1::2")),
        destination=int(IPv6Address("fd00:2::3")),
        header_length=40,
        protocol=17,
        fragment_offset=0,
    )


@pytest.mark.parametrize("words", [1, 10])
def test_ipv4_options_belong_to_the_header(words: int) -> None:
    header = parse(ipv4("10.1.1.2", "10.1.2.3", b"payload", options=b"\x01" * 4 * words))
    assert isinstance(header, Header)
    assert header.header_length == 20 + 4 * words
    assert header.destination == int(IPv4Address("10.1.2.3"))


@pytest.mark.parametrize(
    ("flags", "offset"),
    [
        ({"dont_fragment": True}, 0),
        ({"more_fragments": True}, 0),
        ({"offset": 185}, 185),
        ({"offset": 0x1FFF, "more_fragments": True, "dont_fragment": True}, 0x1FFF),
    ],
)
def test_ipv4_fragments(flags: dict[str, int], offset: int) -> None:
    header = parse(ipv4("10.1.1.2", "10.1.2.3", b"payload", **flags))
    assert isinstance(header, Header)
    assert header.fragment_offset == offset


@pytest.mark.parametrize(
    "packet", [ipv4("0.0.0.0", "0.0.0.0"), ipv6("::", "::"), ipv4("10.0.0.1", "10.0.0.2", bytes(65515))]
)
def test_smallest_and_largest(packet: bytes) -> None:
    assert isinstance(parse(packet), Header)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", Malformed.TOO_SHORT),
        (V4[:1], Malformed.TOO_SHORT),
        (V4[:19], Malformed.TOO_SHORT),
        (V6[:1], Malformed.TOO_SHORT),
        (V6[:39], Malformed.TOO_SHORT),
        *((bytes([version << 4 | 5]) + V4[1:], Malformed.VERSION) for version in range(16) if version not in (4, 6)),
        (b"\x00", Malformed.VERSION),
        *((with_byte(V4, 0, 0x40 | ihl), Malformed.HEADER_LENGTH) for ihl in range(5)),
        (with_byte(V4, 0, 0x47), Malformed.HEADER_LENGTH),  # 28 bytes of header in 27
        (with_byte(V4[:20], 0, 0x4F), Malformed.HEADER_LENGTH),
        (V4[:20], Malformed.LENGTH),
        (V4[:-1], Malformed.LENGTH),
        (V4 + b"\0", Malformed.LENGTH),
        (with_byte(V4, 3, 0), Malformed.LENGTH),
        (with_byte(V4, 2, 1), Malformed.LENGTH),
        (with_byte(V4, 3, 19), Malformed.LENGTH),  # a total length below the header's own
        (V6[:40], Malformed.LENGTH),
        (V6[:-1], Malformed.LENGTH),
        (V6 + b"\0", Malformed.LENGTH),
        (with_byte(V6, 5, 0), Malformed.LENGTH),  # a jumbogram
        (with_byte(V6, 4, 1), Malformed.LENGTH),
    ],
)
def test_malformed(packet: bytes, expected: Malformed) -> None:
    assert parse(packet) is expected


@given(any_bytes())
def test_any_bytes_are_malformed_or_a_header_that_fits_them(packet: bytes) -> None:
    header = parse(packet)
    if isinstance(header, Malformed):
        return
    assert header.version == packet[0] >> 4
    if header.version == 4:
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert header.header_length == (packet[0] & 15) * 4
        assert 20 <= header.header_length <= len(packet)
    else:
        assert struct.unpack_from("!H", packet, 4)[0] + 40 == len(packet)
        assert (header.header_length, header.fragment_offset) == (40, 0)


@given(valid_packets(), st.data())
def test_a_sound_packet_is_read_and_its_every_other_length_is_not(packet: bytes, data: st.DataObject) -> None:
    assert isinstance(parse(packet), Header)
    cut = data.draw(st.integers(0, len(packet) - 1))
    assert isinstance(parse(packet[:cut]), Malformed)
    assert parse(packet + data.draw(st.binary(min_size=1, max_size=50))) is Malformed.LENGTH
