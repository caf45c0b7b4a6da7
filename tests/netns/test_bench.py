"""`overlayctl bench` as a person runs it, shortened: every figure is there, the file keeps to its schema, and nothing
of the labs is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from overlayd.bench import perf
from overlayd.bench.metric import METRICS
from overlayd.bench.result import Result
from overlayd.lab.host import ROOT
from overlayd.lab.state import names

COMMAND = [sys.executable, "-m", "overlayd.cli.overlayctl", "bench", "--quick", "--rounds", "1", "--patience", "0"]
SCHEMA = json.loads((ROOT / "benchmarks" / "result.schema.json").read_text())
MAY_BE_ZERO = {"loss", "daemon_cpu", "daemon_user", "daemon_system", "daemon_us", "other_cpu", "machine_us", "load_cpu"}
COUNTS = {"retransmits", "reordering", "dsack", "out_of_order"}


def labs_of(pid: int) -> list[str]:
    return [name for name in names() if name.startswith(f"t{pid}-")]


def test_every_figure_of_every_way_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = ["--scenarios", "vxlan,udp-native", "--metrics", "tcp1,udp64,rr,connect,wakeups,profile", "--family", "6"]
    argv = [*COMMAND, *options, "--underlay", "6", "--frames", "wire", "--output", str(output)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        out, errors = running.communicate(timeout=110)
    assert running.returncode == 0, errors
    assert "about" in errors, "it says beforehand how long it takes"
    assert "udp, native engine" in out
    assert labs_of(running.pid) == []
    jsonschema.validate(json.loads(output.read_text()), SCHEMA)
    result = Result.load(output)
    assert result.complete
    assert result.environment.congestion_control == "cubic"
    assert {scenario.name: len(scenario.memory_mib) for scenario in result.scenarios} == {"vxlan": 2, "udp-native": 2}
    assert all(len(scenario.facts["up_seconds"]) == 2 for scenario in result.scenarios)
    for sample in result.samples:
        what = (sample.scenario, sample.metric)
        assert sample.error is None, what
        if sample.metric in ("wakeups", "profile") and (perf.unusable() or what == ("vxlan", "wakeups")):
            continue  # no daemon carries packets there
        assert set(sample.figures) == set(METRICS[sample.metric].figures), what
        for name, value in sample.figures.items():
            assert value >= 0, (what, name)
            assert value > 0 or name in MAY_BE_ZERO | COUNTS, (what, name)
    (daemons,) = result.series("wire", "udp-native", "udp64", "daemon_us")
    assert daemons, "the daemons' time is counted where they carry the packets"


def test_an_interrupted_benchmark_keeps_what_it_has_and_leaves_no_lab(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    argv = [*COMMAND, "--scenarios", "vxlan", "--metrics", "rr,connect", "--rounds", "1000", "--output", str(output)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            while not output.exists():  # it is written after the first run
                live_on(running)
            running.send_signal(signal.SIGTERM)  # as Ctrl-C
            _, errors = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130, errors
    assert f"interrupted; results so far are in {output}" in errors
    assert labs_of(running.pid) == []
    result = Result.load(output)
    assert not result.complete
    assert result.samples
    jsonschema.validate(json.loads(output.read_text()), SCHEMA)


def live_on(running: subprocess.Popen[str]) -> None:
    """Wait for a moment of the process's life, or fail when it has ended."""
    try:
        running.wait(0.05)
    except subprocess.TimeoutExpired:
        return
    pytest.fail(f"it ended: {running.stderr.read() if running.stderr else ''}")
