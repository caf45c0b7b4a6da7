"""A benchmark from its beginning to its end.

1. plan: scenarios, metrics, rounds; how long that takes
2. for each setting of the underlay: the scenarios come up, and are warmed up
3. rounds: in each, every metric of every scenario in turn, so that compared runs are less than a minute apart;
   before each run the machine has to be idle, or the run is marked
4. after each run the result file is rewritten
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from overlayd.bench import tools
from overlayd.bench.counters import BUSY, wait_idle
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import METRICS, Metric
from overlayd.bench.result import Environment, PlanRecord, Result, Sample, ScenarioRecord
from overlayd.bench.runs import Durations
from overlayd.bench.scenario import BASE, QUICK, Frames, Scenario, available
from overlayd.core.address import Family
from overlayd.lab import LabError

_LAB_SECONDS, _SETTLE = 1.2, 0.35
"""For the estimate: a scenario comes up; a run is prepared."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    rounds: int = 5
    scenarios: Sequence[str] = field(default_factory=available)
    metrics: Sequence[str] = tuple(METRICS)
    frames: Sequence[Frames] = ("wire", "any")
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
        return len(self.frames) * len(self.scenarios) * (_LAB_SECONDS + 3 * self.warm_up + self.rounds * each)

    def record(self) -> PlanRecord:
        """As the result file has it."""
        return PlanRecord(
            rounds=self.rounds,
            scenarios=list(self.scenarios),
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
    scenarios=QUICK,
    metrics=("tcp1", "udp64", "udp1400", "rr", "connect"),
    frames=("wire",),
    durations=Durations(tcp=1, udp=0.3, search=0.12, rr=0.4, connect=0.3, perf=0.4),
    warm_up=0.2,
    patience=2.0,
)
"""About a minute."""


class Listener:
    """Receives the progress of a benchmark; this one ignores it."""

    def step(self, text: str) -> None:
        """What is done next."""

    def done(self, seconds: float) -> None:
        """This part of the estimate has passed."""

    def note(self, text: str) -> None:
        """A message for the user."""


class Benchmark:
    """Measures scenarios into a result."""

    def __init__(
        self, plan: Plan, environment: Environment, save: Callable[[Result], None], listener: Listener
    ) -> None:
        self.plan = plan
        self.result = Result(started=_now(), environment=environment, plan=plan.record())
        self.failed = False
        """Whether a requested figure could not be measured."""
        self._save = save
        self._listener = listener
        if environment.perf and {"wakeups", "profile"} & set(plan.metrics):
            self.note(f"no figures from perf: {environment.perf}")

    def note(self, text: str) -> None:
        """Keep it in the result and report it."""
        self.result.notes.append(text)
        self._listener.note(text)

    def finish(self) -> Result:
        """Everything has been measured."""
        self.result.ended, self.result.complete = _now(), True
        self._save(self.result)
        return self.result

    def measure(self, scenarios: Sequence[Scenario], frames: Frames) -> None:
        """Warm-up and all rounds, with the underlay as it is now. Raises BenchError when nothing at all works."""
        records = [ScenarioRecord(name=one.name, title=one.title, frames=frames, facts=one.facts) for one in scenarios]
        self.result.scenarios += records
        for scenario in scenarios:
            self._listener.step(f"{scenario.title}: warm-up")
            self._warm_up(scenario)
            self._listener.done(_LAB_SECONDS + 3 * self.plan.warm_up)
        for number in range(1, self.plan.rounds + 1):
            for metric in (METRICS[name] for name in self.plan.metrics):
                for scenario in scenarios:
                    self._listener.step(f"round {number} of {self.plan.rounds}: {metric.title}, {scenario.title}")
                    self.result.samples.append(self._sample(scenario, metric, number, frames))
                    self._save(self.result)
                    self._listener.done(metric.seconds(self.plan.durations) + _SETTLE)
        for scenario, record in zip(scenarios, records, strict=True):
            record.memory_mib = scenario.memory()
        self._save(self.result)

    def _warm_up(self, scenario: Scenario) -> None:
        scenario.prepare()
        seconds, congestion = self.plan.warm_up, self.result.environment.congestion_control
        with contextlib.suppress(BenchError, LabError):  # the samples of a broken scenario have the error
            tools.transactions(scenario.client, scenario.server, scenario.address, seconds, congestion=congestion)
            with scenario.server.serving("udp"):
                tools.blast(scenario.client, scenario.address, 1400, seconds)
            if seconds >= 1:
                tools.throughput(scenario.client, scenario.server, scenario.address, seconds, congestion=congestion)

    def _sample(self, scenario: Scenario, metric: Metric, number: int, frames: Frames) -> Sample:
        scenario.prepare()
        busy = wait_idle(scenario.busy, self.plan.patience)
        sample = Sample(
            frames=frames,
            scenario=scenario.name,
            metric=metric.name,
            round=number,
            busy=round(busy, 3),
            unreliable=busy > BUSY,
        )
        try:
            seen = metric.run(scenario, self.plan.durations, self.result.environment.congestion_control)
        except (BenchError, LabError) as error:
            sample.error, self.failed = str(error), True
            self.note(f"{scenario.title}, {metric.title}, round {number}: {error}")
            return sample
        sample.figures = {name: float(f"{value:.6g}") for name, value in seen.figures.items()}
        sample.detail = seen.detail
        return sample


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
