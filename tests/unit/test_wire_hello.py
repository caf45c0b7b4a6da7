"""Hellos between overlayd nodes, and the capabilities that they negotiate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.datapath.negotiation import HOLD_TIME, PeerCapabilities
from overlayd.wire import ip
from overlayd.wire.hello import LENGTH, Capability, Hello, HelloKind, HelloPath, decode

BOTH = Capability.PARTIAL_SUMS | Capability.ECN


@given(
    st.sampled_from(HelloKind),
    st.sampled_from(HelloPath),
    st.sampled_from((Capability(0), *Capability, BOTH)),
    st.binary(min_size=8, max_size=8),
)
def test_a_hello_round_trips_and_is_not_a_packet(
    kind: HelloKind, path: HelloPath, capabilities: Capability, nonce: bytes
) -> None:
    one = Hello(kind, path, capabilities, nonce)
    payload = one.encode()
    assert decode(payload) == one
    assert len(payload) == LENGTH
    assert ip.parse(payload) is ip.Malformed.VERSION
    assert len(one.reply(BOTH).encode()) <= len(payload), "nothing is amplified"


@given(st.binary(max_size=40))
def test_bytes_are_a_hello_or_none(payload: bytes) -> None:
    found = decode(payload)
    assert found is None or found.encode()[:7] == payload[:7]


SOUND = Hello(HelloKind.REQUEST, HelloPath.SOCKET, BOTH, bytes(8)).encode()


@pytest.mark.parametrize(("at", "value"), [(0, 0x45), (1, 0), (4, 2), (5, 2), (6, 2)])
def test_what_is_not_known_is_no_hello(at: int, value: int) -> None:
    assert decode(SOUND[:at] + bytes([value]) + SOUND[at + 1 :]) is None


def test_lengths() -> None:
    assert decode(SOUND[:-1]) is None
    assert decode(SOUND + b"\0") is None


def test_abilities_of_a_later_version_are_ignored() -> None:
    found = decode(SOUND[:7] + b"\xff" + SOUND[8:])
    assert found is not None
    assert found.capabilities == BOTH


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_path_is_good_while_answers_come() -> None:
    clock = Clock()
    peer = PeerCapabilities(clock)
    assert not peer.confirmed(HelloPath.SOCKET)
    for _ in range(3):
        (request,) = peer.requests([HelloPath.SOCKET], BOTH)
        peer.receive(request.reply(Capability.ECN))
        assert peer.confirmed(HelloPath.SOCKET)
        assert peer.capabilities == Capability.ECN
        clock.now += HOLD_TIME - 1
    clock.now += 1
    assert not peer.confirmed(HelloPath.SOCKET)
    assert peer.capabilities == Capability(0)


def test_paths_are_confirmed_separately() -> None:
    peer = PeerCapabilities(Clock())
    socket, tunnel = peer.requests([HelloPath.SOCKET, HelloPath.TUNNEL], BOTH)
    peer.receive(tunnel.reply(BOTH))
    assert (peer.confirmed(HelloPath.SOCKET), peer.confirmed(HelloPath.TUNNEL)) == (False, True)
    assert peer.capabilities == Capability(0), "the socket carries all that the tunnel does not"
    peer.receive(socket.reply(BOTH))
    assert peer.capabilities == BOTH


def test_unsolicited_replies_are_ignored() -> None:
    peer = PeerCapabilities(Clock())
    (first,) = peer.requests([HelloPath.SOCKET], BOTH)
    (second,) = peer.requests([HelloPath.SOCKET], BOTH)
    for one in (first.reply(BOTH), second, replace(second.reply(BOTH), nonce=bytes(8))):
        peer.receive(one)
        assert not peer.confirmed(HelloPath.SOCKET)
    peer.receive(replace(second.reply(BOTH), path=HelloPath.TUNNEL))
    assert not peer.confirmed(HelloPath.TUNNEL)


def test_an_invalidated_path_needs_a_new_request() -> None:
    peer = PeerCapabilities(Clock())
    (request,) = peer.requests([HelloPath.TUNNEL], BOTH)
    peer.receive(request.reply(BOTH))
    (late,) = peer.requests([HelloPath.TUNNEL], BOTH)
    peer.invalidate(HelloPath.TUNNEL)
    peer.receive(late.reply(BOTH))
    assert not peer.confirmed(HelloPath.TUNNEL)
