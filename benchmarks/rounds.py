"""Interleaved rounds and their summary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

ROUNDS = 5


def interleave(scenarios: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run each scenario once a round, in turn, after one round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in scenarios}
    for index in range(rounds + 1):
        for name, scenario in scenarios.items():
            figure = scenario()
            if index:
                figures[name].append(figure)
    return figures


def show(title: str, unit: str, figures: Mapping[str, list[float]], digits: int = 0) -> None:
    """A table: each scenario with its median, its spread, and its ratio to the first one, round by round."""
    table = Table(title=title, title_justify="left")
    for column in ("", f"median {unit}", "min-max", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    base = next(iter(figures.values()))
    for name, values in figures.items():
        ratio = statistics.median(value / one for value, one in zip(values, base, strict=True))
        spread = f"{min(values):,.{digits}f}-{max(values):,.{digits}f}"
        table.add_row(name, f"{statistics.median(values):,.{digits}f}", spread, f"{ratio:.2f}")
    Console().print(table)
