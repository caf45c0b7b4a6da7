"""The contract of a backend: one mode on one node.

A backend says which kernel objects the leases call for, as a provider of desired state (`core/kernel/provider.py`); it
does not touch the kernel for them. What all modes share (unreachable routes, forwarding, rules) is not its business.
Where packets are not the kernel's to move, it has a `DataPath` as well (`backend/data_path.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from overlayd.backend.data_path import DataPath
from overlayd.core.address import Address
from overlayd.core.kernel.kinds import KernelObject, Link
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.mode import ModeSpec, SectionT
from overlayd.core.node import Node
from overlayd.system.errors import HostError
from overlayd.system.service_manager import ServiceManager
from overlayd.wire.netlink.link import LinkEntry


class Mode(ModeSpec[SectionT]):
    """A mode with its backend."""

    def prepare(self, section: SectionT, state_dir: Path, *, read_only: bool) -> SectionT:
        """The section with what this host keeps for the mode in `state_dir`, such as a key. It is made where there is
        none, unless `read_only`. Raises HostError."""
        return section

    def backend(self, node: Node, section: SectionT, manager: ServiceManager) -> Backend:
        """The backend for this node; the service manager keeps what it has open. What only a running data path needs
        is imported here, not with the module: every command loads the modes."""
        raise NotImplementedError


class Backend(ABC):
    """`base` and `peer` are pure: they follow from the node, the paths and the lease."""

    devices: tuple[str, ...] = ()
    """The overlay devices that containers' packets cross; empty for host-gw."""
    tunnels: tuple[str, ...] = ()
    """Devices through which overlayd has the kernel forward its own datagrams."""
    data_path: DataPath | None = None
    """None where the kernel moves the packets."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.paths: Mapping[Address, int] = {}
        """Peers' underlay addresses to which less than the underlay's MTU gets through, and how many bytes do."""

    @abstractmethod
    def base(self) -> Iterable[KernelObject]:
        """The kernel objects that are desired whoever the peers are."""

    @abstractmethod
    def peer(self, lease: Lease) -> Iterable[KernelObject]:
        """The kernel objects that are desired for this peer."""

    def refusals(self, links: Sequence[LinkEntry]) -> Iterator[HostError]:
        """Why the host, which has these devices, would refuse what the mode needs; tried, and nothing is changed."""
        foreign = {entry.name for entry in links if not entry.ours}
        for link in self.base():
            if isinstance(link, Link) and link.name in foreign:
                yield HostError(link.explain_name())

    def objects(self, now: Surroundings) -> Iterator[KernelObject]:
        """See `core.kernel.provider.Provider`."""
        yield from self.base()
        for lease in now.peers:
            yield from self.peer(lease)

    def on_leases(self, events: Sequence[LeaseEvent]) -> tuple[list[KernelObject], list[KernelObject]]:
        """See `core.kernel.provider.Provider`."""
        old = [thing for event in events if event.old is not None for thing in self.peer(event.old)]
        return old, [thing for event in events if event.new is not None for thing in self.peer(event.new)]
