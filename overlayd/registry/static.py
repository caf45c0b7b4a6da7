"""The static registry: a table in YAML, the same on every host; a reload replaces it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from overlayd.core.lease import Lease
from overlayd.core.node import Underlay
from overlayd.registry.base import RegistryError, Snapshot, Update


def own_lease(leases: Iterable[Lease], underlay: Underlay) -> Lease:
    """The row whose underlay address this host has. Raises RegistryError when there is none, or more than one."""
    table = list(leases)
    publics = [public for public in (underlay.public_ip, underlay.public_ipv6) if public is not None]
    mine = [lease for lease in table if lease.public_ip in publics or lease.public_ipv6 in publics]
    have = " and ".join(map(str, publics))
    if not mine:
        listed = ", ".join(str(lease.public_ip or lease.public_ipv6) for lease in table[:8]) or "it is empty"
        raise RegistryError(
            f"leases: no row has this host's address {have} ({underlay.name}); the table lists {listed}:"
            " add a row, or set iface or public_ip"
        )
    if len(mine) > 1:
        raise RegistryError(
            f"leases: this host's addresses {have} are in {len(mine)} rows ({', '.join(map(str, mine))}); keep one"
        )
    return mine[0]


class StaticRegistry:
    """See `registry.base.Registry`."""

    name = "static"

    def __init__(self, leases: Iterable[Lease]) -> None:
        self._leases = tuple(leases)
        self._changed = asyncio.Event()
        self._changed.set()

    async def acquire(self, underlay: Underlay) -> Lease:
        return own_lease(self._leases, underlay)

    def replace(self, leases: Iterable[Lease]) -> None:
        """A new table; readers of `updates` get it as a snapshot."""
        self._leases = tuple(leases)
        self._changed.set()

    async def updates(self) -> AsyncIterator[Update]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield Snapshot(self._leases)
