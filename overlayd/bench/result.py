"""The result file: everything that was seen, with the context without which it says nothing.

One JSON object; result.schema.json is its schema. It is written anew after every run, so that an interrupted benchmark
keeps what it has; `complete` says whether it went to its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from overlayd.bench import stats
from overlayd.bench.errors import BenchError
from overlayd.bench.stats import Spread
from overlayd.bench.way import Frames
from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically

FORMAT = "overlayd-bench/1"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Machine(_Model):
    """One machine that took part."""

    kernel: str
    architecture: str
    cpu: str
    cores: int
    memory_mib: int
    hypervisor: bool
    """Whether the CPU says that it is a virtual one."""
    python: str
    overlayd: str
    iperf3: str
    """Its version; empty where it is not installed."""


class Context(_Model):
    """Where and with what it was measured."""

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
    """What was asked for."""

    rounds: int
    ways: list[str]
    metrics: list[str]
    frames: list[Frames]
    family: Literal[4, 6]
    underlay: Literal[4, 6]
    durations: dict[str, float]
    """Seconds of each kind of run."""
    patience: float
    """Seconds that each run waited at most for an idle machine."""
    base: str
    """The way that ratios are taken to."""


class WayRecord(_Model):
    """A way that was measured."""

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
    way: str
    metric: str
    round: int
    busy: float
    """The share (0..1) of the machine that something else used just before."""
    disturbed: bool
    """Whether that was too much, and stayed so as long as patience allowed."""
    figures: dict[str, float] = Field(default_factory=dict)
    detail: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    """Why there are no figures."""


class Result(_Model):
    """A result file."""

    format: Literal["overlayd-bench/1"] = "overlayd-bench/1"
    started: str
    """ISO 8601, UTC."""
    ended: str | None = None
    complete: bool = False
    context: Context
    plan: PlanRecord
    ways: list[WayRecord] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """What went wrong, or could not be had."""

    def save(self, path: Path) -> None:
        """Write it at once and whole. Raises HostError."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Raises BenchError that names the first mistake in a file that is none."""
        try:
            return cls.model_validate_json(read_text(path))
        except HostError as error:
            raise BenchError(str(error)) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise BenchError(f"{path}: is no result of overlayctl bench: {where}: {first['msg']}") from None

    def series(self, frames: str, way: str, metric: str, figure: str) -> list[float | None]:
        """The figure, round by round; None where it is missing."""
        found = {
            sample.round: sample.figures.get(figure)
            for sample in self.samples
            if (sample.frames, sample.way, sample.metric) == (frames, way, metric)
        }
        return [found.get(number) for number in range(1, max(found, default=0) + 1)]

    def spread(self, frames: str, way: str, metric: str, figure: str) -> Spread | None:
        """Median, least and most of the rounds; None without any."""
        return spread(self.series(frames, way, metric, figure))

    def ratio(self, frames: str, way: str, metric: str, figure: str, base: str) -> Spread | None:
        """The same of the ratios to `base`, each of one round."""
        mine, other = (self.series(frames, one, metric, figure) for one in (way, base))
        return spread(stats.ratios(mine, other))

    @property
    def disturbed(self) -> int:
        """How many runs were made on a machine that was busy."""
        return sum(sample.disturbed for sample in self.samples)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of those that are there."""
    present = [value for value in values if value is not None]
    return Spread.of(present) if present else None
