"""The etcd registry: leases of a cluster, in flannel's schema.

    client ---> Replica: everything under the prefix ---> Updates
                   ^   |
    follow --------+   +---> NetworkConfig: PREFIX/config, what holds for the whole network
    wrote ---------+   +---> OwnLease: this node's own keys, acquired, secured, kept

The lease stands under flannel's key in flannel's form. Beside it, in the same transaction and on the same etcd lease,
stands our own record PREFIX/overlayd/hosts/PUBLIC-IP: it says which node has that address, so that two nodes cannot
both have it, a node is known by its identity when its address changes, and a clone is told from a restart.

Here the parts are put together, and each is told what concerns it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.registry.base import RegistryError, RegistryState, Store, Update
from overlayd.registry.etcd.claim import Holder, Wanted
from overlayd.registry.etcd.config import NetworkConfig
from overlayd.registry.etcd.connect import make_client
from overlayd.registry.etcd.follow import HEARTBEAT, Follower
from overlayd.registry.etcd.messages import Batch, EtcdError, UnavailableError
from overlayd.registry.etcd.own import OwnLease
from overlayd.registry.etcd.reach import Reach, backoff
from overlayd.registry.etcd.replica import Replica
from overlayd.registry.etcd.term import Term


def _boot_time() -> float:
    return float(time.clock_gettime(time.CLOCK_BOOTTIME))


class EtcdRegistry:
    """See `registry.base.Registry`."""

    name = "etcd"

    def __init__(
        self,
        settings: Settings,
        store: Store,
        name: str = "",
        *,
        read_only: bool = False,
        now: Callable[[], float] = _boot_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """`name` is what others call this host. `read_only`: nothing is written, nothing is waited for.

        `now` is in seconds, from a clock that runs on while the host is suspended. Raises RegistryError.
        """
        self.client = make_client(settings)
        self._store, self._read_only, self._sleep = store, read_only, sleep
        prefix = settings.etcd.prefix
        self._replica = Replica(self.client, prefix, store, settings.modes)
        self.view = self._replica.view
        self._config = NetworkConfig(self.view.config_key, type(settings))
        self._holder, self._term = Holder(store.node_id(), secrets.token_hex(8), name), Term(self.client, now)
        self._own = OwnLease(self.client, self._replica, self._term, self._holder, read_only=read_only)
        self._reach = Reach()
        self._follower = Follower(self.client, prefix, self._replica, self._reach, heartbeat)

    async def configure(self, settings: Settings) -> Settings:
        if self._own.lease is None:
            await self._first_look()
            self._config.begin(self.view.config)
        else:
            self._config.go_over(self.view.config, self._own.lease.subnets)
        merged = self._config.merge(settings)
        self.view.use_ranges(merged.ranges())
        return merged

    async def _first_look(self) -> None:
        """Know what etcd holds, or held when this node last saw it. Waits for etcd and for the configuration in it."""
        failures = 0
        while True:
            try:
                await self._replica.load()
                if self.view.config is not None or self._read_only:
                    return
                reason = self._config.missing
            except UnavailableError as error:
                reason = str(error)
                if self._read_only:
                    raise RegistryError(f"etcd: {error}; check etcd.endpoints") from None
                if self._replica.restore(self._holder.id):
                    self._reach.lost(error)
                    return
            except EtcdError as error:
                raise RegistryError(f"etcd: {error}") from None
            self._reach.waiting(reason, self.client.endpoints)
            await self._sleep(backoff(failures))
            failures += 1

    async def acquire(self, settings: Settings, underlay: Underlay) -> Lease:
        before = self._own.lease
        former = self._store.former_subnets() if before is None else ()
        lease = await self._own.acquire(Wanted.on(underlay, settings), former)
        if before is not None and (before.public_ip, before.public_ipv6) != (lease.public_ip, lease.public_ipv6):
            self._follower.again()
        return lease

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        return self.view.leases()

    def updates(self) -> AsyncIterator[Update]:
        return self._replica.updates.stream()

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "etcd watch": self._follower.run(self._loaded, self._take, self._sleep),
            "etcd lease renewal": self._own.keep(self._sleep),
            "lease cache": self._replica.save(self._sleep),
        }

    async def _loaded(self) -> None:
        """After everything was read anew: whatever concerns this node itself."""
        self._replica.updates.wake()
        await self._own.secure()
        self._look_at_config()

    async def _take(self, batch: Batch) -> None:
        self._replica.take(batch)
        if self._own.lease is None:
            return
        touched = {event.key for event in batch.events}
        if touched & self._own.keys:
            await self._own.secure()
        if self.view.config_key in touched:
            self._look_at_config()

    def _look_at_config(self) -> None:
        if self._config.look(self.view.config, self._own.lease.subnets if self._own.lease is not None else None):
            self._replica.updates.moved("the network's configuration in etcd changed")

    def state(self) -> RegistryState:
        return RegistryState(
            name=self.name,
            connected=self._reach.connected is not False,
            since=self._reach.since,
            stale=self._replica.stale,
            error=self._reach.error,
            endpoint=self.client.endpoint,
            revision=self.view.revision,
            expires=time.time() + self._term.left if self._own.etcd_lease else None,
            bad={**self._config.bad, **self.view.bad},
        )

    async def close(self) -> None:
        if not self._read_only:
            self._replica.save_rest()
        await self.client.close()
