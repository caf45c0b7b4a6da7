"""The regression guard: what it takes for worse, and what it does not know."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from overlayd.bench import guard
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Result, Sample
from overlayd.bench.stats import Spread

RECORDED = Path(__file__).with_name("bench_result.json")
ROOT = Path(__file__).parents[2]
NAME = "udp-native / vxlan, rr, any"


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
    verdicts = guard.judge(guard.ratios(now), guard.ratios(before))
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


def test_a_baseline_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"No such file.*make a baseline with .*--update"):
        guard.load(tmp_path / "baseline.json")
