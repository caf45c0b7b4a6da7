"""What etcd holds, as this node knows it: read, watched through outages, and handed on.

load     everything under the prefix at one revision; again after a compaction, or when etcd lost data
follow   watches from the next revision on, without end; its batches go into the View
wrote    this node's own writes, which the watch will bring again
updates  the changed leases since the reader's last turn, gathered: one for each lease
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence, Set
from contextlib import aclosing

from overlayd.core.leases.lease import Lease
from overlayd.log import log
from overlayd.registry.base import LeaseChanges, Moved, Snapshot, Update
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.connectivity import Connectivity, Sleep, backoff
from overlayd.registry.etcd.local_copy import LocalCopy
from overlayd.registry.etcd.messages import (
    Batch,
    CompactedError,
    DataLossError,
    Delete,
    EtcdError,
    Event,
    KeyValue,
    Put,
    UnavailableError,
)
from overlayd.registry.etcd.view import View

HEARTBEAT = 5.0
"""Seconds between reads of one key: they show that the watched member answers, and that etcd has lost no data."""


class Replica:
    """Everything under a prefix."""

    def __init__(
        self, client: EtcdClient, view: View, copy: LocalCopy, connectivity: Connectivity, heartbeat: float = HEARTBEAT
    ) -> None:
        """`heartbeat` is in seconds."""
        self._client, self.view, self._copy = client, view, copy
        self._connectivity, self._heartbeat = connectivity, heartbeat
        self.loaded = False
        """Whether the view is what etcd held at one revision, to be followed from the next one on."""
        self.checked_key = view.config_key
        """The key that is read at each heartbeat."""
        self._cluster: str | None = None
        self._mismatch: KeyValue | None = None
        """The checked key as it was known when etcd last had it differently."""
        self._rewatch = asyncio.Event()
        self._everything = False
        self._changed: dict[str, Lease | None] = {}
        """Leases that may have changed since the last update, by key."""
        self._moved: str | None = None
        self._due = asyncio.Event()

    # --- load --------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read everything; the next update is a snapshot. Raises EtcdError."""
        keys, revision = await self._client.range(f"{self.view.prefix}/")
        self.view.load(keys, revision)
        self._log_invalid()
        self.loaded, self._cluster, self._mismatch = True, self._client.cluster, None
        self._copy.changed()
        self._everything = True
        self._due.set()

    # --- follow ------------------------------------------------------------------------------------------------------

    def rewatch(self) -> None:
        """Watch anew: nothing arrives any more at an address that this host has lost, and no error does."""
        self._rewatch.set()

    async def follow(
        self, on_load: Callable[[], Awaitable[None]], on_keys: Callable[[Set[str]], Awaitable[None]], sleep: Sleep
    ) -> None:
        """Keep the view up to date. Calls `on_load` after everything was read, `on_keys` with the keys of each batch;
        an EtcdError that they raise is an outage too, anything else ends this."""
        failures = 0
        while True:
            try:
                if not self.loaded:
                    await self.load()
                    await on_load()
                async with aclosing(self._watch()) as batches:
                    async for batch in batches:
                        if not batch.events:  # the watch is confirmed
                            self._connectivity.connected_to(self._client.endpoint)
                            failures = 0
                        self._apply(batch.events, batch.revision)
                        await on_keys({event.key for event in batch.events})
            except CompactedError as error:
                log.info("reading all leases again", reason=str(error))
                self.loaded = False
            except DataLossError as error:
                log.error("etcd has lost data: reading all leases again", reason=str(error))
                self.loaded = False
                await sleep(backoff(0))  # endpoints of two clusters would alternate
            except EtcdError as error:
                self._connectivity.lost(error)
                self._client.next_endpoint()
                await sleep(backoff(failures))
                failures += 1

    async def _watch(self) -> AsyncGenerator[Batch, None]:
        """The batches of one member, until it fails or `rewatch`. Raises UnavailableError when it does not answer,
        DataLossError."""
        endpoint, loop = self._client.endpoint, asyncio.get_running_loop()
        async with aclosing(self._client.watch(f"{self.view.prefix}/", self.view.revision + 1, endpoint)) as stream:
            batch, rewatch = asyncio.ensure_future(anext(stream)), asyncio.ensure_future(self._rewatch.wait())
            try:
                due = loop.time() + self._heartbeat
                while True:
                    timeout = max(0.0, due - loop.time())
                    await asyncio.wait({batch, rewatch}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                    if rewatch.done():
                        self._rewatch.clear()
                        return
                    if batch.done() and loop.time() < due:
                        arrived, batch = batch.result(), asyncio.ensure_future(anext(stream))
                        yield arrived
                        if not arrived.events:
                            due = loop.time()  # the watch is confirmed; etcd may be another than before
                        continue
                    await self._check_history()
                    due = loop.time() + self._heartbeat
                    if self._client.endpoint != endpoint and not batch.done():
                        raise UnavailableError(f"{endpoint}: does not answer; {self._client.endpoint} does")
            finally:
                for task in (batch, rewatch):
                    task.cancel()
                await asyncio.gather(batch, rewatch, return_exceptions=True)

    async def _check_history(self) -> None:
        """Raises DataLossError when etcd is behind the view, or when it differs from the view in one key and the watch
        brings no event of it until the next check."""
        key, revision = self.checked_key, self.view.revision
        found, now = await self._client.get(key)
        if self._client.cluster != self._cluster:
            raise DataLossError(f"another cluster answers: {self._client.cluster}, not {self._cluster}")
        if now < revision:
            raise DataLossError(f"its revision went back from {revision} to {now}")
        known = self.view.keys.get(key)
        if known is None or (found is not None and found.mod_revision == known.mod_revision):
            self._mismatch = None
        elif self._mismatch is known:
            raise DataLossError(f"{key} is not as it was at revision {known.mod_revision}, and there was no event")
        else:
            self._mismatch = known  # an event may be on its way

    def wrote(self, writes: Iterable[Put | Delete], revision: int) -> None:
        """Apply at once what this node wrote."""
        events = [
            Event(
                write.key,
                KeyValue(write.key, write.value, write.lease, revision) if isinstance(write, Put) else None,
                revision,
            )
            for write in writes
        ]
        self._apply(events, self.view.revision)

    def _apply(self, events: Sequence[Event], revision: int) -> None:
        known = set(self.view.invalid)
        changed = self.view.apply(events, revision)
        self._log_invalid(known)
        if events:
            self._copy.changed()
        if changed:
            for key, lease in changed.items():
                self._changed.pop(key, None)  # the order is that of the last change
                self._changed[key] = lease
            self._due.set()

    def _log_invalid(self, known: Iterable[str] = ()) -> None:
        for key in self.view.invalid.keys() - set(known):
            log.warning("invalid entry in etcd ignored", key=key, reason=self.view.invalid[key])

    # --- updates -----------------------------------------------------------------------------------------------------

    def moved(self, reason: str) -> None:
        """This node has to change to another configuration or lease."""
        self._moved = reason
        self._due.set()

    async def updates(self) -> AsyncIterator[Update]:
        """Updates without end, a snapshot first. For one reader."""
        self._everything = True
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            changed, self._changed = self._changed, {}
            if self._everything:
                self._everything = False
                yield Snapshot(self.view.leases())
            elif changed:
                yield LeaseChanges(changed)
            if self._moved is not None:
                reason, self._moved = self._moved, None
                yield Moved(reason)
