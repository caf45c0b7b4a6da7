"""Waiting for what others bring about: processes, kernels, tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

TIMEOUT = 15.0
"""Seconds; only a failure takes that long."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str = "", *, timeout: float = TIMEOUT) -> T:
    """The condition's value once it is true; the test fails, naming `what`, if it does not become true in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what, value)
        time.sleep(0.02)
    return value


async def eventually_async(condition: Callable[[], T], what: str = "") -> T:
    """The same while the event loop's other tasks run."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):  # any task may make it true
        _check(deadline, TIMEOUT, what, value)
        await asyncio.sleep(0.01)
    return value


def _check(deadline: float, timeout: float, what: str, value: object) -> None:
    if time.monotonic() > deadline:
        pytest.fail(f"not after {timeout:g} s: {what or 'the condition'}; last seen: {value!r}")
