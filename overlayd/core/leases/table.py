"""The table of all leases, and the events by which it changes.

A registry hands over all leases (`replace`) or those that changed (`apply`). The table alone compares them with what it
holds; everything after it acts on the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from overlayd.core.address import Address
from overlayd.core.leases.lease import Lease


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    """One change of the table: `old` is None for a lease that was added, `new` for one that was removed."""

    old: Lease | None
    new: Lease | None

    @property
    def kind(self) -> str:
        """added, removed or changed."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "changed"

    @property
    def lease(self) -> Lease:
        """The newest form of the lease that the event is about."""
        lease = self.new or self.old
        assert lease is not None
        return lease


class LeaseTable:
    """All leases of the network by key, this host's own included."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._publics: Counter[Address] = Counter()

    def replace(self, leases: Iterable[Lease]) -> list[LeaseEvent]:
        """Make the table equal a snapshot; the events lead from the old table to the new one, removals first."""
        new: dict[str, Lease | None] = {lease.key: lease for lease in leases}
        return self.apply({**{key: None for key in self._leases if key not in new}, **new})

    def apply(self, changes: Mapping[str, Lease | None]) -> list[LeaseEvent]:
        """Set leases by key, None removes; the events that result, in the order of `changes`: none for what the table
        holds already.

        Costs what the changes cost, however large the table is.
        """
        events: list[LeaseEvent] = []
        for key, new in changes.items():
            old = self._leases.get(key)
            if old == new:
                continue
            if old is not None:
                self._count(old, -1)
            if new is None:
                del self._leases[key]
            else:
                self._leases[key] = new
                self._count(new, 1)
            events.append(LeaseEvent(old, new))
        return events

    def _count(self, lease: Lease, step: int) -> None:
        if lease.public_ip is not None:
            self._publics[lease.public_ip] += step
        if lease.public_ipv6 is not None:
            self._publics[lease.public_ipv6] += step

    def is_public(self, address: Address) -> bool:
        """Whether any lease names this underlay address."""
        return self._publics[address] > 0

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, key: str) -> Lease | None:
        """The lease with this key, or None."""
        return self._leases.get(key)
