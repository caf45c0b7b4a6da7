"""The contract of a registry: where leases come from, and, if it is a cluster's, the network's configuration too.

    configure -> acquire -> leases ... updates, while `tasks` run -> close

The stream of updates says what changes after `leases` was first asked; a snapshot may come at any time (a connection
made anew) and replaces all that was known. `Moved` asks for `configure` and `acquire` again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from overlayd.core.address import Network
from overlayd.core.errors import ReportedError
from overlayd.core.leases.lease import Lease, LeaseEvent
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings


class RegistryError(ReportedError):
    """No lease could be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All leases there are."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last update, one event for each lease."""

    events: tuple[LeaseEvent, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """The network's configuration or this host's own lease is another now."""

    reason: str


Update = Snapshot | Changes | Moved


@dataclass(frozen=True, slots=True)
class RegistryState:
    """How a registry is, for status and gauges."""

    name: str
    connected: bool = True
    """False while it is out of reach: leases are those last known."""
    since: float | None = None
    """Seconds since the epoch at which `connected` became what it is."""
    stale: float | None = None
    """Seconds since the epoch at which the leases were saved on this host's disk, if they come from there."""
    error: str | None = None
    """Why it is out of reach."""
    endpoint: str | None = None
    revision: int | None = None
    expires: float | None = None
    """Seconds since the epoch at which this host's own lease ends unless it is renewed."""
    bad: Mapping[str, str] = field(default_factory=dict)
    """Other people's entries that make no sense, and what is wrong with each."""


class Store(Protocol):
    """What a registry keeps on this host's disk."""

    def node_id(self) -> str:
        """This node's identity: made once, the same ever after. Raises RegistryError."""

    def load(self) -> str | None:
        """The text that was saved last, if it can be had."""

    def save(self, text: str) -> None:
        """Keep a text; failing is logged and no more."""

    def former_subnets(self) -> tuple[Network, ...]:
        """The subnets that the last subnet.env names."""


class Registry(Protocol):
    """One source of leases."""

    name: str

    async def configure(self, settings: Settings) -> Settings:
        """The settings with what the registry decides for the whole network. Waits, and says so, for a registry that
        is out of reach and of which nothing is known. Raises RegistryError."""

    async def acquire(self, settings: Settings, underlay: Underlay) -> Lease:
        """This host's own lease, under settings that `configure` gave. Raises RegistryError."""

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        """All leases as far as they are known now."""

    def updates(self) -> AsyncIterator[Update]:
        """What changes, without end."""

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What has to run, without end, for as long as updates are wanted, by name."""

    def state(self) -> RegistryState:
        """How it is."""

    async def close(self) -> None:
        """Let go of connections. The lease stays."""
