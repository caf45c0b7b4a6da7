from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.wire import icmp
from overlayd.wire.ip import Header, parse
from support.packets import ICMP, ICMPV6, IcmpError, ipv4, ipv6, read_error, valid_packets

ROUTER = {4: int(IPv4Address("10.1.1.0")), 6: int(IPv6Address("fd00:1::"))}


def header_of(packet: bytes) -> Header:
    header = parse(packet)
    assert isinstance(header, Header)
    return header


def may_answer(packet: bytes) -> bool:
    return icmp.may_answer(packet, header_of(packet))


def unreachable(packet: bytes) -> IcmpError:
    header = header_of(packet)
    return read_error(icmp.unreachable(packet, header, ROUTER[header.version]))


def too_big(packet: bytes, mtu: int) -> IcmpError:
    header = header_of(packet)
    return read_error(icmp.too_big(packet, header, ROUTER[header.version], mtu))


def v4_icmp(kind: int, options: bytes = b"") -> bytes:
    return ipv4("10.1.1.2", "10.1.2.3", bytes([kind, *bytes(7)]), protocol=ICMP, options=options)


def v6_icmp(kind: int) -> bytes:
    return ipv6("fd00:1::2", "fd00:2::3", bytes([kind, *bytes(7)]), next_header=ICMPV6)


# --- when an answer may be sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        ipv4("10.1.1.2", "10.1.2.3"),
        ipv4("10.1.1.2", "10.1.2.3", b"payload"),
        ipv4("10.1.1.2", "10.1.2.3", bytes(8), more_fragments=True),  # a first fragment
        ipv4("10.1.1.2", "10.1.2.3", bytes(8), protocol=ICMPV6),  # 58 is nothing special in IPv4
        ipv4("10.1.1.2", "10.1.2.3", b"\x03", protocol=6),
        *(v4_icmp(kind) for kind in (0, 8, 13, 14, 15, 16, 17, 18)),  # queries and their replies
        v4_icmp(8, options=b"\x03\x03\x03\x03"),  # the type stands behind the options
        ipv4("223.255.255.255", "223.255.255.255"),
        ipv4("126.0.0.1", "128.0.0.1"),
        ipv4("1.0.0.0", "10.1.2.3"),
        ipv6("fd00:1::2", "fd00:2::3"),
        ipv6("::2", "fd00:2::3"),
        ipv6("fe80::1", "fd00:2::3"),
        ipv6("fd00:1::2", "fd00:2::3", b"\x01", next_header=ICMP),  # 1 is nothing special in IPv6
        *(v6_icmp(kind) for kind in (128, 129, 135, 255)),
    ],
)
def test_may_be_answered(packet: bytes) -> None:
    assert may_answer(packet)


@pytest.mark.parametrize(
    "packet",
    [
        *(v4_icmp(kind) for kind in (3, 4, 5, 11, 12)),  # errors
        *(v4_icmp(kind) for kind in (1, 2, 40, 255)),  # unassigned: might be errors
        v4_icmp(3, options=b"\x08\x08\x08\x08"),
        ipv4("10.1.1.2", "10.1.2.3", protocol=ICMP),  # no type to look at
        ipv4("10.1.1.2", "10.1.2.3", bytes(8), offset=1),
        ipv4("10.1.1.2", "10.1.2.3", bytes(8), offset=1, more_fragments=True),
        ipv4("10.1.1.2", "224.0.0.1"),
        ipv4("10.1.1.2", "239.255.255.255"),
        ipv4("10.1.1.2", "240.0.0.1"),
        ipv4("10.1.1.2", "255.255.255.255"),
        ipv4("224.0.0.1", "10.1.2.3"),
        ipv4("255.255.255.255", "10.1.2.3"),
        ipv4("127.0.0.1", "10.1.2.3"),
        ipv4("127.255.255.255", "10.1.2.3"),
        ipv4("0.0.0.0", "10.1.2.3"),
        ipv4("0.1.2.3", "10.1.2.3"),
        *(v6_icmp(kind) for kind in (0, 1, 2, 3, 4, 127)),
        ipv6("fd00:1::2", "fd00:2::3", next_header=ICMPV6),
        ipv6("fd00:1::2", "ff02::1"),
        ipv6("ff02::1", "fd00:2::3"),
        ipv6("::", "fd00:2::3"),
        ipv6("::1", "fd00:2::3"),
    ],
)
def test_may_not_be_answered(packet: bytes) -> None:
    assert not may_answer(packet)


