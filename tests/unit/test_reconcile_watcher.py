from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.reconcile.watcher import Backoff, TimeBudget


def test_what_is_saved_up_is_spent_at_once() -> None:
    budget = TimeBudget(0.1, 3.0, 100.0)
    assert budget.wait(100.0) == 0
    budget.spend(2.0, 100.0)
    assert budget.wait(100.0) == 0
    budget.spend(2.0, 100.0)
    assert budget.wait(100.0) == pytest.approx(10)
    assert budget.wait(105.0) == pytest.approx(5)
    assert budget.wait(110.0) == pytest.approx(0)


def test_no_more_is_saved_than_that() -> None:
    budget = TimeBudget(0.1, 3.0, 0.0)
    budget.spend(0.0, 10_000.0)
    budget.spend(4.0, 10_000.0)
    assert budget.wait(10_000.0) == pytest.approx(10)


@given(st.floats(0.001, 5), st.integers(1, 200))
def test_work_that_waits_its_turn_takes_its_share_and_no_more(cost: float, times: int) -> None:
    budget, now = TimeBudget(0.1, 3.0, 0.0), 0.0
    for _ in range(times):
        now += budget.wait(now) + cost
        budget.spend(cost, now)
    assert cost * times <= 0.1 * now + 3.0 + cost + 1e-6


def repairs_within(seconds: float, undone_after: float) -> int:
    """How often an object is repaired that somebody deletes so many seconds after each repair."""
    backoff, now, count = Backoff(), 0.0, 0
    while now < seconds:
        now += undone_after + backoff.seconds
        backoff.update(now, repaired=True)
        count += 1
    return count


def test_who_undoes_every_repair_at_once_is_followed_at_a_slower_backoff() -> None:
    assert repairs_within(60, 0.001) < 130


def test_who_comes_back_once_a_second_is_not_made_to_wait() -> None:
    assert repairs_within(60, 1.0) >= 58


def test_nothing_to_repair_changes_nothing() -> None:
    backoff = Backoff()
    first = backoff.seconds
    for now in range(100):
        backoff.update(now / 100, repaired=False)
    assert backoff.seconds == first
