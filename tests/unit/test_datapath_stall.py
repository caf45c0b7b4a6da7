"""Whether packets move, as progress and counters show it."""

from __future__ import annotations

from overlayd.datapath.stall import PERIOD, STANDSTILL, Refusals, Standstill


def test_what_is_read_does_not_stand_still() -> None:
    one = Standstill()
    assert [one.look(True, reads, now=float(reads)) for reads in range(10)] == [0.0] * 10


def test_nothing_to_read_is_no_standstill() -> None:
    one = Standstill()
    assert [one.look(False, 7, now=float(now)) for now in range(10)] == [0.0] * 10


def test_what_waits_and_is_not_read_stands_still() -> None:
    one = Standstill()
    assert [one.look(True, 7, now=float(now)) for now in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert STANDSTILL <= 3.0
    assert one.look(True, 8, now=5.0) == 0.0, "a read ends it"
    assert one.look(True, 8, now=6.0) == 1.0
    assert one.look(False, 8, now=7.0) == 0.0


def test_refusals_count_where_nothing_is_taken() -> None:
    one = Refusals()
    assert one.due(0.0)
    one.look(10, 5, 0.0)
    assert one.verdict == 0, "what was before is nobody's matter"
    assert not one.due(PERIOD - 0.1)
    one.look(10, 8, PERIOD)
    assert one.verdict == 3
    one.look(11, 20, 2 * PERIOD)
    assert one.verdict == 0, "some get through"
    one.look(11, 20, 3 * PERIOD)
    assert one.verdict == 0, "nobody tries"
