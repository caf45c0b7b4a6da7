"""Ways beyond flannel's, between announced peers: ECN marks, partial sums, whole superpackets; both engines' ECN."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path as File

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.datapath.native.engine import NativeEngine
from overlayd.wire import ip
from overlayd.wire.hello import Capability, Hello, HelloKind, HelloPath, decode
from support.native import TCPV4, TCPV6, UDP, native, tcp, valid
from support.packets import ipv4, ipv6, packet, rfc1071
from support.rig import MTU, OWN, PLAIN, Rig, superpacket

BOTH = Capability.PARTIAL_SUMS | Capability.ECN
TO_US = {4: ("10.1.2.3", "10.1.1.2"), 6: ("fd00:2::3", "fd00:1::2")}

# RFC 6040 section 4.2, figure 4: [outer][inner], None to drop. Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3.
DECAPSULATED = {0: (0, 1, 2, 3), 2: (0, 1, 2, 3), 1: (0, 1, 1, 3), 3: (None, 3, 3, 3)}


def marked(version: int, ecn: int, payload: bytes = b"x" * 100) -> bytes:
    if version == 4:
        made = bytearray(ipv4(*TO_US[4], payload, protocol=99))
        made[1] = 0xB8 | ecn
        made[10:12] = bytes(2)
        made[10:12] = rfc1071(bytes(made[:20])).to_bytes(2, "big")
    else:
        made = bytearray(ipv6(*TO_US[6], payload, next_header=99))
        made[1] = made[1] & 0xCF | ecn << 4
    return bytes(made)


@given(st.sampled_from((4, 6)), st.sampled_from(range(4)), st.sampled_from(range(4)))
def test_the_table_of_rfc_6040(version: int, outer: int, inner: int) -> None:
    expected = DECAPSULATED[outer][inner]
    got = ip.decapsulate_ecn(marked(version, inner), outer)
    assert got == (None if expected is None else marked(version, expected))


def test_a_wrong_header_checksum_stays_wrong() -> None:
    damaged = bytearray(marked(4, 2))
    damaged[8] ^= 1
    got = ip.decapsulate_ecn(bytes(damaged), 3)
    assert got is not None
    assert rfc1071(got[:20]) == rfc1071(bytes(damaged[:20])) != 0


@pytest.mark.parametrize("kind", ["python", "native"])
@pytest.mark.parametrize("version", [4, 6])
def test_marks_of_the_underlay_reach_the_container(kind: str, version: int) -> None:
    rig = Rig(kind)
    try:
        rig.local.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        for outer, row in DECAPSULATED.items():
            rig.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8 | outer)
            for inner in range(4):
                rig.peer.sendto(marked(version, inner), rig.local.getsockname())
            rig.inbound()
            assert [data for _, data in rig.read_tun()] == [marked(version, one) for one in row if one is not None]
        assert rig.engine.counters().rx_drops == {"ce_not_ect": 1}
    finally:
        rig.close()


# --- between announced peers ------------------------------------------------------------------------------------------


class Tap:
    """Takes frames instead of the kernel."""

    mac = bytes.fromhex("020000000001")

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self._theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.good = True

    def fileno(self) -> int:
        return self._theirs.fileno()

    def pays(self) -> bool:
        return self.good

    def read(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.ours.recv(70000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class Pair(Rig):
    """A rig whose peer alpha is announced and played by the test."""

    def __init__(self) -> None:
        super().__init__("native")
        self.now = 100.0
        self.tap = Tap()
        self.alpha = Peer(self.alpha.host, self.alpha.port, 4, "alpha", announced=True)
        routes = [(ip_network(net), self.alpha) for net in ("10.1.2.0/24", "fd00:2::/64")]
        self.table = ForwardingTable(OWN, [ip_address("10.1.1.0")], MTU, routes)
        self.engine = NativeEngine(
            self._inner.fileno(), {4: self.local}, self.table, now=lambda: self.now, vnet_header=True
        )
        self.engine.replace_tap(self.tap)
        self.local.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self.peer.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)

    def answer(self, tunnel: bool = True, capabilities: Capability = BOTH) -> list[Hello]:
        """Let the engine send hellos, and reply; the requests."""
        self.engine.send_hellos()
        requests = [decode(data) for data in self.read_peer()]
        if tunnel:
            requests += [decode(frame[24 + 42 :]) for frame in self.tap.read()]
        for request in requests:
            assert request is not None
            self.peer.sendto(request.reply(capabilities).encode(), self.local.getsockname())
        self.inbound()
        return [one for one in requests if one is not None]

    def close(self) -> None:
        super().close()
        self.tap.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    one = Pair()
    yield one
    one.close()


def test_capabilities_need_replies(pair: Pair) -> None:
    assert pair.engine.capabilities() == {"alpha": []}
    assert [one.path for one in pair.answer()] == [HelloPath.SOCKET]
    assert pair.engine.capabilities() == {"alpha": ["partial_sums", "ecn"]}
    assert {one.path for one in pair.answer()} == {HelloPath.SOCKET, HelloPath.TUNNEL}
    assert pair.engine.capabilities() == {"alpha": ["partial_sums", "ecn", "tunnel_gso"]}
    pair.tap.good = False
    assert [one.path for one in pair.answer()] == [HelloPath.SOCKET]
    assert pair.engine.capabilities() == {"alpha": ["partial_sums", "ecn"]}
    pair.now += 60
    pair.engine.send_hellos()
    assert pair.engine.capabilities() == {"alpha": []}


def test_capabilities_are_the_peers(pair: Pair) -> None:
    pair.answer(capabilities=Capability.ECN)
    pair.answer(capabilities=Capability.ECN)
    assert pair.engine.capabilities() == {"alpha": ["ecn"]}


def test_questions_are_answered_to_announced_peers_alone(pair: Pair) -> None:
    request = Hello(HelloKind.REQUEST, HelloPath.TUNNEL, BOTH, b"12345678")
    pair.peer.sendto(request.encode(), pair.local.getsockname())
    pair.stranger.sendto(request.encode(), pair.local.getsockname())
    pair.inbound()
    assert pair.read_peer() == [request.reply(BOTH).encode()]
    assert pair.engine.counters().rx_drops == {"unknown_peer": 1}
    pair.engine.replace_table(
        ForwardingTable(OWN, [], MTU, [(ip_network("10.1.2.0/24"), Peer("127.0.0.2", pair.alpha.port, 4, "alpha"))])
    )
    pair.peer.sendto(request.encode(), pair.local.getsockname())
    pair.inbound()
    assert pair.read_peer() == []
    assert pair.engine.counters().rx_drops == {"unknown_peer": 1, "bad_version": 1}
    pair.engine.send_hellos()
    assert pair.read_peer() == [], "flannel would put it on its TUN"


def test_capabilities_outlive_a_table(pair: Pair) -> None:
    pair.answer()
    pair.engine.replace_table(pair.table)
    assert pair.engine.capabilities() == {"alpha": ["partial_sums", "ecn"]}
    pair.engine.replace_table(ForwardingTable(OWN, [], MTU, []))
    assert pair.engine.capabilities() == {}


def test_capabilities_outlive_a_change_of_other_peers(pair: Pair) -> None:
    pair.answer()
    beyond = [(ip_network("10.1.9.0/24"), Peer("127.0.0.9", pair.alpha.port, 4, "beyond", announced=True))]
    alpha = [(ip_network(net), pair.alpha) for net in ("10.1.2.0/24", "fd00:2::/64")]
    table = pair.table
    for change, ways in (
        (Change([], beyond), {"alpha": ["partial_sums", "ecn"], "beyond": []}),
        (Change(beyond, []), {"alpha": ["partial_sums", "ecn"]}),
        (Change(alpha, []), {}),
        (Change([], alpha), {"alpha": []}),
    ):
        table = table.changed(change)
        pair.engine.replace_table(table, change)
        assert pair.engine.capabilities() == ways
    pair.answer()
    assert pair.engine.capabilities() == {"alpha": ["partial_sums", "ecn"]}


def test_a_peer_that_goes_back_to_flannels_format_gets_it(pair: Pair) -> None:
    pair.answer()
    plain = Peer(pair.alpha.host, pair.alpha.port, 4, "alpha")
    pair.engine.replace_table(ForwardingTable(OWN, [], MTU, [(ip_network("10.1.2.0/24"), plain)]))
    assert pair.engine.capabilities() == {}
    one = superpacket(os.urandom(5000))
    pair.send_tun(one.packet, one.vnet)
    pair.outbound()
    assert all(map(valid, pair.read_peer()))


def test_outer_marks_are_the_inner_ones(pair: Pair) -> None:
    def outer() -> list[int]:
        found = []
        while True:
            try:
                data, control, _, _ = pair.peer.recvmsg(70000, 64)
            except BlockingIOError:
                return found
            tos = [content[0] & 3 for level, kind, content in control if (level, kind) == (0, socket.IP_TOS)]
            assert data[1] & 3 == tos[0] or tos == [0]
            found.append(tos[0])

    def send() -> None:
        for ecn in (0, 1, 1, 2, 3, 0):
            made = bytearray(packet("10.1.1.2", "10.1.2.3", bytes(100)))
            made[1] = ecn
            pair.send_tun(bytes(made))
        pair.outbound()

    send()
    assert outer() == [0] * 6, "compatibility mode: the peer has not said that it heeds marks"
    pair.answer()
    send()
    assert outer() == [0, 1, 1, 2, 3, 0]


def partial(data: bytes, check: int) -> bytes:
    """The packet with no more than the pseudo header's sum in its checksum field."""
    transport = 20 if data[0] >> 4 == 4 else 40
    ends, protocol = (data[12:20], data[9]) if transport == 20 else (data[8:40], data[6])
    pseudo = ~rfc1071(ends + struct.pack("!HH", protocol, len(data) - transport)) & 0xFFFF
    at = transport + check
    return data[:at] + pseudo.to_bytes(2, "big") + data[at + 2 :]


