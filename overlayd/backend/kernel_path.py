"""What a backend without packets of its own shares with its like: the kernel moves and counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from overlayd.core.address import Address
from overlayd.core.kernel.firewall import Guarded
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.system.device import ailment


class KernelPath:
    """The part of the backend contract that is empty when the kernel is the data path."""

    devices: tuple[str, ...] = ()
    guarded: tuple[Guarded, ...] = ()
    engine: None = None

    def __init__(self, node: Node) -> None:
        self.node = node
        self.paths: Mapping[Address, int] = {}

    def open(self) -> None:
        """Nothing to take."""

    def resume(self) -> None:
        """The kernel has never stopped."""

    def attach(self) -> None:
        """Nothing to attach."""

    def peers_changed(self, peers: Iterable[Lease]) -> None:
        """Peers are kernel state, and nothing beside it."""

    def peers_moved(self, events: Sequence[LeaseEvent]) -> None:
        """Likewise."""

    def stop(self) -> None:
        """Nothing to let go of."""

    def ailments(self, now: float) -> list[str]:  # it needs no clock
        """What is wrong with the devices: they are all there is of the data path that can be seen from here."""
        return [text for device in self.devices if (text := ailment(device))]

    progress: None = None

    def waiting(self) -> frozenset[str]:
        """None waits for us."""
        return frozenset()

    def counters(self) -> None:
        """The kernel counts."""

    def ways(self) -> dict[str, list[str]]:
        """There is one."""
        return {}

    def gauges(self) -> dict[str, int]:
        """The kernel's offloads are no business of ours."""
        return {}
