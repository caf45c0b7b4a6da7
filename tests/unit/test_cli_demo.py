"""The demo's words and marks; tests/netns/test_demo.py runs it."""

from __future__ import annotations

import subprocess
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.bench import counters
from overlayd.cli import demo
from overlayd.cli.demo import MODES, Result

ROOT = Path(__file__).parents[2]
SETUP = {"rounds": 1, "cores": 2, "kernel": "6", "machine": "x", "python": "3", "congestion_control": "cubic",
         "offloads": "on", "underlay_mtu": 1500}  # fmt: skip


@pytest.mark.parametrize(("busy", "marked"), [(0.9, 1), (0.1, 0)])
def test_a_measurement_on_a_busy_machine_is_marked(monkeypatch: pytest.MonkeyPatch, busy: float, marked: int) -> None:
    monkeypatch.setattr(counters, "busy", lambda: busy)
    monkeypatch.setattr(demo, "PATIENCE", 0.0)
    result, done = Result("udp"), []
    lab: Any = None
    demo.on_idle_machine(lambda lab, result: done.append(result.mode))(lab, result)
    assert done == ["udp"], "it is measured all the same"
    assert result.unreliable == marked


def test_every_mode_takes_part() -> None:
    assert sorted(MODES) == sorted(SETTINGS.modes)


def shown(capsys: pytest.CaptureFixture[str], *unreliable: int) -> str:
    results = [Result(mode, unreliable=count) for mode, count in zip_longest(MODES, unreliable, fillvalue=0)]
    demo._show(SETUP, results)
    return capsys.readouterr().out


def test_figures_of_a_busy_machine_are_called_unreliable(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"4 of {3 * len(MODES)} measurements started on a busy machine and are unreliable"
    assert text in shown(capsys, 0, 3, 1)
    assert "unreliable" not in shown(capsys)


def test_it_ends_by_naming_the_benchmark_and_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    end = shown(capsys).partition("What to try next")[2]
    assert "bench --quick --output quick.json" in end
    assert "bench report quick.json" in end


def test_make_demo_installs_what_the_demo_needs_and_no_more() -> None:
    argv = ["make", "--dry-run", "--always-make", "--no-print-directory", "-C", str(ROOT), "demo"]
    steps = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "--editable ." in steps
    assert "[dev]" not in steps
    assert " tcpdump" in steps, "the lab's hints name it"
    assert not {"etcd-server", "tshark", "curl"} & set(steps.split())
