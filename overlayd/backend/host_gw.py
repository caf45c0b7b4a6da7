"""host-gw mode: no overlay at all; the peers are each other's gateways on one link.

State for a peer:   route SUBNET via PUBLIC-IP dev UNDERLAY
"""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.backend.base import Backend, Mode
from overlayd.core.address import Address, Network
from overlayd.core.kernel.kinds import KernelObject, Route
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.system.service_manager import ServiceManager


class HostGwMode(Mode[None]):
    """See `core.mode.ModeSpec`."""

    name = "host-gw"
    summary = "no overlay"
    code = 3

    def plain(self, node: Node) -> bool:
        return True

    def obstacle(self, node: Node, peer: Lease, subnet: Network, public: Address) -> str | None:
        if subnet.version > public.version:
            return f"{subnet} has no IPv6 next hop: host-gw needs public_ipv6 in every lease, or use udp or vxlan"
        if not node.underlay.on_link(public):
            networks = ", ".join(str(own.network) for own in node.underlay.addresses if not own.ip.is_link_local)
            return (
                f"{public} is not on the link of {node.underlay.name} ({networks}):"
                " host-gw needs every peer on one link; use udp or vxlan"
            )
        return None

    def backend(self, node: Node, section: None, manager: ServiceManager) -> Backend:
        return HostGwBackend(node)


HOST_GW = HostGwMode()


class HostGwBackend(Backend):
    """See `backend.base.Backend`."""

    def base(self) -> Sequence[KernelObject]:
        return ()

    def peer(self, lease: Lease) -> Sequence[KernelObject]:
        node = self.node
        return [
            Route(subnet, node.underlay.name, gateway, mtu=node.route_mtu(subnet, gateway, self.paths))
            for subnet, gateway in node.reachable(lease)
        ]
