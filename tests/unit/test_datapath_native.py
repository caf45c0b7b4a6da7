"""The pure functions of the native engine: verdicts as core.decide's; cutting and joining against oracles in Python."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlayd.core.forward import Change, Deliver, Drop, DropReason, ForwardingTable, Peer, Reply, Send
from overlayd.core.forward import decide_inbound as oracle_inbound
from overlayd.core.forward import decide_outbound as oracle_outbound
from support.native import (
    ACK,
    CWR,
    ECE,
    ENDS,
    FIN,
    NEEDS_CSUM,
    NONE,
    PSH,
    RST,
    SYN,
    TCP,
    TCPV4,
    UDP,
    UDP_L4,
    URG,
    Super,
    compiled,
    fresh,
    ip_packet,
    native,
    number,
    partial,
    tcp,
    valid,
    vnet,
)
from support.packets import any_bytes, ipv4, packet, rfc1071

# --- tables -----------------------------------------------------------------------------------------------------------

ALPHA = Peer("192.168.0.2", 8285, 4, "alpha")
BETA = Peer("192.168.0.3", 8285, 4, "beta")
GAMMA = Peer("fd99::4", 8285, 6, "gamma")
PEERS = (ALPHA, BETA, GAMMA)


@st.composite
def tables(draw: st.DrawFn) -> ForwardingTable:
    """Nested, neighbouring and far apart networks of both families and any length."""

    def network(version: int) -> object:
        bits = 32 if version == 4 else 128
        length = draw(st.one_of(st.sampled_from((8, 16, 24, 25, 32)), st.integers(0, bits)))
        base = int(ip_address({4: "10.1.0.0", 6: "fd00:1::"}[version])) ^ draw(st.integers(0, 7)) << (bits - 26)
        address = draw(st.one_of(st.just(base), st.integers(0, 2**bits - 1)))
        kind = IPv4Address if version == 4 else IPv6Address
        return ip_network((kind(address >> (bits - length) << (bits - length) if length else 0), length))

    networks = draw(st.lists(st.sampled_from((4, 6)), min_size=1, max_size=8))
    unique = list({str(one): one for one in map(network, networks)}.values())
    own, routes = [], []
    for one in unique:
        owner = draw(st.sampled_from((None, *PEERS)))
        if owner is None:
            own.append(one)
        else:
            routes.append((one, owner))
    return ForwardingTable(own, [], draw(st.sampled_from((60, 576, 1472))), routes)


@st.composite
def tables_and_packets(draw: st.DrawFn) -> tuple[ForwardingTable, bytes]:
    """Half of the packets are addressed from and to what the table holds."""
    table = draw(tables())
    if draw(st.booleans()):
        return table, draw(any_bytes())
    ranges = [(version, start, length) for version, length, rows in table.owners.levels() for start, _ in rows]
    version = draw(st.sampled_from(ranges))[0]
    kind, bits = (IPv4Address, 32) if version == 4 else (IPv6Address, 128)
    ends = []
    for _ in range(2):
        _, start, length = draw(st.sampled_from([one for one in ranges if one[0] == version]))
        ends.append(str(kind(start + draw(st.integers(0, 2 ** (bits - length) - 1)))))
    return table, packet(*ends, bytes(draw(st.sampled_from((0, 8, 12, 40, 60, 1500)))))


@given(tables_and_packets())
def test_outbound_verdicts_are_the_readable_ones(given_: tuple[ForwardingTable, bytes]) -> None:
    table, data = given_
    made, peers = compiled(table)
    expected = oracle_outbound(data, table)
    got = made.outbound(data)
    if isinstance(expected, Send):
        assert peers[got] is expected.peer
    else:
        assert isinstance(expected, Drop | Reply)
        assert got == number(expected.reason)


@given(tables_and_packets(), st.sampled_from((*(peer.host for peer in PEERS), "192.168.0.9", "fd99::9")))
def test_inbound_verdicts_are_the_readable_ones(given_: tuple[ForwardingTable, bytes], host: str) -> None:
    table, data = given_
    made, peers = compiled(table)
    expected = oracle_inbound(data, host, table)
    got = made.inbound(data, ip_address(host).packed)
    if isinstance(expected, Deliver):
        assert peers[got] is table.peers[host]
    else:
        assert isinstance(expected, Drop | Reply)
        assert got == number(expected.reason)


def test_ten_thousand_networks() -> None:
    routes = [
        (ip_network(f"10.{n >> 8}.{n & 255}.0/24"), Peer(f"172.16.{n >> 8}.{n & 255}", 8285, 4, f"{n}"))
        for n in range(10_000)
    ]
    table = ForwardingTable([ip_network("10.200.0.0/24")], [], 1472, routes)
    made, peers = compiled(table)
    for n in range(0, 10_000, 37):
        assert peers[made.outbound(packet("10.200.0.1", f"10.{n >> 8}.{n & 255}.7"))].name == str(n)


def test_reasons_are_those_of_core() -> None:
    assert tuple(reason.value for reason in DropReason) == native.REASONS


@pytest.mark.parametrize(
    "arguments",
    [
        (1, ((0, b"abc", 1, 0, False),), (), ()),
        (1, ((0, b"abcd", 65536, 0, False),), (), ()),
        (1, ((0, b"abcd", 1, -1, False),), (), ()),
        (1, ((1, b"abcd", 1, 0, False),), (), ()),
        (1, ((-1, b"abcd", 1, 0, False),), (), ()),
        (1, (), ((b"abc", 0),), ()),
        (1, (), ((b"abcd", 1),), ()),
        (1, (), ((b"abcd", native.OWN),), ()),
        (1, (), (), ((b"abcd", 33, -1),)),
        (1, (), (), ((b"abcd", -1, -1),)),
        (1, (), (), ((b"abcde", 24, -1),)),
        (1, (), (), ((b"abcd", 24, 1),)),
        (1, (), (), ((b"abcd", 24, -3),)),
        (-1, (), (), ()),
        (1 << 30, (), (), ()),
    ],
)
def test_a_table_that_cannot_be(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"a peer is|a host is|a network is|count"):
        native.Table(1472).changed(*arguments)


def test_a_change_that_cannot_be_changes_nothing() -> None:
    alpha, beta = (0, b"abcd", 1, 0, False), (1, b"abce", 1, 1, False)
    own, remote = (b"\x0a\1\1\0", 24, native.OWN), (b"\x0a\1\2\0", 24, 0)
    table = native.Table(1472).changed(1, (alpha,), ((b"abcd", 0),), (own, remote))
    sent = packet("10.1.1.2", "10.1.2.3")
    assert table.outbound(sent) == 0
    with pytest.raises(ValueError, match="network"):
        table.changed(2, (beta,), ((b"abce", 1),), ((b"\x0a\1\2\0", 24, 1), (b"\x0a\1\3\0", 24, 9)))
    assert table.outbound(sent) == 0


LEASES = st.dictionaries(
    st.sampled_from([*(f"10.1.{n}.0/24" for n in range(6)), "10.1.0.0/16", *(f"fd00:{n}::/64" for n in range(3))]),
    st.sampled_from(["192.168.0.2", "192.168.0.3", "fd99::4"]),
    max_size=8,
)


@given(st.lists(LEASES, min_size=2, max_size=6))
def test_a_changed_table_decides_as_the_readable_one(plans: list[dict[str, str]]) -> None:
    """Leases come, go and move; several name one address; numbers are used again."""

    def peer(host: str, name: str) -> Peer:
        return Peer(host, 8285, 6 if ":" in host else 4, name)

    own = [ip_network("10.1.200.0/24"), ip_network("fd00:200::/64")]
    ends = {4: "10.1.200.7", 6: "fd00:200::7"}
    routes: dict[str, tuple[IPv4Network | IPv6Network, Peer]] = {}
    table, made = ForwardingTable(own, [], 1472, []), fresh()
    made.replace(table)
    for plan in plans:
        kept = {one for one, host in plan.items() if one in routes and routes[one][1].host == host}
        come = {one: (ip_network(one), peer(host, one)) for one, host in plan.items() if one not in kept}
        change = Change([route for one, route in routes.items() if one not in kept], list(come.values()))
        routes = {one: routes[one] for one in kept} | come
        table = table.changed(change)
        made.change(table, change)
        assert made.numbers.keys() == {held for _, held in routes.values()}
        assert made.peers == {number: held for held, number in made.numbers.items()}
        for n in range(8):
            for far in (f"10.1.{n}.9", f"fd00:{n}::9"):
                near = ends[ip_address(far).version]
                verdict = oracle_outbound(packet(near, far), table)
                got = made.made.outbound(packet(near, far))
                assert made.peers[got] is verdict.peer if isinstance(verdict, Send) else got == number(verdict.reason)
                for host in ("192.168.0.2", "192.168.0.3", "fd99::4"):
                    verdict = oracle_inbound(packet(far, near), host, table)
                    got = made.made.inbound(packet(far, near), ip_address(host).packed)
                    if isinstance(verdict, Deliver):
                        assert made.peers[got] is table.peers[host]
                    else:
                        assert got == number(verdict.reason)


# --- cutting ----------------------------------------------------------------------------------------------------------


@st.composite
def supers(draw: st.DrawFn, plain: bool = False) -> Super:
    """With `plain`, of the kind that is joined again: ACK and PSH only, no IP options, more than one segment."""
    size = draw(st.one_of(st.integers(1, 40), st.sampled_from((536, 1420, 1448, 8948))))
    version = draw(st.sampled_from((4, 6)))
    options = draw(st.sampled_from((b"", b"\1\1\x08\x0a" + bytes(range(8)), bytes([1] * 40))))
    ip_options = b"" if version == 6 or plain else bytes([1] * 4 * draw(st.integers(0, 10)))
    room = 65535 - 40 - len(options) - 40
    count = draw(st.integers(2 if plain else 0, 100))
    length = min(room, size * count + draw(st.integers(0, size - 1)), 128 * size if plain else room)
    seed = draw(st.binary(min_size=1, max_size=9))
    payload = (seed * (length // len(seed) + 1))[:length]
    flags = ACK | draw(st.sampled_from((0, PSH))) if plain else draw(st.integers(0, 255))
    return Super(version, payload, size, flags, options, ip_options, draw(st.integers(0, 2**32 - 1)))


@given(supers())
@example(Super(4, bytes(65495), 1, ACK | FIN | PSH | CWR, b"", b"", 2**32 - 5))
@example(Super(4, b"", 1448, ACK, b"", b"", 0))
def test_segments_are_what_the_kernel_would_send(one: Super) -> None:
    segments = native.segment(one.vnet, one.packet)
    if len(segments) > 300:
        segments = [*segments[:100], *segments[-100:]]  # the oracle is slow
    count = max(1, -(-len(one.payload) // one.size))
    for position, data in enumerate(segments):
        index = position if position < 100 or len(segments) < 200 else count - 200 + position
        last = index == count - 1
        begin = index * one.size
        assert data[one.headers :] == one.payload[begin : begin + one.size]
        assert valid(data)
        field = struct.unpack_from("!H", data, 2 if one.version == 4 else 4)[0]
        assert field == len(data) - (0 if one.version == 4 else 40)
        head, origin = data[one.transport : one.headers], one.packet[one.transport : one.headers]
        assert struct.unpack_from("!I", head, 4)[0] == (one.sequence + begin) % 2**32
        removed = (0 if last else FIN | PSH) | (CWR if index else 0)
        assert head[13] == one.flags & ~removed
        assert (
            head[:4] + head[8:13] + head[14:16] + head[18:] == origin[:4] + origin[8:13] + origin[14:16] + origin[18:]
        )
        if one.version == 4:
            assert struct.unpack_from("!H", data, 4)[0] == (0x1234 + index) % 65536
            assert data[:2] + data[6:10] + data[12 : one.transport] == (
                one.packet[:2] + one.packet[6:10] + one.packet[12 : one.transport]
            )
        else:
            assert data[:4] + data[6:40] == one.packet[:4] + one.packet[6:40]
    assert len(native.segment(one.vnet, one.packet)) == count


@given(supers(plain=True))
def test_joining_undoes_cutting(one: Super) -> None:
    joined = native.coalesce(list(native.segment(one.vnet, one.packet)))
    if len(one.payload) > one.size:
        assert joined == [(one.vnet, one.packet)]
    again = [data for header, whole in joined for data in (native.segment(header, whole) if header[1] else [whole])]
    assert again == native.segment(one.vnet, one.packet)


@given(st.sampled_from((4, 6)), st.integers(1, 60), st.integers(0, 1420), st.integers(1, 1420))
def test_udp_is_cut_and_joined(version: int, count: int, rest: int, size: int) -> None:
    count = min(count, 60000 // size)
    payload = bytes(range(256)) * 300
    payload = payload[: count * size + min(rest, size)]
    body = struct.pack("!HHHH", 9, 10, 8 + len(payload), 0) + payload
    data = ip_packet(version, UDP, body)
    transport = len(data) - len(body)
    whole = partial(data, transport, UDP, 6)
    header = vnet(UDP_L4, size, transport, 6, transport + 8)
    segments = native.segment(header, whole)
    assert b"".join(one[transport + 8 :] for one in segments) == payload
    assert all(
        valid(one) and struct.unpack_from("!H", one, transport + 4)[0] == len(one) - transport for one in segments
    )
    if len(segments) > 1:
        assert native.coalesce(list(segments)) == [(header, whole)]


@given(st.binary(min_size=10, max_size=10), any_bytes())
def test_noise_is_refused_or_cut_soundly(header: bytes, data: bytes) -> None:
    try:
        segments = native.segment(header, data)
    except ValueError:
        return
    assert sum(map(len, segments)) >= len(data)


@given(supers(), st.binary(min_size=10, max_size=10), st.integers(0, 200))
def test_a_virtio_header_that_lies_is_refused(one: Super, header: bytes, cut: int) -> None:
    for wrong in (header, one.vnet[:1] + b"\x07" + one.vnet[2:], one.vnet[:4] + b"\0\0" + one.vnet[6:]):
        try:
            native.segment(wrong, one.packet)
        except ValueError:
            continue
        assert wrong is header
    with pytest.raises(ValueError, match="superpacket"):
        native.segment(one.vnet, one.packet[: -cut or None] + b"x" * (not cut))


@given(st.sampled_from((4, 6)), st.binary(max_size=100))
def test_a_checksum_left_open_is_completed(version: int, payload: bytes) -> None:
    whole = tcp(payload, version=version)
    transport = 20 if version == 4 else 40
    done = native.complete(vnet(NONE, 0, transport, 16, 0), partial(whole, transport, TCP, 16))
    assert valid(done)


def test_a_udp_checksum_of_zero_is_written_as_its_complement() -> None:
    for value in range(65536):
        body = struct.pack("!HHHHH", 9, 10, 10, 0, value)
        data = partial(ipv4(*ENDS[4], body), 20, UDP, 6)
        done = native.complete(vnet(NONE, 0, 20, 6, 0), data)
        if done[26:28] == b"\xff\xff":
            assert valid(done)
            return
        assert done[26:28] != b"\0\0"
    pytest.fail("no such packet")


@pytest.mark.parametrize(("start", "offset"), [(20, 60000), (65535, 65535), (30, 0), (29, 0)])
def test_a_checksum_outside_of_the_packet(start: int, offset: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        native.complete(vnet(NONE, 0, start, offset, 0), bytes(30))


# --- joining ----------------------------------------------------------------------------------------------------------


def flow(count: int, size: int = 100, **fields: object) -> list[bytes]:
    made = [tcp(bytes([n]) * size, sequence=1000 + n * size, dont_fragment=True, **fields) for n in range(count)]
    return [numbered(one, n) if one[0] >> 4 == 4 else one for n, one in enumerate(made)]


def numbered(data: bytes, n: int) -> bytes:
    """With the id that follows the builder's by n."""
    head = data[:4] + struct.pack("!H", 0x1234 + n) + data[6:10] + b"\0\0" + data[12:20]
    return head[:10] + struct.pack("!H", rfc1071(head)) + head[12:] + data[20:]


