"""The regression guard: has udp mode become slower next to the kernel's data paths?

Ratios of rates in the same round are compared, never rates: a machine's speed is not the next one's. A ratio
has become worse when every round of it now lies below every round of the baseline; the margin is the spread that was
measured, on both sides. Rounds with a run on a busy machine do not count.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from overlayd.bench import stats
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result
from overlayd.bench.runs import Durations
from overlayd.bench.session import Plan
from overlayd.bench.stats import Spread
from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically

BASES = ("vxlan", "host-gw")
GUARDED = ("udp-python", "udp-native")
PLAN = Plan(
    rounds=5,
    scenarios=(*BASES, *GUARDED),
    metrics=("tcp1", "udp64", "rr"),
    durations=Durations(tcp=1, udp=0.5, search=0.1, rr=0.7),
    patience=60.0,
)
ENOUGH = 3
"""Reliable rounds without which there is no verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one ratio."""

    name: str
    now: Spread | None
    before: Spread | None
    word: str
    """worse, better, same, new, or unknown: too few reliable rounds."""


def ratios(result: Result) -> dict[str, Spread]:
    """By name, as "udp-native / vxlan, rr, any"; those of fewer than ENOUGH rounds are left out."""
    quiet = result.model_copy(update={"samples": [one for one in result.samples if not one.unreliable]})
    found: dict[str, Spread] = {}
    for frames in result.plan.frames:
        for metric in (name for name in result.plan.metrics if "rate" in METRICS[name].figures):
            for scenario in GUARDED:
                for base in BASES:
                    spread = quiet.ratio(frames, scenario, metric, "rate", base)
                    if spread is not None and spread.count >= ENOUGH:
                        found[f"{scenario} / {base}, {metric}, {frames}"] = spread
    return found


def judge(now: dict[str, Spread], before: dict[str, Spread]) -> list[Verdict]:
    """Every ratio that either side has."""
    return [_verdict(name, now.get(name), before.get(name)) for name in {**before, **now}]


def _verdict(name: str, now: Spread | None, before: Spread | None) -> Verdict:
    if now is None or before is None:
        return Verdict(name, now, before, "unknown" if now is None else "new")
    word = "worse" if stats.worse(now, before) else "better" if stats.worse(before, now) else "same"
    return Verdict(name, now, before, word)


def save(path: Path, result: Result) -> None:
    """Make a baseline of a result. Raises BenchError where it has too few reliable rounds."""
    found = ratios(result)
    wanted = len(result.plan.frames) * len(result.plan.metrics) * len(GUARDED) * len(BASES)
    if len(found) < wanted:
        raise BenchError(
            f"only {len(found)} of {wanted} ratios have {ENOUGH} rounds on an idle machine; end what else runs on it"
        )
    data = {
        "measured": result.started,
        "environment": result.environment.model_dump(),
        "plan": result.plan.model_dump(),
        "ratios": {name: asdict(spread) for name, spread in found.items()},
    }
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def load(path: Path) -> dict[str, Spread]:
    """The ratios of a baseline. Raises BenchError for any other file."""
    try:
        return {str(name): Spread(**fields) for name, fields in json.loads(read_text(path))["ratios"].items()}
    except HostError as error:
        raise BenchError(f"{error}; make a baseline with `benchmarks/check.py --update`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path}: not a baseline ({error!r}); make one with `benchmarks/check.py --update`") from None
