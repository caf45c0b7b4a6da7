"""The stream of updates: what changed is gathered, and told when somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from overlayd.core.flannel.lease import key_of
from overlayd.core.leases.lease import Lease, LeaseEvent
from overlayd.registry.base import Changes, Moved, Snapshot, Update
from overlayd.registry.etcd.view import View


class Updates:
    """What has happened to the leases of a view since the last update."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._everything = False
        self._changed: dict[str, Lease | None] = {}
        """Leases that changed since the last update, by key, as they were then."""
        self._moved: str | None = None
        self._due = asyncio.Event()

    def changed(self, events: Iterable[LeaseEvent]) -> None:
        """The view took these."""
        for event in events:
            self._changed.setdefault(key_of(event.lease), event.old)
            self._due.set()

    def everything(self) -> None:
        """The view was read anew: the next update is a snapshot. Wakes nobody; see `wake`."""
        self._everything = True

    def moved(self, reason: str) -> None:
        """This node has to go over to another configuration or lease."""
        self._moved = reason
        self._due.set()

    def wake(self) -> None:
        """Tell what there is now."""
        self._due.set()

    async def stream(self) -> AsyncIterator[Update]:
        """Updates without end, a snapshot first. For one reader."""
        self.everything()
        self.wake()
        while True:
            await self._due.wait()
            self._due.clear()
            changed, self._changed = self._changed, {}
            if self._everything:
                self._everything = False
                yield Snapshot(self._view.leases())
            elif changed:
                yield Changes(tuple(self._events(changed)))
            if self._moved is not None:
                reason, self._moved = self._moved, None
                yield Moved(reason)

    def _events(self, changed: dict[str, Lease | None]) -> Iterable[LeaseEvent]:
        for key, old in changed.items():
            held = self._view.held.get(key)
            new = held.lease if held is not None else None
            if old != new:
                yield LeaseEvent(old, new)
