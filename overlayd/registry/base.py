"""The contract of a registry: where leases come from.

A registry is read in two ways: once for this host's own lease, and then as a stream of updates. The stream begins with
a snapshot; another snapshot may come at any time (a reload, a connection made anew) and replaces all that was known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from overlayd.core.lease import Lease, LeaseEvent
from overlayd.core.node import Underlay


class RegistryError(Exception):
    """No lease could be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All leases there are."""

    leases: tuple[Lease, ...]


Update = Snapshot | LeaseEvent


class Registry(Protocol):
    """One source of leases."""

    name: str

    async def acquire(self, underlay: Underlay) -> Lease:
        """This host's own lease. Raises RegistryError."""

    def updates(self) -> AsyncIterator[Update]:
        """Snapshots and events, without end."""
