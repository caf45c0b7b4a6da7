"""udp mode: this daemon encapsulates. The UDP payload is the container's IP packet and nothing else (flannel's format).

Its kernel objects are in `backend/tun.py`, its packets in `backend/udp_data_path.py`.

A lease in etcd is flannel's, which does not name the mode; {"BackendData":{"Wire":"overlayd"}} announces extensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from overlayd.backend.base import Backend, Mode
from overlayd.backend.tun import TunBackend
from overlayd.core.address import Family
from overlayd.core.flannel.form import Json
from overlayd.core.leases.lease import Lease
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.core.node import Node
from overlayd.datapath.settings import UdpSettings
from overlayd.system.service_manager import ServiceManager

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

        return TunBackend(node, UdpDataPath(node, section, manager))


UDP = UdpMode()
