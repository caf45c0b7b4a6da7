"""Two WireGuard tunnels in memory: no socket, no clock, no chance."""

from __future__ import annotations

import base64
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.datapath.wireguard.common import Endpoint, TunnelDrop
from overlayd.datapath.wireguard.cookies import CookieJar
from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.replay import WINDOW
from overlayd.datapath.wireguard.session import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from overlayd.datapath.wireguard.tunnel import Opened, Outcome, Tunnel
from overlayd.wire.wireguard import Kind, kind_of
from support.packets import packet

MTU = 1420
A, B, ELSEWHERE = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820), Endpoint("192.0.2.77", 7)
PACKET = packet("10.1.1.2", "10.1.2.2", b"hello")
ANSWER = packet("10.1.2.2", "10.1.1.2", b"hello yourself")


class Pair:
    """Tunnel `a`, which begins, and tunnel `b`, each the other's peer."""

    def __init__(self, psk_a: bytes = bytes(32), psk_b: bytes = bytes(32), seed: int = 1, keepalive: int = 0) -> None:
        chance = random.Random(seed)
        self.now = 1000.0
        self.wall = 1_700_000_000 * 10**9
        self.key_a, self.key_b = PrivateKey(chance.randbytes(32)), PrivateKey(chance.randbytes(32))
        self.chance = chance
        self.a, self.b = self.make_a(psk_a, keepalive), self.make_b(psk_b)

    def make_a(self, psk: bytes = bytes(32), keepalive: int = 0) -> Tunnel:
        made = Tunnel(self.key_a, psk, keepalive, random=self.chance.randbytes, wall=lambda: self.wall)
        made.replace_peers({self.key_b.public: B}, MTU)
        return made

    def make_b(self, psk: bytes = bytes(32)) -> Tunnel:
        made = Tunnel(self.key_b, psk, random=self.chance.randbytes, wall=lambda: self.wall)
        made.replace_peers({self.key_a.public: A}, MTU)
        return made

    def send(self, data: bytes = PACKET) -> None:
        assert self.a.send(self.key_b.public, data, self.now)

    def answer(self, data: bytes = ANSWER) -> None:
        assert self.b.send(self.key_a.public, data, self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.wall += int(seconds * 10**9)

    def from_a(self) -> list[bytes]:
        return [one.datagram for one in self.a.datagrams()]

    def from_b(self) -> list[bytes]:
        return [one.datagram for one in self.b.datagrams()]

    def to_a(self, message: bytes) -> Outcome:
        return self.a.receive(message, B, self.now)

    def to_b(self, message: bytes) -> Outcome:
        return self.b.receive(message, A, self.now)

    def settle(self) -> tuple[list[Outcome], list[Outcome]]:
        """Carry datagrams until there are none; what came out at `a` and at `b`."""
        at_a: list[Outcome] = []
        at_b: list[Outcome] = []
        while (from_a := self.from_a()) + (from_b := self.from_b()):
            at_b += [self.to_b(one) for one in from_a]
            at_a += [self.to_a(one) for one in from_b]
        return [one for one in at_a if one is not None], [one for one in at_b if one is not None]

    def live_a(self, seconds: float, step: float = 0.25) -> list[bytes]:
        """What `a` sends while nobody answers."""
        sent = []
        for _ in range(int(seconds / step)):
            self.pass_time(step)
            self.a.tick(self.now)
            sent += self.from_a()
        return sent


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def up() -> Pair:
    """With a session."""
    made = Pair()
    made.send()
    made.settle()
    return made


def kinds(messages: list[bytes]) -> list[Kind | None]:
    return [kind_of(one) for one in messages]


# --- handshakes -------------------------------------------------------------------------------------------------------


def test_the_first_packet_waits_for_the_handshake_and_arrives(pair: Pair) -> None:
    pair.send()
    (initiation,) = pair.from_a()
    assert (len(initiation), kind_of(initiation)) == (148, Kind.INITIATION)
    assert pair.to_b(initiation) is None
    (response,) = pair.from_b()
    assert (len(response), kind_of(response)) == (92, Kind.RESPONSE)
    assert pair.to_a(response) is None
    (data,) = pair.from_a()
    assert pair.to_b(data) == Opened(pair.key_a.public, PACKET)
    pair.answer()
    (data,) = pair.from_b()
    assert pair.to_a(data) == Opened(pair.key_b.public, ANSWER)


def test_with_the_same_preshared_key_only() -> None:
    same, other = Pair(b"p" * 32, b"p" * 32), Pair(b"p" * 32, b"q" * 32)
    for pair in (same, other):
        pair.send()
    assert same.settle()[1] == [Opened(same.key_a.public, PACKET)]
    assert other.settle() == ([TunnelDrop.BAD_HANDSHAKE], [])


def test_the_responder_sends_nothing_before_the_initiator_has_shown_that_it_has_the_keys(pair: Pair) -> None:
    pair.a.initiate_all(pair.now)
    pair.to_b(pair.from_a()[0])
    (response,) = pair.from_b()
    pair.answer()
    assert Kind.DATA not in kinds(pair.from_b())
    pair.to_a(response)
    (keepalive,) = pair.from_a()
    assert len(keepalive) == 32
    assert pair.to_b(keepalive) is None
    assert pair.to_a(pair.from_b()[-1]) == Opened(pair.key_b.public, ANSWER)


def test_both_begin_at_once(pair: Pair) -> None:
    pair.send()
    pair.answer()
    at_a, at_b = pair.settle()
    assert at_a == [Opened(pair.key_b.public, ANSWER)]
    assert at_b == [Opened(pair.key_a.public, PACKET)]
    pair.send()
    pair.answer()
    assert pair.settle() == (at_a, at_b)


def test_an_unanswered_handshake_is_repeated_with_new_secrets_then_given_up_and_begun_again(pair: Pair) -> None:
    pair.send()
    first = pair.from_a()
    sent = pair.live_a(89)
    assert set(kinds(sent)) == {Kind.INITIATION}
    assert 15 <= len(sent) <= 18
    assert len({one[8:40] for one in first + sent}) == len(first + sent)  # ephemeral keys
    pair.live_a(10)
    assert pair.live_a(60) == []
    pair.send()
    assert kinds(pair.from_a()) == [Kind.INITIATION]


def test_packets_of_a_peer_that_does_not_answer_are_dropped_in_the_end_and_counted(pair: Pair) -> None:
    outcomes = [pair.a.send(pair.key_b.public, PACKET, pair.now) for _ in range(130)]
    assert outcomes == [True] * 128 + [False] * 2
    dropped = 0
    for _ in range(400):
        pair.pass_time(0.25)
        dropped += pair.a.tick(pair.now)
    assert dropped == 128


def test_a_stranger_is_not_answered(pair: Pair) -> None:
    stranger = PrivateKey(bytes(range(32)))
    theirs = Tunnel(stranger)
    theirs.replace_peers({pair.key_b.public: B}, MTU)
    theirs.send(pair.key_b.public, PACKET, pair.now)
    assert pair.to_b(theirs.datagrams()[0].datagram) is TunnelDrop.BAD_HANDSHAKE
    assert pair.from_b() == []


def test_a_replayed_initiation_is_refused_and_a_clock_that_jumped_back_locks_nobody_out(pair: Pair) -> None:
    pair.a.initiate_all(pair.now)
    (old,) = pair.from_a()
    assert pair.to_b(old) is None
    pair.from_b()
    pair.pass_time(6)
    assert pair.to_b(old) is TunnelDrop.BAD_HANDSHAKE
    assert pair.from_b() == []
    pair.wall -= 3600 * 10**9
    pair.a.tick(pair.now)
    assert pair.to_b(pair.from_a()[0]) is None


def test_initiations_of_a_peer_are_answered_no_more_than_50_times_a_second(pair: Pair) -> None:
    first, second = pair.make_a(), pair.make_a()
    first.initiate_all(pair.now)
    pair.wall += 10**9
    second.initiate_all(pair.now)
    assert pair.to_b(first.datagrams()[0].datagram) is None
    assert pair.to_b(second.datagrams()[0].datagram) is TunnelDrop.BAD_HANDSHAKE


def test_what_a_host_sends_is_of_no_use_when_it_comes_back_to_it(pair: Pair) -> None:
    pair.send()
    (initiation,) = pair.from_a()
    assert pair.to_a(initiation) is TunnelDrop.BAD_MAC
    pair.to_b(initiation)
    (response,) = pair.from_b()
    assert pair.to_b(response) is TunnelDrop.BAD_MAC
    pair.to_a(response)
    (data,) = pair.from_a()
    assert pair.to_a(data) is TunnelDrop.NO_SESSION


def test_a_response_is_taken_under_the_index_of_its_initiation_only(up: Pair) -> None:
    """Anybody can write another index into one, and sign it with mac1."""
    session = up.a.peers[up.key_b.public].sessions.current
    assert session is not None
    up.pass_time(6)
    up.a.initiate_all(up.now)
    up.to_b(up.from_a()[0])
    (response,) = up.from_b()
    other = response[:8] + struct.pack("<I", session.index) + response[12:-32]
    assert up.to_a(CookieJar(up.key_a.public).sign(other, up.now)) is TunnelDrop.BAD_HANDSHAKE
    assert up.a.peers[up.key_b.public].sessions.current is session
    assert up.to_a(response) is None


def test_our_own_key_and_keys_of_low_order_are_no_peers(pair: Pair) -> None:
    pair.a.replace_peers({pair.key_a.public: A, bytes(32): B, b"\1" + bytes(31): B}, MTU)
    assert pair.a.peers == {}
    assert not pair.a.send(bytes(32), PACKET, pair.now)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 4, 5, MTU - 28 - 4, MTU - 28 - 1, MTU - 28])
