"""udp mode: this daemon encapsulates. The UDP payload is the container's IP packet and nothing else (flannel's format).

A container's packet for 10.1.2.5 meets, in this order:

    route 10.1.2.0/24 dev ovl0         only what is leased: for the rest of the network the kernel itself answers
    ovl0                               a TUN: what the kernel sends into it, the data path reads (`udp_data_path.py`)

A lease in etcd is flannel's, which does not name the mode; {"BackendData":{"Wire":"overlayd"}} announces extensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_interface
from typing import Any

from overlayd.backend.base import Backend, Mode
from overlayd.backend.data_path import DataPath
from overlayd.core.address import Family
from overlayd.core.flannel.form import Json
from overlayd.core.kernel.kinds import KernelObject, LinkAddress, Route, TunLink
from overlayd.core.leases.lease import Lease
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.core.node import Node
from overlayd.datapath.settings import UdpSettings
from overlayd.system.service_manager import ServiceManager

DEVICE = "ovl0"
_TXQUEUELEN = 1000  # packets; twice the default, so that a burst survives a late wake-up
_WIRE = "Wire"
"""In the BackendData of a udp lease, which flannel leaves out and does not read."""


class UdpMode(Mode[UdpSettings]):
    """See `core.mode.ModeSpec`."""

    name = "udp"
    summary = "user space"
    code = 1
    section = UdpSettings
    options = (("Port", "port"),)
    agreed = (("port", "port"),)

    def overhead(self, underlay_family: Family) -> int:
        return UDP_OVERHEAD[underlay_family]

    def lease_fields(self, section: UdpSettings) -> dict[str, Any]:
        return {"port": section.port, "wire": section.wire}

    def parse_data(self, data: Any, data6: Any, public: tuple[bool, bool]) -> dict[str, Any]:
        if not isinstance(data, dict):
            return {}
        rest = dict(data)
        wire = rest.pop(_WIRE, None)
        return {
            "data": None if wire is not None and not rest else rest,
            "wire": "overlayd" if wire == "overlayd" else "flannel",
        }

    def lease_data(self, lease: Lease) -> Json:
        wire = {_WIRE: lease.wire} if lease.wire == "overlayd" else {}
        return {"BackendData": {**(lease.data or {}), **wire}} if lease.data is not None or wire else {}

    def ports(self, node: Node) -> Iterable[int]:
        section = node.section
        assert isinstance(section, UdpSettings)
        return (section.port,)

    def backend(self, node: Node, section: UdpSettings, manager: ServiceManager) -> Backend:
        from overlayd.backend.udp_data_path import UdpDataPath  # engines, sockets, event loop: not before they are used

        return UdpBackend(node, UdpDataPath(node, section, manager))


UDP = UdpMode()


class UdpBackend(Backend):
    """See `backend.base.Backend`."""

    devices = (DEVICE,)

    def __init__(self, node: Node, data_path: DataPath) -> None:
        super().__init__(node)
        self.data_path = data_path

    def base(self) -> Iterator[KernelObject]:
        yield TunLink(DEVICE, self.node.overlay_mtu, txqueuelen=_TXQUEUELEN)
        for subnet in self.node.lease.subnets:
            yield LinkAddress(DEVICE, ip_interface((subnet.network_address, subnet.max_prefixlen)))

    def peer(self, lease: Lease) -> Iterator[KernelObject]:
        for subnet, public in self.node.reachable(lease):
            yield Route(subnet, DEVICE, own_link=True, mtu=self.node.route_mtu(subnet, public, self.paths))