def test_a_flow_is_joined() -> None:
    ((header, whole),) = native.coalesce(flow(5))
    assert struct.unpack("=BBHHHH", header) == (NEEDS_CSUM, TCPV4, 40, 100, 20, 16)
    assert whole[40:] == b"".join(bytes([n]) * 100 for n in range(5))


def test_flows_in_turns_are_joined_each() -> None:
    flows = [flow(5, port=port) for port in (1, 2, 3)]
    joined = native.coalesce([data for turn in zip(*flows, strict=True) for data in turn])
    assert [len(whole) for _, whole in joined] == [540] * 3


def test_more_flows_than_are_kept_open_lose_nothing() -> None:
    packets = [data for turn in zip(*(flow(3, port=port) for port in range(1, 100)), strict=True) for data in turn]
    joined = native.coalesce(packets)
    assert sum(len(native.segment(*one)) if one[0][1] else 1 for one in joined) == len(packets)


def test_push_closes() -> None:
    packets = [
        *flow(2),
        tcp(bytes(100), sequence=1200, flags=ACK | PSH, dont_fragment=True),
        *[tcp(bytes(100), sequence=1300 + n * 100, dont_fragment=True) for n in range(2)],
    ]
    joined = native.coalesce(packets)
    assert [len(whole) for _, whole in joined] == [340, 240]
    assert joined[0][1][33] == ACK | PSH
    assert joined[1][1][33] == ACK


