"""Whether packets move, as progress and counters show it."""

from __future__ import annotations

from overlayd.datapath.contract import Progress
from overlayd.datapath.stall import PERIOD, STALLED_AFTER, Refusals, StallDetector

OUT, BOTH = frozenset({"outbound"}), frozenset({"outbound", "inbound"})


def reads(outbound: int, inbound: int = 0) -> Progress:
    return Progress(0, outbound, 0, inbound)


def test_what_is_read_is_not_stalled() -> None:
    one = StallDetector()
    assert [one.update(OUT, reads(count), now=float(count)) for count in range(10)] == [{}] * 10


def test_nothing_to_read_is_not_a_stall() -> None:
    one = StallDetector()
    assert [one.update((), reads(7), now=float(now)) for now in range(10)] == [{}] * 10


def test_what_waits_and_is_not_read_is_stalled() -> None:
    one = StallDetector()
    found = [one.update(OUT, reads(7), now=float(now)) for now in range(5)]
    assert found == [{}, *({"outbound": float(seconds)} for seconds in range(1, 5))]
    assert STALLED_AFTER <= 3.0
    assert one.update(OUT, reads(8), now=5.0) == {}, "a read ends it"
    assert one.update(OUT, reads(8), now=6.0) == {"outbound": 1.0}
    assert one.update((), reads(8), now=7.0) == {}
    assert one.update(OUT, reads(8), now=8.0) == {}, "what waits now did not wait at the look before"


def test_directions_are_judged_apart() -> None:
    one = StallDetector()
    looks = [(OUT, 1, 1), (OUT, 1, 2), (BOTH, 2, 2), (BOTH, 3, 2), (BOTH, 3, 3)]
    found = [one.update(waiting, reads(out, into), now=float(now)) for now, (waiting, out, into) in enumerate(looks)]
    assert found == [{}, {"outbound": 1.0}, {}, {"inbound": 1.0}, {"outbound": 1.0}]


def test_without_an_engine_nothing_is_stalled() -> None:
    one = StallDetector()
    assert [one.update((), None, now=float(now)) for now in range(3)] == [{}] * 3


def test_refusals_count_where_nothing_is_taken() -> None:
    one = Refusals()
    assert one.due(0.0)
    one.update(10, 5, 0.0)
    assert one.verdict == 0, "what was before is nobody's matter"
    assert not one.due(PERIOD - 0.1)
    one.update(10, 8, PERIOD)
    assert one.verdict == 3
    one.update(11, 20, 2 * PERIOD)
    assert one.verdict == 0, "some get through"
    one.update(11, 20, 3 * PERIOD)
    assert one.verdict == 0, "nobody tries"
