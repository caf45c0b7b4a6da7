"""A benchmark from its beginning to its end.

1. plan: which ways, what, how often; how long that takes
2. for each setting of the underlay: the ways come up, and carry a little that does not count
3. rounds: in each, every metric of every way in turn, so that what is compared was measured within the same minute;
   before each run the machine has to be idle, or the run is marked
4. after each run the result file is written anew
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from overlayd.bench import tools
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS, Metric
from overlayd.bench.probe import IDLE
from overlayd.bench.result import Context, PlanRecord, Result, Sample, WayRecord
from overlayd.bench.runs import Durations
from overlayd.bench.way import BASE, QUICK, Frames, Way, found
from overlayd.core.address import Family
from overlayd.lab import LabError

_LAB_SECONDS, _SETTLE = 1.2, 0.35
"""For the estimate: a way comes up; a run is prepared."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    rounds: int = 5
    ways: Sequence[str] = field(default_factory=found)
    metrics: Sequence[str] = tuple(METRICS)
    frames: Sequence[Frames] = ("any", "1500")
    family: Family = 4
    underlay: Family = 4
    durations: Durations = field(default_factory=Durations)
    warm_up: float = 1.0
    """Seconds of each load that do not count."""
    patience: float = 20.0
    base: str = BASE

    def seconds(self) -> float:
        """About how long it takes while the machine is idle."""
        each = sum(METRICS[name].seconds(self.durations) + _SETTLE for name in self.metrics)
        return len(self.frames) * len(self.ways) * (_LAB_SECONDS + 3 * self.warm_up + self.rounds * each)

    def record(self) -> PlanRecord:
        """As the result file has it."""
        return PlanRecord(
            rounds=self.rounds,
            ways=list(self.ways),
            metrics=list(self.metrics),
            frames=list(self.frames),
            family=self.family,
            underlay=self.underlay,
            durations={**asdict(self.durations), "warm_up": self.warm_up},
            patience=self.patience,
            base=self.base,
        )


QUICK_PLAN = Plan(
    rounds=2,
    ways=QUICK,
    metrics=("tcp1", "udp64", "udp1400", "rr", "connect"),
    frames=("any",),
    durations=Durations(tcp=1, udp=0.3, search=0.12, rr=0.4, connect=0.3, perf=0.4),
    warm_up=0.2,
    patience=2.0,
)
"""About a minute."""


class Listener:
    """Is told how a benchmark goes on; this one does nothing with it."""

    def step(self, text: str) -> None:
        """What comes now."""

    def done(self, seconds: float) -> None:
        """So much of the estimate is over."""

    def note(self, text: str) -> None:
        """What the user has to know, once."""


class Benchmark:
    """Measures ways into a result."""

    def __init__(self, plan: Plan, context: Context, save: Callable[[Result], None], listener: Listener) -> None:
        self.plan = plan
        self.result = Result(started=_now(), context=context, plan=plan.record())
        self.failed = False
        """Whether something could not be measured that was to be."""
        self._save = save
        self._listener = listener
        if context.perf and {"wakeups", "profile"} & set(plan.metrics):
            self.note(f"no figures from perf: {context.perf}")

    def note(self, text: str) -> None:
        """Keep it in the result and tell the listener."""
        self.result.notes.append(text)
        self._listener.note(text)

    def finish(self) -> Result:
        """All was measured that was to be."""
        self.result.ended, self.result.complete = _now(), True
        self._save(self.result)
        return self.result

    def measure(self, ways: Sequence[Way], frames: Frames) -> None:
        """Warm-up and all rounds, with the underlay as it is now. Raises BenchError when nothing at all works."""
        records = [WayRecord(name=one.name, title=one.title, frames=frames, facts=one.facts) for one in ways]
        self.result.ways += records
        for way in ways:
            self._listener.step(f"{way.title}: warm-up")
            self._warm_up(way)
            self._listener.done(_LAB_SECONDS + 3 * self.plan.warm_up)
        for number in range(1, self.plan.rounds + 1):
            for metric in (METRICS[name] for name in self.plan.metrics):
                for way in ways:
                    self._listener.step(f"round {number} of {self.plan.rounds}: {metric.title}, {way.title}")
                    self.result.samples.append(self._sample(way, metric, number, frames))
                    self._save(self.result)
                    self._listener.done(metric.seconds(self.plan.durations) + _SETTLE)
        for way, record in zip(ways, records, strict=True):
            record.memory_mib = way.memory()
        self._save(self.result)

    def _warm_up(self, way: Way) -> None:
        way.prepare()
        seconds, congestion = self.plan.warm_up, self.result.context.congestion_control
        with contextlib.suppress(BenchError, LabError):  # a way that does not work says so in its samples
            tools.transactions(way.client, way.server, way.address, seconds, congestion=congestion)
            with way.server.serving("udp"):
                tools.blast(way.client, way.address, 1400, seconds)
            if seconds >= 1:
                tools.throughput(way.client, way.server, way.address, seconds, congestion=congestion)

    def _sample(self, way: Way, metric: Metric, number: int, frames: Frames) -> Sample:
        way.prepare()
        busy = wait_idle(way, self.plan.patience)
        sample = Sample(
            frames=frames,
            way=way.name,
            metric=metric.name,
            round=number,
            busy=round(busy, 3),
            disturbed=busy > 1 - IDLE,
        )
        try:
            seen = metric.run(way, self.plan.durations, self.result.context.congestion_control)
        except (BenchError, LabError) as error:
            sample.error, self.failed = str(error), True
            self.note(f"{way.title}, {metric.title}, round {number}: {error}")
            return sample
        sample.figures = {name: float(f"{value:.6g}") for name, value in seen.figures.items()}
        sample.detail = seen.detail
        return sample


def wait_idle(way: Way, patience: float) -> float:
    """Wait until both ends' machines are idle, but not for ever; how busy the busier one is."""
    end = time.monotonic() + patience
    while True:
        busy = way.client.busy() if way.one_machine else max(way.client.busy(), way.server.busy())
        if busy <= 1 - IDLE or time.monotonic() > end:
            return busy


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
