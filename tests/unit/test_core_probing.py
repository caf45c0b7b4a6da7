"""What answers and silence say of peers, by a clock that the test turns."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd.core.probing import (
    BURST,
    MISSES,
    PATH_EVERY,
    PEER_BURST,
    RATE,
    TIMEOUT,
    WINDOW,
    Ask,
    PathSize,
    Patient,
    Probing,
    Target,
)
from overlayd.wire.probe import LENGTH, Kind, Probe, Sender

THEM = Sender(1, "0.1.0", 1472, True)
B = Target("192.0.2.2", 8286, 4, "10.1.2.0-24")
MTU = 1500
RTT = 0.001


class World:
    """A host that probes, and a network of which the test says what it carries."""

    def __init__(self, *targets: Target, interval: float = 10.0) -> None:
        self.now = 1000.0
        nonces = itertools.count()
        self.probing = Probing(interval, lambda size: next(nonces).to_bytes(size, "big"), lambda: 0.5, self.now)
        self.probing.follow(targets, MTU, self.now)
        self.path = {target.host: MTU for target in targets}
        """Bytes of the longest packet that gets through; 0 for a host that is away."""
        self.asked: list[tuple[float, Ask]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for patient, ask in list(self.probing.due(self.now)):
                self.asked.append((self.now, ask))
                if ask.length + patient.overhead <= self.path[ask.target.host]:
                    answer = Probe(Kind.ANSWER, THEM, ask.nonce, ask.length)
                    assert self.probing.answered(ask.target.host, answer, self.now + RTT) == pytest.approx(RTT)
            self.now += max(self.probing.pause(self.now), 0.02)

    def patient(self, target: Target = B) -> Patient:
        return self.probing.patients[target.host]

    def problem(self, known: int = MTU) -> str | None:
        return self.patient().problem(self.now, lambda: known)


def test_a_peer_that_answers() -> None:
    world = World(B)
    world.run(300)
    one = world.patient()
    assert (one.state, one.loss, one.asked, one.path.found) == ("reachable", 0.0, WINDOW, MTU)
    assert one.rtts == pytest.approx([RTT] * WINDOW, abs=1e-6)
    assert world.problem() is None
    assert list(one.notes("udp", "udp", 1472)) == []
    lengths = Counter(ask.length for _, ask in world.asked)
    assert 29 <= lengths[LENGTH] <= 31, "every ten seconds"
    assert lengths[MTU - 28] == 300 // PATH_EVERY, "and every minute one as long as the path should take"


def test_a_peer_that_goes_and_comes() -> None:
    world = World(B)
    world.run(60)
    world.path[B.host] = 0
    world.run(10 + MISSES * TIMEOUT)
    assert world.patient().state == "unreachable"
    assert [one.target for one in world.probing.turned] == [B]
    problem = world.problem()
    assert problem is not None
    assert problem.startswith("192.0.2.2 has not answered for 2")
    assert problem.endswith("its host or its overlayd is down, or UDP port 8286 is filtered on the way")
    before = len(world.asked)
    world.run(100)
    assert len(world.asked) - before <= 11, "one that is away is asked no oftener than others"
    world.path[B.host] = MTU
    world.run(11)
    assert world.patient().state == "reachable"
    assert world.problem() is None
    assert [one.target for one in world.probing.turned] == [B, B]


def test_a_lost_probe_is_loss_and_no_more() -> None:
    world = World(B)
    world.run(60)
    world.path[B.host] = 0
    world.run(1.5)
    assert world.patient().misses > 0
    world.path[B.host] = MTU
    world.run(5)
    assert world.patient().state == "reachable"
    assert world.probing.turned == []
    assert 0 < world.patient().loss < 1
    world.run(WINDOW * 10 + 60)
    assert world.patient().loss == 0, "what is long ago is forgotten"


def test_a_peer_that_asks_us_is_asked_at_once() -> None:
    world = World(B)
    world.path[B.host] = 0
    world.run(9)
    assert world.patient().state == "unreachable"
    world.path[B.host] = MTU
    world.asked.clear()
    for _ in range(100):
        world.probing.may_answer(world.patient(), world.now)
    world.run(0.1)
    assert world.patient().state == "reachable"
    assert [ask.length for _, ask in world.asked] == [LENGTH, MTU - 28]


def test_words_for_what_is_known_of_a_silent_peer() -> None:
    world = World(B)
    world.path[B.host] = 0
    world.run(30)
    assert str(world.problem()).startswith("192.0.2.2 has never answered: its host")
    world.probing.may_answer(world.patient(), world.now)
    assert "it asks us, so packets come from there" in str(world.problem())
    world.patient().error = "this host has no route to it"
    assert str(world.problem()).endswith(": this host has no route to it")


def test_words_for_a_peer_that_is_odd() -> None:
    world = World(B)
    world.run(20)
    one = world.patient()
    one.sender = Sender(2, "9.9", 1430, False)
    assert list(one.notes("vxlan", "udp", 1472)) == [
        "it runs mode vxlan, this host udp",
        "its overlay MTU is 1430, this host's 1472",
        "it says of itself that it is not well (overlayctl status there)",
    ]


def test_what_the_kernel_refuses_is_a_miss_with_its_reason() -> None:
    world = World(B)
    world.now += 1
    for _ in range(MISSES):
        for patient, _ in world.probing.due(world.now):
            patient.refused("no route", world.now, too_long=False)
        world.now += 1.5
    list(world.probing.due(world.now))
    assert world.problem() == "192.0.2.2 has never answered: no route"


# --- the size of the path ---------------------------------------------------------------------------------------------


@given(st.integers(576, 9000), st.integers(576, 9000))
@settings(max_examples=50)
def test_the_size_of_the_path_is_found_and_followed(first: int, second: int) -> None:
    path = PathSize(576, 9000, 0.0)
    for size in (first, second, first):
        path.due, steps = 0.0, 0
        while path.due == 0.0:
            if path.size <= size:
                path.answered(1.0)
            else:
                path.lost(1.0)
            steps += 1
        assert path.found == size
        assert path.narrow == (size < 9000)
        assert steps <= 60


def test_a_path_that_stays_narrow_is_confirmed_in_three_sizes() -> None:
    path = PathSize(576, 1500, 0.0)
    tried = []
    for _ in range(2):
        path.due = 0.0
        tried.clear()
        while path.due == 0.0:
            tried.append(path.size)
            path.answered(1.0) if path.size <= 1400 else path.lost(1.0)
    assert tried == [1500, 1500, 1500, 1400, 1401, 1401]


def test_a_black_hole_is_told_from_a_path_that_the_kernel_knows() -> None:
    world = World(B)
    world.path[B.host] = 1400
    world.run(90)
    one = world.patient()
    assert (one.state, one.path.found, one.loss) == ("reachable", 1400, 0.0)
    assert str(world.problem(known=1500)).startswith(
        "packets of more than 1400 bytes vanish on the way to 192.0.2.2 and no ICMP error comes back"
    )
    assert world.problem(known=1400) is None
    assert list(one.notes("udp", "udp", 1472)) == ["the path takes packets of 1400 bytes"]
    world.path[B.host] = MTU
    world.run(2 * PATH_EVERY)
    assert one.path.found == MTU
    assert world.problem() is None


def test_a_peer_that_goes_during_a_search_narrows_no_path() -> None:
    world = World(B)
    world.run(PATH_EVERY - 1)
    world.path[B.host] = 0
    world.run(60)
    assert world.patient().state == "unreachable"
    assert world.patient().path.found == MTU
    world.path[B.host] = MTU
    world.run(60)
    assert world.patient().path.found == MTU


def test_an_interface_that_is_too_narrow_itself() -> None:
    world = World(B)
    for _ in range(40):
        for patient, ask in list(world.probing.due(world.now)):
            if ask.length > 1400 - 28:
                patient.refused("too long", world.now, too_long=True)
            else:
                world.probing.answered(B.host, Probe(Kind.ANSWER, THEM, ask.nonce, ask.length), world.now + RTT)
        world.now += 1
    assert world.patient().path.found == 1400
    assert world.patient().state == "reachable"


def test_another_mtu_of_the_underlay_begins_anew() -> None:
    world = World(B)
    world.run(30)
    world.probing.follow([B], 9000, world.now)
    assert world.patient().path.found is None
    world.path[B.host] = 9000
    world.run(30)
    assert world.patient().path.found == 9000


# --- hostile input ----------------------------------------------------------------------------------------------------


def test_answers_that_nobody_asked_for() -> None:
    world = World(B)
    ((_, ask),) = world.probing.due(world.now + 1)
    for nonce in (b"", bytes(8), b"\xff" * 8):
        if nonce != ask.nonce:
            assert world.probing.answered(B.host, Probe(Kind.ANSWER, THEM, nonce, LENGTH), world.now + 1) is None
    sound = Probe(Kind.ANSWER, THEM, ask.nonce, LENGTH)
    assert world.probing.answered("192.0.2.66", sound, world.now + 1) is None
    assert world.probing.answered(B.host, sound, world.now + 1.5) == pytest.approx(0.5)
    assert world.probing.answered(B.host, sound, world.now + 1.6) is None, "nor twice"
    assert world.patient().asked == 1


def test_an_answer_that_comes_too_late_is_loss() -> None:
    world = World(B)
    ((_, ask),) = world.probing.due(world.now + 1)
    late = world.now + 1 + TIMEOUT
    list(world.probing.due(late))
    assert world.probing.answered(B.host, Probe(Kind.ANSWER, THEM, ask.nonce, LENGTH), late) is None
    assert world.patient().loss == 1.0


def test_a_flood_of_questions_is_answered_at_a_bounded_rate() -> None:
    world = World(B)
    answered = sum(world.probing.may_answer(world.patient(), world.now) for _ in range(10_000))
    assert answered == PEER_BURST


def test_thousands_of_peers_are_asked_at_a_bounded_rate_and_all_of_them() -> None:
    everybody = [Target(f"10.9.{n >> 8}.{n & 255}", 8286, 4, f"lease{n}") for n in range(5000)]
    world = World(*everybody, interval=1.0)
    for seconds in (1, 10, 19):
        before = len(world.asked)
        world.run(seconds)
        assert len(world.asked) - before <= RATE * (seconds + 1) + BURST
    asked = Counter(ask.target.host for _, ask in world.asked)
    assert len(asked) == len(everybody)


def test_those_that_are_gone_are_asked_no_more() -> None:
    c = Target("192.0.2.3", 8286, 4, "10.1.3.0-24")
    world = World(B, c)
    world.run(20)
    world.probing.follow([c], MTU, world.now)
    known = world.patient(c)
    world.asked.clear()
    world.run(50)
    assert {ask.target for _, ask in world.asked} == {c}
    assert world.patient(c) is known, "what is known of those that stay is kept"
    world.probing.remove(c.host)
    world.probing.add(B, MTU, world.now)
    world.asked.clear()
    world.run(50)
    assert {ask.target for _, ask in world.asked} == {B}
