"""How far one daemon process has come: a small record that its start-up and reloads write and its reports read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["waiting", "starting", "ready", "stopping"]


@dataclass
class Lifecycle:
    """One process, from its start to its end."""

    phase: Phase = "waiting"
    """`state` in every report: waiting for the registry, data path starting, ready, stopping."""
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    reloads: int = 0
    """Configurations applied since the start."""
    reload_error: str | None = None
    """Why the last reload was refused."""
    overridden: tuple[str, ...] = ()
    """What the last reload read and a flag replaces, one line for each."""
