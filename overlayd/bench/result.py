"""The result file: every figure, with the environment without which figures mean nothing.

One JSON object; result.schema.json is its schema. It is rewritten after every run, so that an interrupted benchmark
keeps its results; `complete` says whether it reached its end. Files of the former format are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from overlayd.bench import stats
from overlayd.bench.errors import BenchError
from overlayd.bench.scenario import Frames
from overlayd.bench.stats import Spread
from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically

_FORMER = "overlayd-bench/1"
_RENAMED = {"way": "scenario", "ways": "scenarios", "disturbed": "unreliable", "context": "environment"}
"""Keys of that format and what they are called now."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in data.items()}


class Machine(_Model):
    """One machine that took part."""

    kernel: str
    architecture: str
    cpu: str
    cores: int
    memory_mib: int
    hypervisor: bool
    """Whether the CPU reports a hypervisor."""
    python: str
    overlayd: str
    iperf3: str
    """Its version; empty where it is not installed."""


class Environment(_Model):
    """The machines and their settings."""

    machine: Machine
    peer: Machine | None = None
    """The other machine; null in a lab."""
    congestion_control: str
    """TCP's, set on every connection."""
    udp_limit: float | None
    """Thousand datagrams of 64 bytes a second that the load generator makes on loopback: its own limit; null where its
    port there was taken."""
    perf: str
    """Why perf's figures are missing; empty when they are not."""


class PlanRecord(_Model):
    """What was requested."""

    rounds: int
    scenarios: list[str]
    metrics: list[str]
    frames: list[Frames]
    family: Literal[4, 6]
    underlay: Literal[4, 6]
    durations: dict[str, float]
    """Seconds of each kind of run."""
    patience: float
    """Seconds that each run waited at most for an idle machine."""
    base: str
    """The scenario that ratios are taken to."""


class ScenarioRecord(_Model):
    """A scenario that was measured."""

    name: str
    title: str
    frames: Frames
    facts: dict[str, Any]
    """Mode, engine, offloads, MTU and seconds to come up, as far as it has them."""
    memory_mib: list[float] = Field(default_factory=list)
    """Resident, of each daemon at the end."""


class Sample(_Model):
    """One run."""

    frames: Frames
    scenario: str
    metric: str
    round: int
    busy: float
    """The share (0..1) of the machine that other programs used just before."""
    unreliable: bool
    """Whether the machine was still busy when patience had run out."""
    figures: dict[str, float] = Field(default_factory=dict)
    detail: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    """Why there are no figures."""


class Result(_Model):
    """A result file."""

    format: Literal["overlayd-bench/2"] = "overlayd-bench/2"
    started: str
    """ISO 8601, UTC."""
    ended: str | None = None
    complete: bool = False
    environment: Environment
    plan: PlanRecord
    scenarios: list[ScenarioRecord] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Failures, and figures that are missing."""

    @model_validator(mode="before")
    @classmethod
    def _read_former(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("format") != _FORMER:
            return data
        made = {**_renamed(data), "format": cls.model_fields["format"].default}
        if isinstance(made.get("plan"), dict):
            made["plan"] = _renamed(made["plan"])
        if isinstance(made.get("samples"), list):
            made["samples"] = [_renamed(one) if isinstance(one, dict) else one for one in made["samples"]]
        return made

    def save(self, path: Path) -> None:
        """Write it at once and whole. Raises HostError."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Raises BenchError that names the first mistake in any other file."""
        try:
            return cls.model_validate_json(read_text(path))
        except HostError as error:
            raise BenchError(str(error)) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "".join(f"{one}." for one in first["loc"])[:-1]
            reason = f"{where}: {first['msg']}" if where else first["msg"][0].lower() + first["msg"][1:]
            raise BenchError(f"{path}: not a result of overlayctl bench ({reason})") from None

    def series(self, frames: str, scenario: str, metric: str, figure: str) -> list[float | None]:
        """The figure, round by round; None where it is missing."""
        found = {
            sample.round: sample.figures.get(figure)
            for sample in self.samples
            if (sample.frames, sample.scenario, sample.metric) == (frames, scenario, metric)
        }
        return [found.get(number) for number in range(1, max(found, default=0) + 1)]

    def spread(self, frames: str, scenario: str, metric: str, figure: str) -> Spread | None:
        """Median, least and most of the rounds; None without any."""
        return spread(self.series(frames, scenario, metric, figure))

    def ratio(self, frames: str, scenario: str, metric: str, figure: str, base: str) -> Spread | None:
        """The same of the ratios to `base`, each of one round."""
        mine, other = (self.series(frames, one, metric, figure) for one in (scenario, base))
        return spread(stats.ratios(mine, other))

    @property
    def unreliable(self) -> int:
        """How many runs started on a busy machine."""
        return sum(sample.unreliable for sample in self.samples)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of those that are there."""
    present = [value for value in values if value is not None]
    return Spread.of(present) if present else None
