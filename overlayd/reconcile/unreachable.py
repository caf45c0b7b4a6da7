"""What nobody leases is answered by the kernel itself with ICMP, and never leaves by the default route."""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.core.kernel.kinds import KernelObject, Route
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node


class Unreachable:
    """See `core.kernel.provider.Provider`. A lease's route is more specific than these, and goes before them."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def objects(self, now: Surroundings) -> list[KernelObject]:
        node = self._node
        return [Route(one.network) for one in node.ranges if node.lease.subnet_of(one.network.version) is not None]

    def on_leases(self, events: Sequence[LeaseEvent]) -> tuple[list[KernelObject], list[KernelObject]]:
        return [], []
