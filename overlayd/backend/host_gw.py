"""host-gw mode: no overlay at all; the peers are each other's gateways on one link.

State for a peer:   route SUBNET via PUBLIC-IP dev UNDERLAY
"""

from __future__ import annotations

from collections.abc import Sequence

from overlayd.backend.kernel_path import KernelPath
from overlayd.core.kernel.kinds import KernelObject, Route
from overlayd.core.leases.lease import Lease


class HostGwBackend(KernelPath):
    """See `backend.base.Backend`."""

    def base(self) -> Sequence[KernelObject]:
        return ()

    def peer(self, lease: Lease) -> Sequence[KernelObject]:
        node = self.node
        return [
            Route(subnet, node.underlay.name, gateway, mtu=node.route_mtu(subnet, gateway, self.paths))
            for subnet, gateway in node.reachable(lease)
        ]
