"""vxlan mode: the kernel encapsulates (RFC 7348), this backend only says how.

A container's packet for 10.1.2.5 meets, in this order:

    route 10.1.2.0/24 via 10.1.2.0 dev ovl.1 onlink      the peer's VTEP is the next hop, wherever it is
    neigh 10.1.2.0 lladdr MAC                            the VTEP's MAC: no ARP ever crosses the underlay
    fdb   MAC dst 192.0.2.2                              the peer that has this MAC
    ovl.1                                                adds Ethernet, VXLAN, UDP and IP headers

Each host's VTEP address is the base of its subnet, its MAC comes with its lease. One device for each underlay family
in use (the kernel gives a device only one). With direct routing a peer on the same link gets a plain route instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface

from overlayd.backend.kernel_path import KernelPath
from overlayd.core.address import Family
from overlayd.core.kernel.firewall import Guarded, vtep_element
from overlayd.core.kernel.kinds import Address, FdbEntry, KernelObject, Link, Neighbour, Route, Vxlan
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.core.settings.model import VxlanSettings


class VxlanBackend(KernelPath):
    """See `backend.base.Backend`."""

    def __init__(self, node: Node, settings: VxlanSettings) -> None:
        super().__init__(node)
        self._settings = settings
        self.devices = tuple(self._device(underlay_family) for underlay_family in node.underlay_families)
        self.guarded = tuple(
            Guarded(underlay_family, settings.port, settings.vni) for underlay_family in node.underlay_families
        )

    def base(self) -> Sequence[KernelObject]:
        return list(self._base())

    def _base(self) -> Iterator[KernelObject]:
        node, settings = self.node, self._settings
        for underlay_family in node.underlay_families:
            local = node.underlay.local(underlay_family)
            assert local is not None  # this host has an address of every family in use
            vxlan = Vxlan(settings.vni, settings.port, local, node.underlay.index, settings.learning, settings.gbp)
            yield Link(self._device(underlay_family), node.overlay_mtu, mac=node.lease.vtep_mac, vxlan=vxlan)
        for inner in node.families:
            subnet = node.lease.subnet_of(inner)
            assert subnet is not None
            vtep = ip_interface((subnet.network_address, subnet.max_prefixlen))
            yield Address(self._device(node.underlay_family(inner)), vtep)

    def peer(self, lease: Lease) -> Sequence[KernelObject]:
        return list(self._peer(lease))

    def _peer(self, lease: Lease) -> Iterator[KernelObject]:
        for subnet, public in self.node.reachable(lease):
            yield vtep_element(public)
            if self._settings.direct_routing and self._is_direct(subnet.version, public.version, lease):
                yield Route(subnet, self.node.underlay.name, public)  # the kernel tells of its path by itself
                continue
            device, vtep = self._device(public.version), subnet.network_address
            mac = lease.mac_over(public.version)
            yield Neighbour(device, vtep, mac)
            yield FdbEntry(device, mac, public)
            mtu = self.node.route_mtu(subnet, public, self.paths)
            yield Route(subnet, device, vtep, onlink=True, own_link=True, mtu=mtu)

    def _is_direct(self, inner: Family, underlay_family: Family, lease: Lease) -> bool:
        public = lease.public(underlay_family)
        # An IPv6 route cannot have an IPv4 gateway; the other way round it can (RFC 9229).
        return public is not None and underlay_family >= inner and self.node.underlay.on_link(public)

    def _device(self, underlay_family: Family) -> str:
        return f"ovl{'' if underlay_family == 4 else '6'}.{self._settings.vni}"
