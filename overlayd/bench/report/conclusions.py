"""What the figures of one setting of the underlay say, in sentences.

A difference counts when every round's ratio lies on the same side of 1; any other is noise, and is called that.
"""

from __future__ import annotations

from collections.abc import Iterator

from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result, ScenarioRecord
from overlayd.bench.stats import Spread

_ASPECTS = (
    ("tcp1", "rate", "throughput of one TCP stream"),
    ("tcp4", "rate", "throughput of four"),
    ("udp64", "rate", "small UDP packets"),
    ("rr", "rate", "TCP transactions"),
    ("connect", "rate", "TCP connections"),
    ("tcp1", "machine_cpu", "processor time per gigabyte"),
)
"""Metric, figure, and its name in a sentence."""


def lead(result: Result, frames: str) -> str:
    """The first paragraph: who is best at what, and how many of the ratios are noise; empty without figures."""
    records = [one for one in result.scenarios if one.frames == frames]
    best: dict[str, list[str]] = {}
    for metric, figure, title in _ASPECTS:
        if (found := _best(result, records, metric, figure)) is not None:
            best.setdefault(found[0].title, []).append(f"{title}, {found[1]}")
    if not best:
        return ""
    text = ". ".join(f"{title}: {'; '.join(won)}" for title, won in best.items())
    ratios = [ratio for one in records for _, ratio in _ratios(result, one)]
    noise = sum(ratio.noise for ratio in ratios)
    base, count = result.plan.base, len(ratios)
    return f"Best of {len(records)} scenarios: {text}. Within the noise: {noise} of {count} ratios to {base}."


def each(result: Result, frames: str) -> Iterator[tuple[ScenarioRecord, str]]:
    """A sentence for each scenario but the base: its ratios, the spread of the rounds in brackets."""
    for record in (one for one in result.scenarios if one.frames == frames):
        ratios = _ratios(result, record)
        parts = [f"{title} {_times(ratio)}" for title, ratio in ratios if not ratio.noise]
        if same := [title for title, ratio in ratios if ratio.noise]:
            parts.append(f"no clear difference in {', '.join(same)}")
        if parts:
            yield record, "; ".join(parts) + "."


def _best(result: Result, records: list[ScenarioRecord], metric: str, figure: str) -> tuple[ScenarioRecord, str] | None:
    """Who is, and the figure in words; None where there are not two to compare."""
    shown = METRICS[metric].figures[figure]
    found = [(spread, one) for one in records if (spread := result.spread(one.frames, one.name, metric, figure))]
    if len(found) < 2:
        return None
    choose = max if shown.more_is_better else min
    spread, record = choose(found, key=lambda one: one[0].median)
    words = [f"{spread.median:,.{shown.digits}f} {shown.unit}"]
    base = result.plan.base
    ratio = result.ratio(record.frames, record.name, metric, figure, base)
    if ratio is not None and record.name != base and not ratio.noise:
        words.append(f"{_times(ratio)} of {base}")
    if rivals := [one.title for other, one in found if one is not record and other.overlaps(spread)]:
        words.append(f"level with {' and '.join(rivals)}")
    return record, ", ".join(words)


def _ratios(result: Result, record: ScenarioRecord) -> list[tuple[str, Spread]]:
    base = result.plan.base
    if record.name == base:
        return []
    found = [
        (title, result.ratio(record.frames, record.name, metric, figure, base)) for metric, figure, title in _ASPECTS
    ]
    return [(title, ratio) for title, ratio in found if ratio is not None]


def _times(ratio: Spread) -> str:
    digits = 2 if ratio.median < 10 else 0
    return f"{ratio.median:.{digits}f}x ({ratio.low:.{digits}f}-{ratio.high:.{digits}f})"
