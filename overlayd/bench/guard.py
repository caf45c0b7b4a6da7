"""The regression guard: has udp mode become slower next to the kernel's data paths?

Ratios of rates in the same round are compared, never rates: a machine's speed is not the next one's. A ratio
has become worse when every round of it now lies below every round of the baseline; the margin is the spread that was
measured, on both sides. Rounds with a run on a busy machine do not count. The baseline is a file, or
another checkout that was measured in turn with this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from overlayd.bench import stats
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS
from overlayd.bench.result import PlanRecord, Result
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
    frames=("wire", "any"),
    durations=Durations(tcp=1, udp=0.5, search=0.1, rr=0.7),
    patience=60.0,
)
ENOUGH = 3
"""Reliable rounds without which there is no verdict."""
_Ratio = tuple[str, str, str, str]
"""Frames, scenario, metric, base."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one ratio."""

    name: str
    now: Spread | None
    before: Spread | None
    word: str
    """worse, better, same, new, or unknown: too few reliable rounds."""


def ratios(result: Result) -> dict[str, Spread]:
    """By name, as "udp-native / vxlan, rr, wire"; those of fewer than ENOUGH rounds are left out."""
    quiet = result.model_copy(update={"samples": [one for one in result.samples if not one.unreliable]})
    found: dict[str, Spread] = {}
    for name, (frames, scenario, metric, base) in _wanted(result.plan).items():
        spread = quiet.ratio(frames, scenario, metric, "rate", base)
        if spread is not None and spread.count >= ENOUGH:
            found[name] = spread
    return found


def _wanted(plan: PlanRecord) -> dict[str, _Ratio]:
    """The ratios that a result of this plan should have."""
    return {
        f"{scenario} / {base}, {metric}, {frames}": (frames, scenario, metric, base)
        for frames in plan.frames
        for metric in plan.metrics
        if "rate" in METRICS[metric].figures
        for scenario in GUARDED
        for base in BASES
    }


def judge(result: Result, before: dict[str, Spread]) -> list[Verdict]:
    """Every ratio that the result's plan asks for; what the baseline has beyond that was not measured."""
    now = ratios(result)
    return [_verdict(name, now.get(name), before.get(name)) for name in _wanted(result.plan)]


def one_after_another(rounds: Sequence[Result]) -> Result:
    """Results of one round each as one result; its environment is the first one's."""
    samples = [one.model_copy(update={"round": at}) for at, made in enumerate(rounds, 1) for one in made.samples]
    plan = rounds[0].plan.model_copy(update={"rounds": len(rounds)})
    return rounds[0].model_copy(update={"samples": samples, "plan": plan, "ended": rounds[-1].ended})


def options(plan: Plan) -> Iterator[str]:
    """One round of the plan as the command line of `overlayctl bench`."""
    yield from ("--rounds", "1", "--seconds", str(plan.durations.tcp), "--patience", str(plan.patience))
    for name in ("scenarios", "metrics", "frames"):
        yield from (f"--{name}", ",".join(getattr(plan, name)))


def _verdict(name: str, now: Spread | None, before: Spread | None) -> Verdict:
    if now is None or before is None:
        return Verdict(name, now, before, "unknown" if now is None else "new")
    word = "worse" if stats.worse(now, before) else "better" if stats.worse(before, now) else "same"
    return Verdict(name, now, before, word)


def save(path: Path, result: Result) -> None:
    """Make a baseline of a result. Raises BenchError where it has too few reliable rounds."""
    found = ratios(result)
    if len(found) < (wanted := len(_wanted(result.plan))):
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