def test_sums_stay_partial_towards_capable_peers(pair: Pair) -> None:
    one = superpacket(os.urandom(5000))
    pair.send_tun(one.packet, one.vnet)
    pair.outbound()
    whole = pair.read_peer()
    assert all(map(valid, whole))
    pair.answer()
    pair.send_tun(one.packet, one.vnet)
    pair.outbound()
    assert pair.read_peer() == [partial(data, 16) for data in whole]


def test_partial_sums_of_a_peer_are_taken_and_joined(pair: Pair) -> None:
    for version, kind in ((4, TCPV4), (6, TCPV6)):
        flow = [tcp(os.urandom(1000), sequence=n * 1000, dont_fragment=True, version=version) for n in range(20)]
        cut = 12 if version == 4 else 8
        size = 4 if version == 4 else 16
        swapped = [
            one[:cut] + one[cut + size : cut + 2 * size] + one[cut : cut + size] + one[cut + 2 * size :] for one in flow
        ]
        for one in swapped:
            pair.peer.sendto(partial(one, 16), pair.local.getsockname())
        pair.inbound()
        ((header, whole),) = pair.read_tun()
        assert header[:2] == bytes([1, kind])
        segments = native.segment(header, whole)
        assert all(map(valid, segments))
        headers = cut + 2 * size + 20
        assert [one[headers:] for one in segments] == [one[headers:] for one in swapped]
        pair.peer.sendto(partial(swapped[0], 16), pair.local.getsockname())
        pair.inbound()
        ((header, single),) = pair.read_tun()
        assert native.complete(header, single) == swapped[0], "alone, its sum is left to the kernel"


