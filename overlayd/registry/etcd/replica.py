"""What etcd holds, as this node knows it: read, kept up to date, told as updates, and saved on this host's disk.

load, take, wrote ---> View ---> Updates            etcd's keys, the leases that they are, what changed in them
                        | ^
                   save v | restore                 for a start without etcd
                        disk
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog

from overlayd.core.mode import ModeSpec
from overlayd.registry.base import Store
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import Batch, Delete, Event, KeyValue, Put
from overlayd.registry.etcd.saved import parse_saved, saved_text
from overlayd.registry.etcd.updates import Updates
from overlayd.registry.etcd.view import View

log = structlog.get_logger()

_SAVE_FIRST, _SAVE_EVERY = 1.0, 30.0  # seconds


class Replica:
    """Everything under a prefix, with where the knowledge comes from."""

    def __init__(self, client: EtcdClient, prefix: str, store: Store, modes: Mapping[str, ModeSpec[Any]]) -> None:
        self._client, self._prefix, self._store = client, prefix, store
        self.view = View(prefix, modes)
        self.updates = Updates(self.view)
        self.loaded = False
        """Whether the view is what etcd held at one revision, to be followed from the next one on."""
        self.stale: float | None = None
        """Seconds since the epoch at which it was saved, if it comes from this host's disk."""
        self._unsaved = asyncio.Event()

    # --- etcd --------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read everything. Raises EtcdError."""
        keys, revision = await self._client.range(f"{self._prefix}/")
        self.view.load(keys, revision)
        self._say_bad()
        self.loaded, self.stale = True, None
        self.updates.everything()
        self._unsaved.set()

    def take(self, batch: Batch) -> None:
        """Know what the watch tells."""
        known = set(self.view.bad)
        self.updates.changed(self.view.apply(batch.events, batch.revision))
        if batch.events:
            self._unsaved.set()
        self._say_bad(known)

    def wrote(self, writes: Iterable[Put | Delete], revision: int) -> None:
        """Know at once what this node wrote; the watch will say it again."""
        events = [
            Event(
                write.key,
                KeyValue(write.key, write.value, write.lease, revision) if isinstance(write, Put) else None,
                revision,
            )
            for write in writes
        ]
        self.updates.changed(self.view.apply(events, self.view.revision))

    def _say_bad(self, known: Iterable[str] = ()) -> None:
        for key in self.view.bad.keys() - set(known):
            log.warning("an entry in etcd makes no sense and is left out", key=key, reason=self.view.bad[key])

    # --- the disk ----------------------------------------------------------------------------------------------------

    def restore(self, node: str) -> bool:
        """Know what was saved, if the lease of the node with this identity is in it."""
        text = self._store.load()
        if text is None:
            return False
        try:
            saved = parse_saved(text, self._prefix)
        except ValueError:
            log.warning("the saved leases make no sense and are not used")
            return False
        if saved is None:
            return False
        self.view.load(saved.keys, saved.revision)
        if self.view.config is None or all(record.id != node for record, _ in self.view.hosts.values()):
            self.view.load((), 0)
            return False
        self.stale = saved.at
        log.warning(
            "etcd is out of reach: the leases last known are used",
            saved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(saved.at)),
            leases=len(self.view.held),
        )
        return True

    async def save(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Save what changes, now and then, without end."""
        await self._unsaved.wait()
        await sleep(_SAVE_FIRST)
        while True:
            await self._unsaved.wait()
            await asyncio.to_thread(self._store.save, self._text())
            await sleep(_SAVE_EVERY)

    def save_rest(self) -> None:
        """Save what is not saved yet."""
        if self._unsaved.is_set() and self.loaded:
            self._store.save(self._text())

    def _text(self) -> str:
        self._unsaved.clear()
        return saved_text(self._prefix, self.view.keys.values(), self.view.revision, time.time())
