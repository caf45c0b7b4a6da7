"""Watching etcd without end, through outages, compaction and members that hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import structlog

from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import Batch, CompactedError, EtcdError, UnavailableError
from overlayd.registry.etcd.reach import Reach, backoff
from overlayd.registry.etcd.replica import Replica

log = structlog.get_logger()

HEARTBEAT = 5.0
"""Seconds without an event after which the member behind the watch is asked whether it lives."""


class Follower:
    """Watches everything under a prefix from the replica's revision on; what is gone is read anew."""

    def __init__(self, client: EtcdClient, prefix: str, replica: Replica, reach: Reach, heartbeat: float) -> None:
        """`heartbeat` is in seconds."""
        self._client, self._prefix, self._replica = client, prefix, replica
        self._reach, self._heartbeat = reach, heartbeat
        self._again = asyncio.Event()

    def again(self) -> None:
        """Watch anew: by an address that this host has lost nothing comes any more, and nothing says so."""
        self._again.set()

    async def run(
        self,
        loaded: Callable[[], Awaitable[None]],
        take: Callable[[Batch], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Call `loaded` after everything was read, `take` with what happens then. What they raise is an outage too if
        it is EtcdError, and else ends this."""
        failures = 0
        while True:
            try:
                if not self._replica.loaded:
                    await self._replica.load()
                    await loaded()
                endpoint = self._client.endpoint
                watch = self._client.watch(f"{self._prefix}/", self._replica.view.revision + 1, endpoint)
                async with aclosing(watch) as stream, aclosing(self._lively(stream, endpoint)) as batches:
                    async for batch in batches:
                        if not batch.events:  # the watch stands
                            self._reach.back(self._client.endpoint)
                            failures = 0
                        await take(batch)
            except CompactedError as error:
                log.info("leases are read anew", reason=str(error))
                self._replica.loaded = False
            except EtcdError as error:
                self._reach.lost(error)
                self._client.next_endpoint()
                await sleep(backoff(failures))
                failures += 1

    async def _lively(self, stream: AsyncIterator[Batch], endpoint: str) -> AsyncGenerator[Batch, None]:
        """The batches, while the member that sends them answers, or until they are to come anew. Raises
        UnavailableError when it does not."""
        pending, again = asyncio.ensure_future(anext(stream)), asyncio.ensure_future(self._again.wait())
        try:
            while True:
                await asyncio.wait({pending, again}, timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if again.done():
                    self._again.clear()
                    return
                if pending.done():
                    batch = pending.result()
                    pending = asyncio.ensure_future(anext(stream))
                    yield batch
                    continue
                await self._client.get(f"{self._prefix}/config")
                if self._client.endpoint != endpoint and not pending.done():
                    raise UnavailableError(f"{endpoint}: does not answer; {self._client.endpoint} does")
        finally:
            for task in (pending, again):
                task.cancel()
            await asyncio.gather(pending, again, return_exceptions=True)