# --- what an answer says ----------------------------------------------------------------------------------------------


def test_unreachable() -> None:
    v4, v6 = ipv4("10.1.1.2", "10.1.9.9", b"payload"), ipv6("fd00:1::2", "fd00:9::9", b"payload")
    assert unreachable(v4) == IcmpError("10.1.1.0", "10.1.1.2", kind=3, code=1, mtu=0, quoted=v4)
    assert unreachable(v6) == IcmpError("fd00:1::", "fd00:1::2", kind=1, code=3, mtu=0, quoted=v6)


def test_too_big() -> None:
    v4, v6 = ipv4("10.1.1.2", "10.1.2.3", b"payload"), ipv6("fd00:1::2", "fd00:2::3", b"payload")
    assert too_big(v4, 1472) == IcmpError("10.1.1.0", "10.1.1.2", kind=3, code=4, mtu=1472, quoted=v4)
    assert too_big(v6, 1452) == IcmpError("fd00:1::", "fd00:1::2", kind=2, code=0, mtu=1452, quoted=v6)


def test_mtu_stays_in_its_field() -> None:
    """IPv4's is 16 bits wide (RFC 1191), behind 16 bits that are unused; IPv6's is 32 bits wide."""
    assert too_big(ipv4("10.1.1.2", "10.1.2.3"), 70000).mtu == 0xFFFF
    assert too_big(ipv6("fd00:1::2", "fd00:2::3"), 70000).mtu == 70000


@pytest.mark.parametrize("length", [575 - 28, 576 - 28, 577 - 28, 1500, 65535])
def test_ipv4_quotes_as_much_as_fits_into_576_bytes(length: int) -> None:
    big = ipv4("10.1.1.2", "10.1.2.3", (bytes(range(256)) * 256)[: length - 20])
    answer = icmp.too_big(big, header_of(big), ROUTER[4], 1472)
    assert len(answer) == min(576, 28 + length)
    assert read_error(answer).quoted == big[: 576 - 28]


@pytest.mark.parametrize("length", [1280 - 48, 1281 - 48, 1500, 9000])
def test_ipv6_quotes_as_much_as_fits_into_1280_bytes(length: int) -> None:
    big = ipv6("fd00:1::2", "fd00:2::3", (bytes(range(256)) * 40)[: length - 40])
    answer = icmp.too_big(big, header_of(big), ROUTER[6], 1452)
    assert len(answer) == min(1280, 48 + length)
    assert read_error(answer).quoted == big[: 1280 - 48]


@given(valid_packets(max_payload=1400), st.integers(576, 65535))
def test_every_answer_is_sound_and_goes_to_the_sender(packet: bytes, mtu: int) -> None:
    header = header_of(packet)
    sender = str(ip_address(packet[12:16] if header.version == 4 else packet[8:24]))
    router = str(ip_address(ROUTER[header.version].to_bytes(4 if header.version == 4 else 16, "big")))
    for answer in (unreachable(packet), too_big(packet, mtu)):
        assert (answer.source, answer.destination) == (router, sender)
        assert answer.quoted == packet[: len(answer.quoted)]
        assert len(answer.quoted) >= min(len(packet), 548 if header.version == 4 else 1232)
    assert too_big(packet, mtu).mtu == mtu
    assert unreachable(packet).mtu == 0


@given(valid_packets(), st.integers(576, 65535))
def test_an_error_is_never_answered_with_another(packet: bytes, mtu: int) -> None:
    header = header_of(packet)
    assert not may_answer(icmp.unreachable(packet, header, ROUTER[header.version]))
    assert not may_answer(icmp.too_big(packet, header, ROUTER[header.version], mtu))
