"""The regression guard: `make bench-check`. Measures for about four minutes, compares with baseline.json, by ratio.

    sudo .venv/bin/python benchmarks/check.py [--update] [--result RESULT.json]
    sudo .venv/bin/python benchmarks/check.py --against CHECKOUT

--update replaces the baseline; --result judges an existing result; --against compares with another checkout of
overlayd (with its .venv) instead, measuring both in turn, round by round, for about ten minutes. Status 1 where
something has become worse, or where the machine was too busy to decide.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from overlayd.bench import guard
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Result
from overlayd.bench.stats import Spread
from overlayd.cli.bench import measured
from overlayd.lab import LabError

HERE = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).with_name("baseline.json")
OUTPUT = Path("build/bench-check.json")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="replace the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--result", type=Path, help="judge this result instead of measuring")
    source.add_argument("--against", type=Path, metavar="CHECKOUT", help="judge by that checkout, measured in turn")
    given = parser.parse_args()
    if given.update and given.against:
        parser.error("--update cannot be used with --against")
    try:
        if given.against:
            before, result = in_turn(given.against.resolve(), HERE)
        else:
            before = {} if given.update else guard.load(given.baseline)
            result = Result.load(given.result) if given.result else measured(guard.PLAN, OUTPUT)
        if given.update:
            guard.save(given.baseline, result)
            return 0
    except (BenchError, LabError) as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return 1
    verdicts = guard.judge(result, before)
    show(verdicts, str(given.against or "baseline"))
    return 1 if any(one.word in ("worse", "unknown") for one in verdicts) else 0


def in_turn(other: Path, this: Path) -> tuple[dict[str, Spread], Result]:
    """The other checkout's ratios and this one's result; each begins every second round. Raises BenchError."""
    rounds: dict[Path, list[Result]] = {other: [], this: []}
    for number in range(guard.PLAN.rounds):
        for checkout in (other, this) if number % 2 == 0 else (this, other):
            print(f"round {number + 1} of {guard.PLAN.rounds}: {checkout}", file=sys.stderr)
            rounds[checkout].append(one_round(checkout))
    before, now = (guard.one_after_another(rounds[checkout]) for checkout in (other, this))
    return guard.ratios(before), now


def one_round(checkout: Path) -> Result:
    """Measured by that checkout's own `overlayctl bench`. Raises BenchError where it made no result."""
    output = OUTPUT.with_name("bench-check-round.json").absolute()
    output.unlink(missing_ok=True)
    python = checkout / ".venv/bin/python"
    command = [python, "-m", "overlayd.cli.overlayctl", "bench", *guard.options(guard.PLAN), "--output", output]
    try:
        child = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise BenchError(f"{python}: {error.strerror}; run make setup in {checkout}") from None
    try:
        status = child.wait()
    except KeyboardInterrupt:  # which the child has had as well: it takes its labs down
        child.wait()
        raise BenchError("interrupted") from None
    if not output.exists() or not (result := Result.load(output)).complete:
        raise BenchError(f"{checkout}: overlayctl bench ended with status {status} and without a complete result")
    return result


def show(verdicts: list[guard.Verdict], before: str) -> None:
    """A row for each ratio."""
    table = Table(title="Ratios of the same round: median (least-most)", title_justify="left")
    for column in ("", before, "now", ""):
        table.add_column(column)
    for one in verdicts:
        style = {"worse": "red", "unknown": "yellow"}.get(one.word)
        table.add_row(one.name, text(one.before), text(one.now), one.word, style=style)
    Console(width=110).print(table)


def text(spread: Spread | None) -> str:
    """As people read it."""
    return f"{spread.median:.3f} ({spread.low:.3f}-{spread.high:.3f})" if spread else "-"


if __name__ == "__main__":
    sys.exit(main())
