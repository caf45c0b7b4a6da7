"""The regression guard: what it takes for worse, and what it does not know."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from overlayd.bench import guard
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Result, Sample
from overlayd.bench.stats import Spread
from overlayd.cli.bench import plan_of
from overlayd.cli.overlayctl import parser

RECORDED = Path(__file__).with_name("bench_result.json")
ROOT = Path(__file__).parents[2]
NAME = "udp-native / vxlan, rr, wire"


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / "benchmarks" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(*rates: float, unreliable: int = 0) -> Result:
    """udp-native with these rates, a round each, where all others have 10; the first so many rounds unreliable."""
    made = Result.load(RECORDED)
    made.plan = guard.PLAN.record()
    made.samples = [
        Sample(
            frames=frames, scenario=scenario, metric=metric, round=number, busy=0, unreliable=number <= unreliable,
            figures={"rate": rate if scenario == "udp-native" else 10.0},
        )
        for frames in made.plan.frames
        for metric in made.plan.metrics
        for scenario in made.plan.scenarios
        for number, rate in enumerate(rates, 1)
    ]  # fmt: skip
    return made


def words(now: Result, before: Result) -> set[str]:
    verdicts = guard.judge(now, guard.ratios(before))
    return {one.word for one in verdicts if one.name == NAME}


def test_ratios_are_of_udp_mode_to_both_kernel_ways_in_the_same_round() -> None:
    seen = guard.ratios(result(5, 6, 7))
    assert len(seen) == 2 * 3 * 2 * 2
    assert seen[NAME] == Spread(0.6, 0.5, 0.7, 3)


def test_worse_is_below_every_round_of_the_baseline() -> None:
    before = result(5, 6, 7)
    assert words(result(4, 4.5, 4.9), before) == {"worse"}
    assert words(result(4, 4.5, 5), before) == {"same"}
    assert words(result(8, 8, 9), before) == {"better"}


def test_a_machine_twice_as_fast_is_no_regression_and_hides_none() -> None:
    """All rates doubled: the ratios are what they were."""
    before, now = result(5, 6, 7), result(5, 6, 7)
    for sample in now.samples:
        sample.figures["rate"] *= 2
    assert words(now, before) == {"same"}


def test_unreliable_rounds_do_not_count_and_too_few_are_no_answer() -> None:
    before = result(5, 6, 7)
    assert words(result(1, 6, 6, 6, unreliable=1), before) == {"same"}
    assert words(result(1, 1, 6, 6, unreliable=2), before) == {"unknown"}


def test_a_setting_that_the_baseline_lacks_is_new_and_one_that_is_not_measured_is_not_missed() -> None:
    now, before = result(5, 6, 7), result(5, 6, 7)
    before.plan.frames = ["1500", "any"]
    for sample in before.samples:
        sample.frames = "1500" if sample.frames == "wire" else "any"
    verdicts = guard.judge(now, guard.ratios(before))
    assert {one.word for one in verdicts if one.name.endswith(", wire")} == {"new"}
    assert {one.word for one in verdicts if one.name.endswith(", any")} == {"same"}
    assert len(verdicts) == 24


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    guard.save(path, result(5, 6, 7))
    assert guard.load(path) == guard.ratios(result(5, 6, 7))
    with pytest.raises(BenchError, match="only 0 of 24 ratios have 3 rounds on an idle machine"):
        guard.save(path, result(5, 6))


@pytest.mark.parametrize("text", ["", "{}", '{"ratios": {"x": {"low": 1}}}', '{"ratios": [1]}'])
def test_what_is_no_baseline_is_told_with_the_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"not a baseline.*--update"):
        guard.load(path)


def test_the_command_judges_a_result_by_the_committed_form(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["check.py", "--baseline", str(tmp_path / "b.json"), *argv])
        return check.main()

    files = {"before": result(5, 6, 7), "worse": result(1, 2, 3), "busy": result(5, 6, 7, unreliable=2)}
    for name, made in files.items():
        made.save(tmp_path / f"{name}.json")
    assert run("--update", "--result", str(tmp_path / "before.json")) == 0
    assert run("--result", str(tmp_path / "before.json")) == 0
    assert run("--result", str(tmp_path / "worse.json")) == 1
    assert "0.200 (0.100-0.300)" in capsys.readouterr().out
    assert run("--result", str(tmp_path / "busy.json")) == 1
    assert "unknown" in capsys.readouterr().out


def checkout(directory: Path, *rounds: Result) -> Path:
    """One whose Python "measures" these results, one for each call, and keeps what it was asked for."""
    (directory / ".venv/bin").mkdir(parents=True)
    for at, made in enumerate(rounds, 1):
        made.complete = True
        made.save(directory / f"{at}.json")
    python = directory / ".venv/bin/python"
    python.write_text(
        '#!/bin/sh\necho "$PWD $*" >>../calls; echo x >>calls\n'
        'for output; do :; done; cp "$(wc -l <calls).json" "$output" 2>/dev/null\n'
    )
    python.chmod(0o755)
    return directory


def test_another_checkout_is_measured_in_turn_and_judges(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round each, both begin in turn; only ratios count: `this` runs while the machine is twice as fast."""
    fast = [result(2 * rate) for rate in (5, 4, 3)]
    for made in fast:
        for sample in made.samples:
            sample.figures["rate"] *= 1 if sample.scenario == "udp-native" else 2
    checkout(tmp_path / "before", *(result(rate) for rate in (7, 8, 9)))
    this = checkout(tmp_path / "this", *fast)
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "HERE", this)
    monkeypatch.setattr(guard, "PLAN", replace(guard.PLAN, rounds=3))
    monkeypatch.setattr(sys, "argv", ["check.py", "--against", "before"])
    assert check.main() == 1
    out = capsys.readouterr().out
    assert "0.800 (0.700-0.900)" in out
    assert "0.400 (0.300-0.500)" in out
    assert "worse" in out
    calls = [line.split(" ", 1) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [Path(where).name for where, _ in calls] == ["before", "this", "this", "before", "before", "this"]
    asked = parser().parse_args(calls[0][1].split()[2:])
    assert (asked.rounds, asked.frames, asked.scenarios) == (1, "wire,any", "vxlan,host-gw,udp-python,udp-native")
    assert plan_of(asked).metrics == guard.PLAN.metrics


def test_a_checkout_that_cannot_be_measured_is_told(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check.py", "--against", "none"])
    assert check.main() == 1
    assert f"No such file or directory; run make setup in {tmp_path / 'none'}" in capsys.readouterr().err
    checkout(tmp_path / "none")
    assert check.main() == 1
    assert "none: overlayctl bench ended with status 1 and without a complete result" in capsys.readouterr().err


def test_a_baseline_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"No such file.*make a baseline with .*--update"):
        guard.load(tmp_path / "baseline.json")
