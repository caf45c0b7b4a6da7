"""This process's file descriptors: how many are open, and how many may be (RLIMIT_NOFILE)."""

from __future__ import annotations

import os
import resource
import sys


def open_count() -> int:
    """Raises OSError where not even the list can be opened."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def limit() -> int:
    """How many may be open at once."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files


def shortage() -> str | None:
    """What is short, in words, when less than a tenth of the descriptors is left; None otherwise."""
    allowed = limit()
    try:
        used = open_count()
    except OSError:
        used = allowed
    if used < 0.9 * allowed:
        return None
    return f"file descriptors run out: {used} of {allowed} are open (raise LimitNOFILE= of the unit, or ulimit -n)"
