"""A mode as everything below the backends sees it: configuration, leases, MTU and reachability ask its `ModeSpec`.

    operator's file:  mode: NAME, NAME: {SECTION}    leases in etcd:  "BackendType":"NAME","BackendData":{...}
    network in etcd:  "Backend":{"Type":"NAME",...}  probes:          CODE

A spec describes; it holds no state and does no I/O. `backend.base.Mode` adds the constructor of the mode's backend, and
`backend.modes` lists the modes that there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from overlayd.core.address import Address, Family, Network
from overlayd.core.flannel.form import Json
from overlayd.core.kernel.firewall import GuardedPort
from overlayd.core.leases.lease import Lease
from overlayd.core.settings.section import Section

if TYPE_CHECKING:
    from overlayd.core.node import Node

SectionT = TypeVar("SectionT", bound=Section | None)

UNTYPED = "udp"
"""The mode of a lease or a network configuration in etcd that names none (flannel)."""


class ModeSpec(Generic[SectionT]):
    """One mode. What is not overridden here holds for a mode without settings and without data in its leases."""

    name: str
    """The operator's word and flannel's backend type."""
    summary: str
    """Who encapsulates, in two or three words for help texts."""
    code: int
    """Its number in probes, 1 to 255; 0 means unknown."""
    section: type[Section] | None = None
    """Its settings; every field has a default. They stand under `key` in the configuration."""
    options: tuple[tuple[str, str], ...] = ()
    """flannel's names in PREFIX/config's Backend object, MTU aside, and the field of the section that each is."""
    agreed: tuple[tuple[str, str], ...] = ()
    """What all hosts must have alike: its name in messages, and the field that holds it in section and Lease."""
    routes_carry_path_mtu = False
    """Whether path MTUs that the kernel learns from ICMP have to be copied into its routes, by which it then tells
    containers (False: whoever meets the narrow link tells them)."""

    keyed = False
    """Whether peers are known by their keys rather than by their underlay addresses."""

    def overhead(self, underlay_family: Family) -> int:
        """Bytes around a container's packet on an underlay of that family."""
        return 0

    @property
    def key(self) -> str:
        """The key of its section."""
        return self.name.replace("-", "_")

    def lease_fields(self, section: SectionT) -> dict[str, Any]:
        """The fields of `Lease` that this host's lease in etcd gets from the mode."""
        return {field: getattr(section, field) for _, field in self.agreed}

    def parse_data(self, data: Any, data6: Any, public: tuple[bool, bool]) -> dict[str, Any]:
        """The fields of `Lease` that a lease's BackendData and BackendV6Data hold; both are parsed JSON or None.

        `public`: whether the lease has an IPv4 and an IPv6 public IP. Raises FormatError.
        """
        return {}

    def lease_data(self, lease: Lease) -> Json:
        """BackendData and BackendV6Data of a lease, in flannel's order; what is absent is left out."""
        return {}

    def plain(self, node: Node) -> bool:
        """Whether containers' packets cross the underlay as they are, from some peers or all."""
        return False

    def ports(self, node: Node) -> Iterable[int]:
        """The UDP ports of peers that its datagrams are sent to."""
        return ()

    def guards(self, node: Node) -> Iterable[GuardedPort]:
        """The VXLAN ports to guard against hosts that hold no lease."""
        return ()

    def fault(self, node: Node) -> str | None:
        """Why this host cannot take part with the lease that it has; None when it can."""
        return None

    def obstacle(self, node: Node, peer: Lease, subnet: Network, public: Address) -> str | None:
        """Why a peer's subnet cannot be reached through its public IP in this mode; None when it can."""
        return None
