"""Dumps of the kernel's state, as objects of core.state."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from itertools import chain
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlayd.core.kernel.kinds import (
    Address,
    FdbEntry,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    Vxlan,
    state_of,
)
from overlayd.core.underlay import HostInterface
from overlayd.system.netlink.dumps import AF_BRIDGE, DumpReader
from overlayd.system.netlink.links import LINK_GROUP
from overlayd.wire.netlink.dump import RouteEntry

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


class Reader:
    """Reads through one connection; what there can be thousands of, through another."""

    def __init__(self, route: IPRoute, dumps: DumpReader) -> None:
        self._route, self._dumps = route, dumps

    def interfaces(self) -> list[HostInterface]:
        """Every interface of the host with its addresses, in the kernel's order."""
        addresses: dict[int, list[Any]] = {}
        for message in self._route.get_addr():
            attributes = dict(message["attrs"])
            # A point-to-point address names its own end IFA_LOCAL, the other end IFA_ADDRESS.
            own = attributes.get("IFA_LOCAL", attributes.get("IFA_ADDRESS"))
            addresses.setdefault(message["index"], []).append(ip_interface(f"{own}/{message['prefixlen']}"))
        found = []
        for message in self._route.get_links():
            attributes = dict(message["attrs"])
            found.append(
                HostInterface(
                    name=attributes["IFLA_IFNAME"],
                    index=message["index"],
                    mtu=attributes.get("IFLA_MTU", 0),
                    up=bool(message["flags"] & _IFF_UP),
                    loopback=bool(message["flags"] & _IFF_LOOPBACK),
                    ours=attributes.get("IFLA_GROUP") == LINK_GROUP,
                    addresses=tuple(addresses.get(message["index"], ())),
                )
            )
        return found

    def egress(self, destination: str) -> int | None:
        """The index of the interface that the kernel would send to this address through, if it would."""
        try:
            reply = self._route.route("get", dst=destination)
        except NetlinkError:
            return None
        return next((dict(message["attrs"]).get("RTA_OIF") for message in reply), None)

    def read(self) -> KernelState:
        """All devices, addresses, neighbours, FDB entries and routes that are overlayd's."""
        names: dict[int, str] = {}
        ours: dict[int, str] = {}
        objects: list[KernelObject] = []
        for message in self._route.get_links():
            attributes = dict(message["attrs"])
            names[message["index"]] = attributes["IFLA_IFNAME"]
            if attributes.get("IFLA_GROUP") == LINK_GROUP:
                ours[message["index"]] = attributes["IFLA_IFNAME"]
                objects.append(link_of(message, attributes))
        if ours:
            objects += self._read_attached(ours)
        for family in (socket.AF_INET, socket.AF_INET6):
            objects += [route_of(entry, names, ours) for entry in self._dumps.routes(family)]
        return state_of(objects)

    def _read_attached(self, ours: dict[int, str]) -> list[KernelObject]:
        objects: list[KernelObject] = []
        for message in self._route.get_addr():
            attributes = dict(message["attrs"])
            address = ip_interface(f"{attributes['IFA_ADDRESS']}/{message['prefixlen']}")
            if message["index"] in ours and not address.is_link_local:  # link-local ones are the kernel's own
                objects.append(Address(ours[message["index"]], address))
        for family in (socket.AF_INET, socket.AF_INET6):
            for link, ip, mac in self._dumps.neighbours(family):
                if link in ours and ip is not None and mac is not None:
                    objects.append(Neighbour(ours[link], ip, mac))
        entries: dict[tuple[str, str], FdbEntry] = {}
        for link, vtep, mac in self._dumps.neighbours(AF_BRIDGE):
            if link in ours and vtep is not None and mac is not None:
                entries[ours[link], mac] = FdbEntry(ours[link], mac, vtep)
        return [*objects, *entries.values()]

    def paths(self) -> dict[IPv4Address | IPv6Address, int]:
        """What the kernel has learnt of paths: their MTU in bytes, by destination."""
        return dict(chain(self._dumps.paths(socket.AF_INET), self._dumps.paths(socket.AF_INET6)))


def link_of(message: Any, attributes: dict[str, Any]) -> Link:
    """A device of ours, from pyroute2's reading of RTM_NEWLINK."""
    info = dict(dict(attributes.get("IFLA_LINKINFO", {"attrs": []}))["attrs"])
    kind = info.get("IFLA_INFO_KIND")
    vxlan = None
    if kind == "vxlan":
        data = dict(info["IFLA_INFO_DATA"]["attrs"])
        local = data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6") or "0.0.0.0"
        vxlan = Vxlan(
            vni=data.get("IFLA_VXLAN_ID", 0),
            port=data.get("IFLA_VXLAN_PORT", 0),
            local=ip_address(local),
            underlay=data.get("IFLA_VXLAN_LINK", 0),
            learning=bool(data.get("IFLA_VXLAN_LEARNING", 0)),
            gbp="IFLA_VXLAN_GBP" in data,
        )
    return Link(
        name=attributes["IFLA_IFNAME"],
        mtu=attributes["IFLA_MTU"],
        up=bool(message["flags"] & _IFF_UP),
        mac=attributes.get("IFLA_ADDRESS") if kind == "vxlan" else None,
        txqueuelen=attributes.get("IFLA_TXQLEN") if kind == "tun" else None,
        vxlan=vxlan,
    )


def route_of(entry: RouteEntry, names: dict[int, str], ours: dict[int, str]) -> Route:
    """A route of ours; `names` of all interfaces, `ours` of overlayd's, by index."""
    if entry.unreachable:
        return Route(entry.destination)
    return Route(
        entry.destination,
        link=names.get(entry.link, f"#{entry.link}"),
        gateway=entry.gateway,
        onlink=entry.onlink,
        own_link=entry.link in ours,
        mtu=entry.mtu,
    )
