"""vxlan mode: the kernel encapsulates (RFC 7348), this backend only configures it.

Lease in etcd:    {"PublicIP":"192.0.2.1",...,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"06:47:..."}}

A container's packet for 10.1.2.5 meets, in this order:

    route 10.1.2.0/24 via 10.1.2.0 dev ovl.1 onlink      the peer's VTEP is the next hop, wherever it is
    neigh 10.1.2.0 lladdr MAC                            the VTEP's MAC: no ARP ever crosses the underlay
    fdb   MAC dst 192.0.2.2                              the peer that has this MAC
    ovl.1                                                adds Ethernet, VXLAN, UDP and IP headers

Each host's VTEP address is the base of its subnet, its MAC comes with its lease. One device for each underlay family
in use (the kernel gives a device only one). With direct routing a peer on the same link gets a plain route instead.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface
from typing import Any

from overlayd.backend.base import Backend, Mode
from overlayd.core.address import Family
from overlayd.core.flannel.form import FormatError, Json
from overlayd.core.kernel.adoption import adoptable
from overlayd.core.kernel.firewall import GuardedPort
from overlayd.core.kernel.kinds import FdbEntry, KernelObject, LinkAddress, Neighbour, Route, VxlanLink, state_of
from overlayd.core.leases.lease import Lease
from overlayd.core.mtu import ETHERNET_HEADER, UDP_OVERHEAD, VXLAN_HEADER
from overlayd.core.node import Node
from overlayd.core.settings import values
from overlayd.core.settings.section import Section, setting
from overlayd.system.errors import HostError, InUseError
from overlayd.system.service_manager import ServiceManager
from overlayd.system.udp_socket import is_port_taken
from overlayd.wire.mac import parse_mac
from overlayd.wire.netlink.link import LinkEntry


class VxlanSettings(Section):
    """vxlan mode."""

    vni: int = setting(1, values.integer(1, 2**24 - 1), "VXLAN network identifier")
    port: int = setting(
        8472, values.port, "UDP port, here and on every peer (IANA's is 4789; 8472 is Linux's and flannel's)"
    )
    learning: bool = setting(False, values.flag, "let the device learn MACs from traffic")
    gbp: bool = setting(False, values.flag, "carry group-based policy marks")
    direct_routing: bool = setting(False, values.flag, "plain routes, as in host-gw mode, to peers on the same link")


class VxlanMode(Mode[VxlanSettings]):
    """See `core.mode.ModeSpec`."""

    name = "vxlan"
    summary = "kernel"
    code = 2
    section = VxlanSettings
    options = (
        ("VNI", "vni"),
        ("Port", "port"),
        ("GBP", "gbp"),
        ("Learning", "learning"),
        ("DirectRouting", "direct_routing"),
    )
    agreed = (("VNI", "vni"), ("port", "port"))
    routes_carry_path_mtu = True

    def overhead(self, underlay_family: Family) -> int:
        return UDP_OVERHEAD[underlay_family] + VXLAN_HEADER + ETHERNET_HEADER

    def parse_data(self, data: Any, data6: Any, public: tuple[bool, bool]) -> dict[str, Any]:
        mac, mac6 = _mac(data, "BackendData"), _mac(data6, "BackendV6Data")
        if public[0] and mac is None:
            raise FormatError("BackendData: has no VtepMAC, which every vxlan lease needs")
        if public[1] and mac is None and mac6 is None:
            raise FormatError("BackendV6Data: has no VtepMAC, which every vxlan lease needs")
        return {"written_mac": mac, "written_mac_v6": mac6, "vni": _vni(data or data6)}

    def lease_data(self, lease: Lease) -> Json:
        data: Json = {}
        if lease.public_ip is not None:
            data["BackendData"] = {"VNI": lease.vni, "VtepMAC": lease.vtep_mac}
        if lease.public_ipv6 is not None:
            data["BackendV6Data"] = {"VNI": lease.vni, "VtepMAC": lease.mac_over(6)}
        return data

    def plain(self, node: Node) -> bool:
        assert isinstance(node.section, VxlanSettings)
        return node.section.direct_routing

    def ports(self, node: Node) -> Iterable[int]:
        return {guarded.port for guarded in self.guards(node)}

    def guards(self, node: Node) -> Iterator[GuardedPort]:
        section = node.section
        assert isinstance(section, VxlanSettings)
        for family in node.underlay_families:
            yield GuardedPort(family, section.port, section.vni, node.lease.mac_over(family))

    def backend(self, node: Node, section: VxlanSettings, manager: ServiceManager) -> Backend:
        return VxlanBackend(node, section)


VXLAN = VxlanMode()


class VxlanBackend(Backend):
    """See `backend.base.Backend`."""

    def __init__(self, node: Node, settings: VxlanSettings) -> None:
        super().__init__(node)
        self._settings = settings
        self.devices = tuple(self._device(underlay_family) for underlay_family in node.underlay_families)

    def refusals(self, links: Sequence[LinkEntry]) -> Iterator[HostError]:
        yield from super().refusals(links)
        for link in self._links():
            if (refused := _port_refusal(link, [entry for entry in links if entry.driver == link.driver])) is not None:
                yield refused

    def _links(self) -> Iterator[VxlanLink]:
        node, settings = self.node, self._settings
        for underlay_family in node.underlay_families:
            local = node.underlay.local(underlay_family)
            assert local is not None  # this host has an address of every family in use
            yield VxlanLink(
                self._device(underlay_family),
                node.overlay_mtu,
                vni=settings.vni,
                port=settings.port,
                local=local,
                underlay=node.underlay.index,
                mac=node.lease.mac_over(underlay_family),
                learning=settings.learning,
                gbp=settings.gbp,
            )

    def base(self) -> Iterator[KernelObject]:
        node = self.node
        yield from self._links()
        for inner in node.families:
            subnet = node.lease.subnet_of(inner)
            assert subnet is not None
            vtep = ip_interface((subnet.network_address, subnet.max_prefixlen))
            yield LinkAddress(self._device(node.underlay_family(inner)), vtep)

    def peer(self, lease: Lease) -> Iterator[KernelObject]:
        for subnet, public in self.node.reachable(lease):
            if self._settings.direct_routing and self._is_direct(subnet.version, public.version, lease):
                yield Route(subnet, self.node.underlay.name, public)  # the kernel tells containers of its path MTU
                continue
            device, vtep = self._device(public.version), subnet.network_address
            mac = lease.mac_over(public.version)
            yield Neighbour(device, vtep, mac)
            yield FdbEntry(device, mac, public)
            mtu = self.node.route_mtu(subnet, public, self.paths)
            yield Route(subnet, device, vtep, onlink=True, own_link=True, mtu=mtu)

    def _is_direct(self, inner: Family, underlay_family: Family, lease: Lease) -> bool:
        public = lease.public(underlay_family)
        # An IPv6 route cannot have an IPv4 gateway; an IPv4 route can have an IPv6 one (RFC 9229).
        return public is not None and underlay_family >= inner and self.node.underlay.on_link(public)

    def _device(self, underlay_family: Family) -> str:
        return f"ovl{'' if underlay_family == 4 else '6'}.{self._settings.vni}"


def _port_refusal(link: VxlanLink, others: Sequence[LinkEntry]) -> HostError | None:
    """Why the kernel would not give the device its VNI or its port, beside these VXLAN devices; None if it would.

    Devices share one socket of the kernel's for a port, if they are of one kind; it is there while one of them is up.
    A device of ours stays, or makes way. One that was moved to another network namespace leaves its socket here, and
    counts as a program.
    """
    there = [VxlanLink.of(entry) for entry in others]
    taken_over = adoptable(state_of(there), {link.key: link})
    for one in there:
        if one.claim == link.claim and not one.ours and one.key not in taken_over:
            return HostError(link.explain_rival(one.name))
    shared = any(
        one.up and one.socket[:2] == link.socket[:2] and (one.ours or one.socket == link.socket) for one in there
    )
    if not shared and is_port_taken(link.local.version, link.port):
        return InUseError(link.explain(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), link.port)
    return None


def _mac(data: Any, name: str) -> str | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise FormatError(f"{name}: is not an object")
    text = next((content for key, content in data.items() if key.lower() == "vtepmac"), None)
    if not isinstance(text, str):
        raise FormatError(f"{name}: has no VtepMAC")
    try:
        return parse_mac(text)
    except ValueError as error:
        raise FormatError(f"{name}.VtepMAC: {text[:40]} {error}") from None


def _vni(data: Any) -> int | None:
    """The VNI; None where an older flannel left it out."""
    if not isinstance(data, dict):
        return None
    vni = next((content for key, content in data.items() if key.lower() == "vni"), None)
    if vni is not None and (type(vni) is not int or not 0 <= vni < 2**24):
        raise FormatError(f"BackendData.VNI: {str(vni)[:20]} is not a valid VNI")
    return vni
