"""The contract of a backend.

A backend knows how one mode's packets travel. It is told of leases and says which kernel objects they call for; it
does not touch the kernel for them: whoever holds the state compares and applies. What all modes share (the unreachable
routes, forwarding, the tables of rules) is not its business either.

    made -> peers_changed() -> open() -> resume() -> [state compared and applied] -> attach()
         -> peers_moved() ... -> stop()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from overlayd.core.address import Address
from overlayd.core.kernel.firewall import Guarded
from overlayd.core.kernel.kinds import KernelObject
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.mode import ModeSpec, SectionT
from overlayd.core.node import Node
from overlayd.datapath.contract import Counters, Progress
from overlayd.system.service_manager import ServiceManager


class Mode(ModeSpec[SectionT]):
    """A mode with its backend."""

    def backend(self, node: Node, section: SectionT, manager: ServiceManager) -> Backend:
        """The backend for this node; the service manager keeps what it has open. Code that only a running data path
        needs is imported here, not with the module: every command loads the modes."""
        raise NotImplementedError


class Backend(Protocol):
    """One mode on one node."""

    node: Node
    devices: tuple[str, ...]
    """The overlay devices that containers' packets cross; empty for host-gw."""
    paths: Mapping[Address, int]
    """Peers' underlay addresses to which less than the underlay's MTU gets through, and how many bytes do."""
    guarded: tuple[Guarded, ...]
    """VXLAN ports to guard against hosts that hold no lease."""

    def base(self) -> Sequence[KernelObject]:
        """The kernel objects that are wanted whoever the peers are."""

    def peer(self, lease: Lease) -> Sequence[KernelObject]:
        """The kernel objects that are wanted for this peer; pure, so that a change of lease is a difference of two."""

    def open(self) -> None:
        """Take what can be refused (ports) before anything on the host is changed. Raises HostError."""

    def resume(self) -> None:
        """Move packets at once where the last run's device was kept open; `attach` does it for the others. Raises
        HostError."""

    def attach(self) -> None:
        """Begin to move packets, or begin again if the device was made anew; called whenever the state has been
        compared. Raises HostError."""

    def peers_changed(self, peers: Iterable[Lease]) -> None:
        """All peers as they are now."""

    def peers_moved(self, events: Sequence[LeaseEvent]) -> None:
        """What changed in them since, one event for each lease."""

    def stop(self) -> None:
        """Let go of sockets and devices. Kernel state stays."""

    def waiting(self) -> frozenset[str]:
        """In which directions, outbound or inbound, packets wait for the engine at this moment."""

    @property
    def engine(self) -> str | None:
        """The packet engine's name; None where the kernel moves the packets."""

    def ailments(self, now: float) -> list[str]:
        """What keeps packets from moving, in words; asked every second. `now`: seconds, from any steady clock."""

    @property
    def progress(self) -> Progress | None:
        """How far the engine has come; None where there is none."""

    def counters(self) -> Counters | None:
        """A snapshot of the engine's counters; None where the kernel counts."""

    def ways(self) -> dict[str, list[str]]:
        """What goes to a peer beyond flannel's way, by the lease's key."""

    def gauges(self) -> dict[str, int]:
        """The engine's gauges; empty where there is no engine."""
