from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.control.watcher import Budget


def test_what_is_saved_up_is_spent_at_once() -> None:
    budget = Budget(0.1, 3.0, 100.0)
    assert budget.wait(100.0) == 0
    budget.spend(2.0, 100.0)
    assert budget.wait(100.0) == 0
    budget.spend(2.0, 100.0)
    assert budget.wait(100.0) == pytest.approx(10)
    assert budget.wait(105.0) == pytest.approx(5)
    assert budget.wait(110.0) == pytest.approx(0)


def test_no_more_is_saved_than_that() -> None:
    budget = Budget(0.1, 3.0, 0.0)
    budget.spend(0.0, 10_000.0)
    budget.spend(4.0, 10_000.0)
    assert budget.wait(10_000.0) == pytest.approx(10)


@given(st.floats(0.001, 5), st.integers(1, 200))
def test_work_that_waits_its_turn_takes_its_share_and_no_more(cost: float, times: int) -> None:
    budget, now = Budget(0.1, 3.0, 0.0), 0.0
    for _ in range(times):
        now += budget.wait(now) + cost
        budget.spend(cost, now)
    assert cost * times <= 0.1 * now + 3.0 + cost + 1e-6
