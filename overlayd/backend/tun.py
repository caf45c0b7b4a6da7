"""The backend of modes in which overlayd itself moves the packets, through a TUN.

A container's packet for 10.1.2.5 meets, in this order:

    route 10.1.2.0/24 dev ovl0         only what is leased: for the rest of the network the kernel itself answers
    ovl0                               a TUN: what the kernel sends into it, the data path reads (`udp_data_path.py`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface

from overlayd.backend.base import Backend
from overlayd.backend.data_path import DataPath
from overlayd.core.kernel.kinds import KernelObject, LinkAddress, Route, TunLink
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.system.errors import HostError
from overlayd.wire.netlink.link import LinkEntry

DEVICE, TAP = "ovl0", "ovl-gso"
_TXQUEUELEN = 1000  # packets; twice the default, so that a burst survives a late wake-up


class TunBackend(Backend):
    """See `backend.base.Backend`."""

    devices, tunnels = (DEVICE,), (TAP,)

    def __init__(self, node: Node, data_path: DataPath) -> None:
        super().__init__(node)
        self.data_path: DataPath = data_path

    def refusals(self, links: Sequence[LinkEntry]) -> Iterator[HostError]:
        yield from super().refusals(links)
        yield from self.data_path.refusals(any(entry.carrier for entry in links if entry.name == DEVICE and entry.ours))

    def base(self) -> Iterator[KernelObject]:
        yield TunLink(DEVICE, self.node.overlay_mtu, txqueuelen=_TXQUEUELEN)
        for subnet in self.node.lease.subnets:
            yield LinkAddress(DEVICE, ip_interface((subnet.network_address, subnet.max_prefixlen)))

    def peer(self, lease: Lease) -> Iterator[KernelObject]:
        for subnet, public in self.node.reachable(lease):
            yield Route(subnet, DEVICE, own_link=True, mtu=self.node.route_mtu(subnet, public, self.paths))
