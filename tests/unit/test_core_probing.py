"""What answers and silence say of peers, by a clock that the test turns."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd.core.probing import diagnosis
from overlayd.core.probing.path_mtu import SEARCH_EVERY, PathMtuSearch
from overlayd.core.probing.schedule import BURST, RATE, ProbeSchedule
from overlayd.core.probing.target import (
    ANSWER_BURST,
    MAX_UNANSWERED,
    TIMEOUT,
    WINDOW,
    Endpoint,
    ProbeTarget,
    Question,
)
from overlayd.wire.probe import LENGTH, Probe, ProbeKind, Sender

THEM = Sender(1, "0.1.0", 1472, True)
B = Endpoint("192.0.2.2", 8286, 4, "10.1.2.0-24")
MTU = 1500
RTT = 0.001


class World:
    """A host that probes, and a network of which the test says what it carries."""

    def __init__(self, *endpoints: Endpoint, interval: float = 10.0) -> None:
        self.now = 1000.0
        nonces = itertools.count()
        self.schedule = ProbeSchedule(interval, lambda size: next(nonces).to_bytes(size, "big"), lambda: 0.5, self.now)
        self.schedule.replace(endpoints, MTU, self.now)
        self.path = {endpoint.host: MTU for endpoint in endpoints}
        """Bytes of the longest packet that gets through; 0 for a host that is away."""
        self.asked: list[tuple[float, Question]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for target, question in list(self.schedule.due(self.now)):
                self.asked.append((self.now, question))
                if question.length + target.overhead <= self.path[question.endpoint.host]:
                    answer = Probe(ProbeKind.ANSWER, THEM, question.nonce, question.length)
                    assert self.schedule.receive(question.endpoint.host, answer, self.now + RTT) == pytest.approx(RTT)
            self.now += max(self.schedule.pause(self.now), 0.02)

    def target(self, endpoint: Endpoint = B) -> ProbeTarget:
        return self.schedule.targets[endpoint.host]

    def problem(self, known: int = MTU) -> str | None:
        return diagnosis.problem(self.target(), self.now, lambda: known)


def test_a_peer_that_answers() -> None:
    world = World(B)
    world.run(300)
    one = world.target()
    assert (one.state, one.loss, one.asked, one.path.mtu) == ("reachable", 0.0, WINDOW, MTU)
    assert one.rtts == pytest.approx([RTT] * WINDOW, abs=1e-6)
    assert world.problem() is None
    assert list(diagnosis.notes(one, "udp", "udp", 1472)) == []
    lengths = Counter(question.length for _, question in world.asked)
    assert 29 <= lengths[LENGTH] <= 31, "every ten seconds"
    assert lengths[MTU - 28] == 300 // SEARCH_EVERY, "and every minute one as long as the path should take"


def test_a_peer_that_goes_and_comes() -> None:
    world = World(B)
    world.run(60)
    world.path[B.host] = 0
    world.run(10 + MAX_UNANSWERED * TIMEOUT)
    assert world.target().state == "unreachable"
    assert [one.endpoint for one in world.schedule.changed] == [B]
    problem = world.problem()
    assert problem is not None
    assert problem.startswith("192.0.2.2 has not answered for 2")
    assert problem.endswith("its host or its overlayd is down, or UDP port 8286 is filtered on the way")
    before = len(world.asked)
    world.run(100)
    assert len(world.asked) - before <= 11, "one that is away is asked no oftener than others"
    world.path[B.host] = MTU
    world.run(11)
    assert world.target().state == "reachable"
    assert world.problem() is None
    assert [one.endpoint for one in world.schedule.changed] == [B, B]


def test_a_lost_probe_is_loss_and_no_more() -> None:
    world = World(B)
    world.run(60)
    world.path[B.host] = 0
    world.run(1.5)
    assert world.target().unanswered > 0
    world.path[B.host] = MTU
    world.run(5)
    assert world.target().state == "reachable"
    assert world.schedule.changed == []
    assert 0 < world.target().loss < 1
    world.run(WINDOW * 10 + 60)
    assert world.target().loss == 0, "what is long ago is forgotten"


def test_a_peer_that_asks_us_is_asked_at_once() -> None:
    world = World(B)
    world.path[B.host] = 0
    world.run(9)
    assert world.target().state == "unreachable"
    world.path[B.host] = MTU
    world.asked.clear()
    for _ in range(100):
        world.schedule.may_answer(world.target(), world.now)
    world.run(0.1)
    assert world.target().state == "reachable"
    assert [question.length for _, question in world.asked] == [LENGTH, MTU - 28]


def test_unreachable_peers_are_probed_at_once_when_the_underlay_is_usable_again() -> None:
    world = World(B)
    world.path[B.host] = 0
    world.run(9)
    assert world.target().state == "unreachable"
    world.path[B.host] = MTU
    world.schedule.retry(world.now)
    world.run(0.1)
    assert world.target().state == "reachable"


def test_words_for_what_is_known_of_a_silent_peer() -> None:
    world = World(B)
    world.path[B.host] = 0
    world.run(30)
    assert str(world.problem()).startswith("192.0.2.2 has never answered: its host")
    world.schedule.may_answer(world.target(), world.now)
    assert "it asks us, so packets arrive from there" in str(world.problem())
    world.target().error = "this host has no route to it"
    assert str(world.problem()).endswith(": this host has no route to it")


def test_words_for_a_peer_that_is_odd() -> None:
    world = World(B)
    world.run(20)
    one = world.target()
    one.sender = Sender(2, "9.9", 1430, False)
    assert list(diagnosis.notes(one, "vxlan", "udp", 1472)) == [
        "its mode is vxlan, this host's udp",
        "its overlay MTU is 1430, this host's 1472",
        "it reports a fault of its own (run overlayctl status there)",
    ]


def test_what_the_kernel_refuses_is_a_miss_with_its_reason() -> None:
    world = World(B)
    world.now += 1
    for _ in range(MAX_UNANSWERED):
        for target, _ in world.schedule.due(world.now):
            target.refused("no route", world.now, too_long=False)
        world.now += 1.5
    list(world.schedule.due(world.now))
    assert world.problem() == "192.0.2.2 has never answered: no route"


# --- the size of the path ---------------------------------------------------------------------------------------------


@given(st.integers(576, 9000), st.integers(576, 9000))
@settings(max_examples=50)
def test_the_size_of_the_path_is_found_and_followed(first: int, second: int) -> None:
    path = PathMtuSearch(576, 9000, 0.0)
    for size in (first, second, first):
        path.due, steps = 0.0, 0
        while path.due == 0.0:
            if path.probed_size <= size:
                path.acknowledged(1.0)
            else:
                path.lost(1.0)
            steps += 1
        assert path.mtu == size
        assert path.narrow == (size < 9000)
        assert steps <= 60


def test_a_path_that_stays_narrow_is_confirmed_in_three_sizes() -> None:
    path = PathMtuSearch(576, 1500, 0.0)
    tried = []
    for _ in range(2):
        path.due = 0.0
        tried.clear()
        while path.due == 0.0:
            tried.append(path.probed_size)
            path.acknowledged(1.0) if path.probed_size <= 1400 else path.lost(1.0)
    assert tried == [1500, 1500, 1500, 1400, 1401, 1401]


def test_a_black_hole_is_told_from_a_path_that_the_kernel_knows() -> None:
    world = World(B)
    world.path[B.host] = 1400
    world.run(90)
    one = world.target()
    assert (one.state, one.path.mtu, one.loss) == ("reachable", 1400, 0.0)
    assert str(world.problem(known=1500)).startswith(
        "path MTU black hole: packets of more than 1400 bytes to 192.0.2.2 are lost and no ICMP error comes back"
    )
    assert world.problem(known=1400) is None
    assert list(diagnosis.notes(one, "udp", "udp", 1472)) == ["the path MTU is 1400 bytes"]
    world.path[B.host] = MTU
    world.run(2 * SEARCH_EVERY)
    assert one.path.mtu == MTU
    assert world.problem() is None


def test_a_peer_that_goes_during_a_search_narrows_no_path() -> None:
    world = World(B)
    world.run(SEARCH_EVERY - 1)
    world.path[B.host] = 0
    world.run(60)
    assert world.target().state == "unreachable"
    assert world.target().path.mtu == MTU
    world.path[B.host] = MTU
    world.run(60)
    assert world.target().path.mtu == MTU


def test_an_interface_that_is_too_narrow_itself() -> None:
    world = World(B)
    for _ in range(40):
        for target, question in list(world.schedule.due(world.now)):
            if question.length > 1400 - 28:
                target.refused("too long", world.now, too_long=True)
            else:
                world.schedule.receive(
                    B.host, Probe(ProbeKind.ANSWER, THEM, question.nonce, question.length), world.now + RTT
                )
        world.now += 1
    assert world.target().path.mtu == 1400
    assert world.target().state == "reachable"


def test_another_mtu_of_the_underlay_begins_anew() -> None:
    world = World(B)
    world.run(30)
    world.schedule.replace([B], 9000, world.now)
    assert world.target().path.mtu is None
    world.path[B.host] = 9000
    world.run(30)
    assert world.target().path.mtu == 9000


# --- hostile input ----------------------------------------------------------------------------------------------------


def test_answers_that_nobody_asked_for() -> None:
    world = World(B)
    ((_, question),) = world.schedule.due(world.now + 1)
    for nonce in (b"", bytes(8), b"\xff" * 8):
        if nonce != question.nonce:
            assert world.schedule.receive(B.host, Probe(ProbeKind.ANSWER, THEM, nonce, LENGTH), world.now + 1) is None
    sound = Probe(ProbeKind.ANSWER, THEM, question.nonce, LENGTH)
    assert world.schedule.receive("192.0.2.66", sound, world.now + 1) is None
    assert world.schedule.receive(B.host, sound, world.now + 1.5) == pytest.approx(0.5)
    assert world.schedule.receive(B.host, sound, world.now + 1.6) is None, "nor twice"
    assert world.target().asked == 1


def test_an_answer_that_comes_too_late_is_loss() -> None:
    world = World(B)
    ((_, question),) = world.schedule.due(world.now + 1)
    late = world.now + 1 + TIMEOUT
    list(world.schedule.due(late))
    assert world.schedule.receive(B.host, Probe(ProbeKind.ANSWER, THEM, question.nonce, LENGTH), late) is None
    assert world.target().loss == 1.0


def test_a_flood_of_questions_is_answered_at_a_bounded_rate() -> None:
    world = World(B)
    answered = sum(world.schedule.may_answer(world.target(), world.now) for _ in range(10_000))
    assert answered == ANSWER_BURST


def test_thousands_of_peers_are_asked_at_a_bounded_rate_and_all_of_them() -> None:
    everybody = [Endpoint(f"10.9.{n >> 8}.{n & 255}", 8286, 4, f"lease{n}") for n in range(5000)]
    world = World(*everybody, interval=1.0)
    for seconds in (1, 10, 19):
        before = len(world.asked)
        world.run(seconds)
        assert len(world.asked) - before <= RATE * (seconds + 1) + BURST
    asked = Counter(question.endpoint.host for _, question in world.asked)
    assert len(asked) == len(everybody)


def test_those_that_are_gone_are_asked_no_more() -> None:
    c = Endpoint("192.0.2.3", 8286, 4, "10.1.3.0-24")
    world = World(B, c)
    world.run(20)
    world.schedule.replace([c], MTU, world.now)
    known = world.target(c)
    world.asked.clear()
    world.run(50)
    assert {question.endpoint for _, question in world.asked} == {c}
    assert world.target(c) is known, "what is known of those that stay is kept"
    world.schedule.remove(c.host)
    world.schedule.add(B, world.now)
    world.asked.clear()
    world.run(50)
    assert {question.endpoint for _, question in world.asked} == {B}