def test_a_partial_sum_of_flannels_is_an_error_like_any(native_rig: Rig) -> None:
    """From a peer that is not announced it passes as it is, joined with nothing: whoever receives it counts it."""
    flow = [packet("10.1.2.3", "10.1.1.2", bytes(100))] * 3
    sent = [partial(one, 6) for one in flow if one[9] == UDP]
    for one in sent:
        native_rig.peer.sendto(one, native_rig.local.getsockname())
    native_rig.inbound()
    assert native_rig.read_tun() == [(PLAIN, one) for one in sent]


@pytest.fixture
def native_rig() -> Iterator[Rig]:
    one = Rig("native")
    yield one
    one.close()


def test_a_superpacket_comes_whole(pair: Pair) -> None:
    """As it does between hosts on one machine; gso_size is then what our MTU allows."""
    payload = os.urandom(40000)
    made = tcp(payload, sequence=5, dont_fragment=True)
    whole = partial(made[:12] + made[16:20] + made[12:16] + made[20:], 16)
    pair.peer.sendto(whole, pair.local.getsockname())
    pair.inbound()
    ((header, got),) = pair.read_tun()
    assert got == whole
    segments = native.segment(header, got)
    assert all(valid(one) and len(one) <= MTU for one in segments)
    assert b"".join(one[40:] for one in segments) == payload
    assert pair.engine.counters().total.rx_packets == len(segments)
    pair.engine.replace_table(
        ForwardingTable(OWN, [], MTU, [(ip_network("10.1.2.0/24"), Peer("127.0.0.2", pair.alpha.port, 4, "alpha"))])
    )
    pair.peer.sendto(whole, pair.local.getsockname())
    pair.inbound()
    assert pair.engine.counters().rx_drops == {"too_long": 1}, "nobody else may send one"


