"""Mistakes in a configuration, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake in the configuration."""

    path: Path
    """Keys and list indexes from the root: ("leases", 2, "subnet")."""
    value: str
    """The value seen, as it was written; empty where one is missing."""
    text: str
    """What is wrong, and what to do."""

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {f'{self.value} ' if self.value else ''}{self.text}"


class SectionError(ValueError):
    """Everything that is wrong in one section or list."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Their paths begin inside it."""
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def dotted(path: Path) -> str:
    """("leases", 2, "subnet") as leases[2].subnet."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
