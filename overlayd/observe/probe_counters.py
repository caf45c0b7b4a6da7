"""What a prober counts, for `overlayctl counters` and /metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the round-trip times' histogram, in seconds."""

DROP_REASONS = ("unknown_peer", "other_port", "malformed", "unsolicited", "limited")
"""Why a datagram on the probe port was ignored."""


@dataclass
class ProbeCounters:
    """Totals since the start."""

    events: Counter[str] = field(default_factory=Counter)
    """sent: questions; answers: received; answered: questions of others."""
    drops: Counter[str] = field(default_factory=Counter)
    """Datagrams ignored, by one of DROP_REASONS."""
    histogram: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """Round-trip times below each of BUCKETS and not below the one before it; the last: above all."""
    rtt_sum: float = 0.0
    """Seconds, of all of them."""

    def record(self, rtt: float) -> None:
        """Count an answer and its round-trip time, in seconds."""
        self.events["answers"] += 1
        self.histogram[bisect_left(BUCKETS, rtt)] += 1
        self.rtt_sum += rtt
