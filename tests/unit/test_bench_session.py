"""A benchmark's order, marks and files, with scenarios that answer at once in place of labs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlayd.bench import metric, session
from overlayd.bench.counters import Counters, Processor
from overlayd.bench.errors import BenchError
from overlayd.bench.metric import Metric
from overlayd.bench.result import Environment, Machine, Result
from overlayd.bench.runs import Durations, Measurement
from overlayd.bench.scenario import Scenario
from overlayd.bench.session import Benchmark, Listener, Plan
from overlayd.cli import bench
from overlayd.cli.overlayctl import parser
from overlayd.core.errors import UsageError

MACHINE = Machine(
    kernel="6.1",
    architecture="x",
    cpu="y",
    cores=2,
    memory_mib=1,
    hypervisor=False,
    python="3",
    overlayd="0",
    iperf3="3",
)
ENVIRONMENT = Environment(machine=MACHINE, congestion_control="cubic", udp_limit=1.0, perf="")


class FakeEndpoint:
    """An endpoint on another machine that is as busy as it is told to be."""

    def __init__(self, *busy: float) -> None:
        self.name = "x"
        self._busy = list(busy)

    @contextlib.contextmanager
    def serving(self, tool: str, congestion: str = "") -> Iterator[None]:
        yield

    def counters(self) -> Counters:
        return Counters(0.0, Processor(0, 0, 0, 0, 0, 0))

    def busy(self) -> float:
        return self._busy.pop(0) if len(self._busy) > 1 else self._busy[0]


def scenario(name: str, *busy: float) -> Scenario:
    endpoint: Any = FakeEndpoint(*(busy or (0.0,)))
    return Scenario(name, name.upper(), endpoint, endpoint, "192.0.2.1")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Metric and scenario of every run; the second metric fails on the scenario b."""
    order: list[tuple[str, str]] = []

    def run(name: str) -> Any:
        def measured(chosen: Scenario, durations: Durations, congestion: str) -> Measurement:
            order.append((name, chosen.name))
            if (name, chosen.name) == ("m2", "b"):
                raise BenchError("it broke")
            return Measurement({"rate": 1234.56789}, {"congestion": congestion})

        return measured

    metrics = {name: Metric(name, name, run(name), lambda _: 1.0, {}) for name in ("m1", "m2")}
    monkeypatch.setattr(session, "METRICS", metrics)
    monkeypatch.setattr(Benchmark, "_warm_up", lambda self, chosen: order.append(("warm-up", chosen.name)))
    return order


def benchmark(path: Path, **plan: Any) -> Benchmark:
    chosen = Plan(**{"rounds": 2, "metrics": ("m1", "m2"), "scenarios": ("a", "b"), "patience": 0.0, **plan})
    return Benchmark(chosen, ENVIRONMENT, lambda result: result.save(path), Listener())


def test_ways_take_turns_within_each_metric_of_each_round(ran: list[tuple[str, str]], tmp_path: Path) -> None:
    made = benchmark(tmp_path / "r.json")
    made.measure([scenario("a"), scenario("b")], "any")
    a_round = [("m1", "a"), ("m1", "b"), ("m2", "a"), ("m2", "b")]
    assert ran == [("warm-up", "a"), ("warm-up", "b"), *a_round, *a_round]
    assert [sample.round for sample in made.result.samples] == [1] * 4 + [2] * 4
    assert made.result.samples[0].figures == {"rate": 1234.57}, "six digits are enough"
    assert made.result.samples[0].detail == {"congestion": "cubic"}


def test_what_fails_is_in_the_result_and_the_rest_goes_on(ran: list[tuple[str, str]], tmp_path: Path) -> None:
    made = benchmark(tmp_path / "r.json")
    made.measure([scenario("a"), scenario("b")], "any")
    failed = [sample for sample in made.result.samples if sample.error]
    assert [(one.metric, one.scenario, one.error, one.figures) for one in failed] == [("m2", "b", "it broke", {})] * 2
    assert made.failed
    assert "B, m2, round 1: it broke" in made.result.notes
    assert made.finish().complete


