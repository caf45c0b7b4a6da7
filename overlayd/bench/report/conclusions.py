"""Conclusions from the figures of one setting of the underlay, in sentences.

A difference counts when every round's ratio lies on the same side of 1; any other is noise, and is called that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result, ScenarioRecord
from overlayd.bench.stats import Spread

_BOUND = "host"
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
    """The first paragraph: what is best at what, and how many of the ratios are noise; empty without figures.

    Host to host is a bound, not a path between containers, and competes with none.
    """
    measured = [one for one in result.scenarios if one.frames == frames]
    records = [one for one in measured if one.name != _BOUND]
    best: dict[str, list[str]] = {}
    for metric, figure, title in _ASPECTS:
        if (found := _best(result, records, metric, figure)) is not None:
            best.setdefault(found[0].title, []).append(f"{title} ({found[1]})")
    if not best:
        return ""
    text = "; ".join(f"{title} is best in {_and(won)}" for title, won in best.items())
    ratios = [ratio for one in measured for _, ratio in _ratios(result, one)]
    noise = sum(ratio.noise for ratio in ratios)
    end = f"Within the noise: {noise} of {len(ratios)} ratios to {result.plan.base}."
    return f"Of {len(records)} scenarios between containers, {text}. {end}"


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

    def ratio(one: ScenarioRecord, base: str) -> Spread | None:
        return result.ratio(one.frames, one.name, metric, figure, base)

    base = result.plan.base
    if record.name != base and (own := ratio(record, base)) and not own.noise:
        words.append(f"{own.median:.2f}x {base} [{own.low:.2f}-{own.high:.2f}]")
    rivals = [one.title for _, one in found if one is not record and (to := ratio(one, record.name)) and to.noise]
    if rivals:
        words.append(f"level with {_and(rivals)}")
    return record, ", ".join(words)


def _ratios(result: Result, record: ScenarioRecord) -> list[tuple[str, Spread]]:
    base = result.plan.base
    if record.name == base:
        return []
    found = [
        (title, result.ratio(record.frames, record.name, metric, figure, base)) for metric, figure, title in _ASPECTS
    ]
    return [(title, ratio) for title, ratio in found if ratio is not None]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _times(ratio: Spread) -> str:
    digits = 2 if ratio.median < 10 else 0
    return f"{ratio.median:.{digits}f}x ({ratio.low:.{digits}f}-{ratio.high:.{digits}f})"
