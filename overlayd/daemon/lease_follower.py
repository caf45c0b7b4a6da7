"""Follows the registry: lease events go to the table, to whoever watches it, to the prober and to the kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from overlayd.api.feed import Feed
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.log import log
from overlayd.observe.overlay import Overlay
from overlayd.observe.status import describe_peer
from overlayd.registry.base import LeaseChanges, Moved, Snapshot
from overlayd.system.errors import HostError

_BATCH_INTERVAL = 0.01  # seconds at most between lease updates; what comes meanwhile is applied together


class LeaseFollower:
    """`run` is a task of the daemon's."""

    def __init__(
        self, overlay: Overlay, feed: LeaseFeed, move: Callable[[str], Awaitable[None]], compare: Callable[[], None]
    ) -> None:
        """`move` applies another network configuration or another lease of this host's, for the reason given;
        `compare` asks for a full comparison soon."""
        self._overlay, self._feed, self._move, self._compare = overlay, feed, move, compare

    async def run(self) -> None:
        """Follow without end."""
        async for update in self._overlay.registry.updates():
            if isinstance(update, Moved):
                await self._move(update.reason)
                continue
            began = time.monotonic()
            async with self._overlay.changing:
                await self._apply(update)
            # Packets and everything else have their turn.
            await asyncio.sleep(min(time.monotonic() - began, _BATCH_INTERVAL))

    async def _apply(self, update: Snapshot | LeaseChanges) -> None:
        overlay, table = self._overlay, self._overlay.reconciler.table
        events = table.replace(update.leases) if isinstance(update, Snapshot) else table.apply(update.leases)
        if not events:
            return
        self._feed.publish(events)
        overlay.prober.apply(events)
        try:
            if (data_path := overlay.backend.data_path) is not None:
                data_path.on_leases(overlay.reconciler.foreign(events))
            await overlay.reconciler.apply_events(events)
        except HostError as error:  # the table is right; a comparison brings the kernel after it
            log.error("lease events not applied", error=str(error))
            self._compare()


class LeaseFeed:
    """The lease table and its changes, as `overlayctl lease watch` prints them."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._feed = Feed()

    def publish(self, events: Iterable[LeaseEvent]) -> None:
        """Send these to whoever watches."""
        if self._feed.has_readers:
            self._feed.publish({"event": event.kind, **self._describe(event.lease)} for event in events)

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """Every lease, then every change of one."""
        table = self._overlay.reconciler.table
        async for event in self._feed.read({"event": "present", **self._describe(lease)} for lease in table):
            yield event

    def _describe(self, lease: Lease) -> dict[str, Any]:
        return describe_peer(self._overlay.node, lease)