def test_a_run_waits_for_an_idle_machine_and_is_marked_when_there_is_none(
    ran: list[tuple[str, str]], tmp_path: Path
) -> None:
    made = benchmark(tmp_path / "r.json", metrics=("m1",), rounds=1, patience=60.0)
    made.measure([scenario("a", 0.9, 0.5, 0.1)], "any")
    assert [(one.busy, one.unreliable) for one in made.result.samples] == [(0.1, False)]
    hurried = benchmark(tmp_path / "r.json", metrics=("m1",), rounds=1)
    hurried.measure([scenario("a", 0.9)], "any")
    assert [(one.busy, one.unreliable) for one in hurried.result.samples] == [(0.9, True)]
    assert hurried.result.unreliable == 1


def test_an_interrupted_benchmark_keeps_what_it_has(
    ran: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    made = benchmark(path)
    third = scenario("b")
    third.prepare = lambda: (_ for _ in ()).throw(KeyboardInterrupt()) if len(made.result.samples) == 3 else None
    with pytest.raises(KeyboardInterrupt):
        made.measure([scenario("a"), third], "any")
    kept = Result.load(path)
    assert [(one.metric, one.scenario) for one in kept.samples] == [("m1", "a"), ("m1", "b"), ("m2", "a")]
    assert not kept.complete
    assert kept.ended is None


# --- the command line -------------------------------------------------------------------------------------------------


def plan_of(*argv: str) -> Plan:
    return bench.plan_of(parser().parse_args(["bench", *argv]))


def test_options_make_the_plan() -> None:
    assert plan_of() == Plan()
    assert plan_of("--quick").frames == ("wire",)
    assert plan_of("--frames", "all").frames == ("wire", "any", "1500")
    seen = plan_of(
        "--quick",
        "--rounds",
        "7",
        "--frames",
        "any,1500,any",
        "--scenarios",
        "vxlan,host",
        "--metrics",
        "rr",
        "--family",
        "6",
    )
    assert (seen.rounds, seen.frames, seen.family) == (7, ("any", "1500"), 6)
    assert (list(seen.scenarios), list(seen.metrics)) == (["vxlan", "host"], ["rr"])
    longer = plan_of("--seconds", "4").durations
    assert (longer.tcp, longer.udp) == (4, 2 * Durations.udp)
    attached = plan_of("--attachments", "--scenarios", "host,macvlan+rps")
    assert attached.base == "host"
    assert "profile" in metric.METRICS
    assert "profile" not in attached.metrics


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--scenarios", "vxlan,udp"], "--scenarios: 'udp' is not one of host, host-gw, vxlan"),
        (["--scenarios", "bridge"], "--scenarios: 'bridge' is not one of host"),
        (["--metrics", ""], "--metrics: '' is not one of tcp1"),
        (["--frames", "both"], "--frames: 'both' is not one of wire, any, 1500"),
        (["--frames", "peer"], "--frames: 'peer' is not one of wire, any, 1500"),
        (["--rounds", "0"], "--rounds 0: use 1 to 1000"),
        (["--seconds", "601"], "--seconds 601: use 1 to 600"),
        (["--patience", "nan"], "--patience nan: use 0 to 3600"),
        (["--attachments", "--scenarios", "vxlan"], "--scenarios: 'vxlan' is not one of host, host+rps, bridge"),
        (["--attachments", "--peer", "192.0.2.1"], "--attachments cannot be used with --peer"),
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str], error: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan_of(*argv)
    assert error in str(raised.value)


def test_a_report_is_written_beside_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from overlayd.cli.overlayctl import main

    recorded = Path(__file__).with_name("bench_result.json")
    copy = tmp_path / "mine.json"
    copy.write_text(recorded.read_text())
    assert main(["bench", "report", str(copy)]) == 0
    assert (tmp_path / "mine.html").read_text().startswith("<!doctype html>")
    assert main(["bench", "report", str(tmp_path / "no.json")]) == 1
    assert "no.json" in capsys.readouterr().err
    assert json.loads(copy.read_text())["format"] == "overlayd-bench/1", "a report leaves its result alone"


def test_the_newest_result_is_compared_with_the_older_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever their order on the command line: a shell's glob has the oldest first."""
    from overlayd.cli.overlayctl import main

    recorded = json.loads(Path(__file__).with_name("bench_result.json").read_text())
    paths = []
    for name, day in (("a", "2026-01-01"), ("b", "2026-03-01"), ("c", "2026-02-01")):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({**recorded, "started": f"{day}T00:00:00+00:00"}))
    assert main(["bench", "report", *map(str, paths)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b.html'}\n"
    text = (tmp_path / "b.html").read_text()
    assert text.index("A is c, B is b") < text.index("A is a, B is b")
