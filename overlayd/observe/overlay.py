"""This host's part of the overlay as it runs: the parts that reports are made from and that a reload changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from overlayd.backend.base import Backend
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.observe.prober import Prober
from overlayd.reconcile.providers import providers
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.base import Registry


@dataclass
class Overlay:
    """A reload replaces the settings and the backend; the other parts stay for the life of the process."""

    settings: Settings
    """This host's own, with what the registry decides for the whole network."""
    backend: Backend
    registry: Registry
    reconciler: Reconciler
    prober: Prober
    attachments: AttachmentTable = field(default_factory=AttachmentTable)
    """The containers that overlayd has attached."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while settings, backend or leases change, so that a reload and a lease event do not interleave."""

    def __post_init__(self) -> None:
        self.use(self.settings, self.backend, self.backend.node)

    def use(self, settings: Settings, backend: Backend, node: Node) -> None:
        """These from now on; a comparison with the kernel brings them into force."""
        self.settings, self.backend, backend.node = settings, backend, node
        self.reconciler.use(node, providers(backend, settings, self.reconciler.table, self.attachments))

    switch_repairs: int = 0
    """Forwarding switches that were switched on again."""

    @property
    def repairs(self) -> int:
        """Kernel objects and switches that had to be repaired since the start."""
        return self.reconciler.repairs + self.switch_repairs

    @property
    def node(self) -> Node:
        """This host, as the backend serves it now."""
        return self.backend.node

    @property
    def peers(self) -> list[Lease]:
        """Every lease but this host's own."""
        return self.reconciler.peers
