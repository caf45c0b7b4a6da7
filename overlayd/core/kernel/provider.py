"""Providers of desired state: each says which kernel objects one concern wants, and nothing else.

    backend       devices, routes, neighbours, FDB entries: what carries packets to the peers
    firewall      our table of rules, its sets of peers, accepts in other firewalls' forward chains
    unreachable   an answer for the part of the network that nobody leases
    ports         the table of published ports, and its elements
    attachments   bridges, and the host's ends of what containers are attached by

The reconciler joins what they want, compares it with the kernel and applies the difference. No two providers want
different objects under one key. A new concern is a new provider in `reconcile/providers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from overlayd.core.kernel.firewall import NO_FOREIGN_RULES, ForeignRules
from overlayd.core.kernel.kinds import KernelObject
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What desired state follows from beside the configuration."""

    peers: Sequence[Lease]
    """Every lease but this host's own."""
    foreign: ForeignRules = NO_FOREIGN_RULES


class Provider(Protocol):
    """One concern's part of the desired state. Both methods are pure: they may be called in any thread, or twice."""

    def objects(self, now: Surroundings) -> Iterable[KernelObject]:
        """Everything that is desired now."""

    def on_leases(self, events: Sequence[LeaseEvent]) -> tuple[list[KernelObject], list[KernelObject]]:
        """What was desired for the peers of these events before them, and what is desired after them. An object in
        both is kept, or changed if it differs; the lease table is already that of after."""
