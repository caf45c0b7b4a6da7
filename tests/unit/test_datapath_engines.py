"""Both engines whole: sockets on loopback are the underlay, a pair of unix sockets is the TUN.

127.0.0.1 is this host, 127.0.0.2 and ::1 are peers, 127.0.0.3 is a stranger.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.datapath.contract import TUN_GONE
from overlayd.datapath.settings import UdpSettings
from support.native import ACK, TCPV4, tcp, valid, vnet
from support.packets import any_bytes, packet, read_error
from support.rig import KINDS, MTU, OWN, PLAIN, Rig, small, superpacket


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    one = Rig(request.param.split()[0], **KINDS[request.param])
    yield one
    one.close()


@pytest.fixture
def native() -> Iterator[Rig]:
    one = Rig("native")
    yield one
    one.close()


def test_a_burst_goes_out_in_order(rig: Rig) -> None:
    sent = [small(n) for n in range(200)]
    for one in sent:
        rig.send_tun(one)
    rig.outbound()
    assert rig.read_peer() == sent
    counters = rig.engine.counters()
    assert (counters.total.tx_packets, counters.total.tx_bytes) == (200, 200 * 60)
    assert counters.peers.keys() == {"alpha"}
    assert counters.peers["alpha"].tx_packets == 200


def test_sizes_in_turn_keep_their_order(rig: Rig) -> None:
    sent = [packet("10.1.1.2", "10.1.2.3", bytes([n]) * (1, 2, 2, 1, 0, 1444)[n % 6]) for n in range(60)]
    for one in sent:
        rig.send_tun(one)
    rig.outbound()
    assert rig.read_peer() == sent


def test_a_burst_comes_in_in_order(rig: Rig) -> None:
    sent = [packet("10.1.2.3", "10.1.1.2", struct.pack("!I", n) * 10, protocol=99) for n in range(200)]
    for one in sent:
        rig.peer.sendto(one, rig.local.getsockname())
    rig.inbound()
    assert rig.read_tun() == [(PLAIN, one) for one in sent]
    assert rig.engine.counters().peers["alpha"].rx_bytes == 200 * 60


def test_a_run_of_different_flows_is_told_apart(native: Rig) -> None:
    """UDP_GRO knows sizes only: sound, spoofed and foreign packets may share a buffer."""
    sent = [
        small(n, ("10.1.2.3", "10.1.9.9", "10.1.2.4")[n % 3], ("10.1.1.2", "10.1.1.2", "10.7.7.7")[n % 3])
        for n in range(30)
    ]
    native.peer.sendmsg([b"".join(sent)], [(17, 103, struct.pack("=H", 60))], 0, native.local.getsockname())
    native.inbound()
    assert [data for _, data in native.read_tun()] == sent[::3]
    assert native.engine.counters().rx_drops == {"spoofed_source": 10, "destination_not_own": 10}


def test_strangers_are_counted_by_datagram(rig: Rig) -> None:
    for n in range(5):
        rig.stranger.sendto(small(n, "10.1.2.3", "10.1.1.2"), rig.local.getsockname())
    rig.stranger.sendto(b"", rig.local.getsockname())
    rig.inbound()
    assert rig.read_tun() == []
    assert rig.engine.counters().rx_drops == {"unknown_peer": 6}
    assert rig.engine.unknown_sender() == "127.0.0.3"
    assert rig.engine.unknown_sender() is None, "since the last call"


def test_no_lease_is_answered(rig: Rig) -> None:
    rig.send_tun(packet("10.1.1.2", "10.1.9.9", bytes(8)))
    rig.outbound()
    ((header, answer),) = rig.read_tun()
    assert header == PLAIN
    error = read_error(answer)
    assert (error.kind, error.code, error.destination) == (3, 1, "10.1.1.2")
    counters = rig.engine.counters()
    assert (counters.tx_drops, counters.icmp_sent) == ({"no_lease": 1}, 1)


def test_too_long_is_answered_in_both_directions(rig: Rig) -> None:
    rig.send_tun(packet("10.1.1.2", "10.1.2.3", bytes(MTU)))
    rig.outbound()
    ((_, answer),) = rig.read_tun()
    assert read_error(answer).mtu == MTU
    whole = packet("10.1.2.3", "10.1.1.2", bytes(40000))
    rig.peer.sendto(whole, rig.local.getsockname())
    rig.inbound()
    (answer,) = rig.read_peer()
    error = read_error(answer)
    assert (error.mtu, error.destination) == (MTU, "10.1.2.3")
    assert whole.startswith(error.quoted)
    counters = rig.engine.counters()
    assert (counters.tx_drops, counters.rx_drops) == ({"too_long": 1}, {"too_long": 1})


def test_answers_are_limited(rig: Rig) -> None:
    for n in range(200):
        rig.send_tun(small(n, destination="10.1.9.9"))
    rig.outbound()
    counters = rig.engine.counters()
    assert counters.tx_drops == {"no_lease": 200}
    assert counters.icmp_sent + counters.icmp_limited == 200
    assert 40 <= counters.icmp_sent < 150


def test_an_unreachable_underlay_is_counted(rig: Rig) -> None:
    """127.0.0.9 is refused by nobody: loopback takes it. A table with a broadcast address for a peer is refused."""
    table = ForwardingTable(OWN, [], MTU, [(ip_network("10.1.2.0/24"), Peer("255.255.255.255", 1, 4, "all"))])
    rig.engine.replace_table(table)
    for n in range(3):
        rig.send_tun(small(n))
    rig.outbound()
    counters = rig.engine.counters()
    assert (counters.tx_drops, counters.total.tx_packets) == ({"send_error": 3}, 0)


def test_a_table_is_replaced_and_forgets(rig: Rig) -> None:
    rig.send_tun(small(1))
    rig.outbound()
    rig.engine.replace_table(ForwardingTable(OWN, [], MTU, [(ip_network("10.1.3.0/24"), rig.beta)]))
    rig.send_tun(small(2))
    rig.outbound()
    counters = rig.engine.counters()
    assert (counters.peers, counters.tx_drops, counters.total.tx_packets) == ({}, {"no_lease": 1}, 1)
    rig.engine.replace_table(rig.table)
    rig.send_tun(small(3))
    rig.outbound()
    assert rig.engine.counters().peers["alpha"].tx_packets == 1


def test_a_change_costs_no_other_peer_its_counters(rig: Rig) -> None:
    """A lease that is renewed with another address keeps its own, too."""
    rig.send_tun(small(1))
    rig.outbound()
    moved, beyond = Peer("127.0.0.9", rig.alpha.port, 4, "alpha"), Peer("127.0.0.8", 9, 4, "beyond")
    far = [(ip_network("10.1.9.0/24"), beyond)]
    old, new = ([(ip_network(net), peer) for net in ("10.1.2.0/24", "fd00:2::/64")] for peer in (rig.alpha, moved))
    table = rig.table
    for change in (Change([], far), Change(old, new), Change(far, [])):
        table = table.changed(change)
        rig.engine.replace_table(table, change)
    assert rig.engine.counters().peers["alpha"].tx_packets == 1
    rig.send_tun(small(2))
    rig.send_tun(small(3, destination="10.1.9.9"))
    rig.outbound()
    counters = rig.engine.counters()
    assert (counters.peers["alpha"].tx_packets, counters.tx_drops) == (2, {"no_lease": 1})
    change = Change(new, [])
    rig.engine.replace_table(table.changed(change), change)
    assert "alpha" not in rig.engine.counters().peers


def test_without_a_tun_nothing_is_written_anywhere(rig: Rig) -> None:
    """Its descriptor's number may be another file's by then."""
    rig.engine.replace_tun(None)
    rig.peer.sendto(packet("10.1.2.3", "10.1.1.2", bytes(30)), rig.local.getsockname())
    rig.peer.sendto(packet("10.1.2.3", "10.1.1.2", bytes(2000)), rig.local.getsockname())
    rig.send_tun(packet("10.1.1.2", "10.1.9.9", bytes(30)))
    rig.engine.inbound(4)
    assert rig.engine.outbound() == TUN_GONE
    assert rig.read_tun() == []
    assert rig.engine.counters().rx_drops == {"tun_error": 1, "too_long": 1}
    rig.engine.replace_tun(rig._inner.fileno())
    rig.peer.sendto(packet("10.1.2.3", "10.1.1.2", bytes(31)), rig.local.getsockname())
    rig.inbound()
    assert 51 in [len(one) for _, one in rig.read_tun()]


def test_a_tun_that_is_gone(rig: Rig) -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    try:
        rig.engine.replace_tun(fd)
        assert rig.engine.outbound() == TUN_GONE
    finally:
        os.close(fd)


def test_packets_without_hops_left_are_dropped(rig: Rig) -> None:
    for one in (packet("10.1.2.3", "10.1.1.2", ttl=0), packet("fd00:2::3", "fd00:1::2", hop_limit=0)):
        rig.peer.sendto(one, rig.local.getsockname())
    rig.inbound()
    assert rig.read_tun() == []
    assert rig.engine.counters().rx_drops == {"ttl_expired": 2}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(("peer", "stranger")), any_bytes()), max_size=30))
def test_the_engines_are_equal(traffic: list[tuple[bool, str, bytes]]) -> None:
    """Whatever comes, in both directions: the same packets, counters and answers."""
    seen = []
    sound = [
        (True, "peer", small(1)),
        (False, "peer", small(2, "10.1.2.3", "10.1.1.2")),
        (True, "peer", small(3, "10.1.1.2", "10.1.9.1")),
    ]
    for kind, options in KINDS.items():
        rig = Rig(kind.split()[0], **options)
        try:
            for out, sender, data in [*sound, *traffic]:
                if not out:
                    getattr(rig, sender).sendto(data, rig.local.getsockname())
                elif data:
                    rig.send_tun(data)
            rig.outbound()
            rig.inbound()
            counters = rig.engine.counters()
            seen.append((rig.read_tun(), rig.read_peer(), counters))
        finally:
            rig.close()
    assert all(one == seen[0] for one in seen[1:])


# --- superpackets -----------------------------------------------------------------------------------------------------


def test_superpackets_leave_as_segments(native: Rig) -> None:
    payloads = [os.urandom(size) for size in (64000, 1, 1420, 1421, 60000, 65000)]
    for payload in payloads:
        one = superpacket(payload)
        native.send_tun(one.packet, one.vnet)
    native.outbound()
    segments = native.read_peer()
    assert all(valid(one) and len(one) <= MTU for one in segments)
    assert b"".join(one[52:] for one in segments) == b"".join(payloads)
    counters = native.engine.counters()
    assert counters.total.tx_packets == len(segments)
    assert counters.total.tx_bytes == sum(map(len, segments))


def test_a_superpacket_of_tiny_segments(native: Rig) -> None:
    one = superpacket(os.urandom(20000), 8)
    native.send_tun(one.packet, one.vnet)
    native.outbound()
    segments = native.read_peer()
    assert len(segments) == 2500
    assert b"".join(data[52:] for data in segments) == one.payload


def test_a_superpacket_whose_segments_are_too_long(native: Rig) -> None:
    one = superpacket(bytes(10000), 1448)
    native.send_tun(one.packet, one.vnet)
    native.outbound()
    ((_, answer),) = native.read_tun()
    assert read_error(answer).mtu == MTU
    assert native.engine.counters().tx_drops == {"too_long": 7}


def test_a_superpacket_to_nobody_is_counted_by_segments(native: Rig) -> None:
    whole = tcp(bytes(4000), flags=ACK).replace(ip_address("10.1.2.3").packed, ip_address("10.1.9.9").packed)
    native.send_tun(whole, vnet(TCPV4, 1000, 20, 16, 40))
    native.outbound()
    assert native.engine.counters().tx_drops == {"no_lease": 4}
    assert len(native.read_tun()) == 1


def test_segments_come_in_as_a_superpacket(native: Rig) -> None:
    flow = [tcp(bytes([n]) * 1000, sequence=n * 1000, dont_fragment=True) for n in range(40)]
    for one in flow:  # from the peer to us: the sums do not change when the ends are swapped
        native.peer.sendto(one[:12] + one[16:20] + one[12:16] + one[20:], native.local.getsockname())
    native.inbound()
    ((header, whole),) = native.read_tun()
    assert header[:2] == bytes([1, TCPV4])
    assert whole[40:] == b"".join(bytes([n]) * 1000 for n in range(40))
    counters = native.engine.counters()
    assert (counters.total.rx_packets, counters.total.rx_bytes) == (40, 40 * 1040)


def test_what_the_kernel_refuses_as_a_run_goes_one_by_one() -> None:
    """No packet is lost; runs get shorter (an old kernel takes 64), then there are none; that is told once."""
    told: list[tuple[str, str]] = []
    rig = Rig("native", degraded=lambda *what: told.append(what))
    try:
        rig.local.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: with GSO the kernel says EINVAL
        for round_, segments in enumerate((64, 1, 1), 1):
            sent = [small(n) for n in range(50)]
            for one in sent:
                rig.send_tun(one)
            rig.outbound()
            assert rig.read_peer() == sent
            assert rig.engine.counters().total.tx_packets == 50 * round_
            assert rig.engine.gauges()["run_segments"] == segments
        assert told == [("udp_gso", "Invalid argument")]
        assert rig.engine.gauges()["udp_gso"] == 0
        rig.local.setsockopt(socket.SOL_SOCKET, 11, 0)
        rig.engine.restore_offloads()
        for one in sent:
            rig.send_tun(one)
        rig.outbound()
        assert rig.read_peer() == sent
        assert (rig.engine.gauges()["udp_gso"], rig.engine.gauges()["gso_failures"]) == (1, 2)
    finally:
        rig.close()


def test_offloads_are_named() -> None:
    rig = Rig("native", settings=UdpSettings(without_offloads="udp_gso,coalesce_udp"))
    try:
        gauges = rig.engine.gauges()
        assert (gauges["udp_gso"], gauges["coalesce_udp"], gauges["coalesce_tcp"]) == (0, 0, 1)
        assert "udp_gso" not in rig.engine.offloads
    finally:
        rig.close()


@pytest.mark.parametrize("poll", ["0", "200"])
def test_reads_are_counted_while_polling(poll: str) -> None:
    """The watchdog goes by them: what a poll carries is progress, too, of either direction."""
    rig = Rig("native", settings=UdpSettings(busy_poll_us=poll))
    try:
        for n in range(200):
            rig.send_tun(small(n))
        rig.peer.sendto(small(1, "10.1.2.3", "10.1.1.2"), rig.local.getsockname())
        rig.outbound()
        rig.inbound()
        assert len(rig.read_peer()) == 200
        progress = rig.engine.progress
        assert (progress.tx_reads, progress.rx_reads) == (200, 1)
    finally:
        rig.close()
