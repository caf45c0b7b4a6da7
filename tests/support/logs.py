"""What was logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlayd.log import Event, log


@contextmanager
def capture_logs() -> Iterator[list[Event]]:
    """The events of this block, of whatever level, as they happen; they go nowhere else."""
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "level", "debug")
        patch.setattr(log, "write", events.append)
        yield events
