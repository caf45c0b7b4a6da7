"""The etcd registry: leases of a cluster, in flannel's schema.

    etcd -> connection -> Replica.follow -> View -> Replica.updates -> (the daemon) LeaseTable -> LeaseEvents
                              |
                              +--> NetworkConfig: PREFIX/config, which holds for the whole network
                              +--> OwnLease: this node's own keys: acquired, secured, kept

The lease is under flannel's key in flannel's form. Beside it, in the same transaction and on the same etcd lease, is
our own record PREFIX/overlayd/hosts/PUBLIC-IP: it names the node with that address, so that two nodes cannot both have
it, a node is recognised by its identity when its address changes, and a clone is distinguished from a restart.

This module builds the parts and notifies each of the changes that concern it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Set
from typing import Any

from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.registry.base import Admit, NotYetError, RegistryError, RegistryState, Store, Update, admit_any
from overlayd.registry.etcd.claim import Holder, LeaseRequest
from overlayd.registry.etcd.client import make_client
from overlayd.registry.etcd.config import NetworkConfig
from overlayd.registry.etcd.connectivity import Connectivity, Sleep, backoff
from overlayd.registry.etcd.etcd_lease import EtcdLease
from overlayd.registry.etcd.local_copy import LocalCopy
from overlayd.registry.etcd.messages import EtcdError, UnavailableError
from overlayd.registry.etcd.own import OwnLease
from overlayd.registry.etcd.replica import HEARTBEAT, Replica
from overlayd.registry.etcd.view import View


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
        sleep: Sleep = asyncio.sleep,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """`name` is this host's, for display. `read_only`: write nothing, wait for nothing.

        `now` is in seconds, from a clock that runs while the host is suspended. Raises RegistryError.
        """
        self.client = make_client(settings)
        self._store, self._read_only, self._sleep = store, read_only, sleep
        self.view = View(settings.etcd.prefix, settings.modes)
        self._copy, self._connectivity = LocalCopy(self.view, store), Connectivity()
        self._replica = Replica(self.client, self.view, self._copy, self._connectivity, heartbeat)
        self._config = NetworkConfig(self.view.config_key, type(settings))
        self._holder = Holder(store.node_id(), secrets.token_hex(8), name)
        self._etcd_lease = EtcdLease(self.client, now)
        self._own = OwnLease(
            self.client, self._replica, self._copy, self._etcd_lease, self._holder, read_only=read_only
        )

    # --- start -------------------------------------------------------------------------------------------------------

    async def configure(self, settings: Settings) -> Settings:
        if self._own.lease is None:
            await self._load()
            self._config.begin(self.view.config)
        else:
            self._config.change_to(self.view.config, self._own.lease.subnets)
        merged = self._config.merge(settings)
        self.view.use_ranges(merged.ranges())
        return merged

    async def _load(self) -> None:
        """Read what etcd holds, or this host's copy of it. Waits for etcd and for a valid configuration in it."""
        failures = 0
        while True:
            try:
                await self._replica.load()
                reason = self._config.fault(self.view.config)
                if reason is None or self._read_only:
                    return
            except UnavailableError as error:
                reason = str(error)
                if self._read_only:
                    raise RegistryError(f"etcd: {error}; check etcd.endpoints") from None
                if self._copy.restore(self._holder.id) and self._config.fault(self.view.config) is None:
                    self._connectivity.lost(error)
                    return
            except EtcdError as error:
                raise RegistryError(f"etcd: {error}") from None
            self._connectivity.waiting(reason, self.client.endpoints)
            await self._sleep(backoff(failures))
            failures += 1

    async def acquire(self, settings: Settings, underlay: Underlay, admit: Admit = admit_any) -> Lease:
        async def prepare(lease: Lease) -> None:
            await admit(lease)
            if not self._read_only:
                self._store.keep_id()  # who loses the identity that is written to etcd loses the lease

        before = self._own.lease
        former = self._store.former_subnets() if before is None else ()
        try:
            lease = await self._own.acquire(LeaseRequest.on(underlay, settings), former, prepare)
        except NotYetError as error:
            self._connectivity.waiting(str(error), self.client.endpoints)
            raise
        if before is not None and (before.public_ip, before.public_ipv6) != (lease.public_ip, lease.public_ipv6):
            self._replica.rewatch()
        return lease

    # --- run ---------------------------------------------------------------------------------------------------------

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "etcd watch": self._replica.follow(self._on_load, self._on_keys, self._sleep),
            "etcd lease renewal": self._own.keep(self._sleep),
            "lease cache": self._copy.run(self._sleep),
        }

    async def _on_load(self) -> None:
        await self._own.secure()
        self._check_config()

    async def _on_keys(self, keys: Set[str]) -> None:
        if self._own.lease is None:
            return
        if keys & self._own.keys or self._own.invalid:
            await self._own.secure()
        if self.view.config_key in keys:
            self._check_config()

    def _check_config(self) -> None:
        subnets = self._own.lease.subnets if self._own.lease is not None else None
        if self._config.is_usable_change(self.view.config, subnets):
            self._replica.moved("the network's configuration in etcd changed")

    def updates(self) -> AsyncIterator[Update]:
        return self._replica.updates()

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        return self.view.leases()

    def state(self) -> RegistryState:
        own = self._own.lease
        return RegistryState(
            name=self.name,
            connected=self._connectivity.connected is not False,
            since=self._connectivity.since,
            stale=self._copy.restored,
            error=self._connectivity.error,
            endpoint=self.client.endpoint,
            revision=self.view.revision,
            expires=time.time() + self._etcd_lease.left if own is not None and not own.reserved else None,
            invalid={**self._config.invalid, **self.view.invalid, **self._own.invalid},
        )

    async def reconnect(self) -> None:
        await self.client.close()  # the next request opens another connection

    async def close(self) -> None:
        if self._own.lease is not None:  # a start that has not got that far leaves no files behind
            self._copy.flush()
        await self.client.close()
