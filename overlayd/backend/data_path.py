"""The contract of a data path in user space: what a backend has beside its kernel objects where overlayd itself moves
the packets.

    made -> use() -> open() -> resume() -> [kernel state compared and applied] -> attach() -> on_leases() ... -> stop()
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node

if TYPE_CHECKING:  # every command loads this; none but a running data path needs those
    from overlayd.datapath.contract import Counters, Progress
    from overlayd.system.errors import HostError


class DataPath(Protocol):
    """Moves packets between the containers and the underlay."""

    def use(self, node: Node, peers: Iterable[Lease]) -> None:
        """This host and all its peers as they are now."""

    def on_leases(self, events: Sequence[LeaseEvent]) -> None:
        """What has changed in the peers since, one event for each lease."""

    def refusals(self, readers: bool) -> Iterator[HostError]:
        """Why `open`, `resume` or `attach` would be refused; tried, and nothing is changed. `readers`: whether somebody
        reads the device."""

    def open(self) -> None:
        """Take what can be refused (ports) before anything on the host is changed. Raises HostError."""

    def resume(self, devices: Collection[str]) -> None:
        """Move packets at once on the device of an earlier run, kept open or one of `devices`, overlayd's that the host
        has; `attach` does it where there is none. Raises HostError."""

    def attach(self) -> None:
        """Begin to move packets, or begin again if the device was made anew; called whenever the kernel state has been
        compared. Raises HostError."""

    def stop(self) -> None:
        """Close sockets and devices. Kernel state stays."""

    @property
    def engine(self) -> str | None:
        """The packet engine's name; None before there is one."""

    @property
    def progress(self) -> Progress | None:
        """How much the engine has read; None before there is one."""

    def waiting(self) -> frozenset[str]:
        """The directions, outbound or inbound, in which packets wait for the engine at this moment."""

    def faults(self, now: float) -> list[str]:
        """What keeps packets from moving, in words; polled every second. `now`: seconds, from any steady clock."""

    def unknown_sender(self) -> str | None:
        """See `datapath.contract.Engine`; None before there is an engine."""

    def counters(self) -> Counters | None:
        """A snapshot of the engine's counters; None before there is an engine."""

    def capabilities(self) -> dict[str, list[str]]:
        """The capabilities in use with each peer beyond flannel's format, by the lease's key."""

    def gauges(self) -> dict[str, int]:
        """The engine's gauges."""
