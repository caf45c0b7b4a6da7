"""The regression guard: `make bench-check`. Measures for about four minutes, compares with baseline.json, by ratio.

    sudo .venv/bin/python benchmarks/check.py [--update] [--result RESULT.json]

--update replaces the baseline; --result judges an existing result. Status 1 where something has become worse, or
where the machine was too busy to decide.
"""

from __future__ import annotations

import argparse
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

BASELINE = Path(__file__).with_name("baseline.json")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="replace the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    parser.add_argument("--result", type=Path, help="judge this result instead of measuring")
    given = parser.parse_args()
    try:
        before = {} if given.update else guard.load(given.baseline)
        output = Path("build/bench-check.json")
        result = Result.load(given.result) if given.result else measured(guard.PLAN, output)
        if given.update:
            guard.save(given.baseline, result)
            return 0
    except (BenchError, LabError) as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return 1
    verdicts = guard.judge(guard.ratios(result), before)
    show(verdicts)
    return 1 if any(one.word in ("worse", "unknown") for one in verdicts) else 0


def show(verdicts: list[guard.Verdict]) -> None:
    """A row for each ratio."""
    table = Table(title="Ratios of the same round: median (least-most)", title_justify="left")
    for column in ("", "baseline", "now", ""):
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