def test_a_shorter_one_closes() -> None:
    packets = [
        *flow(2),
        tcp(bytes(50), sequence=1200, dont_fragment=True),
        tcp(bytes(50), sequence=1250, dont_fragment=True),
    ]
    assert [len(whole) for _, whole in native.coalesce(packets)] == [290, 90]


@pytest.mark.parametrize(
    "second",
    [
        {"sequence": 1101}, {"sequence": 1099}, {"ack": 78}, {"window": 501}, {"ttl": 63},
        {"options": b"\1\1\1\1"}, {"flags": ACK | FIN}, {"flags": ACK | CWR}, {"flags": ACK | ECE}, {"flags": RST},
        {"flags": ACK | URG}, {"flags": ACK | SYN}, {"port": 9}, {"dont_fragment": False},
        {"ip_options": bytes([1] * 4)}, {"more_fragments": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_is_not_joined_and_keeps_its_place(second: dict[str, object]) -> None:
    first = tcp(bytes(100), dont_fragment=True)
    other = tcp(bytes(100), **{"sequence": 1100, "dont_fragment": True, **second})
    assert [whole for _, whole in native.coalesce([first, other])] == [first, other]


def test_without_df_ids_must_follow() -> None:
    first, second = tcp(bytes(100)), tcp(bytes(100), sequence=1100)
    assert len(native.coalesce([first, second])) == 2, "the builder gives both one id"
    assert len(native.coalesce([first, numbered(second, 1)])) == 1


@given(st.sampled_from((4, 6)), st.integers(0, 4), st.data())
def test_corruption_is_never_laundered(version: int, which: int, data: st.DataObject) -> None:
    """Any change of one byte: what comes out is either the very packets that came in, or has right checksums because
    every part had them."""
    packets = flow(5, version=version)
    damaged = bytearray(packets[which])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    sent = [*packets[:which], bytes(damaged), *packets[which + 1 :]]
    out = [
        one
        for header, whole in native.coalesce(sent)
        for one in (native.segment(header, whole) if header[1] else [whole])
    ]
    for one in out:
        if one not in packets:
            # not a checksum that covers it (IPv6 has none over hop limit and traffic class), or untouched
            assert one == bytes(damaged)


@given(st.lists(any_bytes(), max_size=20))
def test_noise_passes_unchanged(packets: list[bytes]) -> None:
    out = [whole for header, whole in native.coalesce(packets) if not header[1]]
    assert set(out) <= set(packets)


@pytest.mark.parametrize("call", [native.segment, native.complete])
def test_a_virtio_header_of_another_length(call) -> None:
    for length in (0, 9, 11):
        with pytest.raises(ValueError, match=r"10 bytes|outside"):
            call(bytes(length), bytes(40))
