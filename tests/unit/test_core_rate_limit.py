"""Rate limits: a burst, then the rate, whenever the time is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.rate_limit import TokenBucket


def test_token_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.25)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_token_bucket_saves_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=0.0)
    assert [bucket.take(3600.0) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 10), st.integers(1, 10), st.lists(st.integers(0, 5_000), max_size=100))
def test_token_bucket_never_exceeds_burst_plus_rate(rate: int, burst: int, milliseconds: list[int]) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    taken = sum(bucket.take(now / 1000) for now in sorted(milliseconds))
    assert taken <= burst + rate * max(milliseconds, default=0) / 1000 + 1e-6
