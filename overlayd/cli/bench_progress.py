"""The progress of a benchmark on the terminal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from overlayd.bench.session import Listener, Plan


class Shown(Listener):
    """Steps, time left and notes."""

    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=seconds)

    def step(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def done(self, seconds: float) -> None:
        self._progress.advance(self._task, seconds)

    def note(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watched(console: Console, plan: Plan) -> Iterator[Listener]:
    """Print what will be measured and how long it takes, then show the progress."""
    console.print(
        f"{len(plan.scenarios)} scenarios, {len(plan.metrics)} metrics, {plan.rounds} rounds"
        f", frames {', '.join(plan.frames)}:"
        f" about {duration(plan.seconds())} on an idle machine; Ctrl-C keeps the results so far",
        highlight=False,
    )
    columns = (SpinnerColumn(), TextColumn("{task.description:<52}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield Shown(progress, plan.seconds())


def duration(seconds: float) -> str:
    """Seconds, in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM takes the labs down, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