def test_a_superpacket_goes_into_the_tap(pair: Pair) -> None:
    pair.answer()
    pair.answer()
    one = superpacket(os.urandom(30000))
    small = packet("10.1.1.2", "10.1.2.3", bytes(50))
    pair.send_tun(small)
    pair.send_tun(one.packet, one.vnet)
    pair.outbound()
    assert pair.read_peer() == [small]
    (frame,) = pair.tap.read()
    flags, kind, hdr_len, size, start, offset = struct.unpack_from("=BBHHHH", frame)
    inner = struct.unpack("=BBHHHH", one.vnet)
    assert (flags, kind, size, offset) == (1 | 8, TCPV4 | 0x20, inner[3], 16)
    assert (start, hdr_len) == (42 + 20, 42 + 52)
    assert struct.unpack_from("=HH", frame, 20) == (34, 42)
    ethernet, outer, udp, payload = frame[24:38], frame[38:58], frame[58:66], frame[66:]
    assert ethernet == pair.tap.mac * 2 + b"\x08\x00"
    assert payload == one.packet
    assert rfc1071(outer) == 0
    assert struct.unpack("!BBHHHBB", outer[:10]) == (0x45, 0, len(frame) - 38, 0, 0x4000, 65, UDP)
    assert outer[12:] == ip_address("127.0.0.1").packed + ip_address("127.0.0.2").packed
    port = pair.local.getsockname()[1]
    assert struct.unpack("!HHH", udp[:6]) == (port, pair.alpha.port, len(payload) + 8)
    assert int.from_bytes(udp[6:], "big") == ~rfc1071(outer[12:] + struct.pack("!HH", UDP, len(payload) + 8)) & 0xFFFF
    counters = pair.engine.counters()
    segments = native.segment(one.vnet, one.packet)
    assert counters.total.tx_packets == len(segments) + 1
    assert counters.total.tx_bytes == sum(map(len, segments)) + len(small)


def test_a_tap_that_fails_costs_no_packet() -> None:
    told: list[str] = []
    pair = Pair()
    try:
        pair.engine._degraded = lambda offload, seen: told.append(offload)
        pair.answer()
        pair.answer()
        with File("/dev/null").open("rb") as unwritable:
            pair.engine._native.replace_tap(unwritable.fileno(), bytes(6), ip_address("127.0.0.1").packed, b"", 8285)
            one = superpacket(os.urandom(10000))
            for _ in range(2):
                pair.send_tun(one.packet, one.vnet)
                pair.outbound()
        got = pair.read_peer()
        assert b"".join(data[52:] for data in got) == one.payload * 2
        assert told == ["tunnel_gso"]
        assert pair.engine.gauges()["tunnel_gso"] == 0
    finally:
        pair.close()


def test_other_protocols_and_few_segments_do_not_go_that_way(pair: Pair) -> None:
    pair.answer()
    pair.answer()
    two = superpacket(os.urandom(2000))
    pair.send_tun(two.packet, two.vnet)
    pair.send_tun(packet("fd00:1::2", "fd00:2::3", bytes(1000)))
    pair.outbound()
    assert pair.tap.read() == []
    assert len(pair.read_peer()) == 3
