"""What the native engine does when the kernel, a table or a virtio-net header refuses, without privileges."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from overlayd.core.forward import DropReason, ForwardingTable, Peer
from overlayd.datapath.settings import UdpSettings
from support.native import ACK, TCPV4, Super, compiled, number, tcp, valid, vnet
from support.native import native as native_module
from support.packets import packet
from support.rig import KINDS, MTU, OWN, PLAIN, NativeEngine, Rig, inbound_flow, small, superpacket

SOL_UDP, UDP_SEGMENT = 17, 103
HERE, THERE = "10.1.1.2", "10.1.2.3"


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


# --- the TUN ----------------------------------------------------------------------------------------------------------


def test_a_superpacket_that_the_tun_refuses_is_written_apart(native: Rig) -> None:
    """A UDP socket that splits by 64 bytes stands for the TUN: EINVAL for more than 128 times that, as from a kernel
    that knows no such superpackets. What is written apart comes out in pieces, in order."""
    outside, inside = native._udp("127.0.0.1"), native._udp("127.0.0.1")
    outside.connect(inside.getsockname())
    inside.connect(outside.getsockname())
    inside.setsockopt(SOL_UDP, UDP_SEGMENT, 64)
    native.engine.replace_tun(inside.fileno())
    flow = inbound_flow(9, 1000)
    for _ in range(16):
        for one in flow:
            native.peer.sendto(one, native.local.getsockname())
        native.inbound()
        pieces = []
        while True:
            try:
                pieces.append(outside.recv(70000))
            except BlockingIOError:
                break
        assert b"".join(pieces) == b"".join(PLAIN + one for one in flow)
    counters = native.engine.counters()
    assert (counters.total.rx_packets, counters.total.rx_bytes, counters.rx_drops) == (144, 144 * 1040, {})
    gauges = native.engine.gauges()
    assert (gauges["coalesce_refusals"], gauges["coalesce_tcp"], gauges["coalesce_udp"]) == (16, 0, 0), (
        "no more are made"
    )
    native.engine.restore_offloads()
    gauges = native.engine.gauges()
    assert (gauges["coalesce_tcp"], gauges["coalesce_udp"]) == (1, 1)
    outside.close()
    inside.close()


def test_a_tun_that_takes_nothing(native: Rig) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        native.engine.replace_tun(fd)
        for one in (*inbound_flow(5, 100), small(1, THERE, HERE)):
            native.peer.sendto(one, native.local.getsockname())
        native.inbound()
    finally:
        os.close(fd)
    counters = native.engine.counters()
    assert (counters.rx_drops, counters.total.rx_packets) == ({"tun_error": 6}, 0)


def test_less_than_a_virtio_net_header(native: Rig) -> None:
    native.tun.send(b"abc")
    native.send_tun(small(1))
    native.outbound()
    assert native.engine.counters().tx_drops == {"too_short": 1}
    assert native.read_peer() == [small(1)]


def test_a_virtio_net_header_that_does_not_fit_the_packet(native: Rig) -> None:
    native.send_tun(tcp(bytes(3000)), vnet(TCPV4, 1000, 24, 16, 44))
    native.send_tun(tcp(bytes(30)), vnet(0, 0, 20, 9999, 0))
    native.outbound()
    assert native.engine.counters().tx_drops == {"length_mismatch": 2}
    assert native.read_peer() == []


# --- the sockets ------------------------------------------------------------------------------------------------------


def test_a_packet_longer_than_any_datagram(rig: Rig) -> None:
    """EMSGSIZE from the socket: the container is told."""
    rig.engine.replace_table(ForwardingTable(OWN, [], 65535, [(ip_network("10.1.2.0/24"), rig.alpha)]))
    rig.send_tun(packet(HERE, THERE, bytes(65500)))
    rig.send_tun(small(1))
    rig.outbound()
    assert rig.read_peer() == [small(1)]
    assert rig.engine.counters().tx_drops == {"too_long": 1}


def test_no_socket_of_the_carrier(native: Rig) -> None:
    beyond = Peer("::1", 9, 6, "beyond")
    native.engine.replace_table(ForwardingTable(OWN, [], MTU, [(ip_network("10.1.2.0/24"), beyond)]))
    native.send_tun(small(1))
    native.outbound()
    assert native.engine.counters().tx_drops == {"send_error": 1}


def test_a_socket_that_refuses_runs_and_datagrams() -> None:
    """A unix socket says EINVAL to any IP address."""
    rig = Rig("native")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        engine = native_module.Engine(ours.fileno(), -1, 128, 0)
        engine.replace_table(compiled(rig.table)[0])
        engine.replace_tun(rig._inner.fileno(), True, True, True)
        for n in range(3):
            rig.send_tun(small(n))
        assert engine.outbound() == 3
        _, _, drops, _ = engine.counters()
        assert dict(zip(native_module.REASONS, drops[native_module.OUTBOUND], strict=True))["send_error"] == 3
        assert engine.gauges()["run_segments"] == 128, "what refuses everything says nothing about runs"
    finally:
        rig.close()
        ours.close()
        theirs.close()


def test_an_error_on_the_socket_is_no_end(native: Rig) -> None:
    """ECONNREFUSED, from an earlier datagram to a port that nobody has: what comes behind it is received."""
    native.local.connect(native.peer.getsockname())
    address = native.peer.getsockname()
    native.peer.close()
    native.local.send(b"to nobody")
    native.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    native.peer.bind(address)
    native.peer.sendto(small(1, THERE, HERE), native.local.getsockname())
    native.inbound()
    assert native.read_tun() == [(PLAIN, small(1, THERE, HERE))]


def test_over_ipv6(rig: Rig) -> None:
    local, peer = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
    try:
        local.bind(("::1", 0))
        peer.bind(("::1", 0))
        beyond = Peer("::1", peer.getsockname()[1], 6, "beyond")
        table = ForwardingTable(OWN, [], MTU, [(ip_network(net), beyond) for net in ("10.1.2.0/24", "fd00:2::/64")])
        if isinstance(rig.engine, NativeEngine):
            engine = NativeEngine(rig._inner.fileno(), {6: local}, table, vnet_header=rig.vnet)
        else:
            engine = type(rig.engine)(rig._inner.fileno(), {6: local}, table)
        out = [small(1), small(2, "fd00:1::2", "fd00:2::3")]
        for one in out:
            rig.send_tun(one)
        engine.outbound()
        assert [peer.recv(2000) for _ in out] == out
        back = [small(1, THERE, HERE), small(2, "fd00:2::3", "fd00:1::2")]
        for one in (*back, small(3, "10.1.9.9", HERE)):
            peer.sendto(one, local.getsockname())
        engine.inbound(6)
        assert rig.read_tun() == [(PLAIN, one) for one in back]
        assert engine.counters().rx_drops == {"spoofed_source": 1}
    finally:
        local.close()
        peer.close()


# --- more than fits ---------------------------------------------------------------------------------------------------


def test_more_messages_than_are_sent_at_once() -> None:
    rig = Rig("native", settings=UdpSettings(without_offloads="udp_gso"))
    try:
        one = superpacket(os.urandom(300 * 100), 100)
        rig.send_tun(one.packet, one.vnet)
        rig.outbound()
        assert b"".join(data[52:] for data in rig.read_peer()) == one.payload
    finally:
        rig.close()


def test_more_headers_than_are_kept(native: Rig) -> None:
    one = Super(4, os.urandom(2100 * 4), 4, ACK, bytes([1] * 40), bytes([1] * 40), 5)
    native.send_tun(one.packet, one.vnet)
    native.outbound()
    segments = native.read_peer()
    assert b"".join(data[120:] for data in segments) == one.payload
    assert all(map(valid, segments))


def test_more_bytes_than_are_read_at_once(native: Rig) -> None:
    sent = [superpacket(os.urandom(64000)) for _ in range(8)]
    for one in sent:
        native.send_tun(one.packet, one.vnet)
    received = b""
    while native.engine.outbound() > 0:
        received += b"".join(data[52:] for data in native.read_peer())
    assert received == b"".join(one.payload for one in sent)


def test_more_refused_than_are_kept_for_an_answer(native: Rig) -> None:
    long = packet(THERE, HERE, bytes(1500))
    for _ in range(2):
        run = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(long)))]
        native.peer.sendmsg([long * 40], run, 0, native.local.getsockname())
    native.engine.inbound(4)
    counters = native.engine.counters()
    assert counters.rx_drops == {"too_long": 80}
    assert counters.icmp_sent + counters.icmp_limited == 80
    assert counters.icmp_limited >= 80 - 64


# --- calls in the wrong order -----------------------------------------------------------------------------------------


def test_a_burst_without_a_table() -> None:
    engine = native_module.Engine(-1, -1, 1, 0)
    with pytest.raises(RuntimeError, match="replace_table"):
        engine.outbound()
    with pytest.raises(RuntimeError, match="replace_table"):
        engine.inbound(4)


def test_what_is_no_table(native: Rig) -> None:
    engine = native_module.Engine(-1, -1, 1, 0)
    for wrong in (None, native.table, engine):
        with pytest.raises(TypeError, match="takes a Table"):
            engine.replace_table(wrong)


def test_the_verdict_on_a_packet_that_is_too_long(native: Rig) -> None:
    made, _ = compiled(native.table)
    assert made.outbound(packet(HERE, THERE, bytes(MTU))) == number(DropReason.TOO_LONG)
