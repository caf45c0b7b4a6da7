"""Medians, spreads and ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds showed."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def noise(self) -> bool:
        """Of ratios: whether rounds disagree on which of the two is greater."""
        return self.low <= 1 <= self.high


def ratios(values: Sequence[float | None], base: Sequence[float | None]) -> list[float]:
    """Round by round; rounds in which either is missing, or the base is 0, give none."""
    pairs = zip(values, base, strict=False)
    return [one / other for one, other in pairs if one is not None and other]


def worse(now: Spread, before: Spread, more_is_better: bool = True) -> bool:
    """Whether every round is now worse than every round was before: no spread that was measured explains it.

    With five rounds on either side chance alone does that once in 252 (the extreme case of Mann and Whitney's test).
    """
    return now.high < before.low if more_is_better else now.low > before.high
