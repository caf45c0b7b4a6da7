"""The static registry: a table in the configuration file, the same on every host; a reload replaces it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any

from overlayd.core.address import FAMILIES
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.registry.base import Admit, RegistryError, RegistryState, Update, admit_any


def own_lease(leases: Iterable[Lease], underlay: Underlay) -> Lease:
    """The row with this host's underlay address. Raises RegistryError when there is none, or more than one, or when its
    other address is not this host's."""
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
    for family in FAMILIES:
        key = "public_ip" if family == 4 else "public_ipv6"
        public, own = mine[0].public(family), underlay.public(family)
        if public is not None and own is not None and public != own:
            raise RegistryError(
                f"leases: the row of this host, {mine[0]}, has {key} {public}, and this host has {own}"
                f" ({underlay.name}): correct the row, or set {key}"
            )
    return mine[0]


class StaticRegistry:
    """See `registry.base.Registry`. The table is part of the settings."""

    name = "static"

    async def configure(self, settings: Settings) -> Settings:
        return settings

    async def acquire(self, settings: Settings, underlay: Underlay, admit: Admit = admit_any) -> Lease:
        lease = own_lease(self.leases(settings), underlay)
        await admit(lease)
        return lease

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        # The table is overlayd's own: every host in it runs overlayd, and answers on the common port.
        return tuple(entry.lease(settings.probe.port or None) for entry in settings.leases)

    async def updates(self) -> AsyncIterator[Update]:
        await asyncio.Event().wait()  # only a reload changes it
        return
        yield

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {}

    def state(self) -> RegistryState:
        return RegistryState(self.name)

    async def reconnect(self) -> None:
        """There are no connections."""

    async def close(self) -> None:
        """Nothing to close."""
