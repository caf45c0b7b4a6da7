"""The engine of wireguard mode whole: sockets on loopback are the underlay, pairs of unix sockets are the TUNs.

`a` at 127.0.0.1 and `b` at 127.0.0.2 are peers; `c` has a lease as well, and never speaks.
"""

from __future__ import annotations

import base64
import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from overlayd.core.forward import ForwardingTable, Peer
from overlayd.datapath.wireguard.engine import WireguardEngine
from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.tunnel import Tunnel
from support.packets import packet

MTU = 1420
KEYS = {name: PrivateKey(bytes([number]) * 32) for number, name in enumerate("abc", 1)}
SUBNETS = {"a": "10.1.1.0/24", "b": "10.1.2.0/24", "c": "10.1.3.0/24"}


class Host:
    """An engine, the containers' end of its TUN, and its socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tun, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind((f"127.0.0.{ord(name) - ord('a') + 1}", 0))
        self.now = 100.0
        self.engine: WireguardEngine

    def start(self, others: list[Host]) -> None:
        tunnel = Tunnel(KEYS[self.name], wall=lambda: int(self.now * 10**9))
        self.engine = WireguardEngine(
            self._inner.fileno(), {4: self.socket}, self.table(others), {4: tunnel}, lambda: self.now
        )

    def table(self, others: list[Host]) -> ForwardingTable:
        own = ip_network(SUBNETS[self.name])
        routes = [(ip_network(SUBNETS[one.name]), one.as_peer()) for one in others]
        return ForwardingTable([own], [ip_address("10.1.1.0")], MTU, routes)

    def as_peer(self) -> Peer:
        host, port = self.socket.getsockname()
        return Peer(host, port, 4, self.name, public_key=base64.b64encode(KEYS[self.name].public).decode())

    def send(self, *packets: bytes) -> None:
        for one in packets:
            self.tun.send(one)
        self.engine.outbound()

    def received(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.tun.recv(70000))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for one in (self.tun, self._inner, self.socket):
            one.close()


def settle(*hosts: Host) -> None:
    while sum(host.engine.inbound(4) for host in hosts):
        pass


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    a, b, c = Host("a"), Host("b"), Host("c")
    a.start([b, c])
    b.start([a, c])
    settle(a, b)
    yield a, b
    for host in (a, b, c):
        host.close()


def test_packets_arrive_and_are_not_on_the_wire(pair: tuple[Host, Host]) -> None:
    a, b = pair
    secret = packet("10.1.1.2", "10.1.2.2", b"a secret of containers")
    a.send(secret)
    datagram = b.socket.recv(2000, socket.MSG_PEEK)
    assert b"secret" not in datagram
    settle(a, b)
    assert b.received() == [secret]
    sent, got = a.engine.counters(), b.engine.counters()
    assert (sent.total.tx_packets, sent.total.tx_bytes, sent.peers["b"].tx_packets) == (1, len(secret), 1)
    assert (got.total.rx_packets, got.total.rx_bytes, got.peers["a"].rx_packets) == (1, len(secret), 1)


def test_who_sent_a_packet_is_whose_key_sealed_it(pair: tuple[Host, Host]) -> None:
    """A peer uses the addresses of its own lease only, and reaches this host's containers only."""
    a, b = pair
    tunnel = a.engine._tunnels[4]
    wrong = {
        "spoofed_source": packet("10.1.3.2", "10.1.2.2", b"as c"),
        "destination_not_own": packet("10.1.1.2", "192.0.2.1", b"to the underlay"),
        "bad_version": b"\xf0" * 32,
        "length_mismatch": packet("10.1.1.2", "10.1.2.2", b"x" * 40)[:-20],
    }
    for one in wrong.values():
        tunnel.send(KEYS["b"].public, one, a.now)
    a.engine._flush(4)
    settle(a, b)
    assert b.received() == []
    assert b.engine.counters().rx_drops == dict.fromkeys(wrong, 1)


