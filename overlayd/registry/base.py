"""The contract of a registry: the source of leases and, in a cluster, of the network's configuration.

    configure -> acquire -> leases ... updates, while `tasks` run -> close

Updates follow the first call of `leases`; a snapshot may come at any time (after a reconnect) and replaces all earlier
ones. `Moved` asks for `configure` and `acquire` again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from overlayd.core.address import Network
from overlayd.core.errors import ReportedError
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings


class RegistryError(ReportedError):
    """There is no lease; the text gives the reason and the remedy."""


class NotYetError(RegistryError):
    """There is no lease yet, for a reason that somebody may remove centrally: try again later."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All leases."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class LeaseChanges:
    """The leases that may have changed since the last update; the lease table finds out which did."""

    leases: Mapping[str, Lease | None]
    """By `Lease.key`; None for one that was removed."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The network's configuration or this host's own lease has changed."""

    reason: str


Update = Snapshot | LeaseChanges | Moved


@dataclass(frozen=True, slots=True)
class RegistryState:
    """For status and gauges."""

    name: str
    connected: bool = True
    """False while it is unreachable; the leases are the last known ones."""
    since: float | None = None
    """Seconds since the epoch of the last change of `connected`."""
    stale: float | None = None
    """Seconds since the epoch at which the leases were saved, if they are from this host's disk."""
    error: str | None = None
    """Why it is unreachable, or what it waits for."""
    endpoint: str | None = None
    revision: int | None = None
    expires: float | None = None
    """Seconds since the epoch at which this host's own lease expires unless renewed."""
    invalid: Mapping[str, str] = field(default_factory=dict)
    """Invalid entries, and the fault of each."""


class Store(Protocol):
    """A registry's files on this host."""

    def node_id(self) -> str:
        """This node's identity; one that is made up where there is none yet. Raises HostError."""

    def keep_id(self) -> None:
        """Have the next run find that identity. Raises HostError."""

    def load(self) -> str | None:
        """The text that was saved last, if it is readable."""

    def save(self, text: str) -> None:
        """Save a text; a failure is only logged."""

    def former_subnets(self) -> tuple[Network, ...]:
        """The subnets in the last subnet.env."""


Admit = Callable[[Lease], Awaitable[None]]
"""Whether this host can hold a lease, asked before the lease is claimed. Raises ReportedError if it cannot."""


async def admit_any(lease: Lease) -> None:
    """It can."""


class Registry(Protocol):
    """One source of leases."""

    name: str

    async def configure(self, settings: Settings) -> Settings:
        """The settings, with those that the registry decides for the whole network. Waits, and logs it, while the
        registry is unreachable and there is no copy of it, or while the network has no valid configuration. Raises
        RegistryError."""

    async def acquire(self, settings: Settings, underlay: Underlay, admit: Admit = admit_any) -> Lease:
        """This host's own lease, under the settings from `configure`. Nothing is written anywhere before `admit` has
        returned for that very lease. Raises RegistryError, after NotYetError begin again with `configure`; and what
        `admit` raises."""

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        """All leases that are known now."""

    def updates(self) -> AsyncIterator[Update]:
        """Changes, without end."""

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Endless jobs that have to run while updates are read, by name."""

    def state(self) -> RegistryState:
        """Its state now."""

    async def reconnect(self) -> None:
        """Use new connections: this host's addresses have changed, and the old ones may never answer."""

    async def close(self) -> None:
        """Close connections. The lease stays."""