def test_padding_is_a_multiple_of_16_within_the_mtu_and_taken_off(up: Pair, size: int) -> None:
    whole = packet("10.1.1.2", "10.1.2.2", bytes(size))
    up.send(whole)
    (data,) = up.from_a()
    padded = len(data) - 32
    assert padded == min(-(-len(whole) // 16) * 16, MTU)
    assert up.to_b(data) == Opened(up.key_a.public, whole)


def test_unpadded_ones_are_taken(up: Pair) -> None:
    assert up.a.peers[up.key_b.public].send_unpadded(PACKET, up.now)
    (data,) = up.from_a()
    assert len(data) == 32 + len(PACKET)
    assert up.to_b(data) == Opened(up.key_a.public, PACKET)


def test_a_replay_is_refused_and_so_is_what_is_too_old(up: Pair) -> None:
    for _ in range(WINDOW + 2):
        up.send()
    sent = up.from_a()
    assert isinstance(up.to_b(sent[1]), Opened)
    assert up.to_b(sent[1]) is TunnelDrop.REPLAYED
    assert isinstance(up.to_b(sent[-1]), Opened)
    assert up.to_b(sent[0]) is TunnelDrop.REPLAYED
    assert isinstance(up.to_b(sent[2]), Opened)


@given(st.permutations(range(40)))
def test_reordered_ones_are_taken_once_each(order: list[int]) -> None:
    pair = Pair()
    pair.send()
    pair.settle()
    bodies = [packet("10.1.1.2", "10.1.2.2", bytes([n])) for n in range(40)]
    for body in bodies:
        pair.send(body)
    sent = pair.from_a()
    assert [pair.to_b(sent[n]) for n in order] == [Opened(pair.key_a.public, bodies[n]) for n in order]
    assert {pair.to_b(one) for one in sent} == {TunnelDrop.REPLAYED}


@given(st.data())
def test_a_flipped_bit_anywhere_is_noticed_and_changes_nothing(data: st.DataObject) -> None:
    pair = Pair()
    pair.send()
    message = pair.from_a()[0]
    for step in range(3):
        bit = data.draw(st.integers(0, len(message) * 8 - 1))
        flipped = (int.from_bytes(message, "little") ^ 1 << bit).to_bytes(len(message), "little")
        # Of a message without a cookie mac2 is not looked at.
        if step == 2 or bit < (len(message) - 16) * 8:
            to = (pair.to_b, pair.to_a, pair.to_b)[step]
            assert isinstance(to(flipped), TunnelDrop)
            assert pair.from_a() + pair.from_b() == []
        outcome = (pair.to_b, pair.to_a, pair.to_b)[step](message)
        message = next(iter((pair.from_b, pair.from_a, pair.from_a)[step]()), b"")
    assert outcome == Opened(pair.key_a.public, PACKET)


@given(st.binary(max_size=300) | st.builds(lambda n, rest: bytes([n, 0, 0, 0]) + rest, st.integers(0, 5), st.binary()))
def test_anything_at_all_is_dropped_with_a_reason(message: bytes) -> None:
    pair = Pair()
    assert isinstance(pair.to_b(message), TunnelDrop)
    assert pair.from_b() == []


@given(st.integers(0, 2), st.data())
def test_what_is_truncated_or_has_a_tail_is_dropped(step: int, data: st.DataObject) -> None:
    pair = Pair()
    pair.send()
    messages = [pair.from_a()[0]]
    pair.to_b(messages[0])
    messages.append(pair.from_b()[0])
    pair.to_a(messages[1])
    messages.append(pair.from_a()[0])
    message = messages[step]
    short = message[: data.draw(st.integers(0, len(message) - 1))]
    for wrong in (short, message + b"\0"):
        assert isinstance((pair.to_b, pair.to_a, pair.to_b)[step](wrong), TunnelDrop)


def test_a_sealed_text_that_is_no_packet_is_handed_on_as_it_is(up: Pair) -> None:
    for text in (b"\x45", b"\x60" + bytes(20), b"\xf0" * 16, b"\x45\0\xff\xff" + bytes(28)):
        up.send(text)
        assert up.settle()[1] == [Opened(up.key_a.public, text.ljust(-(-len(text) // 16) * 16, b"\0"))]


def test_counters_at_their_limits(up: Pair) -> None:
    session = up.a.peers[up.key_b.public].sessions.current
    assert session is not None
    up.pass_time(6)
    session.counter = REKEY_AFTER_MESSAGES + 1
    up.send()
    assert kinds(up.from_a()) == [Kind.DATA, Kind.INITIATION]
    session.counter = REJECT_AFTER_MESSAGES - 1
    up.send()
    (last,) = up.from_a()
    assert isinstance(up.to_b(last), Opened)
    up.send()
    assert up.from_a() == []  # it waits for the handshake
    beyond = last[:8] + struct.pack("<Q", REJECT_AFTER_MESSAGES) + last[16:]
    assert up.to_b(beyond) is TunnelDrop.NO_SESSION


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_initiator_makes_new_keys_after_two_minutes_without_losing_a_packet(up: Pair) -> None:
    first = up.a.peers[up.key_b.public].sessions.current
    up.pass_time(119)
    up.answer()
    up.settle()
    up.send()
    assert kinds(up.from_a()) == [Kind.DATA]
    up.pass_time(1)
    up.send()
    late, initiation = up.from_a()
    assert kind_of(initiation) is Kind.INITIATION
    up.to_b(initiation)
    up.to_a(up.from_b()[0])
    up.settle()
    assert up.a.peers[up.key_b.public].sessions.current is not first
    assert up.to_b(late) == Opened(up.key_a.public, PACKET)  # under the previous keys


def test_the_initiator_makes_new_keys_although_it_only_receives(up: Pair) -> None:
    up.pass_time(166)
    up.answer()
    up.to_a(up.from_b()[0])
    assert kinds(up.from_a()) == [Kind.INITIATION]


def test_keys_are_dropped_after_three_minutes(up: Pair) -> None:
    up.answer()
    (late,) = up.from_b()
    up.pass_time(180)
    assert up.to_a(late) is TunnelDrop.NO_SESSION
    up.a.tick(up.now)
    assert list(up.a.peers[up.key_b.public].sessions) == []
    up.send()
    assert kinds(up.from_a()) == [Kind.INITIATION]


def test_data_that_is_not_answered_is_acknowledged_by_a_keepalive(up: Pair) -> None:
    up.send()
    up.settle()
    up.pass_time(9.9)
    up.b.tick(up.now)
    assert up.from_b() == []
    up.pass_time(0.1)
    up.b.tick(up.now)
    (keepalive,) = up.from_b()
    assert (len(keepalive), up.to_a(keepalive)) == (32, None)
    assert Kind.INITIATION not in kinds(up.live_a(30))


def test_a_peer_that_does_not_react_to_data_gets_a_handshake_after_15_seconds(up: Pair) -> None:
    up.settle()
    up.send()
    up.from_a()
    assert up.live_a(14.5) == []
    up.send()  # counted from the first one that nothing has answered
    up.from_a()
    assert kinds(up.live_a(1)) == [Kind.INITIATION]


def test_persistent_keepalives(pair: Pair) -> None:
    pair = Pair(keepalive=25)
    pair.a.tick(pair.now)
    pair.settle()
    pair.a.tick(pair.now)
    assert kinds(pair.live_a(60)) == [Kind.DATA, Kind.DATA]


def test_after_a_restart_the_first_message_brings_a_new_session(up: Pair) -> None:
    up.pass_time(20)
    up.b = up.make_b()
    up.send()
    (lost,) = up.from_a()
    assert up.to_b(lost) is TunnelDrop.NO_SESSION
    assert kinds([one.datagram for one in up.b.datagrams()]) == [Kind.INITIATION]
    assert up.to_b(lost) is TunnelDrop.NO_SESSION
    assert up.from_b() == []  # not for each of them
    assert up.b.receive(lost, ELSEWHERE, up.now) is TunnelDrop.NO_SESSION


# --- addresses --------------------------------------------------------------------------------------------------------


def test_a_peer_is_followed_to_where_authentic_messages_come_from(up: Pair) -> None:
    up.answer()
    (data,) = up.from_b()
    forged = data[:-1] + bytes([data[-1] ^ 1])
    assert up.a.receive(forged, ELSEWHERE, up.now) is TunnelDrop.NOT_AUTHENTIC
    up.send()
    assert {one.endpoint for one in up.a.datagrams()} == {B}
    assert isinstance(up.a.receive(data, ELSEWHERE, up.now), Opened)
    up.send()
    assert {one.endpoint for one in up.a.datagrams()} == {ELSEWHERE}


def test_an_initiation_is_answered_where_it_came_from_and_moves_nobody_yet(up: Pair) -> None:
    up.pass_time(130)
    up.send()
    initiation = up.from_a()[-1]
    assert up.b.receive(initiation, ELSEWHERE, up.now) is None
    assert [one.endpoint for one in up.b.datagrams()] == [ELSEWHERE]
    up.answer()
    assert [one.endpoint for one in up.b.datagrams()] == [A]


def test_a_lease_that_changes_its_address_is_followed_and_the_session_kept(up: Pair) -> None:
    up.a.replace_peers({up.key_b.public: ELSEWHERE}, MTU)
    up.send()
    (data,) = up.a.datagrams()
    assert data.endpoint == ELSEWHERE
    assert isinstance(up.to_b(data.datagram), Opened)


def test_a_peer_that_is_gone_is_not_heard_any_more(up: Pair) -> None:
    up.answer()
    (data,) = up.from_b()
    up.a.replace_peers({}, MTU)
    assert up.to_a(data) is TunnelDrop.NO_SESSION
    assert not up.a.send(up.key_b.public, PACKET, up.now)


# --- load -------------------------------------------------------------------------------------------------------------


def flood(pair: Pair, count: int) -> list[Outcome]:
    """Initiations to `b` with a right mac1, from elsewhere."""
    stranger = Tunnel(PrivateKey(bytes(range(32))), random=pair.chance.randbytes)
    outcomes = []
    for _ in range(count):
        stranger.replace_peers({}, MTU)
        stranger.replace_peers({pair.key_b.public: B}, MTU)
        stranger.initiate_all(pair.now)
        outcomes.append(pair.b.receive(stranger.datagrams()[0].datagram, ELSEWHERE, pair.now))
    return outcomes


def test_under_load_a_cookie_is_asked_for_and_with_it_a_peer_gets_through(pair: Pair) -> None:
    outcomes = flood(pair, 1030)
    assert (outcomes[0], outcomes[-1]) == (TunnelDrop.BAD_HANDSHAKE, TunnelDrop.UNDER_LOAD)
    replies = pair.from_b()
    assert set(kinds(replies)) == {Kind.COOKIE_REPLY}
    assert {len(one) for one in replies} == {64}
    pair.send()
    (first,) = pair.from_a()
    assert pair.to_b(first) is TunnelDrop.UNDER_LOAD
    (reply,) = pair.from_b()
    forged = reply[:-1] + bytes([reply[-1] ^ 1])
    assert pair.to_a(forged) is TunnelDrop.BAD_HANDSHAKE
    assert pair.to_a(reply) is None
    assert pair.to_a(reply) is TunnelDrop.BAD_HANDSHAKE
    pair.pass_time(5.5)
    flood(pair, 1030)
    pair.from_b()
    pair.a.tick(pair.now)
    (second,) = pair.from_a()
    assert pair.b.receive(second, ELSEWHERE, pair.now) is TunnelDrop.UNDER_LOAD  # a cookie is for one address
    pair.from_b()
    assert pair.to_b(second) is None
    assert pair.settle()[1] == [Opened(pair.key_a.public, PACKET)]


def test_under_load_an_address_with_a_cookie_is_limited_too(pair: Pair) -> None:
    flood(pair, 1030)
    pair.send()
    (first,) = pair.from_a()
    pair.from_b()
    pair.to_b(first)
    pair.to_a(pair.from_b()[0])
    outcomes = []
    pair.pass_time(5.5)
    pair.a.tick(pair.now)
    (second,) = pair.from_a()
    flood(pair, 1030)
    pair.from_b()
    outcomes = [pair.to_b(second) for _ in range(20)]
    assert outcomes == [None] + [TunnelDrop.BAD_HANDSHAKE] * 4 + [TunnelDrop.UNDER_LOAD] * 15
    assert kinds(pair.from_b()) == [Kind.RESPONSE]


def test_a_host_is_at_ease_again_a_second_after(pair: Pair) -> None:
    flood(pair, 1030)
    pair.pass_time(1.5)
    pair.send()
    assert pair.to_b(pair.from_a()[0]) is None


def test_keys_do_not_show(pair: Pair) -> None:
    raw = base64.b64encode(bytes(range(32))).decode()
    assert raw not in repr(PrivateKey(bytes(range(32))))