def test_a_datagram_from_a_peers_address_that_is_not_sealed_is_dropped(pair: tuple[Host, Host]) -> None:
    a, b = pair
    plain = packet("10.1.1.2", "10.1.2.2", b"plain")
    for payload in (plain, b"\4\0\0\0" + bytes(28) + plain, b""):
        a.socket.sendto(payload, b.socket.getsockname())
    settle(b)
    assert b.received() == []
    assert b.engine.counters().rx_drops == {"not_wireguard": 2, "no_session": 1}


def test_a_packet_that_is_too_long_for_the_peer_is_answered_through_the_tunnel(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.engine.replace_table(b.table([a]))
    long = packet("10.1.1.2", "10.1.2.2", bytes(MTU), dont_fragment=True)
    a.engine._tunnels[4].send(KEYS["b"].public, long, a.now)
    a.engine._flush(4)
    settle(a, b)
    assert b.received() == []
    assert b.engine.counters().rx_drops == {"too_long": 1}


def test_a_peer_whose_lease_is_gone_gets_nothing_through(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.engine.replace_table(b.table([]))
    a.send(packet("10.1.1.2", "10.1.2.2", b"late"))
    settle(a, b)
    assert b.received() == []
    assert b.engine.counters().rx_drops == {"no_session": 1}


def test_after_a_restart_it_begins_sessions_itself(pair: tuple[Host, Host]) -> None:
    a, b = pair
    a.now += 60
    b.now += 60
    b.start([a])
    settle(a, b)
    a.send(packet("10.1.1.2", "10.1.2.2", b"hello again"))
    settle(a, b)
    assert len(b.received()) == 1


def test_packets_to_a_silent_peer_are_dropped_and_counted_in_the_end(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    a.send(*[packet("10.1.1.2", "10.1.3.2", b"anybody?")] * 3)
    for _ in range(400):
        a.now += 0.25
        a.engine.tick()
    assert a.engine.counters().tx_drops == {"no_session": 3}


class NarrowSocket:
    """Takes datagrams of `limit` bytes at most, as a socket with DF does where the kernel knows a narrow path."""

    def __init__(self, inner: socket.socket, limit: int) -> None:
        self._inner, self._limit = inner, limit
        self.sent: list[int] = []

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        if len(data) > self._limit:
            raise OSError(errno.EMSGSIZE, "Message too long")
        self.sent.append(len(data))
        return self._inner.sendto(data, address)


@pytest.mark.parametrize(("size", "arrives"), [(1300, True), (1303, True), (1304, False)])
def test_a_narrow_path_takes_a_packet_without_its_padding_or_the_container_is_told(
    pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, size: int, arrives: bool
) -> None:
    a, b = pair
    narrow: Any = NarrowSocket(a.socket, 1303 + 32)
    a.engine._sockets[4] = narrow
    monkeypatch.setattr("overlayd.datapath.wireguard.engine.path_mtu", lambda _: 1303 + 32 + 28)
    whole = packet("10.1.1.2", "10.1.2.2", bytes(size - 20), dont_fragment=True)
    a.send(whole)
    settle(b)
    assert b.received() == ([whole] if arrives else [])
    replies = a.received()
    assert a.engine.counters().tx_drops == ({} if arrives else {"too_long": 1})
    assert [(one[9], one[20:22], one[26:28]) for one in replies] == (
        [] if arrives else [(1, b"\3\4", (1303).to_bytes(2, "big"))]
    )


def test_a_full_socket_and_a_refusal_are_counted(pair: tuple[Host, Host]) -> None:
    a, _ = pair
    for error, reason in ((BlockingIOError(), "send_buffer_full"), (OSError(errno.ENETUNREACH, ""), "send_error")):
        broken: Any = SimpleNamespace(sendto=Mock(side_effect=error))
        a.engine._sockets[4] = broken
        a.send(packet("10.1.1.2", "10.1.2.2", b"x"))
        assert a.engine.counters().tx_drops[reason] == 1
