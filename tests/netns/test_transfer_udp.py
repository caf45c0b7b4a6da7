"""UDP of every size, fragments, options and ECN marks through both engines: what comes is what was sent.

    h1c1 -- br0 [h1] ovl0 | eth0 ======== eth0 | ovl0 [h2] br0 -- h2c1
                     (captured)                (captured)

No test leaves a wrong checksum in any kernel's counts.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlayd.lab import Host, Namespace, hosts
from support.streams import MB, checksum_errors, exchange, kernel_counters
from support.waiting import eventually
from support.wire import FAMILIES, ICMP, UDP, Capture, inet, packet, rfc1071, udp_echo, udp_packet

Pair = tuple[Host, Host]

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104  # <linux/udp.h>
HEADERS = {4: 28, 6: 48}
LONGEST = {4: 65507, 6: 65527}
"""Bytes of UDP payload: IPv4's total length counts its header, IPv6's payload length does not."""
FRAGMENT = 44  # RFC 8200 section 4.5


@pytest.fixture(
    scope="module",
    params=[("native", "offloads"), ("native", "frames"), ("python", "frames")],
    ids=" over ".join,
)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    engine, kind = request.param
    spec = {"mode": "udp", "family": "dual", "underlay": "dual", "settings": {"udp": {"engine": engine}}}
    with hosts(2, offloads="on" if kind == "offloads" else "off", **spec) as (a, b):
        yield a, b


@pytest.fixture(autouse=True)
def _no_wrong_checksum(pair: Pair) -> Iterator[None]:
    nodes = [node for host in pair for node in (host, host.container(0))]
    before = checksum_errors(nodes)
    yield
    assert checksum_errors(nodes) - before == Counter()


# --- sizes ------------------------------------------------------------------------------------------------------------


def borders(family: int, mtu: int) -> list[int]:
    """Payload sizes at which something changes, and those beside them."""
    fragment = (mtu - HEADERS[family] + 8 - (8 if family == 6 else 0)) & ~7  # bytes of the UDP datagram in each one
    edges = {mtu - HEADERS[family], LONGEST[family], 32768, *(number * fragment - 8 for number in (1, 2, 3, 20))}
    near = {edge + step for edge in edges for step in range(-2, 3)}
    return sorted(size for size in near if 0 <= size <= LONGEST[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_up_to_the_mtu_and_around_every_border(pair: Pair, family: int) -> None:
    a, b = pair
    sizes = [*range(1500), *borders(family, a.plan.overlay_mtu)]
    payloads = [os.urandom(size) for size in sizes]
    answers = udp_echo(a.container(0), b.container(0), b.container(0).address(family), *payloads)
    assert [size for size, *both in zip(sizes, payloads, answers, strict=True) if both[0] != both[1]] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_any_size(pair: Pair, family: int) -> None:
    a, b = pair
    inner, outer = a.container(0), b.container(0)

    @settings(deadline=None, max_examples=8, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(sizes=st.lists(st.integers(0, LONGEST[family]), min_size=5, max_size=10))
    def some(sizes: list[int]) -> None:
        payloads = [os.urandom(size) for size in sizes]
        assert udp_echo(inner, outer, outer.address(family), *payloads) == payloads

    some()


@pytest.mark.parametrize("joined", [False, True], ids=["taken apart", "taken whole"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 64, 1200, "all that fits"])
def test_superpackets_of_udp(pair: Pair, family: int, size: int | str, joined: bool) -> None:
    """UDP_SEGMENT from the container; the receiver gets the same datagrams in their order, with UDP_GRO or without."""
    a, b = pair
    address = b.container(0).address(family)
    length = size if isinstance(size, int) else a.plan.overlay_mtu - HEADERS[family]
    payload = os.urandom(min(length * 100 + length // 2, 65000))
    with (
        a.container(0).socket(inet(address), socket.SOCK_DGRAM) as out,
        b.container(0).socket(inet(address), socket.SOCK_DGRAM) as there,
    ):
        there.settimeout(5)
        there.bind((str(address), 0))
        there.setsockopt(_SOL_UDP, _UDP_GRO, int(joined))
        out.sendmsg([payload], [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", length))], 0, there.getsockname())
        got: list[bytes] = []
        while sum(map(len, got)) < len(payload):
            data, control, _, _ = there.recvmsg(65536, 64)
            step = next((struct.unpack("=i", value)[0] for _, kind, value in control if kind == _UDP_GRO), len(data))
            got += [data[at : at + step] for at in range(0, len(data), step)]
    assert got == [payload[at : at + length] for at in range(0, len(payload), length)]


# --- packets by hand --------------------------------------------------------------------------------------------------


def send_raw(node: Namespace, data: bytes) -> None:
    """Send a whole IP packet from in there."""
    family = socket.AF_INET if data[0] >> 4 == 4 else socket.AF_INET6
    end = data[16:20] if family == socket.AF_INET else data[24:40]
    with node.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.sendto(data, (socket.inet_ntop(family, end), 0))


def carry(pair: Pair, *packets: bytes) -> list[bytes]:
    """Send these from h1c1 to h2c1: what h1's kernel gave the engine is what h2's engine gave its kernel, byte for byte
    and in order; gives back what arrived in the container."""
    a, b = pair
    ends = packets[0][12:20] if packets[0][0] >> 4 == 4 else packets[0][8:40]
    with ExitStack() as stack:
        given_, taken, arrived = (
            stack.enter_context(Capture(node, device))
            for node, device in ((a, "ovl0"), (b, "ovl0"), (b.container(0), "eth0"))
        )

        def seen(capture: Capture, outgoing: bool) -> list[bytes]:
            return [one.ip for one in capture.frames() if one.outgoing == outgoing and ends in one.ip[:40]]

        for one in packets:
            send_raw(a.container(0), one)
        eventually(lambda: len(seen(arrived, False)) >= len(packets), f"{len(packets)} packets", timeout=5)
        assert len(seen(given_, True)) == len(packets)
        assert seen(taken, False) == seen(given_, True)
        return seen(arrived, False)


def ends(pair: Pair, family: int) -> tuple[str, str]:
    return tuple(str(host.container(0).address(family)) for host in pair)  # type: ignore[return-value]


def tos(data: bytes) -> int:
    """The traffic class."""
    return data[1] if data[0] >> 4 == 4 else (data[0] << 4 | data[1] >> 4) & 0xFF


def with_tos(data: bytes, value: int) -> bytes:
    """The packet with this traffic class; the kernel mends the header checksum of what a raw socket sends."""
    if data[0] >> 4 == 4:
        return data[:1] + bytes([value]) + data[2:]
    return bytes([0x60 | value >> 4, (value & 15) << 4]) + data[2:]


def udp_body(source: str, destination: str, payload: bytes, port: int = 9) -> bytes:
    """A UDP datagram with its checksum, without an IP header."""
    whole = udp_packet(source, destination, payload, port)
    return whole[20:] if whole[0] >> 4 == 4 else whole[40:]


IPV4_OPTIONS = {
    "no operation": "01010101",
    "router alert": "94040000",  # RFC 2113
    "record route": "070b04000000000000000000",  # RFC 791: every kernel on the way enters its address
    "timestamp": "440c05000000000000000000",
    "all the room": "01" * 40,
}


@pytest.mark.parametrize("option", IPV4_OPTIONS)
def test_ipv4_options_pass(pair: Pair, option: str) -> None:
    source, destination = ends(pair, 4)
    options = bytes.fromhex(IPV4_OPTIONS[option])
    body = udp_body(source, destination, b"with options")
    (arrived,) = carry(pair, packet(source, destination, body, options=options))
    assert arrived[20 : 20 + len(options)][:2] == options[:2]
    assert arrived[20 + len(options) :] == body
    assert rfc1071(arrived[: 20 + len(options)]) == 0


EXTENSIONS = {
    "hop-by-hop": {0: "010400000000"},
    "router alert": {0: "050200000100"},  # RFC 2711, and a PadN
    "destination": {60: "010400000000"},
    "both": {0: "010400000000", 60: "010400000000"},
    "atomic fragment": {FRAGMENT: "000012345678"},  # RFC 6946
}


@pytest.mark.parametrize("protocol", [UDP, 253], ids=["UDP", "protocol 253"])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_ipv6_extension_headers_pass(pair: Pair, extension: str, protocol: int) -> None:
    source, destination = ends(pair, 6)
    chain, first = b"", protocol
    for kind, content in reversed(EXTENSIONS[extension].items()):
        chain, first = bytes([first, 0]) + bytes.fromhex(content) + chain, kind
    inner = udp_body(source, destination, b"with extensions") if protocol == UDP else bytes(40)
    (arrived,) = carry(pair, packet(source, destination, chain + inner, next_header=first))
    assert arrived[6] == first
    assert arrived[40:] == chain + inner


@pytest.mark.parametrize("protocol", [ICMP, 2, 47, 132, 253], ids=["ICMP", "IGMP", "GRE", "SCTP", "protocol 253"])
def test_other_protocols_pass(pair: Pair, protocol: int) -> None:
    source, destination = ends(pair, 4)
    content = os.urandom(777) if protocol != ICMP else b"\x0d\0\xf2\xff" + bytes(8)  # a timestamp request
    (arrived,) = carry(pair, packet(source, destination, content, protocol=protocol))
    assert arrived[20:] == content


@pytest.mark.parametrize("order", ["in order", "backwards"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_pass_as_they_are(pair: Pair, family: int, order: str) -> None:
    """Sent by hand, so that no checksum is open; h2c1 puts them together."""
    b = pair[1]
    source, destination = ends(pair, family)
    payload = os.urandom(3000)
    with b.container(0).socket(inet(destination), socket.SOCK_DGRAM) as there:
        there.settimeout(5)
        there.bind((destination, 0))
        body = udp_body(source, destination, payload, there.getsockname()[1])
        pieces = []
        for at in range(0, len(body), 1024):
            more, piece = at + 1024 < len(body), body[at : at + 1024]
            if family == 4:
                pieces.append(packet(source, destination, piece, more_fragments=more, offset=at // 8))
            else:
                head = struct.pack("!BxHI", UDP, at | more, 0x12345678)
                pieces.append(packet(source, destination, head + piece, next_header=FRAGMENT))
        arrived = carry(pair, *(pieces if order == "in order" else reversed(pieces)))
        assert len(arrived) == len(pieces) == 3
        assert there.recv(65536) == payload


def test_udp_without_a_checksum_keeps_none(pair: Pair) -> None:
    """IPv4 allows it (RFC 768). A run of such datagrams may not be joined: the kernel would give them a checksum."""
    source, destination = ends(pair, 4)
    bare = udp_body(source, destination, bytes(500))
    bare = bare[:6] + b"\0\0" + bare[8:]
    arrived = carry(pair, *[packet(source, destination, bare)] * 5)
    assert [one[20:] for one in arrived] == [bare] * 5


# --- ECN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [0, 1, 2, 3], ids=["Not-ECT", "ECT(1)", "ECT(0)", "CE"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ecn_marks_come_out_as_they_went_in(pair: Pair, family: int, mark: int) -> None:
    """And with them the DSCP. No two neighbours are alike: none are joined. The outer packet says Not-ECT."""
    source, destination = ends(pair, family)
    marks = [mark, mark | 0xB8, mark, mark ^ 1, mark, mark ^ 3, mark]  # 0xB8: DSCP EF
    with Capture(pair[1], "eth0") as outer:
        arrived = carry(pair, *(with_tos(udp_packet(source, destination, bytes(100)), one) for one in marks))
        assert [tos(one) for one in arrived] == marks
        assert {tos(frame.ip) for frame in outer.incoming("eth0") if len(frame.ip) > 100} == {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_with_congestion_marks(pair: Pair, family: int) -> None:
    """h1 marks as a congested router would. Superpackets then carry ECE and CWR (VIRTIO_NET_HDR_GSO_ECN)."""
    a, b = pair
    inner, outer = a.container(0), b.container(0)
    for node in (inner, outer):
        node.sysctl({"net/ipv4/tcp_ecn": 1})
    word = {4: "ip", 6: "ip6"}[family]
    a.run(
        "nft",
        "add table inet marks; add chain inet marks forward { type filter hook forward priority 0; };"
        f" add rule inet marks forward {word} ecn ect0 numgen random mod 20 < 1 counter {word} ecn set ce",
    )
    before = {node: kernel_counters(node) for node in (inner, outer)}
    try:
        exchange(inner, outer, outer.address(family), 4, 2 * MB)
        marked = a.run("nft", "list", "table", "inet", "marks").stdout
    finally:
        a.run("nft", "delete", "table", "inet", "marks")
        for node in (inner, outer):
            node.sysctl({"net/ipv4/tcp_ecn": 2})
    assert "packets 0 " not in marked
    for node, old in before.items():
        new = kernel_counters(node) - old
        names = ("IpExtInCEPkts", "IpExtInECT0Pkts") if family == 4 else ("Ip6InCEPkts", "Ip6InECT0Pkts")
        assert all(new[name] > 0 for name in names), (node, new)
        assert new["TcpExtTCPDeliveredCE"] > 0, "the sender was told"
