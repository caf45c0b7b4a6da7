"""Greetings between overlayd nodes, and what they make of an acquaintance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.datapath.negotiation import GOOD_FOR, Acquaintance
from overlayd.wire import ip
from overlayd.wire.hello import LENGTH, Ability, Greeting, Kind, Path, decode

BOTH = Ability.PARTIAL_SUMS | Ability.ECN


@given(
    st.sampled_from(Kind),
    st.sampled_from(Path),
    st.sampled_from((Ability(0), *Ability, BOTH)),
    st.binary(min_size=8, max_size=8),
)
def test_a_greeting_reads_back_and_is_no_packet(kind: Kind, path: Path, abilities: Ability, nonce: bytes) -> None:
    one = Greeting(kind, path, abilities, nonce)
    payload = one.encode()
    assert decode(payload) == one
    assert len(payload) == LENGTH
    assert ip.parse(payload) is ip.Malformed.VERSION
    assert len(one.answer(BOTH).encode()) <= len(payload), "nothing is amplified"


@given(st.binary(max_size=40))
def test_bytes_are_a_greeting_or_none(payload: bytes) -> None:
    found = decode(payload)
    assert found is None or found.encode()[:7] == payload[:7]


SOUND = Greeting(Kind.QUESTION, Path.SOCKET, BOTH, bytes(8)).encode()


@pytest.mark.parametrize(("at", "value"), [(0, 0x45), (1, 0), (4, 2), (5, 2), (6, 2)])
def test_what_is_not_known_is_no_greeting(at: int, value: int) -> None:
    assert decode(SOUND[:at] + bytes([value]) + SOUND[at + 1 :]) is None


def test_lengths() -> None:
    assert decode(SOUND[:-1]) is None
    assert decode(SOUND + b"\0") is None


def test_abilities_of_a_later_version_are_ignored() -> None:
    found = decode(SOUND[:7] + b"\xff" + SOUND[8:])
    assert found is not None
    assert found.abilities == BOTH


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_path_is_good_while_answers_come() -> None:
    clock = Clock()
    peer = Acquaintance(clock)
    assert not peer.good(Path.SOCKET)
    for _ in range(3):
        (question,) = peer.questions([Path.SOCKET], BOTH)
        peer.heard(question.answer(Ability.ECN))
        assert peer.good(Path.SOCKET)
        assert peer.abilities == Ability.ECN
        clock.now += GOOD_FOR - 1
    clock.now += 1
    assert not peer.good(Path.SOCKET)
    assert peer.abilities == Ability(0)


def test_paths_are_asked_apart() -> None:
    peer = Acquaintance(Clock())
    socket, tunnel = peer.questions([Path.SOCKET, Path.TUNNEL], BOTH)
    peer.heard(tunnel.answer(BOTH))
    assert (peer.good(Path.SOCKET), peer.good(Path.TUNNEL)) == (False, True)
    assert peer.abilities == Ability(0), "the socket carries all that the tunnel does not"
    peer.heard(socket.answer(BOTH))
    assert peer.abilities == BOTH


def test_what_nobody_asked_for_counts_for_nothing() -> None:
    peer = Acquaintance(Clock())
    (first,) = peer.questions([Path.SOCKET], BOTH)
    (second,) = peer.questions([Path.SOCKET], BOTH)
    for one in (first.answer(BOTH), second, replace(second.answer(BOTH), nonce=bytes(8))):
        peer.heard(one)
        assert not peer.good(Path.SOCKET)
    peer.heard(replace(second.answer(BOTH), path=Path.TUNNEL))
    assert not peer.good(Path.TUNNEL)


def test_a_path_that_was_lost_needs_a_new_question() -> None:
    peer = Acquaintance(Clock())
    (question,) = peer.questions([Path.TUNNEL], BOTH)
    peer.heard(question.answer(BOTH))
    (late,) = peer.questions([Path.TUNNEL], BOTH)
    peer.lost(Path.TUNNEL)
    peer.heard(late.answer(BOTH))
    assert not peer.good(Path.TUNNEL)
