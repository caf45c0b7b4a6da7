"""Keeps the daemon's endless tasks running until it is asked to stop; one that ends is an error that names the task."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from overlayd.core.errors import ReportedError
from overlayd.log import log
from overlayd.system.errors import HostError

T = TypeVar("T")


class Supervisor:
    """The daemon's signals and tasks."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[object]] = set()

    def handle_signals(self, reload: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Stop on SIGTERM and SIGINT, call `reload` on SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

        def hangup() -> None:
            task = loop.create_task(reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, hangup)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None when the daemon was asked to stop before there was one."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        await _cancel(task)
        return None

    async def run(self, endless: Mapping[str, Coroutine[Any, Any, None]]) -> None:
        """Run these tasks, by name, until asked to stop. Raises what one of them raised, or HostError if one ended."""
        tasks = [asyncio.create_task(work, name=name) for name, work in endless.items()]
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        await _cancel(*tasks, stop)
        for task in done - {stop}:
            error = task.exception() or HostError(f"task {task.get_name()!r} ended; this is a defect: please report it")
            if not isinstance(error, ReportedError):  # whoever reports those does so once
                log.error("task failed", task=task.get_name(), error=str(error))
            raise error


async def every(seconds: float, action: Callable[[], Awaitable[object]]) -> None:
    """Await the action again and again, without end, the first time after `seconds`."""
    while True:
        await asyncio.sleep(seconds)
        await action()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
