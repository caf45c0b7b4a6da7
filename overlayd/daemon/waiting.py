"""The daemon before its registry has given it a node: it can be asked what it waits for, and has touched nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from overlayd.api.server import Service
from overlayd.observe.health import not_ready, waiting_reason
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.metrics import waiting_exposition
from overlayd.observe.status import describe_waiting
from overlayd.registry.base import Registry


class Waiting:
    """Answers the control API."""

    def __init__(self, lifecycle: Lifecycle, registry: Registry) -> None:
        self._lifecycle, self._registry = lifecycle, registry
        self.successor: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        """What answers next, once there is one."""

    def health_report(self) -> dict[str, Any]:
        return not_ready(self._lifecycle.phase, waiting_reason(self._registry.state()))

    async def status(self) -> dict[str, Any]:
        return describe_waiting(self._lifecycle, self._registry.state())

    async def counters(self) -> dict[str, Any]:
        return await self.status()

    async def metrics(self) -> str:
        return waiting_exposition(self._lifecycle, self._registry.state(), self.health_report())

    async def reload(self) -> str | None:
        return "overlayd has not started yet: it waits for its registry"

    def attachments(self) -> list[dict[str, Any]]:
        return []

    async def leases(self) -> AsyncIterator[dict[str, Any]]:
        async for event in (await self.successor).leases():
            yield event
